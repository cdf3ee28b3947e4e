"""When a request is tried again, and when that is safe.

A library would do this well, but this distribution needs httpx alone, and which tries are safe is our own knowledge: it
is all here, pure, and both clients loop over it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

import httpx

RETRIED_STATUS = frozenset({429, 500, 502, 503, 504})
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
"""Failures after which the server certainly heard nothing. (httpx says ConnectError for TLS and names as well.)"""


class Repeat(Enum):
    """What a second try of a request does, if the first had taken effect and only its answer was lost."""

    HARMLESS = "harmless"
    """Nothing: it reads, or sets what is set, or carries an id by which the server knows it again."""
    HARMFUL = "harmful"
    """The same thing twice. Tried again only after 429 and what never reached the server."""
    HARMFUL_UNLESS_UNAVAILABLE = "harmful unless unavailable"
    """As before, but 503 as well says that nothing was done."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently. Pauses double from `base_s`, and a random half of each spreads the crowd.

    A server's `Retry-After` is kept to; one above `max_retry_after_s` is not waited for, but raised to the caller.
    """

    tries: int = 4
    base_s: float = 0.2
    max_pause_s: float = 5.0
    max_retry_after_s: float = 30.0

    def __post_init__(self) -> None:
        if self.tries < 1 or min(self.base_s, self.max_pause_s, self.max_retry_after_s) < 0:
            raise ValueError("a request is tried at least once, and pauses are not negative")

    def pause_s(
        self, tried: int, retry_after_s: float | None = None, chance: Callable[[], float] = random.random
    ) -> float | None:
        """Seconds before the next try when `tried` were made, or None if there is to be none."""
        if tried >= self.tries or (retry_after_s or 0) > self.max_retry_after_s:
            return None
        # An exponent beyond this would overflow long after max_pause_s has cut it off.
        pause = min(self.max_pause_s, self.base_s * 2.0 ** min(tried - 1, 30))
        spread = pause * (0.5 + 0.5 * chance())
        return spread + (retry_after_s or 0)


DEFAULT_RETRIES = RetryPolicy()
NO_RETRIES = RetryPolicy(tries=1)


def may_repeat_after_status(repeat: Repeat, status: int) -> bool:
    """Whether an answer of this status is to be followed by another try."""
    if repeat is Repeat.HARMLESS:
        return status in RETRIED_STATUS
    return status == 429 or (status == 503 and repeat is Repeat.HARMFUL_UNLESS_UNAVAILABLE)


def may_repeat_after_failure(repeat: Repeat, failure: httpx.TransportError) -> bool:
    """Whether a request without an answer is to be tried again."""
    if isinstance(failure, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return False
    return repeat is Repeat.HARMLESS or not is_in_doubt(failure)


def is_in_doubt(failure: httpx.TransportError) -> bool:
    """Whether the server may have heard the request."""
    return not isinstance(failure, (*NEVER_SENT, httpx.UnsupportedProtocol, httpx.LocalProtocolError))


def retry_after_s(headers: httpx.Headers, now: datetime | None = None) -> float | None:
    """`Retry-After` (RFC 9110, 10.2.3), as seconds or as a date; None for none, and for nonsense."""
    told = headers.get("Retry-After", "").strip()
    if told.isascii() and told.isdigit():
        return float(told[:9])
    try:
        until = parsedate_to_datetime(told)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())
