"""Authorize: who calls what, what the rules say of it, and the ledger's word on the rest.

The ledger is asked with rulings that rest on remembered policy and switches. If either has moved, what it says is not
used: the policy is learned, or the decision withdrawn, and the call is judged again.
"""

import time

import orjson

from interlock.governance.call_key import run_action_key
from interlock.governance.errors import InterlockError, InvalidRequestError, NotFoundError, UnavailableError
from interlock.governance.ids import new_id
from interlock.governance.values import dataclass, replace
from interlock.policy import access, rules
from interlock.policy.fields import check_fields
from interlock.policy.knowledge import Knowledge, Standing
from interlock.policy.model import (
    ATTEMPT_ID,
    CALL_ID,
    MAX_SPEND_MICROS,
    METHOD,
    Decision,
    Dedup,
    Epochs,
    Identity,
    Limits,
    Ruling,
    Scope,
    Snapshot,
    Tool,
    Verdict,
    VersionedPolicy,
)
from interlock.policy.plans import Plan, Plans
from interlock.policy.ports import Ledger, PolicyMoved, Reservation
from interlock.policy.rates import Rates
from interlock.policy.run_ports import Assumed, Foresight
from interlock.policy.runs import EXCEEDED, Quota, Runs

MAX_KEY_BYTES = 256
MAX_RUN_ID_BYTES = 256
DIGEST_BYTES = 32
MAX_RULED = 4096
MAX_RUN_ACTIONS = 50
RUN_REMEMBERED_MS = 7 * 86_400_000
"""A settled action of a run is not repeated for so long, however short the tool's own memory is."""
ROUNDS = 8
"""How often a call is judged again before we say that its policy will not hold still."""


@dataclass(frozen=True, slots=True)
class Question:
    """One call put to the engine, as the sidecar asked."""

    attempt_id: str
    credential: str
    agent_id: str
    tool: str
    tool_revision: int
    method: str
    fingerprint: bytes
    caller_key: str
    args_digest: bytes
    declared_micros: int
    run_id: str
    will_wait: bool
    awaited_call_id: str
    part_of_run: bool = False
    run_action: int = 0
    run_action_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Judged:
    """A decision with what the sidecar is told beside it."""

    scope: Scope
    decision: Decision
    limits: Limits
    matched_rule: str
    risk: str
    quota: Quota | None = None


@dataclass(frozen=True, slots=True)
class ToolChanged:
    """The sidecar resolved another revision of the tool; nothing was written."""

    scope: Scope


@dataclass(frozen=True, slots=True)
class _Case:
    """What a call is judged on in one round: whose it is, what it means, and what the rules say of it.

    `origin` says whose policy that is, as in `Terms`.
    """

    standing: Standing
    scope: Scope
    tool: Tool
    plan: Plan
    policy_version: int
    origin: str
    switch: Ruling
    ruling: Ruling
    limits: Limits
    risk: str


@dataclass(frozen=True, slots=True)
class _Ruled:
    """What the rules say of an agent's calls of a tool, but for what a call declares; and what that rests on."""

    epochs: Epochs
    tool: Tool
    policy: VersionedPolicy
    plan: Plan
    origin: str
    switch: Ruling
    ruling: Ruling
    limits: Limits

    def rests_on(self, snapshot: Snapshot, tool: Tool, policy: VersionedPolicy) -> bool:
        return self.tool is tool and self.policy is policy and self.epochs == snapshot.epochs


class Authorizer:
    """Judges calls."""

    def __init__(
        self,
        ledger: Ledger,
        knowledge: Knowledge,
        plans: Plans,
        runs: Runs,
        rates: Rates,
        *,
        allow_without_policy: bool,
    ) -> None:
        self._ledger = ledger
        self._runs = runs
        self._rates = rates
        self._knowledge = knowledge
        self._plans = plans
        self._allow_without_policy = allow_without_policy
        self._ruled: dict[tuple[Scope, str], _Ruled] = {}

    async def resolve(self, credential: str, agent_id: str, tool: str) -> tuple[Scope, Tool]:
        """The agent a call would run as, and the tool it means. Errors: NotFoundError `tool_not_found`."""
        for _ in range(ROUNDS):
            standing = await self._knowledge.identify(credential, of_run=True)
            scope = access.acting_agent(standing.identity, agent_id)
            found = standing.snapshot.tool_for(scope.agent_id, tool)
            if found is not None:
                return scope, found
            if not await self._outdated(standing):
                # No Authorize follows, with which other calls are counted.
                raise await self._rates.refusal(standing.snapshot.namespace) or _unknown_tool()
        raise _unsettled_policy()

    async def authorize(self, question: Question) -> Judged | ToolChanged:
        check(question)
        reserved: set[Scope] = set()
        try:
            for _ in range(ROUNDS):
                standing = await self._knowledge.identify(question.credential, of_run=True)
                scope = access.acting_agent(standing.identity, question.agent_id)
                _check_run(question, standing.identity)
                verdict = await self._judge(question, standing, scope, reserved)
                if verdict is not None:
                    break
            else:
                raise _unsettled_policy()
        except UnavailableError:
            # It may have been let through: whoever asked asks again, or gives the attempt up.
            raise
        except InterlockError:
            await self._give_back(question, reserved)
            raise
        if isinstance(verdict, ToolChanged) or verdict.decision.permit is None:
            await self._give_back(question, reserved)
        return verdict

    async def _give_back(self, question: Question, reserved: set[Scope]) -> None:
        for scope in reserved:
            await self._runs.release(scope, question.attempt_id)

    async def _judge(
        self, question: Question, standing: Standing, scope: Scope, reserved: set[Scope]
    ) -> Judged | ToolChanged | None:
        """One round; None if what it rests on has moved. Notes in `reserved` whose namespace has a run less."""
        # Who has waited for another's call was counted before, and a run when it was queued.
        if not (question.awaited_call_id or question.run_action) and (
            limited := await self._rates.refusal(standing.snapshot.namespace, f"{scope.agent_id}:{question.attempt_id}")
        ):
            if await self._outdated(standing):
                return None
            raise limited
        tool = standing.snapshot.tool_for(scope.agent_id, question.tool)
        changed = tool is not None and tool.revision != question.tool_revision
        # The ledger cannot check these; so no refusal is drawn from a snapshot that is out of date.
        refused = tool is None or changed or not tool.enabled or bool(rules.switches(standing.snapshot).reason)
        if refused and await self._outdated(standing):
            return None
        if tool is None:
            raise _unknown_tool()
        if changed:
            return ToolChanged(scope)
        await self._knowledge.see(scope)
        case = self._case(standing, scope, tool, await self._knowledge.policy(scope), question.declared_micros)
        reservation = _reservation(question, case)
        quota = await self._quota(question, case)
        if quota is not None:
            reservation = replace(reservation, quota_reason=quota.reason)
            if quota.granted:
                reserved.add(scope)
        result = await self._ledger.authorize(reservation)
        if isinstance(result, PolicyMoved):
            self._knowledge.learn(scope, result.policy)
            return None
        if result.decision.basis != result.epochs:
            await self._ledger.withdraw(reservation, result.decision)
            await self._knowledge.refresh(scope.namespace)
            return None
        return _as_judged(case, result.decision, quota)

    def _case(
        self, standing: Standing, scope: Scope, tool: Tool, policy: VersionedPolicy, declared_micros: int
    ) -> _Case:
        ruled = self._ruled.get((scope, tool.name))
        if ruled is None or not ruled.rests_on(standing.snapshot, tool, policy):
            ruled = self._rule(standing.snapshot, scope, tool, policy)
        limits = ruled.limits
        if declared_micros > limits.cost_micros:
            limits = replace(limits, cost_micros=declared_micros)
        return _Case(
            standing=standing,
            scope=scope,
            tool=tool,
            plan=ruled.plan,
            policy_version=policy.version,
            origin=ruled.origin,
            switch=ruled.switch,
            ruling=ruled.ruling,
            limits=limits,
            risk=rules.risk_level(tool.risk, policy, int(time.time() * 1000)) if policy.risk else tool.risk,
        )

    def _rule(self, snapshot: Snapshot, scope: Scope, tool: Tool, policy: VersionedPolicy) -> "_Ruled":
        """What the rules say of a tool to an agent, remembered for as long as all that it rests on stays as it is."""
        namespace = snapshot.namespace
        held = rules.terms(policy.policy, namespace, allow_without_policy=self._allow_without_policy)
        ruled = _Ruled(
            epochs=snapshot.epochs,
            tool=tool,
            policy=policy,
            plan=self._plans.of(namespace),
            origin=held.origin,
            switch=rules.switches(snapshot),
            ruling=rules.lists(tool, held),
            limits=rules.limits(tool.name, held.policy, 0),
        )
        if len(self._ruled) >= MAX_RULED:
            self._ruled.clear()
        self._ruled[scope, tool.name] = ruled
        return ruled

    async def foresee(self, question: Question, assumed: Assumed, ledger: Foresight) -> Judged | ToolChanged:
        """What `authorize` would say now, were as much used beside as is assumed. Changes nothing."""
        check(question)
        for _ in range(ROUNDS):
            standing = await self._knowledge.identify(question.credential, of_run=True)
            scope = access.acting_agent(standing.identity, question.agent_id)
            _check_run(question, standing.identity)
            # Nothing is reserved that could be withdrawn: so it is judged on what holds now, or not at all.
            verdict = (
                None
                if await self._outdated(standing)
                else await self._foreseen(question, assumed, ledger, standing, scope)
            )
            if verdict is not None:
                return verdict
        raise _unsettled_policy()

    async def _foreseen(
        self, question: Question, assumed: Assumed, ledger: Foresight, standing: Standing, scope: Scope
    ) -> Judged | ToolChanged | None:
        """One round; None if the agent's policy has moved."""
        tool = standing.snapshot.tool_for(scope.agent_id, question.tool)
        if tool is None:
            raise _unknown_tool()
        if tool.revision != question.tool_revision:
            return ToolChanged(scope)
        case = self._case(standing, scope, tool, await self._knowledge.policy(scope), question.declared_micros)
        exceeds = await self._runs.would_exceed(scope, case.plan, assumed.actions)
        reservation = replace(_reservation(question, case), quota_reason=EXCEEDED if exceeds else "")
        foreseen = await ledger.foresee(reservation, assumed)
        if foreseen.policy_version != case.policy_version:
            await self._knowledge.policy_of(scope, foreseen.policy_version)
            return None
        basis = standing.snapshot.epochs
        decision = Decision(
            Verdict(foreseen.verdict), foreseen.reason, "", basis, charged_micros=foreseen.charged_micros
        )
        return _as_judged(case, decision, None)

    async def _quota(self, question: Question, case: _Case) -> Quota | None:
        """A run, if the plan limits them, for a call that nothing speaks against so far."""
        if case.switch.reason or case.ruling.reason:
            return None
        return await self._runs.reserve(case.scope, question.attempt_id, case.plan)

    async def _outdated(self, standing: Standing) -> bool:
        """Whether a namespace has changed since; what is remembered of it is then renewed."""
        return (await self._knowledge.up_to_date(standing.identity.namespace)) is not standing.snapshot


def _unknown_tool() -> NotFoundError:
    return NotFoundError("tool_not_found", "no tool of that name is registered")


def _unsettled_policy() -> UnavailableError:
    return UnavailableError("governance_unavailable", "the policy changed faster than the call could be judged")


def check(question: Question) -> None:
    """Refuses what no sidecar of ours would ask. Errors: InvalidRequestError with the field's name."""
    problems = {
        "attempt_id": not ATTEMPT_ID.fullmatch(question.attempt_id),
        "fingerprint": len(question.fingerprint) != DIGEST_BYTES,
        "args_digest": len(question.args_digest) not in (0, DIGEST_BYTES),
        "idempotency_key": len(question.caller_key.encode()) > MAX_KEY_BYTES,
        "run_id": len(question.run_id.encode()) > MAX_RUN_ID_BYTES,
        "method": not METHOD.fullmatch(question.method),
        "declared_spend_micros": not 0 <= question.declared_micros <= MAX_SPEND_MICROS,
        "awaited_call_id": bool(question.awaited_call_id) and not CALL_ID.fullmatch(question.awaited_call_id),
        "run_action": not 0 <= question.run_action <= MAX_RUN_ACTIONS,
        "run_action_digest": len(question.run_action_digest) != (DIGEST_BYTES if question.run_action else 0),
    }
    check_fields(problems)


def _check_run(question: Question, identity: Identity) -> None:
    """A run's grant is good for the run's actions, and nothing else is one. Errors: InvalidRequestError."""
    if bool(identity.run) != bool(question.run_action):
        raise InvalidRequestError("invalid_request", "run_action goes with a run's grant", field="run_action")


def matched_rule(reason: str, switch: Ruling, ruling: Ruling, limits: Limits, origin: str = "") -> str:
    """The rule behind a refusal, in the words of the policy, `origin` before them; empty if nothing was refused."""
    match reason:
        case "ok":
            return ""
        case "agent_disabled":
            return "switch: agent"
        case "max_actions_per_hour_exceeded":
            return f"{origin}max_actions_per_hour: {limits.actions_per_hour}"
        case "max_calls_per_tool_exceeded":
            return f"{origin}max_calls_per_tool: {limits.calls_of_tool}"
        case "max_spend_usd_per_day_exceeded":
            return f"{origin}max_spend_usd_per_day: {limits.spend_micros_per_day / 1_000_000:g}"
    return next((rule.matched_rule for rule in (ruling, switch) if rule.reason == reason), "")


def _as_judged(case: _Case, decision: Decision, quota: Quota | None) -> Judged:
    if quota is not None and decision.reason == EXCEEDED:
        decision = replace(decision, retry_after_ms=quota.retry_after_ms)
        return Judged(case.scope, decision, case.limits, quota.matched_rule, case.risk, quota)
    rule = matched_rule(decision.reason, case.switch, case.ruling, case.limits, case.origin)
    return Judged(case.scope, decision, case.limits, rule, case.risk)


def _reservation(question: Question, case: _Case) -> Reservation:
    """Errors: InvalidRequestError `idempotency_key_required`."""
    tool = case.tool
    mode = rules.dedup_mode(tool, question.method)
    of_run = case.standing.identity.run
    repeatable = bool(of_run) or rules.is_remembered(mode=mode, caller_key=question.caller_key)
    if mode is Dedup.HEADER and not question.caller_key and not of_run:
        raise InvalidRequestError("idempotency_key_required", "this tool needs an Idempotency-Key", field="key")
    key = _key(question, case, mode)
    remembered_ms = rules.remembered_ms(tool, mode=mode, caller_key=question.caller_key, max_ttl_s=case.plan.max_ttl_s)
    return Reservation(
        scope=case.scope,
        attempt_id=question.attempt_id,
        call_id=new_id("call"),
        key=key,
        # An action of a run stays the same action, however the tool is changed meanwhile.
        fingerprint=key if of_run else question.fingerprint.hex(),
        tool=tool.name,
        policy_version=case.policy_version,
        switch_reason=case.switch.reason,
        rule_reason=case.ruling.reason,
        limits=case.limits,
        lease_ms=rules.lease_ms(tool),
        # A call that is a call of its own whatever it says cannot be repeated, so there is nothing to hold.
        hold=tool.hold and repeatable,
        ttl_ms=max(remembered_ms, RUN_REMEMBERED_MS) if of_run else remembered_ms,
        will_wait=question.will_wait,
        awaited_call_id=question.awaited_call_id,
        basis=case.standing.snapshot.epochs,
        facts=_facts(question, case, key),
        repeatable=repeatable,
        run_id=question.run_id,
        part_of_run=question.part_of_run,
    )


def _key(question: Question, case: _Case, mode: Dedup) -> str:
    scope, run = case.scope, case.standing.identity.run
    if run:
        return run_action_key(scope.namespace, scope.agent_id, run, question.run_action, question.run_action_digest)
    return rules.key_of(
        scope,
        mode=mode,
        caller_key=question.caller_key,
        fingerprint=question.fingerprint,
        attempt_id=question.attempt_id,
    )


def _facts(question: Question, case: _Case, key: str) -> str:
    """What the audit keeps of a call beside the verdict: digests and names, never arguments or a caller's key."""
    facts = {
        "args_hash": question.args_digest.hex(),
        "cost_micros": case.limits.cost_micros,
        "key": key,
        "key_id": case.standing.identity.key_id,
        "matched_rule": case.switch.matched_rule or case.ruling.matched_rule,
        "method": question.method,
        "risk_level": case.risk,
        "run_id": question.run_id,
    }
    return orjson.dumps({name: value for name, value in facts.items() if value != ""}).decode()
