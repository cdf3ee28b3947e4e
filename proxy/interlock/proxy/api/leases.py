"""`/v1/ai/lease` and its kin: whoever holds the lease of a key does the work, everybody gets the result."""

import asyncio
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from aiohttp import web
from grpc.aio import UnaryUnaryMultiCallable
from pydantic import Field, StringConstraints
from pydantic_core import to_json

from interlock.governance.tasks import end
from interlock.governance.v1 import locks_pb2 as pb
from interlock.proxy.answering import read_body
from interlock.proxy.api.answer import Answer, Time
from interlock.proxy.api.locks import Key, Ttl, WantedBody, source_of, ttl_of, wanted_of
from interlock.proxy.api.models import AgentId, Body, Query
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit, judged
from interlock.proxy.fingerprint import digest_of
from interlock.proxy.settings import KiB, MiB

MAX_METADATA_BYTES = 256 * KiB
MAX_RESULT_BYTES = 1 * MiB
MAX_COMPLETE_BYTES = 2 * MAX_RESULT_BYTES
"""A result is measured without white space, and there is a little beside it."""
MAX_WAIT_S = 60
WAIT_MARGIN_S = 5
POLL_AGAIN_S = 1
"""What a caller who does not wait is told: when to ask again."""

Status = Literal["in_progress", "completed", "failed", "cancelled", "expired"]
LeaseId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Code = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Hash = Annotated[str, StringConstraints(max_length=256)]
Told = TypeVar("Told")


class HolderBody(Body):
    """What a holder shows of its lease."""

    key: Key
    """As it was leased."""
    lease_id: LeaseId
    """As it was given to the holder."""
    version: Annotated[int, Field(ge=1, le=2**53)] | None = None
    """Ours: the version that is held, to be sure."""


class ExtendBody(HolderBody):
    """A lease to be extended."""

    ttl: Ttl | None = None
    """From now, s; cut to the plan's maximum, and left out what it was last for."""


class CompleteBody(HolderBody):
    """Work that is done."""

    result: dict[str, Any] | None = None
    """At most 1 MiB as it is sent, white space left out."""
    result_hash: Hash | None = None
    """The caller's own hash of it; left out, the SHA-256 of its canonical JSON (RFC 8785), in hex."""


class FailBody(HolderBody):
    """Work that failed, for good."""

    error_code: Code
    """Why."""
    error_hash: Hash | None = None
    """The caller's own hash of the error."""


class CancelBody(HolderBody):
    """A lease to be given up."""

    reason: Annotated[str, StringConstraints(max_length=512)] | None = None
    """Why."""


class LeaseQuery(Query):
    """Which lease."""

    key: Key
    """As it was leased."""
    wait: Annotated[float, Field(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)] = 0
    """Ours: wait so long for it to be no longer in progress, s."""
    agent_id: AgentId | None = None
    """Ours: whose, for who may read all of the namespace; left out, the caller's own."""


class OfLease(Answer):
    """What every answer here says."""

    ok: bool
    """Whether it is as was asked; of a result, whether the work was completed."""
    key: str
    """As it was sent."""


class LeaseAnswer(OfLease):
    """A lease that was asked for."""

    status: Literal["acquired", "polling", "completed", "failed"]
    """`acquired`: do the work. `polling`: somebody does it. `completed` and `failed`: there is nothing to do."""
    ttl: int
    """How long it was taken for, s."""
    ttl_left: int
    """How long it still holds, s."""
    lease_id: str | None
    """Proves that it is held; for the holder alone."""
    version: int
    """Grows whenever the lease is taken."""
    first_seen_at: Time | None
    """When the key was first leased."""
    done_at: Time | None
    """When it was completed or failed."""
    result_hash: str | None
    """Of the result."""
    error_code: str | None
    """Why it failed."""
    retry_after_sec: int | None
    """When to ask again."""
    charged: int
    """What this cost: 1 for a lease that is acquired, else 0."""
    usage: int
    """Runs of the month that are used with it."""
    limit: int | None
    """What the plan allows of them; null is no limit."""


class ExtendAnswer(OfLease):
    """A lease that lasts longer."""

    status: Literal["extended"]
    """What became of it."""
    ttl: int
    """How long it holds from now, s."""
    version: int
    """As it was."""


class SettledAnswer(OfLease):
    """A lease that is over."""

    status: Literal["completed", "failed", "cancelled"]
    """What became of it."""
    version: int
    """As it was."""
    done_at: Time | None
    """When that was."""
    result_hash: str | None
    """Of the result."""
    error_code: str | None
    """Why it failed."""


class StatusAnswer(OfLease):
    """How a lease stands."""

    status: Status
    """`expired`: it ran out in somebody's hands, and may be taken over."""
    ttl_left: int
    """How long it still holds, s."""
    version: int
    """Grows whenever the lease is taken."""
    first_seen_at: Time | None
    """When the key was first leased."""
    done_at: Time | None
    """When it was completed, failed or cancelled."""
    result_hash: str | None
    """Of the result."""
    error_code: str | None
    """Why it failed."""
    retry_after_sec: int | None
    """When to ask again."""


class ResultAnswer(OfLease):
    """What came of a lease."""

    status: Status
    """How it stands."""
    result: dict[str, Any] | None
    """As it was completed with."""
    result_hash: str | None
    """Of the result."""
    error_code: str | None
    """Why it failed."""
    done_at: Time | None
    """When it was completed, failed or cancelled."""


async def acquire(visit: Visit) -> LeaseAnswer:
    body, metadata = await wanted_of(visit, MAX_METADATA_BYTES)
    asked = pb.AcquireLeaseRequest(
        key=body.key, ttl_s=ttl_of(body.ttl), metadata=metadata, attempt_id=body.attempt_id or ""
    )
    return acquired_answer(body.key, await visit.ask(visit.api.locks.AcquireLease, asked))


async def extend(visit: Visit) -> ExtendAnswer:
    body = await visit.body(ExtendBody)
    asked = pb.ExtendLeaseRequest(**_holder(body), ttl_s=ttl_of(body.ttl))
    lease = await visit.ask(visit.api.locks.ExtendLease, asked)
    return ExtendAnswer(ok=True, status="extended", key=body.key, ttl=lease.ttl_s, version=lease.version)


async def complete(visit: Visit) -> SettledAnswer:
    raw = await read_body(visit.request, MAX_COMPLETE_BYTES)
    body, result, digest = await visit.api.bodies.read(raw, visit.credential, partial(_completion, raw))
    asked = pb.CompleteLeaseRequest(**_holder(body), result=result, result_digest=digest, result_hash=body.result_hash)
    return settled_answer(body.key, await visit.ask(visit.api.locks.CompleteLease, asked))


async def fail(visit: Visit) -> SettledAnswer:
    body = await visit.body(FailBody)
    asked = pb.FailLeaseRequest(**_holder(body), error_code=body.error_code, error_hash=body.error_hash or "")
    return settled_answer(body.key, await visit.ask(visit.api.locks.FailLease, asked))


async def cancel(visit: Visit) -> SettledAnswer:
    body = await visit.body(CancelBody)
    asked = pb.CancelLeaseRequest(**_holder(body), reason=body.reason or "")
    return settled_answer(body.key, await visit.ask(visit.api.locks.CancelLease, asked))


async def status(visit: Visit) -> StatusAnswer:
    query = visit.query(LeaseQuery)
    lease = await _waited(visit, visit.api.locks.GetLease, query)
    return StatusAnswer(
        ok=True,
        status=_status(lease),
        key=query.key,
        ttl_left=_seconds(lease.ttl_left_ms),
        version=lease.version,
        first_seen_at=rfc3339(lease.first_seen_at_ms),
        done_at=rfc3339(lease.done_at_ms),
        result_hash=lease.result_hash or None,
        error_code=lease.error_code or None,
        retry_after_sec=POLL_AGAIN_S if lease.status == "in_progress" else None,
    )


async def result(visit: Visit) -> web.Response:
    """The result stands in the answer as it was sent: no number in it is read and rewritten."""
    query = visit.query(LeaseQuery)
    found = await _waited(visit, visit.api.locks.GetLeaseResult, query)
    lease = found.lease
    told = ResultAnswer(
        ok=lease.status == "completed",
        status=_status(lease),
        key=query.key,
        result=None,
        result_hash=lease.result_hash or None,
        error_code=lease.error_code or None,
        done_at=rfc3339(lease.done_at_ms),
    ).model_dump(exclude={"result"})
    written = found.result if found.HasField("result") else b"null"
    body = b'%b,"result":%b}' % (to_json(told)[:-1], written)
    return web.Response(body=body, content_type="application/json", charset="utf-8")


def acquired_answer(key: str, acquired: pb.AcquireLeaseResponse) -> LeaseAnswer:
    """The answer to whoever asked for a lease."""
    lease = acquired.lease
    return LeaseAnswer(
        ok=True,
        status=_acquired_status(acquired),
        key=key,
        ttl=lease.ttl_s,
        ttl_left=_seconds(lease.ttl_left_ms),
        lease_id=acquired.lease_id or None,
        version=lease.version,
        first_seen_at=rfc3339(lease.first_seen_at_ms),
        done_at=rfc3339(lease.done_at_ms),
        result_hash=lease.result_hash or None,
        error_code=lease.error_code or None,
        retry_after_sec=POLL_AGAIN_S if lease.status == "in_progress" and not acquired.lease_id else None,
        charged=acquired.charged,
        usage=acquired.usage,
        limit=acquired.limit if acquired.HasField("limit") else None,
    )


def _acquired_status(acquired: pb.AcquireLeaseResponse) -> Literal["acquired", "polling", "completed", "failed"]:
    match acquired.lease.status:
        case "completed":
            return "completed"
        case "failed":
            return "failed"
    return "acquired" if acquired.charged else "polling"


def _status(lease: pb.Lease) -> Any:
    """One of `Status`: the engine's words are the contract's."""
    return lease.status


def settled_answer(key: str, lease: pb.Lease) -> SettledAnswer:
    """The answer to whoever ended a lease."""
    return SettledAnswer(
        ok=True,
        status=_status(lease),
        key=key,
        version=lease.version,
        done_at=rfc3339(lease.done_at_ms),
        result_hash=lease.result_hash or None,
        error_code=lease.error_code or None,
    )


def _holder(body: HolderBody) -> Any:
    return {"key": body.key, "lease_id": body.lease_id, "version": body.version}


def _completion(raw: bytes) -> tuple[CompleteBody, bytes | None, bytes]:
    """The body, its result as it is written, and the digest of that; what they cost is why they are read together."""
    body = judged(CompleteBody, raw)
    if body.result is None:
        return body, None, b""
    written = source_of(raw, "result", MAX_RESULT_BYTES)
    return body, written, digest_of(written)


def _seconds(ms: int) -> int:
    """Rounded up: what is left of a second is left."""
    return -(-ms // 1000)


async def _waited(visit: Visit, rpc: UnaryUnaryMultiCallable[pb.GetLeaseRequest, Told], query: LeaseQuery) -> Told:
    """The engine's answer, which may take as long as was asked for; when the sidecar drains, what is known then."""
    wait_ms = int(query.wait * 1000)
    asked = pb.GetLeaseRequest(key=query.key, agent_id=query.agent_id or "", wait_ms=wait_ms)
    waiting = asyncio.ensure_future(visit.ask(rpc, asked, query.wait + WAIT_MARGIN_S))
    draining = asyncio.ensure_future(visit.api.draining.wait())
    try:
        await asyncio.wait([waiting, draining], return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
    finally:
        await end(waiting, draining)
    asked.wait_ms = 0
    return await visit.ask(rpc, asked)


OPERATIONS = (
    Operation(
        "POST",
        "/v1/ai/lease",
        acquire,
        "Take the lease of a key",
        answer=LeaseAnswer,
        body=WantedBody,
        refusals=(402, 409),
    ),
    Operation("POST", "/v1/ai/extend", extend, "Extend a lease", answer=ExtendAnswer, body=ExtendBody, refusals=(409,)),
    Operation(
        "POST",
        "/v1/ai/complete",
        complete,
        "Complete a lease",
        answer=SettledAnswer,
        body=CompleteBody,
        refusals=(409,),
    ),
    Operation("POST", "/v1/ai/fail", fail, "Fail a lease", answer=SettledAnswer, body=FailBody, refusals=(409,)),
    Operation(
        "POST", "/v1/ai/cancel", cancel, "Give a lease up", answer=SettledAnswer, body=CancelBody, refusals=(409,)
    ),
    Operation("GET", "/v1/ai/status", status, "Show how a lease stands", answer=StatusAnswer, query=LeaseQuery),
    Operation("GET", "/v1/ai/result", result, "Show what came of a lease", answer=ResultAnswer, query=LeaseQuery),
)
