"""Calls that went through while nobody could be asked: believed, priced by the rules, and recorded once."""

import json
from dataclasses import dataclass

from interlock.governance.errors import InvalidRequestError, NotFoundError
from interlock.policy import access, rules
from interlock.policy.authorizing import DIGEST_BYTES, MAX_RUN_ID_BYTES
from interlock.policy.fields import check_fields
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import (
    ATTEMPT_ID,
    CALL_ID,
    CALL_KEY,
    MAX_SPEND_MICROS,
    METHOD,
    TOOL_NAME,
    Answer,
    ApiKey,
    Outcome,
    Role,
    Scope,
    Tool,
)
from interlock.policy.ports import DegradedCall, Directory, Ledger, RecordedCall
from interlock.policy.runs import Runs

MAX_AGE_MS = 30 * 86_400_000
"""So late such a call may be told; the ledger knows what it has recorded for longer."""
MAX_REASON = 64
DEFAULT_TTL_S = Tool("", "", "").dedup_ttl_s


@dataclass(frozen=True, slots=True)
class Told:
    """One degraded call, as its sidecar tells it. `age_ms` is how long ago it was let through."""

    attempt_id: str
    credential_digest: bytes
    agent_id: str
    tool: str
    method: str
    call_id: str
    key: str
    repeatable: bool
    fingerprint: bytes
    args_digest: bytes
    declared_micros: int
    run_id: str
    reason: str
    fence: int
    outcome: Outcome
    answer: Answer | None
    failure: str
    upstream_us: int
    at_ms: int
    age_ms: int


class DegradedCalls:
    """Puts them on record."""

    def __init__(
        self, directory: Directory, ledger: Ledger, knowledge: Knowledge, runs: Runs, *, allow_without_policy: bool
    ) -> None:
        self._directory = directory
        self._ledger = ledger
        self._knowledge = knowledge
        self._runs = runs
        self._allow_without_policy = allow_without_policy

    async def record(self, told: Told) -> RecordedCall:
        """Errors: InvalidRequestError names the field, NotFoundError `key_not_found`."""
        check(told)
        api_key = await self._directory.key(told.credential_digest.hex())
        if api_key is None:
            raise NotFoundError("key_not_found", "the call was made with a key that nobody knows")
        scope = _acting(api_key, told)
        policy = await self._directory.policy(scope)
        snapshot = await self._knowledge.up_to_date(scope.namespace)
        tool = snapshot.tool_for(scope.agent_id, told.tool)
        held = rules.terms(policy.policy, snapshot.namespace, allow_without_policy=self._allow_without_policy)
        await self._knowledge.see(scope)
        call = DegradedCall(
            scope=scope,
            attempt_id=told.attempt_id,
            call_id=told.call_id,
            key=told.key,
            fingerprint=told.fingerprint.hex(),
            tool=told.tool,
            outcome=told.outcome,
            cost_micros=rules.limits(told.tool, held.policy, told.declared_micros).cost_micros,
            fence=told.fence,
            repeatable=told.repeatable,
            ttl_ms=(tool.dedup_ttl_s if tool else DEFAULT_TTL_S) * 1000,
            age_ms=max(0, told.age_ms),
            reason=told.reason,
            failure=told.failure,
            answer=told.answer,
            facts=_facts(told, api_key),
            run_id=told.run_id,
        )
        taken = await self._ledger.record_degraded(call)
        if taken.recorded:
            await self._runs.went_unjudged(scope, told.attempt_id, told.outcome)
        return taken


def check(told: Told) -> None:
    """Refuses what no sidecar of ours would tell. Errors: InvalidRequestError with the field's name."""
    problems = {
        "attempt_id": not ATTEMPT_ID.fullmatch(told.attempt_id),
        "credential_digest": len(told.credential_digest) != DIGEST_BYTES,
        "tool": not TOOL_NAME.fullmatch(told.tool),
        "method": not METHOD.fullmatch(told.method),
        "call_id": not CALL_ID.fullmatch(told.call_id),
        "key": not CALL_KEY.fullmatch(told.key),
        "fingerprint": len(told.fingerprint) != DIGEST_BYTES,
        "args_digest": len(told.args_digest) not in (0, DIGEST_BYTES),
        "declared_spend_micros": not 0 <= told.declared_micros <= MAX_SPEND_MICROS,
        "run_id": len(told.run_id.encode()) > MAX_RUN_ID_BYTES,
        "reason": not (told.reason.isascii() and told.reason.isprintable() and len(told.reason) <= MAX_REASON),
        "failure": not (told.failure.isascii() and told.failure.isprintable() and len(told.failure) <= MAX_REASON),
        "fence": told.fence < 0,
        "at_ms": told.age_ms > MAX_AGE_MS,
    }
    check_fields(problems)


def _acting(api_key: ApiKey, told: Told) -> Scope:
    """The agent that the key could act as. One revoked since is told of in the facts: the call has happened."""
    identity = api_key.identity
    bound_to_another = identity.role is Role.AGENT and identity.agent_id != told.agent_id
    if bound_to_another or identity.role is Role.VIEWER:
        raise InvalidRequestError("invalid_request", "the key cannot act as this agent", field="agent_id")
    return Scope(identity.namespace, access.agent_id(told.agent_id))


def _facts(told: Told, api_key: ApiKey) -> str:
    answer = told.answer
    facts = {
        "args_hash": told.args_digest.hex(),
        "at_ms": told.at_ms,
        "failure": told.failure,
        "key": told.key,
        "key_id": api_key.identity.key_id,
        "key_revoked": bool(api_key.revoked_at_ms) or "",
        "method": told.method,
        "outcome": str(told.outcome),
        "run_id": told.run_id,
        "upstream_us": told.upstream_us,
        **({"status": answer.status, "size": answer.size, "answer_hash": answer.digest.hex()} if answer else {}),
    }
    return json.dumps({name: value for name, value in facts.items() if value != ""}, separators=(",", ":"))
