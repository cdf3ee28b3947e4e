"""What can go wrong, as types. All are `InterlockError` with a stable `reason` that a program may branch on."""

from collections.abc import Mapping, Sequence
from typing import Any


class InterlockError(Exception):
    """The root. `reason` is stable, the message is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ConfigurationError(InterlockError):
    """The client cannot be set up so: no key, or an address that is none."""


class UnreachableError(InterlockError):
    """No answer came. `in_doubt` says whether the request may have taken effect all the same."""

    def __init__(self, message: str, *, in_doubt: bool, timed_out: bool = False) -> None:
        super().__init__("timeout" if timed_out else "unreachable", message)
        self.in_doubt = in_doubt


class InvalidAnswerError(InterlockError):
    """What answered is not Interlock, or a version of it that this client does not understand."""


class ApiError(InterlockError):
    """The API said no: `status`, `reason` and `detail` as it told them, `request_id` to find it in the log by.

    `retry_after_s` is how long to wait before the same request may succeed, where that is known.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        status: int,
        detail: Any = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(reason, message)
        self.status = status
        self.detail = detail
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def fact(self, name: str) -> Any:
        """A further fact of the answer, or None."""
        return self.detail.get(name) if isinstance(self.detail, Mapping) else None


class InvalidKeyError(ApiError):
    """401, 403: no key, or one that is unknown or revoked."""


class PermissionDeniedError(ApiError):
    """403: the key is good, and does not reach this far, or a kill switch is pulled: `reason` tells."""


class FeatureNotAvailableError(ApiError):
    """403: the namespace's plan does not have this."""


class QuotaExceededError(ApiError):
    """402: the namespace's plan, or the agent's budget, allows no more of these."""

    @property
    def plan(self) -> str | None:
        found: str | None = self.fact("plan")
        return found

    @property
    def limit(self) -> int | None:
        found: int | None = self.fact("limit")
        return found

    @property
    def usage(self) -> int | None:
        found: int | None = self.fact("usage")
        return found


class NotFoundError(ApiError):
    """404: nothing of that name, or not for this key."""


class ConflictError(ApiError):
    """409: the thing is not in a state that allows this; `reason` says more (`in_flight`, `lease_lost`, …)."""


class InvalidRequestError(ApiError):
    """400, 413, 422: values are missing or impossible. `fields` tells which, as `{"type", "loc", "msg", "input"}`."""

    @property
    def fields(self) -> Sequence[Mapping[str, Any]]:
        return self.detail if isinstance(self.detail, list) else ()


class RateLimitedError(ApiError):
    """429: too many at a time; see `retry_after_s`."""


class UnavailableError(ApiError):
    """5xx: the server or what it needs is broken or away."""


class CallRefusedError(ApiError):
    """A call of `/tools` was not let through, or has no answer. `reason` is that of the problem document.

    `decision` says what became of it, `matched_rule` why, `retryable` whether the same call may succeed later.
    """

    def __init__(self, reason: str, message: str, *, decision: str, **answer: Any) -> None:
        super().__init__(reason, message, **answer)
        self.decision = decision

    @property
    def retryable(self) -> bool:
        return self.fact("retryable") is True

    @property
    def matched_rule(self) -> str | None:
        found: str | None = self.fact("matched_rule")
        return found


class LeaseLostError(InterlockError):
    """The lease ran out, or was taken over, before its work was recorded: somebody else may be doing it again.

    `result` is what the function came to, if it had ended; nothing of it was recorded.
    """

    def __init__(self, key: str, message: str, result: object = None) -> None:
        super().__init__("lease_lost", f"the lease of {key!r} is lost: {message}")
        self.key = key
        self.result = result


class NotRecordedError(InterlockError):
    """The function ran, and its result could not be recorded; it is in `result`. The key is not free for now."""

    def __init__(self, key: str, message: str, result: object) -> None:
        super().__init__("result_not_recorded", f"the result of {key!r} was not recorded: {message}")
        self.key = key
        self.result = result


class WaitTimeoutError(InterlockError):
    """Somebody else is at it still. The work goes on; ask again."""

    def __init__(self, key: str, waited_s: float) -> None:
        super().__init__("wait_timeout", f"{key!r} is not done after {waited_s:g} s")
        self.key = key


class UnusableArgumentError(InterlockError, TypeError):
    """A key cannot be derived from these arguments."""

    def __init__(self, message: str) -> None:
        super().__init__("unusable_argument", message)


class SignatureError(InterlockError):
    """The call is not, or no longer, provably Interlock's. Answer 401, and do nothing of what it asks."""
