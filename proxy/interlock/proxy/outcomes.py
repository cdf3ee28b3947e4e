"""What became of a call at its tool, and whether it is tried again: pure functions over status, failure and tool."""

import math
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Forwarded, Headers, Outcome

FIRST_BACKOFF_S = 0.1
LAST_BACKOFF_S = 5.0
MAX_DOUBLINGS = 64
"""Far beyond `LAST_BACKOFF_S`, and within what a float holds: a spool may try for days."""
NEVER_RETRIED = frozenset({"destination_refused", "upstream_invalid"})
"""Failures that the next try would meet again."""
STOPPED = frozenset({"agent_disabled", "tool_disabled", "kill_switch", "invalid_key"})
"""Failures by a switch that was pulled, or a key that was revoked, after the call was let through."""


def outcome_of(status: int, *, sent: bool, whole: bool) -> Outcome:
    """The outcome of one try.

    | outcome | when |
    |---|---|
    | NOT_SENT | certainly no byte left the sidecar |
    | AMBIGUOUS | 408, 5xx, no answer in time, the connection lost after any byte was sent, or the answer not whole |
    | REJECTED | 4xx but 408 |
    | SUCCEEDED | 2xx, 3xx |
    """
    if not sent:
        return pb.OUTCOME_NOT_SENT
    if not whole or status == 408 or status >= 500 or status < 200:
        return pb.OUTCOME_AMBIGUOUS
    return pb.OUTCOME_REJECTED if status >= 400 else pb.OUTCOME_SUCCEEDED


def has_no_body(method: str, status: int) -> bool:
    """Whether an answer ends with its head, whatever its Content-Length says (RFC 9112 6.3)."""
    return method == "HEAD" or status in (204, 304)


def settled_outcome(last: Outcome, *, earlier_ambiguous: bool) -> Outcome:
    """The outcome of a call of several tries: that the last did nothing does not clear an earlier one that may have."""
    if earlier_ambiguous and last in (pb.OUTCOME_NOT_SENT, pb.OUTCOME_REJECTED):
        return pb.OUTCOME_AMBIGUOUS
    return last


def call_failure(tried: Forwarded, earlier: str) -> str:
    """Why a call failed whose last try was `tried`. `earlier` is why an ambiguous try before it did, if there was one.

    That nothing was sent is then true of the last try only, and is not told. A switch stays the reason.
    """
    not_sent = tried.outcome == pb.OUTCOME_NOT_SENT and tried.failure not in STOPPED
    return earlier if earlier and not_sent else tried.failure


def backoff_s(tried: Forwarded, tool: pb.ToolRoute, tries: int) -> float | None:
    """How long until the next try, or None if there is none. `tries` are those made so far.

    NOT_SENT is tried again for every tool, AMBIGUOUS and 429 only for `retry` tools; a Retry-After longer than the
    tool's time-out is left to the agent.
    """
    if tries > tool.max_retries or tried.failure in NEVER_RETRIED:
        return None
    repeatable = tool.on_ambiguous != pb.ON_AMBIGUOUS_HOLD
    limited = tried.status == 429
    if tried.outcome != pb.OUTCOME_NOT_SENT and not (repeatable and (limited or tried.outcome == pb.OUTCOME_AMBIGUOUS)):
        return None
    if limited and tried.retry_after_s is not None:
        return tried.retry_after_s if tried.retry_after_s <= tool.timeout_ms / 1000 else None
    return full_jitter(tries)


def full_jitter(tries: int) -> float:
    """Exponential backoff with full jitter, s (M. Brooker, "Exponential Backoff And Jitter", 2015)."""
    most = min(LAST_BACKOFF_S, math.ldexp(FIRST_BACKOFF_S, min(tries, MAX_DOUBLINGS) - 1))
    return random.uniform(0, most)  # noqa: S311 - no secret hangs on it


def retry_after_s(headers: Headers, now: datetime) -> float | None:
    """Retry-After as seconds from `now` (RFC 9110 10.2.3: a number of seconds or a date); None without a good one."""
    value = next((value for name, value in headers if name.lower() == "retry-after"), "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError, TypeError, IndexError):  # whatever it meets in a date that is none
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
