"""Errors on `/tools` as RFC 9457 problem documents that a model can act on, and the headers every answer carries.

`reason` is stable. `retryable` says whether the same call may succeed later, `retry_after` when (s), `matched_rule`
which rule decided, `budget` what is left. The OnceOnly shapes of `/v1` live in `api/errors.py`.
"""

import json
import math
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from interlock.governance.errors import InterlockError, Kind
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Call, Decision, Headers
from interlock.proxy.money import usd_of
from interlock.proxy.outcomes import STOPPED

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "https://interlock.dev/problems/"

STATUS_OF_REASON = {
    # The request itself.
    "request_timeout": 408,
    "body_too_large": 413,
    "method_not_allowed": 405,
    "subpath_not_allowed": 404,
    "expectation_failed": 417,
    "host_not_allowed": 421,
    "origin_not_allowed": 403,
    "draining": 503,
    # Who asks.
    "missing_key": 401,
    "invalid_key": 403,
    # The engine's verdict; switches may also stop a call that was let through and not sent yet.
    "kill_switch": 403,
    "agent_disabled": 403,
    "tool_disabled": 403,
    "max_actions_per_hour_exceeded": 429,
    "max_calls_per_tool_exceeded": 429,
    "max_spend_usd_per_day_exceeded": 402,
    "max_runs_per_month_exceeded": 402,
    "audit_backlog": 503,
    "idempotency_key_reused": 422,
    "in_flight": 409,
    "outcome_unknown": 409,
    "answer_not_kept": 409,
    # The tool.
    "upstream_timeout": 504,
    "upstream_unreachable": 502,
    "upstream_reset": 502,
    "upstream_error": 502,
    "upstream_invalid": 502,
    "upstream_circuit_open": 503,
    "destination_refused": 502,
    "credential_unavailable": 503,
    "credential_refused": 502,
    "answer_unreadable": 502,
    "agent_gone": 504,
    "deadline_exceeded": 504,
    "lease_lost": 503,
    "internal": 500,
}
STATUS_OF_KIND = {
    Kind.INVALID: 400,
    Kind.UNAUTHENTICATED: 403,
    Kind.DENIED: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.EXHAUSTED: 429,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}
STATUS_OF_VERDICT = {pb.VERDICT_BLOCKED: 403, pb.VERDICT_MISMATCH: 422}
RETRYABLE_STATUS = frozenset({408, 409, 429, 502, 503, 504})
NOT_RETRYABLE = frozenset(
    {
        "outcome_unknown",
        "answer_not_kept",
        "answer_unreadable",
        "credential_refused",
        "destination_refused",
        "upstream_invalid",
    }
)
MESSAGES = {
    "upstream_timeout": "the tool did not answer in time; whether it acted is not known",
    "upstream_unreachable": "the tool cannot be reached; nothing was sent",
    "upstream_reset": "the tool broke the connection; whether it acted is not known",
    "upstream_invalid": "what the tool answered cannot be read; whether it acted is not known",
    "upstream_error": "the tool answered with an error and could not be tried again; whether it acted is not known",
    "upstream_circuit_open": "the tool failed too often just now and is left alone for a while; nothing was sent",
    "destination_refused": "the tool's address is one that tools must not have; nothing was sent",
    "credential_unavailable": "the tool's own credential cannot be had just now; nothing was sent",
    "credential_refused": "the tool's own credential is not given out to this sidecar; nothing was sent",
    "answer_unreadable": "the tool's answer is withheld: its content coding does not let its credential be masked",
    "deadline_exceeded": "there was no time left of the agent's deadline; nothing was sent",
    "agent_gone": "the agent left and the tool's answer did not end; whether the tool acted is not known",
    "lease_lost": "the reservation of this call ran out before the call was over",
    "internal": "a bug of ours, which is in the log; whether the tool acted is not known",
    "in_flight": "the same call is running now",
    "outcome_unknown": "an earlier try of this call may have happened, and this tool must not be repeated",
    "idempotency_key_reused": "this Idempotency-Key was used for another call",
    "answer_not_kept": "this call succeeded before, but its answer was not kept",
    "tool_not_in_allowed_list": "this agent's allowlist does not hold this tool",
    "tool_explicitly_blocked": "this agent's blocklist holds this tool",
    "agent_disabled": "this agent is disabled",
    "tool_disabled": "this tool is disabled",
    "kill_switch": "a kill switch is pulled",
    "invalid_key": "the key that this call was made with was revoked",
    "no_policy": "this agent has no policy, and without one nothing is allowed",
    "max_actions_per_hour_exceeded": "this agent has used up its actions of this hour",
    "max_calls_per_tool_exceeded": "this agent has used up its calls of this tool for this day",
    "max_spend_usd_per_day_exceeded": "this agent has used up its spend of this day",
    "max_runs_per_month_exceeded": "the namespace has used up what its plan allows in this month",
    "audit_backlog": "too much of this agent's audit trail waits to be exported; nothing is begun until it is",
}
LIMITS = frozenset(
    {
        "max_actions_per_hour_exceeded",
        "max_calls_per_tool_exceeded",
        "max_spend_usd_per_day_exceeded",
        "max_runs_per_month_exceeded",
    }
)
RESOLVED = "resolved"
"""What the engine says of a success that nobody saw: an operator resolved the call."""
MAX_SF_INTEGER = 999_999_999_999_999
"""RFC 8941: an integer has at most 15 digits."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal or failure. `facts` are extension members beside the standing ones.

    `held` says that the same call is not let through again, whatever the failure.
    """

    status: int
    reason: str
    detail: str
    retry_after_s: int | None = None
    matched_rule: str = ""
    budget: pb.Budget | None = None
    facts: dict[str, object] = field(default_factory=dict)
    headers: Headers = ()
    held: bool = False

    @property
    def retryable(self) -> bool:
        passes = self.status in RETRYABLE_STATUS or self.retry_after_s is not None
        return passes and not self.held and self.reason not in NOT_RETRYABLE

    def document(self) -> bytes:
        """RFC 9457, section 3: the standard members and ours, compact JSON."""
        members = {
            "type": TYPE_PREFIX + self.reason,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "reason": self.reason,
            "retryable": self.retryable,
            "retry_after": self.retry_after_s,
            "matched_rule": self.matched_rule or None,
            "budget": budget_left(self.budget) if self.budget is not None else None,
            **self.facts,
        }
        return json.dumps(
            {name: member for name, member in members.items() if member is not None}, separators=(",", ":")
        ).encode()

    def fields(self) -> Headers:
        """The header fields that belong to it."""
        retry = (("Retry-After", str(self.retry_after_s)),) if self.retry_after_s is not None else ()
        return (("Content-Type", CONTENT_TYPE), *retry, *self.headers)


def problem_of_error(error: InterlockError) -> Problem:
    """An error of the house on `/tools`."""
    status = STATUS_OF_REASON.get(error.reason, STATUS_OF_KIND[error.kind])
    facts: dict[str, object] = {"field": error.metadata["field"]} if "field" in error.metadata else {}
    return Problem(
        status,
        error.reason,
        error.message,
        retry_after_s=(error.retry_in_s or 1) if status in (429, 503) else None,
        facts=facts,
        headers=_fields_of_error(status, error),
    )


def _fields_of_error(status: int, error: InterlockError) -> Headers:
    if status == 401:
        return (("WWW-Authenticate", "Bearer"),)
    return (("Allow", error.metadata["allow"]),) if "allow" in error.metadata else ()


def problem_of_call(call: Call) -> Problem:
    """A call that has no answer of its tool's to pass on."""
    verdict = call.verdict
    if call.executed:
        return problem_of_forwarded(call)
    if verdict.verdict != pb.VERDICT_REPLAY:
        return problem_of_verdict(verdict)
    return problem_of_lost_answer(verdict) or problem_of_failure(verdict.failure)


def problem_of_verdict(verdict: pb.AuthorizeResponse) -> Problem:
    """A verdict by which the tool is not called: BLOCKED, IN_FLIGHT, MISMATCH or UNKNOWN."""
    status = STATUS_OF_REASON.get(verdict.reason) or STATUS_OF_VERDICT.get(verdict.verdict, 409)
    return Problem(
        status,
        verdict.reason,
        MESSAGES.get(verdict.reason, f"the call was refused: {verdict.reason}"),
        retry_after_s=_retry_after_s(verdict, status),
        matched_rule=verdict.matched_rule,
        budget=verdict.budget if verdict.HasField("budget") else None,
        facts=quota_facts(verdict),
        held=_never_passes(verdict),
    )


def quota_facts(verdict: pb.AuthorizeResponse) -> dict[str, object]:
    """Of a refusal by the namespace's plan: which, what it allows, and what is used of it."""
    quota = verdict.quota
    return {"plan": quota.plan, "limit": quota.limit, "usage": quota.usage} if verdict.HasField("quota") else {}


def _never_passes(verdict: pb.AuthorizeResponse) -> bool:
    """A limit that leaves no room for the call at any time: the engine knows no time to come back at."""
    return verdict.reason in LIMITS and verdict.retry_after_ms == 0


def _retry_after_s(verdict: pb.AuthorizeResponse, status: int) -> int | None:
    if verdict.retry_after_ms > 0:
        return math.ceil(verdict.retry_after_ms / 1000)
    if _never_passes(verdict):
        return None
    return 1 if status == 429 or verdict.verdict == pb.VERDICT_IN_FLIGHT else None


def problem_of_forwarded(call: Call) -> Problem:
    """A call that was let through and got no answer of its tool."""
    forwarded = call.forwarded
    problem = problem_of_failure(forwarded.failure, forwarded.retry_after_s)
    if forwarded.failure in STOPPED and forwarded.outcome == pb.OUTCOME_AMBIGUOUS:
        problem = replace(problem, detail=f"{problem.detail}; an earlier try of this call was sent and may have acted")
    return replace(problem, held=call.held)


def problem_of_failure(failure: str, retry_after_s: float | None = None) -> Problem:
    """No answer of the tool: `failure` is why, the same word that the call was settled with."""
    status = STATUS_OF_REASON.get(failure, 502)
    wait = math.ceil(retry_after_s) if retry_after_s is not None else (1 if status == 503 else None)
    return Problem(status, failure, MESSAGES.get(failure, f"the call could not go on: {failure}"), retry_after_s=wait)


def problem_of_lost_answer(verdict: pb.AuthorizeResponse) -> Problem | None:
    """A replay of a success whose answer was too large to keep, or never seen: never a reason to execute again."""
    answer = verdict.answer
    told_by_operator = verdict.failure == RESOLVED
    if verdict.verdict != pb.VERDICT_REPLAY or answer.kept or not (answer.status or told_by_operator):
        return None
    original = {"status": answer.status, "size": answer.size, "sha256": answer.digest.hex()}
    facts: dict[str, object] = {} if told_by_operator else {"original": original}
    return Problem(409, "answer_not_kept", MESSAGES["answer_not_kept"], facts=facts)


def budget_left(budget: pb.Budget) -> dict[str, object] | None:
    """What is left of each limit that holds; None if none does."""
    left: dict[str, object] = {}
    if budget.actions_limit >= 0:
        left |= {"actions_limit": budget.actions_limit, "actions_left": budget.actions_left}
    if budget.tool_calls_limit >= 0:
        left |= {"tool_calls_limit": budget.tool_calls_limit, "tool_calls_left": budget.tool_calls_left}
    if budget.spend_limit_micros >= 0:
        left |= {
            "spend_limit_usd": usd_of(budget.spend_limit_micros),
            "spend_left_usd": usd_of(budget.spend_left_micros),
        }
    if budget.tool_calls_limit >= 0 or budget.spend_limit_micros >= 0:
        left["day_resets_in"] = math.ceil(budget.day_resets_in_ms / 1000)
    return left or None


def standing_fields(call: Call) -> Headers:
    """What every answer to a call carries, whatever became of it."""
    fields = [("Interlock-Decision", call.decision.value)]
    if call.verdict.call_id:
        fields.append(("Interlock-Call-Id", call.verdict.call_id))
    if call.verdict.verdict == pb.VERDICT_REPLAY:
        fields.append(("Idempotent-Replayed", "true"))
    if call.executed and call.forwarded.outcome and not call.forwarded.passed and not call.settled:
        fields.append(("Interlock-Settled", "pending"))
    if call.degraded:
        fields.append(("Interlock-Degraded", call.degraded))
    return (*fields, *_rate_limit_fields(call.verdict))


def error_fields() -> Headers:
    """The same for a request that never became a call."""
    return (("Interlock-Decision", Decision.ERROR.value),)


def _rate_limit_fields(verdict: pb.AuthorizeResponse) -> Headers:
    """`RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10, one item a limit."""
    if not verdict.HasField("budget"):
        return ()
    budget = verdict.budget
    day_s = math.ceil(budget.day_resets_in_ms / 1000)
    # The hour slides: all of it is there again after an hour without calls, unless the engine knows better.
    blocked_by_hour = verdict.reason == "max_actions_per_hour_exceeded" and verdict.retry_after_ms
    hour_s = math.ceil(verdict.retry_after_ms / 1000) if blocked_by_hour else 3600
    policy, state = [], []
    for name, quota, left, window, reset in (
        ("actions", budget.actions_limit, budget.actions_left, 3600, hour_s),
        ("tool-calls", budget.tool_calls_limit, budget.tool_calls_left, 86400, day_s),
    ):
        if quota >= 0:
            policy.append(f'"{name}";q={min(quota, MAX_SF_INTEGER)};w={window}')
            state.append(f'"{name}";r={max(0, min(left, MAX_SF_INTEGER))};t={reset}')
    return (("RateLimit-Policy", ", ".join(policy)), ("RateLimit", ", ".join(state))) if policy else ()
