"""`check_lock`: of all who ask for a key, the first one gets it, until its time is over."""

from collections.abc import Mapping
from dataclasses import dataclass

from interlock.client.answers import error_of
from interlock.client.reading import read
from interlock.client.request import Answer, Request, new_attempt_id, operation

JsonObject = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Lock:
    """What became of asking for a key. `ttl` (s) is what holds, which may be less than was asked for."""

    locked: bool
    key: str
    ttl: int
    first_seen_at: str | None = None
    request_id: str | None = None
    failed_open: bool = False
    """Nobody could be asked, and the client was told to go on then: the key is not held."""

    @property
    def duplicate(self) -> bool:
        return not self.locked

    def __bool__(self) -> bool:
        """Whether to go on."""
        return self.locked


@dataclass(frozen=True, slots=True)
class _Told:
    status: str
    key: str
    ttl: int
    first_seen_at: str | None = None


class LockOperations:
    """What there is to do with locks."""

    @operation
    def check_lock(
        self, key: str, ttl: int | None = None, *, metadata: JsonObject | None = None, request_id: str | None = None
    ) -> Request[Lock]:
        """Locks `key` (1-256 characters) for `ttl` seconds, if nobody has. Errors: ApiError, UnreachableError."""
        return Request(
            "POST",
            ("check-lock",),
            lambda answer: _lock(key, ttl, answer),
            body={"key": key, "ttl": ttl, "metadata": metadata, "attempt_id": new_attempt_id()},
            headers={"X-Request-Id": request_id},
            fail_open=lambda _: Lock(locked=True, key=key, ttl=ttl or 0, failed_open=True),
            good=frozenset({409}),
        )


def _lock(key: str, ttl: int | None, answer: Answer) -> Lock:
    request_id = answer.response.headers.get("X-Request-Id")
    if answer.response.status_code == 409:
        return Lock(locked=False, key=key, ttl=ttl or 0, first_seen_at=_first_seen_at(answer), request_id=request_id)
    told = read(_Told, answer.json)
    return Lock(told.status == "locked", told.key, told.ttl, told.first_seen_at, request_id)


def _first_seen_at(answer: Answer) -> str | None:
    """Of a duplicate where the server is set to tell of it as 409. Errors: ApiError for any other conflict."""
    detail = answer.json.get("detail") if isinstance(answer.json, dict) else None
    if not isinstance(detail, dict) or "first_seen_at" not in detail:
        raise error_of(answer.response)
    told = detail["first_seen_at"]
    return None if told is None else str(told)
