"""Leases: the right to do a piece of work, held for a while, fenced by its `lease_id`, and ended by what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interlock.client.reading import read
from interlock.client.request import Request, new_attempt_id, operation

JsonObject = Mapping[str, object]

ACQUIRED = "acquired"
TERMINAL = frozenset({"completed", "failed"})
FREE = frozenset({"expired", "cancelled", "not_found"})
"""Statuses in which a key can be leased again."""
POLL_SLACK_S = 10.0
"""What an answer may take beyond the wait that was asked for."""


@dataclass(frozen=True, slots=True)
class LeaseAnswer:
    """What asking for a lease came to: `acquired`, `polling` (somebody holds it), `completed` or `failed`.

    Only the holder is told `lease_id`; `version` grows with each holder. Times are RFC 3339, `ttl` seconds.
    """

    status: str
    key: str
    ttl: int | None = None
    ttl_left: int | None = None
    lease_id: str | None = None
    version: int = 0
    first_seen_at: str | None = None
    done_at: str | None = None
    result_hash: str | None = None
    error_code: str | None = None
    retry_after_sec: int | None = None
    usage: int | None = None
    limit: int | None = None
    charged: int | None = None

    @property
    def acquired(self) -> bool:
        return self.status == ACQUIRED

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class LeaseChange:
    """What extending or ending a lease came to: `extended`, `completed`, `failed` or `cancelled`."""

    status: str
    key: str
    version: int = 0
    ttl: int | None = None


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """How a key stands: `in_progress`, `completed`, `failed`, `cancelled` or `expired`."""

    status: str
    key: str
    ttl_left: int | None = None
    version: int = 0
    first_seen_at: str | None = None
    done_at: str | None = None
    result_hash: str | None = None
    error_code: str | None = None
    retry_after_sec: int | None = None

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class WorkResult:
    """What a piece of work came to. `executed` says whether it was this process that did it."""

    status: str
    key: str
    result: dict[str, Any] | None = None
    result_hash: str | None = None
    error_code: str | None = None
    done_at: str | None = None
    executed: bool = False
    failed_open: bool = False
    """Nobody could be asked, and the function ran unguarded: others may have run it too."""

    @property
    def ok(self) -> bool:
        return self.status == "completed"

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def value(self) -> Any:
        """The result as the function gave it: what was no object travels as `{"value": …}`."""
        if self.result is not None and self.result.keys() == {"value"}:
            return self.result["value"]
        return self.result


class LeaseOperations:
    """Each may be tried again: a lease is known again by its id, and an attempt to have one by its own."""

    @operation
    def acquire(self, key: str, ttl: int | None = None, *, metadata: JsonObject | None = None) -> Request[LeaseAnswer]:
        """Asks for the lease of `key` (1-256 characters) for `ttl` seconds. Costs one run of the plan if acquired."""
        return Request(
            "POST",
            ("ai", "lease"),
            lambda answer: read(LeaseAnswer, answer.json),
            body={"key": key, "ttl": ttl, "metadata": metadata, "attempt_id": new_attempt_id()},
        )

    @operation
    def extend(self, key: str, lease_id: str, ttl: int | None = None) -> Request[LeaseChange]:
        """Holds it for `ttl` seconds from now. Errors: ConflictError if it is not held any more."""
        return _change("extend", {"key": key, "lease_id": lease_id, "ttl": ttl})

    @operation
    def complete(
        self, key: str, lease_id: str, *, result: JsonObject | None = None, result_hash: str | None = None
    ) -> Request[LeaseChange]:
        """Records that the work is done; `result` is a JSON object of 1 MiB at most. Errors: as `extend`."""
        body = {"key": key, "lease_id": lease_id, "result": result, "result_hash": result_hash}
        return _change("complete", body)

    @operation
    def fail(self, key: str, lease_id: str, *, error_code: str, error_hash: str | None = None) -> Request[LeaseChange]:
        """Records that the work failed, for good. Errors: as `extend`."""
        return _change("fail", {"key": key, "lease_id": lease_id, "error_code": error_code, "error_hash": error_hash})

    @operation
    def cancel(self, key: str, lease_id: str, *, reason: str | None = None) -> Request[LeaseChange]:
        """Gives the key back, as if it had not been leased. Errors: as `extend`."""
        return _change("cancel", {"key": key, "lease_id": lease_id, "reason": reason})

    @operation
    def status(self, key: str, *, wait_s: float | None = None) -> Request[LeaseStatus]:
        """How a key stands: at once, or once it is settled, within `wait_s` seconds. Errors: NotFoundError."""
        return Request(
            "GET",
            ("ai", "status"),
            lambda answer: read(LeaseStatus, answer.json),
            params={"key": key, "wait": wait_s},
            timeout_s=_patience(wait_s),
        )

    @operation
    def result(self, key: str, *, wait_s: float | None = None) -> Request[WorkResult]:
        """What a key's work came to; otherwise as `status`. Errors: NotFoundError."""
        return Request(
            "GET",
            ("ai", "result"),
            lambda answer: read(WorkResult, answer.json),
            params={"key": key, "wait": wait_s},
            timeout_s=_patience(wait_s),
        )


def _change(verb: str, body: JsonObject) -> Request[LeaseChange]:
    return Request("POST", ("ai", verb), lambda answer: read(LeaseChange, answer.json), body=body)


def _patience(wait_s: float | None) -> float | None:
    return None if wait_s is None else wait_s + POLL_SLACK_S
