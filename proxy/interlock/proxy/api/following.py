"""`/v1/audit/follow`: events as they are recorded, one JSON object a line, until one of the two sides ends it.

Lines (NDJSON) and not server-sent events: `curl`, `jq` and every language read them without a parser, each is what
`/v1/audit` lists, and what SSE is for, a browser's EventSource, can send no key and is refused here anyway.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Literal

from aiohttp import web
from grpc import aio

from interlock.governance.errors import UnavailableError
from interlock.governance.status import error_of
from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy.answering import REQUEST_ID
from interlock.proxy.api.answer import ABSENT, Answer
from interlock.proxy.api.audit import Event
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.queries import FollowQuery
from interlock.proxy.api.visit import Visit


class Cursor(Answer):
    """A line of the stream: all that was recorded before has been told."""

    type: Literal["cursor"]
    """Tells it from an event."""
    cursor: str
    """Where to go on: `?cursor=`."""


class End(Answer):
    """The last line of the stream."""

    type: Literal["end"]
    """Tells it from an event."""
    reason: str
    """`ended`, `draining`, or the reason of an error."""
    message: str = ABSENT
    """What went wrong; absent where nothing did."""


MEDIA_TYPE = "application/x-ndjson"
Line = Event | Cursor | End


async def follow(visit: Visit) -> web.StreamResponse:
    """Refusals are answered as on any route; what fails later is told by the last line."""
    query = visit.query(FollowQuery)
    asked = pb.FollowEventsRequest(
        agent_id=query.agent_id or "", cursor=query.cursor or "", last=query.last, until_now=query.until_now
    )
    call = visit.api.audit.FollowEvents(asked, metadata=visit.metadata)
    try:
        first = await _first(call, visit.api.timeout_s)
        response = web.StreamResponse(
            headers={
                "Content-Type": MEDIA_TYPE,
                "X-Request-Id": visit.request[REQUEST_ID],
            }
        )
        await response.prepare(visit.request)
        with contextlib.suppress(ConnectionResetError):  # nobody is there any more to be told
            await _write(response, call, first, visit.api.draining)
            await response.write_eof()
        return response
    finally:
        call.cancel()


async def _first(call: Any, within_s: float) -> Any:
    try:
        async with asyncio.timeout(within_s):
            return await call.read()
    except TimeoutError as late:
        raise UnavailableError("governance_unavailable", "the governance engine cannot be reached") from late


async def _write(response: web.StreamResponse, call: Any, message: Any, draining: asyncio.Event) -> None:
    told = asyncio.ensure_future(draining.wait())
    try:
        while message is not aio.EOF:
            for line in _lines(message):
                await response.write(_written(line))
            reading = asyncio.ensure_future(call.read())
            await asyncio.wait([reading, told], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                break
            message = reading.result()
        end = End(type="end", reason="draining" if told.done() else "ended")
    except aio.AioRpcError as failed:
        error = error_of(failed)
        end = End(type="end", reason=error.reason, message=error.message)
    finally:
        told.cancel()
    await response.write(_written(end))


def _lines(message: pb.FollowEventsResponse) -> Iterator[Line]:
    """Events as `/v1/audit` lists them; then, if there is one, where to go on."""
    for event in message.events:
        yield Event.of(event)
    if message.cursor:
        yield Cursor(type="cursor", cursor=message.cursor)


def _written(line: Line) -> bytes:
    return line.model_dump_json(exclude_unset=True).encode() + b"\n"


OPERATIONS = (
    Operation(
        "GET",
        "/v1/audit/follow",
        follow,
        "Follow events, as they are recorded",
        Line,
        query=FollowQuery,
        media_type=MEDIA_TYPE,
    ),
)
