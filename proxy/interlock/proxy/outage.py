"""What goes through while nobody can be asked: calls of tools that are open when governance fails.

Such a call goes out under a permit of the sidecar's own making: with the key that the engine would derive, so that the
tool can de-duplicate across the outage, and on the disk before its first byte leaves. What is given up is what only the
engine knows: whether another sidecar runs the same call, and what is left of the budgets.
"""

import hashlib
import time
from collections import deque
from dataclasses import replace

import structlog

from interlock.governance.call_key import call_key
from interlock.governance.errors import UnavailableError
from interlock.governance.ids import new_id
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Call, Lease
from interlock.proxy.last_words import LastWord, LastWords
from interlock.proxy.metrics import Metrics
from interlock.proxy.spool import Kept, Spool

log = structlog.get_logger()

MINUTE_S = 60.0
MAX_QUOTAS = 4096
REASON = "governance_unavailable"
RETRY_AFTER_MS = 1_000


class Outage:
    """Lets calls through by the last word that the engine had, and keeps what it will have to be told of them."""

    def __init__(self, spool: Spool, words: LastWords, metrics: Metrics) -> None:
        self._spool = spool
        self.words = words
        self._metrics = metrics
        self._quotas: dict[tuple[str, str], _Quota] = {}
        self._running: dict[str, str] = {}
        self._unjudged: dict[str, str] = {}

    def begins(self, call: Call) -> None:
        """A call of an open tool is about to be forwarded: in an outage its like are not let through beside it."""
        if call.executed and call.tool.on_governance_failure == pb.ON_GOVERNANCE_FAILURE_OPEN:
            self._running[call.verdict.permit.key] = call.verdict.call_id

    def ended(self, call: Call) -> None:
        """A call is over, well or not."""
        if call.executed:
            permit = call.verdict.permit
            self._running.pop(permit.key, None)
            self._unjudged.pop(permit.key, None)
            self.words.stopped(call.forwarded.failure, permit.namespace, permit.agent_id, permit.tool)

    def runs_unjudged(self, call: Call) -> Call | None:
        """The call as refused, if its like went through unjudged and is not over: of that the engine does not know."""
        word = self.words.of(call.ask) if self._unjudged else None
        key = _key(call, word, "") if word is not None and call.repeatable else ""
        return _in_flight(call, self._unjudged[key]) if key in self._unjudged else None

    def let_through(self, call: Call, attempt_id: str, unavailable: UnavailableError) -> Call:
        """The call with a verdict of the sidecar's own. Errors: `unavailable`, if it may not go through."""
        # A keyed run can wait for its engine; only that one knows which of its actions are over.
        word = self.words.of(call.ask) if not call.ask.run_action else None
        is_open = call.tool.on_governance_failure == pb.ON_GOVERNANCE_FAILURE_OPEN
        if word is None or not is_open or unavailable.reason != REASON:
            raise unavailable
        key = _key(call, word, attempt_id)
        if key in self._running:
            return _in_flight(call, self._running[key])
        if (kept := self._spool.kept_under(key)) is not None and kept.outcome == pb.OUTCOME_SUCCEEDED:
            return self._repeated(call, kept, unavailable)
        quota = self._quota(word.namespace, call.tool.name)
        if not quota.takes(time.monotonic(), call.tool.open_max_calls_per_minute):
            raise unavailable
        permitted = _permitted(call, word, key, attempt_id)
        self._running[key] = self._unjudged[key] = permitted.verdict.call_id
        return permitted

    async def begin(self, call: Call) -> None:
        """Returns once the call is on the disk, as one that may have happened.

        Errors: `governance_unavailable` if the disk fails: no call without its record.
        """
        try:
            await self._spool.begin(_record(call))
        except OSError as error:
            log.error("spool.write_failed", call_id=call.verdict.call_id, error=str(error))  # noqa: TRY400 - the message says it all
            raise UnavailableError(REASON, "the call cannot be put on record", effect="none") from error
        self._metrics.degraded(call.tool.name)
        log.warning(
            "call.degraded",
            tool=call.tool.name,
            agent_id=call.verdict.agent_id,
            call_id=call.verdict.call_id,
            reason=call.degraded,
        )

    async def conclude(self, call: Call, settlement: pb.SettleRequest) -> None:
        """Returns once it is on the disk what became of the call."""
        record = _record(call)
        record.outcome, record.failure, record.upstream_us = (
            settlement.outcome,
            settlement.failure,
            settlement.upstream_us,
        )
        if settlement.HasField("answer"):
            record.answer.CopyFrom(settlement.answer)
        await self._spool.keep(record)

    def _repeated(self, call: Call, kept: Kept, unavailable: UnavailableError) -> Call:
        """What the spool knows to have succeeded is not repeated."""
        if isinstance(kept, pb.RecordDegradedRequest):
            if kept.fingerprint != call.fingerprint.call:
                return _answered(call, pb.VERDICT_MISMATCH, "idempotency_key_reused", kept.call_id)
            return _answered(call, pb.VERDICT_REPLAY, "tool_idempotency", kept.call_id, kept.answer)
        if call.ask.idempotency_key:
            # A settlement does not tell whether the caller's key was used for this very call.
            raise unavailable
        return _answered(call, pb.VERDICT_REPLAY, "tool_idempotency", kept.permit.call_id, kept.answer)

    def _quota(self, namespace: str, tool: str) -> "_Quota":
        if len(self._quotas) >= MAX_QUOTAS:
            now = time.monotonic()
            self._quotas = {name: quota for name, quota in self._quotas.items() if not quota.is_whole(now)}
        return self._quotas.setdefault((namespace, tool), _Quota())


class _Quota:
    """Calls of one tool in the last minute: no minute, wherever it begins, has more of them than it takes."""

    def __init__(self) -> None:
        self._at: deque[float] = deque()

    def takes(self, now: float, most: int) -> bool:
        """Whether one more fits; then it is counted."""
        while self._at and self._at[0] <= now - MINUTE_S:
            self._at.popleft()
        if len(self._at) >= most:
            return False
        self._at.append(now)
        return True

    def is_whole(self, now: float) -> bool:
        return not self._at or self._at[-1] <= now - MINUTE_S


def _key(call: Call, word: LastWord, attempt_id: str) -> str:
    return call_key(
        word.namespace,
        word.agent_id,
        deduplicated=call.repeatable,
        caller_key=call.ask.idempotency_key,
        fingerprint=call.fingerprint.call,
        attempt_id=attempt_id,
    )


def _permitted(call: Call, word: LastWord, key: str, attempt_id: str) -> Call:
    """Fences are of the size of the engine's, which are never behind its clock."""
    permit = pb.Permit(
        namespace=word.namespace,
        agent_id=word.agent_id,
        tool=call.tool.name,
        key=key,
        call_id=new_id("call"),
        fence=_now_ms(),
        attempt_id=attempt_id,
    )
    verdict = pb.AuthorizeResponse(
        verdict=pb.VERDICT_EXECUTE,
        reason=REASON,
        namespace=word.namespace,
        agent_id=word.agent_id,
        call_id=permit.call_id,
        permit=permit,
        risk_level=word.risk_level,
    )
    return replace(call, verdict=verdict, lease=Lease(), degraded=REASON)


def _answered(
    call: Call, kind: "pb.Verdict.ValueType", reason: str, call_id: str, answer: pb.Answer | None = None
) -> Call:
    verdict = pb.AuthorizeResponse(verdict=kind, reason=reason, call_id=call_id, answer=answer)
    return replace(call, verdict=verdict, degraded=REASON)


def _in_flight(call: Call, call_id: str) -> Call:
    refused = _answered(call, pb.VERDICT_IN_FLIGHT, "in_flight", call_id)
    refused.verdict.retry_after_ms = RETRY_AFTER_MS
    return refused


def _record(call: Call) -> pb.RecordDegradedRequest:
    """The call as it will be told if nothing more becomes known of it."""
    ask, permit = call.ask, call.verdict.permit
    return pb.RecordDegradedRequest(
        attempt_id=permit.attempt_id,
        credential_digest=hashlib.sha256(ask.credential.encode()).digest(),
        agent_id=permit.agent_id,
        tool=permit.tool,
        method=ask.method,
        call_id=permit.call_id,
        key=permit.key,
        repeatable=call.repeatable,
        fingerprint=call.fingerprint.call,
        args_digest=call.fingerprint.arguments,
        declared_spend_micros=ask.spend_micros,
        run_id=ask.run_id,
        reason=call.degraded,
        fence=permit.fence,
        outcome=pb.OUTCOME_AMBIGUOUS,
        failure="sidecar_died",
        at_ms=permit.fence,
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
