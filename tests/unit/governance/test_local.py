"""A stream of the LocalServer does what one of gRPC does: each test runs on both."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from interlock.governance.local import LocalServer
from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import admin_pb2_grpc

Serve = Callable[[Any], Awaitable[None]]


class Trail(admin_pb2_grpc.AuditServicer):
    """Streams whatever a test scripts."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve

    async def FollowEvents(self, request: pb.FollowEventsRequest, context: Any) -> None:  # type: ignore[override] # noqa: N802
        await self._serve(context)


class Generated(admin_pb2_grpc.AuditServicer):
    async def FollowEvents(self, request: pb.FollowEventsRequest, context: Any) -> AsyncIterator[Any]:  # type: ignore[override] # noqa: N802
        for number in range(3):
            yield told(number)


@asynccontextmanager
async def local(servicer: Any) -> AsyncIterator[Any]:
    server = LocalServer()
    admin_pb2_grpc.add_AuditServicer_to_server(servicer, server)
    yield admin_pb2_grpc.AuditStub(server.channel())


@asynccontextmanager
async def remote(servicer: Any) -> AsyncIterator[Any]:
    server = aio.server()
    admin_pb2_grpc.add_AuditServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield admin_pb2_grpc.AuditStub(channel)
    await server.stop(None)


BOTH = pytest.mark.parametrize("served", [local, remote])
ASKED = pb.FollowEventsRequest()


def told(number: int) -> pb.FollowEventsResponse:
    return pb.FollowEventsResponse(cursor=str(number))


@BOTH
async def test_messages_come_in_order_and_then_the_end(served: Any) -> None:
    async def three(context: Any) -> None:
        for number in range(3):
            await context.write(told(number))

    for servicer in (Trail(three), Generated()):
        async with served(servicer) as stub:
            assert [message.cursor async for message in stub.FollowEvents(ASKED)] == ["0", "1", "2"]
            call = stub.FollowEvents(ASKED)
            assert [(await call.read()).cursor for _ in range(3)] == ["0", "1", "2"]
            assert await call.read() is aio.EOF


@BOTH
async def test_what_was_written_before_a_failure_is_read_before_it_is_raised(served: Any) -> None:
    async def fails(context: Any) -> None:
        await context.write(told(1))
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone", (("why-bin", b"\x01"),))

    async with served(Trail(fails)) as stub:
        call = stub.FollowEvents(ASKED)
        assert (await call.read()).cursor == "1"
        with pytest.raises(aio.AioRpcError) as failed:
            await call.read()
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert ("why-bin", b"\x01") in [*failed.value.trailing_metadata()]


@BOTH
async def test_the_metadata_and_the_deadline_are_the_callers(served: Any) -> None:
    async def says(context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        await context.write(pb.FollowEventsResponse(cursor=metadata["who"]))
        await asyncio.Event().wait()

    async with served(Trail(says)) as stub:
        call = stub.FollowEvents(ASKED, metadata=(("who", "me"),), timeout=0.3)
        assert (await call.read()).cursor == "me"
        with pytest.raises(aio.AioRpcError) as failed:
            await call.read()
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


class Slow(admin_pb2_grpc.AuditServicer):
    """Answers when it is told to, and says how it was ended."""

    def __init__(self) -> None:
        self.asked, self.ended = asyncio.Event(), asyncio.Event()

    async def ListEvents(self, request: pb.ListEventsRequest, context: Any) -> pb.ListEventsResponse:  # noqa: N802
        self.asked.set()
        try:
            await asyncio.sleep(0 if request.limit else 60)
        finally:
            self.ended.set()
        return pb.ListEventsResponse()


@BOTH
async def test_a_deadline_ends_a_call_and_its_servicer_and_nothing_after_them(served: Any) -> None:
    servicer = Slow()
    async with served(servicer) as stub:
        with pytest.raises(aio.AioRpcError) as failed:
            await stub.ListEvents(pb.ListEventsRequest(), timeout=0.05)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(5):
            await servicer.ended.wait()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await stub.ListEvents(pb.ListEventsRequest(limit=1), timeout=0.05)
        await asyncio.sleep(0.1)  # the deadline of a call that is over


@BOTH
async def test_who_is_cancelled_within_a_deadline_is_cancelled_and_not_late(served: Any) -> None:
    servicer = Slow()
    async with served(servicer) as stub:
        asking = asyncio.ensure_future(stub.ListEvents(pb.ListEventsRequest(), timeout=30))
        await servicer.asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(5):
            await servicer.ended.wait()


async def test_who_is_cancelled_as_the_deadline_passes_is_cancelled() -> None:
    servicer = Slow()
    async with local(servicer) as stub:
        asking = asyncio.ensure_future(stub.ListEvents(pb.ListEventsRequest(), timeout=0.3))
        await servicer.asked.wait()
        asyncio.get_running_loop().call_later(0, asking.cancel)
        time.sleep(0.35)  # noqa: ASYNC251 - so that both are due in one turn of the loop
        with pytest.raises(asyncio.CancelledError):
            await asking


@BOTH
@pytest.mark.parametrize("by", ["cancel", "reader"])
async def test_who_hangs_up_ends_the_servicer(served: Any, by: str) -> None:
    ended = asyncio.Event()

    async def waits(context: Any) -> None:
        await context.write(told(1))
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with served(Trail(waits)) as stub:
        call = stub.FollowEvents(ASKED)
        await call.read()
        if by == "cancel":
            assert call.cancel()
        else:
            reading = asyncio.create_task(call.read())
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        async with asyncio.timeout(5):
            await ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await call.read()


async def test_a_servicer_is_no_more_than_two_messages_ahead_of_its_reader() -> None:
    written: list[int] = []

    async def endless(context: Any) -> None:
        while True:
            await context.write(told(len(written)))
            written.append(len(written))

    async with local(Trail(endless)) as stub:
        call = stub.FollowEvents(ASKED)
        for taken in range(20):
            assert (await call.read()).cursor == str(taken)
            assert len(written) <= taken + 2
        call.cancel()
