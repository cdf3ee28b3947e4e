"""Calls by the short way: they come out as by the long one, and what is not for it is handed over whole."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy import plain_lane
from interlock.proxy.app import Sidecar
from interlock.proxy.plain_lane import Lane
from tests.tool import Tool, answers, resets, streams, waits_for
from tests.unit.proxy.agents import status_of
from tests.unit.proxy.scripted_engine import ScriptedEngine, blocked, embedded_sidecar, running

TOOLS = b"POST /tools/charge HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\nX-Request-Id: mine\r\n"
RUN = TOOLS.replace(b"/tools/charge", b"/v1/ai/run")
UNPLAIN = b"X-Twice: 1\r\nX-Twice: 2\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Ways:
    """Counts who took the lane, and who was handed over."""

    plain = 0
    handed_over = 0


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ways]:
    counted = Ways()
    enter, hand_over = Lane._enter, Lane._hand_over

    def entering(lane: Lane, *given: Any) -> None:
        counted.plain += 1
        enter(lane, *given)

    def handing_over(lane: Lane, unread: bytes) -> None:
        counted.handed_over += 1
        hand_over(lane, unread)

    monkeypatch.setattr(Lane, "_enter", entering)
    monkeypatch.setattr(Lane, "_hand_over", handing_over)
    return counted


@contextlib.asynccontextmanager
async def connected(sidecar: Sidecar) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.transport.abort()


def request(head: bytes = TOOLS, body: bytes = b"{}", fields: bytes = b"Content-Type: application/json\r\n") -> bytes:
    return head + fields + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


async def answer(reader: asyncio.StreamReader) -> bytes:
    """One answer, head and body, by its framing."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, lower = status_of(head), head.lower()
    if status in (204, 304):
        return head
    if b"transfer-encoding: chunked" in lower:
        return head + await reader.readuntil(b"0\r\n\r\n")
    length = int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


def taken_apart(raw: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Status line, fields in any order, body; without what differs from second to second."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    return first, sorted(line for line in lines if not line.startswith((b"Date:", b"Server:"))), body


def a_tool_that(status: int, body: bytes, **headers: str) -> Callable[[ScriptedEngine, Tool], None]:
    def told(_: ScriptedEngine, tool: Tool) -> None:
        tool.does(answers(status, body, {name.replace("_", "-"): value for name, value in headers.items()}))

    return told


def an_engine_that_says(*verdicts: pb.AuthorizeResponse) -> Callable[[ScriptedEngine, Tool], None]:
    def told(engine: ScriptedEngine, _: Tool) -> None:
        engine.verdicts.extend([*verdicts, *verdicts])

    return told


def a_tool_that_breaks(_: ScriptedEngine, tool: Tool) -> None:
    tool.does(resets())


def a_tool_that_streams(_: ScriptedEngine, tool: Tool) -> None:
    async def script(got: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(got)
        await response.write(b"one piece, and all of it")
        await response.write_eof()
        return response

    tool.does(script)


KEPT = pb.Answer(status=200, kept=True, body=b"{}", headers=[pb.Header(name="ETag", value='"x"')])
REPLAY = pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="tool_idempotency", answer=KEPT, call_id="call_1")
LOST = pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="x", answer=pb.Answer(status=200, size=9, digest=b"d"))
BUDGET = pb.Budget(actions_limit=5, actions_left=0, tool_calls_limit=-1, spend_limit_micros=-1)


@pytest.mark.parametrize("door", [TOOLS, RUN], ids=["tools", "run"])
@pytest.mark.parametrize(
    "scene",
    [
        a_tool_that(200, b'{"a": 1}', Set_Cookie="a=1", Date="Mon, 01 Jan 2024 00:00:00 GMT"),
        a_tool_that(204, b""),
        a_tool_that(304, b"", ETag='"x"'),
        a_tool_that(404, b"no such thing"),
        a_tool_that(418, b"x" * 5_000),
        a_tool_that(599, b"odd"),
        a_tool_that_breaks,
        a_tool_that_streams,
        an_engine_that_says(REPLAY),
        an_engine_that_says(LOST),
        an_engine_that_says(blocked("max_actions_per_hour_exceeded", retry_after_ms=1500, budget=BUDGET)),
        an_engine_that_says(pb.AuthorizeResponse(verdict=pb.VERDICT_MISMATCH, reason="idempotency_key_reused")),
        an_engine_that_says(pb.AuthorizeResponse(verdict=pb.VERDICT_UNKNOWN, reason="outcome_unknown")),
    ],
)
async def test_the_short_way_and_the_long_one_answer_alike(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool, ways: Ways, door: bytes, scene: Callable[..., None]
) -> None:
    scene(engine, tool)
    body = b"{}" if door is TOOLS else b'{"agent_id": "a", "tool": "charge"}'
    told = []
    for fields in (b"", UNPLAIN):
        async with connected(sidecar) as (reader, writer):
            writer.write(request(door, body, fields))
            told.append(taken_apart(await answer(reader)))
    assert told[0] == told[1]
    assert (ways.plain, ways.handed_over) == (1, 1)


async def test_a_call_that_runs_already_is_told_alike(sidecar: Sidecar, engine: ScriptedEngine) -> None:
    engine.verdicts.extend([running(1_000), running(1_000)])
    told = []
    for fields in (b"", UNPLAIN):
        async with connected(sidecar) as (reader, writer):
            writer.write(request(fields=fields))
            told.append(taken_apart(await answer(reader)))
    assert told[0] == told[1]
    assert told[0][0] == b"HTTP/1.1 409 Conflict"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (TOOLS.replace(b"charge", b"charge/below"), b"{}"),
        (TOOLS.replace(b"charge", b"charge/../x"), b"{}"),
        (TOOLS.replace(b"charge", b"a%2fb"), b"{}"),
        (TOOLS.replace(b"charge", b"unknown"), b"{}"),
        (TOOLS.replace(b"POST", b"DELETE"), b"{}"),
        (TOOLS.replace(b"Authorization: Bearer k\r\n", b""), b"{}"),
        (TOOLS + b'Idempotency-Key: "half\r\n', b"{}"),
        (TOOLS + b"Content-Type: application/json\r\n", b"no json"),
        (RUN, b"no json"),
        (RUN, b"{}"),
        (RUN, b'{"key": "k"}'),
        (RUN.replace(b"Authorization: Bearer k\r\n", b""), b'{"agent_id": "a", "tool": "charge"}'),
        (RUN.replace(b"POST", b"PUT"), b"{}"),
        (TOOLS.replace(b"localhost", b"evil.example"), b"{}"),
        (TOOLS + b"Origin: null\r\n", b"{}"),
    ],
)
async def test_they_refuse_alike(sidecar: Sidecar, head: bytes, body: bytes) -> None:
    told = []
    for fields in (b"", UNPLAIN):
        async with connected(sidecar) as (reader, writer):
            writer.write(request(head, body, fields))
            told.append(taken_apart(await answer(reader)))
    assert told[0] == told[1]
    assert int(told[0][0].split()[1]) >= 400


async def test_one_connection_carries_one_call_after_the_other(sidecar: Sidecar, tool: Tool, ways: Ways) -> None:
    async with connected(sidecar) as (reader, writer):
        for number in range(5):
            writer.write(request(body=b"%d" % number))
            assert status_of(await answer(reader)) == 200
    assert [received.body for received in tool.received] == [b"0", b"1", b"2", b"3", b"4"]
    assert (ways.plain, ways.handed_over) == (5, 0)


async def test_a_body_that_comes_after_its_head_is_waited_for(sidecar: Sidecar, tool: Tool, ways: Ways) -> None:
    whole = request(body=b"12345")
    async with connected(sidecar) as (reader, writer):
        for piece in (whole[:-5], whole[-5:-2], whole[-2:]):
            writer.write(piece)
            await asyncio.sleep(0.001)  # so that it is a packet of its own
        assert status_of(await answer(reader)) == 200
    assert tool.received[0].body == b"12345"
    assert (ways.plain, ways.handed_over) == (1, 0)


async def test_one_that_takes_longer_is_aiohttps_to_wait_for(
    sidecar: Sidecar, tool: Tool, ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_lane, "HELD_S", 0.001)
    whole = request(body=b"12345")
    async with connected(sidecar) as (reader, writer):
        writer.write(whole[:-2])
        await asyncio.sleep(0.05)
        writer.write(whole[-2:])
        assert status_of(await answer(reader)) == 200
    assert tool.received[0].body == b"12345"
    assert (ways.plain, ways.handed_over) == (0, 1)


async def test_requests_sent_behind_one_another_are_answered_in_order(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool, ways: Ways
) -> None:
    go_on = asyncio.Event()
    tool.does(waits_for(go_on, answers(200, b"1")), answers(200, b"2"), answers(200, b"3"))
    async with connected(sidecar) as (reader, writer):
        writer.write(request(body=b"1"))
        await tool.until_received(1)
        writer.write(request(body=b"2") + request(body=b"3"))
        await asyncio.sleep(0.01)
        assert len(tool.received) == 1
        go_on.set()
        assert [(await answer(reader))[-1:] for _ in range(3)] == [b"1", b"2", b"3"]
    assert (ways.plain, ways.handed_over) == (1, 1)


async def test_an_agent_that_hangs_up_does_not_stop_its_call(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool, ways: Ways
) -> None:
    go_on = asyncio.Event()
    tool.does(waits_for(go_on, answers(200)))
    async with connected(sidecar) as (_, writer):
        writer.write(request())
        await tool.until_received(1)
    go_on.set()
    await sidecar.drain()
    assert [told.outcome for told in engine.settled] == [pb.OUTCOME_SUCCEEDED]
    assert ways.plain == 1


async def test_a_stream_passes_the_lane_piece_by_piece_and_its_end_waits_for_the_settlement(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool, ways: Ways
) -> None:
    go_on = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        await go_on.wait()
        yield b"last"

    tool.does(streams(pieces()))
    async with connected(sidecar) as (reader, writer):
        writer.write(request())
        await reader.readuntil(b"first\r\n")
        assert engine.settled == []
        go_on.set()
        assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"last\r\n0\r\n\r\n")
        assert len(engine.settled) == 1
        writer.write(request(body=b"2"))
        assert status_of(await answer(reader)) == 200
    assert ways.plain == 2


async def test_a_call_under_way_is_answered_though_the_sidecar_drains_and_the_connection_then_ends(
    sidecar: Sidecar, tool: Tool
) -> None:
    go_on = asyncio.Event()
    tool.does(waits_for(go_on, answers(200, b"done")))
    async with connected(sidecar) as (reader, writer):
        writer.write(request())
        await tool.until_received(1)
        draining = asyncio.create_task(sidecar.drain())
        await asyncio.sleep(0)
        go_on.set()
        told = await reader.read()
        await draining
    assert told.endswith(b"done")
    assert b"Connection: close\r\n" in told


async def test_a_bug_of_ours_is_told_as_one(sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("interlock.proxy.tools_route.ToolsEntrance.read", broken)
    async with connected(sidecar) as (reader, writer):
        writer.write(request())
        told = await answer(reader)
    assert (status_of(told), b'"reason":"internal"' in told) == (500, True)


async def test_a_call_longer_than_a_head_may_take_keeps_its_connection(
    engine: ScriptedEngine, spool_dir: Path, tool: Tool, ways: Ways
) -> None:
    async def slowly(_: web.Request) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response(body=b"done")

    tool.does(slowly)
    async with (
        embedded_sidecar(engine, spool_dir, request_head_ms=50) as sidecar,
        connected(sidecar) as (
            reader,
            writer,
        ),
    ):
        writer.write(request())
        assert (await answer(reader)).endswith(b"done")
        writer.write(request(body=b"2"))
        assert (await answer(reader)).endswith(b"done")
        assert await reader.read() == b""  # and now the time for a head runs out
    assert ways.plain == 2
