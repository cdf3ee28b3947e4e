"""Answers that come piece by piece: passed on as they come, all but their end, which waits for the settlement."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from redis.asyncio import Redis

from tests.acceptance.scene import Scene, Sidecars
from tests.acceptance.wire import Answer, Arriving
from tests.conftest import StartDev
from tests.redis_server import RedisServer
from tests.tool import Script, Tool, answers, streams, waits_for

EVENT_STREAM = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
EVENTS = [b"data: %d\n\n" % number for number in range(20)]
NOTHING_FOR_S = 0.3
"""So long nothing may come. More only makes a late byte easier to find; a right answer never fails by it."""


class Tap:
    """What a tool streams: a piece whenever the test lets one out."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    def let_out(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._pieces.put_nowait(piece)

    def close(self) -> None:
        self._pieces.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece


async def test_each_event_arrives_before_the_next_is_sent(scene: Scene, tool: Tool) -> None:
    tap = Tap()
    name = await scene.register(tool.does(streams(tap, EVENT_STREAM)).url)
    async with scene.calling(name, {"follow": 1}) as arriving:
        for number, event in enumerate(EVENTS):
            tap.let_out(event)
            if number == 0:
                head = await arriving.head()
                assert (head.status, head.decision, head.header("Content-Type")) == (
                    200,
                    "executed",
                    "text/event-stream",
                )
            assert await arriving.piece() == event
        tap.close()
        assert await arriving.piece() == b""
    replayed = await scene.call(name, {"follow": 1}, at=scene.second)
    assert (replayed.status, replayed.body, replayed.replayed) == (200, b"".join(EVENTS), True)
    for field, value in EVENT_STREAM.items():
        assert replayed.header(field) == value
    assert len(tool.received) == 1


async def test_who_waits_for_a_stream_gets_all_of_it_from_the_record(scene: Scene, tool: Tool) -> None:
    tap = Tap()
    name = await scene.register(tool.does(streams(tap, EVENT_STREAM)).url)
    async with asyncio.TaskGroup() as calls:
        leader = calls.create_task(scene.call(name, {"follow": 1}))
        await tool.until_received(1)
        asked = await scene.asked()
        waiting = calls.create_task(scene.call(name, {"follow": 1}, at=scene.second, headers={"Prefer": "wait"}))
        await scene.until_asked(asked + 1, leader, waiting)
        tap.let_out(*EVENTS)
        tap.close()
    assert leader.result().body == waiting.result().body == b"".join(EVENTS)
    assert (leader.result().decision, waiting.result().decision) == ("executed", "dedup")
    assert len(tool.received) == 1


async def test_a_pulled_switch_ends_a_stream_so_that_the_agent_can_tell(scene: Scene, tool: Tool) -> None:
    tap = Tap()
    name = await scene.register(tool.does(streams(tap, EVENT_STREAM)).url, timeout_ms=60_000)
    tap.let_out(b"data: 1\n\n")
    async with scene.calling(name, {"follow": 1}) as arriving:
        await arriving.head()
        assert await arriving.piece() == b"data: 1\n\n"
        await scene.ask("POST", f"/v1/agents/{scene.agent}/disable", {}, at=scene.second)
        rest = await arriving.rest()
    assert (rest.body, rest.whole) == (b"", False)
    assert [event["verdict"] for event in await scene.events("settlement")] == ["AMBIGUOUS"]


async def test_a_revoked_key_ends_the_streams_that_were_let_through_under_it(scene: Scene, tool: Tool) -> None:
    tap = Tap()
    name = await scene.register(tool.does(streams(tap, EVENT_STREAM)).url, timeout_ms=60_000)
    made = await scene.ask("POST", "/v1/keys", {"role": "agent", "agent_id": scene.agent})
    mine = {"Authorization": f"Bearer {made['key']}", "Interlock-Agent": ""}
    tap.let_out(b"data: 1\n\n")
    async with scene.calling(name, {"follow": 1}, headers=mine) as arriving:
        await arriving.head()
        assert await arriving.piece() == b"data: 1\n\n"
        await scene.ask("DELETE", f"/v1/keys/{made['key_id']}", at=scene.second)
        rest = await arriving.rest()
    assert (rest.body, rest.whole) == (b"", False)
    (settled,) = await scene.events("settlement")
    assert (settled["verdict"], settled["reason"]) == ("AMBIGUOUS", "invalid_key")


# The last byte


@pytest.fixture
async def own_scene(interlock_dev: StartDev, own_redis: RedisServer) -> AsyncIterator[Scene]:
    """A sidecar of the test's own: it waits for a Redis that is paused, however long that takes."""
    patience = {"INTERLOCK_SIDECAR__ENGINE__TIMEOUT_MS": "60000", "INTERLOCK_REDIS__TIMEOUT_MS": "60000"}
    dev = await interlock_dev(own_redis.url, **patience)
    async with dev.client() as operator:
        yield Scene(Sidecars(dev, dev), operator)


@contextlib.asynccontextmanager
async def no_writes_to(server: RedisServer) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Redis takes no writes while the context is open. Gives what waits until somebody wants to write."""
    async with Redis.from_url(server.url) as client:

        async def until_somebody_writes() -> None:
            async with asyncio.timeout(30):
                while not (await client.info("clients"))["blocked_clients"]:  # noqa: ASYNC110 - Redis tells nobody
                    await asyncio.sleep(0.02)

        await client.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
        try:
            yield until_somebody_writes
        finally:
            await client.execute_command("CLIENT", "UNPAUSE")


async def some_of(arriving: Arriving, size: int) -> bytes:
    """So much of a body, or a little more."""
    came = bytearray()
    while len(came) < size:
        piece = await arriving.piece()
        assert piece, f"the body came to its end after {len(came)} bytes"
        came += piece
    return bytes(came)


async def all_that_comes(arriving: Arriving) -> bytes:
    """What comes of a body before nothing comes any more. It must not come to its end."""
    came = bytearray()
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(NOTHING_FOR_S):
                came += await some_of(arriving, 1)
    return bytes(came)


def measured(pieces: AsyncIterable[bytes], length: int) -> Script:
    """Streams an answer whose length is told before."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(length)})
        await response.prepare(request)
        async for piece in pieces:
            await response.write(piece)
        return response

    return script


async def test_a_short_answer_leaves_only_when_the_call_is_settled(
    own_scene: Scene, own_redis: RedisServer, tool: Tool
) -> None:
    paused = asyncio.Event()
    name = await own_scene.register(tool.does(waits_for(paused, answers(200, b"done"))).url)
    async with own_scene.calling(name, b"order 17") as arriving:
        await tool.until_received(1)
        async with no_writes_to(own_redis) as until_somebody_writes:
            paused.set()
            await until_somebody_writes()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(NOTHING_FOR_S):
                    await arriving.head()
        assert (await arriving.head()).header("Interlock-Settled") is None
        answer = await arriving.rest()
    assert (answer.body, answer.whole) == (b"done", True)
    assert [event["verdict"] for event in await own_scene.events("settlement")] == ["SUCCEEDED"]


async def test_the_end_of_a_stream_leaves_only_when_the_call_is_settled(
    own_scene: Scene, own_redis: RedisServer, tool: Tool
) -> None:
    tap = Tap()
    name = await own_scene.register(tool.does(streams(tap, EVENT_STREAM)).url)
    tap.let_out(EVENTS[0])
    async with own_scene.calling(name, b"order 17") as arriving:
        await arriving.head()
        assert await arriving.piece() == EVENTS[0]
        async with no_writes_to(own_redis) as until_somebody_writes:
            tap.let_out(EVENTS[1])
            tap.close()
            await until_somebody_writes()
            assert await arriving.piece() == EVENTS[1]
            assert await all_that_comes(arriving) == b""
        assert await arriving.piece() == b""
    assert [event["verdict"] for event in await own_scene.events("settlement")] == ["SUCCEEDED"]


async def test_the_last_byte_of_a_large_answer_leaves_only_when_the_call_is_settled(
    own_scene: Scene, own_redis: RedisServer, tool: Tool
) -> None:
    tap, half = Tap(), b"x" * 100_000
    name = await own_scene.register(tool.does(measured(tap, 2 * len(half))).url)
    tap.let_out(half)
    async with own_scene.calling(name, b"order 17") as arriving:
        await arriving.head()
        came = await some_of(arriving, len(half))
        async with no_writes_to(own_redis) as until_somebody_writes:
            tap.let_out(half)
            tap.close()
            await until_somebody_writes()
            came += await all_that_comes(arriving)
            assert len(came) < 2 * len(half)
        rest = await arriving.rest()
    assert (came + rest.body, rest.whole) == (half + half, True)
    assert [event["verdict"] for event in await own_scene.events("settlement")] == ["SUCCEEDED"]


# Too large to keep


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "chunked"])
async def test_an_answer_too_large_to_keep_is_never_a_reason_to_execute_again(
    scene: Scene, tool: Tool, chunked: bool
) -> None:
    body, tap = b"x" * 1001, Tap()
    tap.let_out(body[:500], body[500:])
    tap.close()
    name = await scene.register(tool.does(streams(tap) if chunked else answers(201, body)).url, replay_max_bytes=1000)
    first = await scene.call(name, b"order 17", headers={"Interlock-Spend-Usd": "0.25"})
    assert (first.status, first.body, first.whole) == (200 if chunked else 201, body, True)
    for at in (scene.first, scene.second, scene.first):
        assert_not_kept(await scene.call(name, b"order 17", at=at), first)
    assert len(tool.received) == 1
    assert await scene.charged() == (1, 0.25)


def assert_not_kept(answer: Answer, first: Answer) -> None:
    assert (answer.status, answer.decision, answer.replayed) == (409, "dedup", True)
    assert (answer.json["reason"], answer.json["retryable"]) == ("answer_not_kept", False)
    assert answer.json["original"] == original(first.status, first.body)


def original(status: int, body: bytes) -> dict[str, object]:
    return {"status": status, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


async def test_an_answer_of_just_the_size_is_kept(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.does(answers(201, b"x" * 1000)).url, replay_max_bytes=1000)
    first, second = [await scene.call(name, b"order 17") for _ in range(2)]
    assert (second.status, second.body, second.replayed) == (first.status, first.body, True)


async def test_a_run_whose_result_was_too_large_to_keep_is_not_run_again(scene: Scene, tool: Tool) -> None:
    result = b'{"page": "%b"}' % (b"x" * 2000)
    name = await scene.register(tool.does(answers(200, result)).url, replay_max_bytes=1000)
    first = await scene.run(name, {"order": 17}, spend_usd=0.25)
    assert (first.json["ok"], first.json["result"]) == (True, {"page": "x" * 2000})
    for at in scene.both:
        again = await scene.run(name, {"order": 17}, spend_usd=0.25, at=at)
        assert (again.status, again.decision) == (409, "dedup")
        assert again.json["detail"]["error"] == "answer_not_kept"
        assert again.json["detail"]["original"] == original(200, result)
    assert len(tool.received) == 1
    assert await scene.charged() == (1, 0.25)
