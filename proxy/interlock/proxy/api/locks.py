"""`/v1/check-lock`: the first caller locks a key, all others are duplicates."""

from functools import partial
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field, StringConstraints
from pydantic_core import to_json

from interlock.governance.v1 import locks_pb2 as pb
from interlock.proxy import strict_json
from interlock.proxy.answering import read_body
from interlock.proxy.api.answer import Answer, Time
from interlock.proxy.api.errors import InvalidField, InvalidFieldsError
from interlock.proxy.api.models import Body
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit, judged

MAX_METADATA_BYTES = 2048
MAX_TTL_S = 2**31
"""A longer one is cut anyway, by every plan."""
STATUS_HEADER = "X-OnceOnly-Status"

Key = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Ttl = Annotated[int, Field(ge=1)]
AttemptId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class WantedBody(Body):
    """What a lock, and a lease, is asked for by."""

    key: Key
    """What is to be done once."""
    ttl: Ttl | None = None
    """For how long, s; cut to the plan's maximum, and left out its default."""
    metadata: dict[str, Any] | None = None
    """Kept with it."""
    attempt_id: AttemptId | None = None
    """Ours: who asks again with it, because the answer was lost, is answered the same. Not to be guessed."""


class CheckLockAnswer(Answer):
    """Whether the key is the caller's."""

    success: bool
    """Whether the caller locked it."""
    status: Literal["locked", "duplicate"]
    """The same in a word, as the header `X-OnceOnly-Status`."""
    key: str
    """As it was sent."""
    ttl: int
    """How long the key was locked for, s."""
    first_seen_at: Time | None
    """Of a duplicate: when the key was locked."""


async def check(visit: Visit) -> web.Response:
    body, metadata = await wanted_of(visit, MAX_METADATA_BYTES)
    asked = pb.CheckLockRequest(
        key=body.key, ttl_s=ttl_of(body.ttl), metadata=metadata, attempt_id=body.attempt_id or ""
    )
    word = await visit.ask(visit.api.locks.CheckLock, asked)
    first_seen = rfc3339(word.first_seen_at_ms)
    if not word.locked and visit.api.duplicates_conflict:
        detail = {"error": "duplicate", "message": "this key is locked", "first_seen_at": first_seen}
        return _answered({"detail": detail}, "duplicate", 409)
    status: Literal["locked", "duplicate"] = "locked" if word.locked else "duplicate"
    answer = CheckLockAnswer(success=word.locked, status=status, key=body.key, ttl=word.ttl_s, first_seen_at=first_seen)
    return _answered(answer, status)


async def wanted_of(visit: Visit, most_metadata: int) -> tuple[WantedBody, bytes]:
    """The body, and its metadata as they are written but for white space. Raises InvalidRequestError."""
    raw = await read_body(visit.request, visit.api.max_body_bytes)
    return await visit.api.bodies.read(raw, visit.credential, partial(_read, raw, most_metadata))


def ttl_of(ttl: int | None) -> int | None:
    return None if ttl is None else min(ttl, MAX_TTL_S)


def source_of(raw: bytes, name: str, most: int) -> bytes:
    """A member of a valid body, without white space. Raises InvalidFieldsError if that is over `most` bytes."""
    source = strict_json.compact(strict_json.member_source(raw.decode(), name)).encode()
    if len(source) > most:
        finding = InvalidField("too_long", ["body", name], f"JSON of at most {most} bytes, and this has {len(source)}")
        raise InvalidFieldsError([finding])
    return source


def _read(raw: bytes, most_metadata: int) -> tuple[WantedBody, bytes]:
    body = judged(WantedBody, raw)
    return body, b"" if body.metadata is None else source_of(raw, "metadata", most_metadata)


def _answered(answer: object, status: str, http_status: int = 200) -> web.Response:
    return web.Response(
        body=to_json(answer),
        status=http_status,
        content_type="application/json",
        charset="utf-8",
        headers={STATUS_HEADER: status},
    )


OPERATIONS = (
    Operation(
        "POST",
        "/v1/check-lock",
        check,
        "Lock a key, once",
        answer=CheckLockAnswer,
        body=WantedBody,
        refusals=(402, 409),
        headers={STATUS_HEADER: "`locked` or `duplicate`."},
        example={"key": "order-17", "ttl": 60},
    ),
)
