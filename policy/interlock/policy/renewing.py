"""Renew: whether a call that is under way may go on."""

from dataclasses import dataclass

from interlock.governance.errors import ConflictError, DeniedError, UnauthenticatedError
from interlock.policy import access, rules
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Permit, Policy, Snapshot
from interlock.policy.ports import Ledger

LEDGER_SAYS = {"LOST": "lease_lost", "DISABLED": "agent_disabled"}


@dataclass(frozen=True, slots=True)
class Renewal:
    """An empty reason is a lease of `lease_ms` more, from before Renew was sent; else why the call must stop."""

    reason: str
    lease_ms: int


class Renewer:
    """Prolongs leases, as long as switches and lists would still let the call through."""

    def __init__(self, ledger: Ledger, knowledge: Knowledge, *, allow_without_policy: bool) -> None:
        self._ledger = ledger
        self._knowledge = knowledge
        self._allow_without_policy = allow_without_policy

    async def renew(self, permit: Permit, credential: str = "") -> Renewal:
        """`credential` is the key that the call was made with; empty, it is not looked at."""
        namespace = permit.scope.namespace
        known = await self._knowledge.snapshot(namespace)
        tool = known.tool_for(permit.scope.agent_id, permit.tool)
        lease_ms = rules.lease_ms(tool) if tool else permit.lease_ms
        renewed = await self._ledger.renew(permit, lease_ms)
        snapshot = await self._knowledge.current(namespace, renewed.epochs)
        policy = await self._knowledge.policy_of(permit.scope, renewed.policy_version)
        reason = LEDGER_SAYS.get(renewed.word) or self._objection(permit, snapshot, policy.policy)
        if not reason and credential:
            reason = await self._lapse(credential, permit)
        return Renewal(reason, 0 if reason else lease_ms)

    async def _lapse(self, credential: str, permit: Permit) -> str:
        """Why the key would let no call through as this agent, on what was just learned of its namespace; or empty."""
        try:
            standing = await self._knowledge.identify(credential, of_run=True)
            holds = access.acting_agent(standing.identity, permit.scope.agent_id) == permit.scope
        except ConflictError as error:
            return error.reason  # the run was cancelled, or another worker has it
        except (UnauthenticatedError, DeniedError):
            return "invalid_key"
        return "" if holds else "invalid_key"

    def _objection(self, permit: Permit, snapshot: Snapshot, policy: Policy | None) -> str:
        """Why a new call would be refused by switches or lists; empty if it would not."""
        switch = rules.switches(snapshot).reason if snapshot.namespace.exists else "invalid_key"
        tool = snapshot.tool_for(permit.scope.agent_id, permit.tool)
        if switch or tool is None:
            return switch or "tool_disabled"
        held = rules.terms(policy, snapshot.namespace, allow_without_policy=self._allow_without_policy)
        return rules.lists(tool, held).reason
