"""Agents that are slow, or never come to an end, cost a connection for a while, and nobody else anything."""

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.app import Sidecar
from interlock.proxy.listening import RESERVED_FILES, ConnectionLimits, bound, listen, most_connections
from tests.tool import Tool, answers
from tests.unit.proxy.agents import body_of, client, reason_of, request_bytes, spoken, status_of
from tests.unit.proxy.scripted_engine import ScriptedEngine, embedded_sidecar

HALF_A_HEAD = b"POST /tools/charge HTTP/1.1\r\nHost: local"
HEAD = b"POST /tools/charge HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n"
HALF_A_BODY = HEAD + b"Content-Length: 10\r\n\r\n{"
ELSEWHERE = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connected(port: int, sent: bytes = b"", room: int = 0) -> AsyncIterator[Connection]:
    """A connection, of which the kernel keeps about `room` bytes for its reader, instead of megabytes."""
    here = socket.socket()
    if room:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    here.setblocking(False)
    await asyncio.get_running_loop().sock_connect(here, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=here)
    writer.write(sent)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.transport.abort()


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def until_begun(connection: Connection) -> None:
    """Waits until the sidecar reads the body, whose head said `Expect: 100-continue`."""
    await connection[0].readuntil(b"100 Continue\r\n\r\n")


def expecting(length: int, target: bytes = b"/tools/charge") -> bytes:
    head = HEAD.replace(b"/tools/charge", target)
    return head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % length


async def until_served(port: int, request: bytes) -> bytes:
    """Asks until there is room for another connection."""
    async with asyncio.timeout(10):
        while True:
            async with connected(port, request) as (reader, _):
                with contextlib.suppress(ConnectionError):
                    if answer := await reader.read(100):
                        return answer
            await asyncio.sleep(0.01)


# Heads


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD], ids=["nothing", "half a head"])
async def test_a_connection_without_a_whole_head_is_closed(
    engine: ScriptedEngine, spool_dir: Path, sent: bytes
) -> None:
    async with (
        embedded_sidecar(engine, spool_dir, request_head_ms=50) as sidecar,
        connected(sidecar.port, sent) as (reader, _),
    ):
        assert await reader.read() == b""


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD], ids=["nothing", "half a head"])
async def test_so_is_a_kept_one_after_its_last_answer(engine: ScriptedEngine, spool_dir: Path, sent: bytes) -> None:
    async with (
        embedded_sidecar(engine, spool_dir, request_head_ms=50) as sidecar,
        connected(sidecar.port, HEAD + b"Content-Length: 0\r\n\r\n" + sent) as (reader, _),
    ):
        answer = await reader.read()
    assert status_of(answer) == 200
    assert answer.count(b"HTTP/1.1") == 1


async def test_a_call_that_takes_longer_than_a_head_may_is_answered(
    engine: ScriptedEngine, spool_dir: Path, tool: Tool
) -> None:
    async def slowly(_: web.Request) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response(body=b"done")

    tool.does(slowly)
    async with embedded_sidecar(engine, spool_dir, request_head_ms=50, agent_stall_ms=50) as sidecar:
        assert body_of(await spoken(sidecar, request_bytes())) == b"done"


# Bodies


@pytest.mark.parametrize("door", [b"/tools/charge", b"/v1/ai/run", b"/v1/tools"])
async def test_a_body_that_stops_coming_is_refused_at_every_door(
    engine: ScriptedEngine, spool_dir: Path, door: bytes
) -> None:
    async with (
        embedded_sidecar(engine, spool_dir, agent_stall_ms=50) as sidecar,
        connected(sidecar.port, expecting(10, door) + b"{") as connection,
    ):
        await until_begun(connection)
        answer = await connection[0].read()
    assert status_of(answer) == 408
    assert b"request_timeout" in answer
    assert b"Connection: close" in answer
    assert engine.resolved == 0


async def test_a_body_that_keeps_coming_may_take_longer_than_a_stall(
    engine: ScriptedEngine, spool_dir: Path, tool: Tool
) -> None:
    async with (
        embedded_sidecar(engine, spool_dir, agent_stall_ms=300) as sidecar,
        connected(sidecar.port, HEAD + b"Content-Length: 8\r\n\r\n") as (reader, writer),
    ):
        for _ in range(8):
            await asyncio.sleep(0.1)
            writer.write(b"x")
        assert status_of(await read_head(reader)) == 200
    assert tool.received[0].body == b"x" * 8


async def test_half_a_body_does_not_hold_up_the_end(sidecar: Sidecar, engine: ScriptedEngine) -> None:
    async with connected(sidecar.port, expecting(2)) as (reader, writer):
        await reader.readuntil(b"100 Continue\r\n\r\n")
        await sidecar.drain()
        writer.write(b"{}")
        answer = await reader.read()
    assert (status_of(answer), reason_of(answer)) == (503, "draining")
    assert engine.authorized == []


# Answers


@pytest.mark.parametrize("replayed", [False, True])
async def test_an_agent_that_does_not_take_its_whole_answer_is_left(
    engine: ScriptedEngine, spool_dir: Path, tool: Tool, *, replayed: bool
) -> None:
    whole = b"x" * (16 << 20)
    engine.tool.replay_max_bytes = len(whole)
    tool.does(answers(200, whole))
    if replayed:
        replay = pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, answer=pb.Answer(status=200, body=whole, kept=True))
        engine.verdicts.append(replay)
    async with (
        embedded_sidecar(engine, spool_dir, agent_stall_ms=50, max_connections=1) as sidecar,
        connected(sidecar.port, request_bytes()),
    ):
        assert status_of(await until_served(sidecar.port, ELSEWHERE)) == 404
        await sidecar.drain()


async def test_an_agent_that_takes_its_answer_slowly_gets_all_of_it(
    engine: ScriptedEngine, spool_dir: Path, tool: Tool
) -> None:
    whole = b"x" * (16 << 20)
    engine.tool.replay_max_bytes = len(whole)
    tool.does(answers(200, whole))
    async with (
        embedded_sidecar(engine, spool_dir, agent_stall_ms=500) as sidecar,
        connected(sidecar.port, request_bytes(), room=65_536) as (reader, _),
    ):
        await read_head(reader)
        began, taken = time.monotonic(), 0
        while piece := await reader.read(65_536):
            taken += len(piece)
            await asyncio.sleep(0.008)
    assert taken == len(whole)
    assert time.monotonic() - began > 1


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_an_answer_too_short_to_wait_for_is_not_waited_for_for_ever(connection: str) -> None:
    """It fits between the sidecar and the kernel, so that its writer is done with it."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 60_000)

    app = web.Application()
    app.router.add_get("/", answer)
    listener = bound("127.0.0.1", 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # those it accepts inherit it
    port, limits = listener.getsockname()[1], ConnectionLimits(1, head_s=0.1, stall_s=0.1, refused=lambda: None)
    close = await listen(app, listener, limits)
    request = f"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n".encode()
    try:
        async with connected(port, request, room=4096):
            assert status_of(await until_served(port, request)) == 200
    finally:
        await close()


# Connections


async def test_more_connections_than_allowed_are_closed_at_once_and_harm_nobody(
    engine: ScriptedEngine, spool_dir: Path
) -> None:
    async with embedded_sidecar(engine, spool_dir, max_connections=2) as sidecar, contextlib.AsyncExitStack() as held:
        for _ in range(2):
            connection = await held.enter_async_context(connected(sidecar.port, expecting(10) + b"{"))
            await until_begun(connection)
        with capture_logs() as logs:
            for _ in range(20):
                async with connected(sidecar.port) as (reader, _):
                    assert await reader.read() == b""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{sidecar.admin_port}") as admin:
            alive, figures = await admin.get("/healthz"), (await admin.get("/metrics")).text
        await held.aclose()
        answer = await until_served(sidecar.port, request_bytes())
    assert status_of(answer) == 200
    assert alive.status_code == 200
    assert 'interlock_connections_refused_total{listener="agents"} 20.0' in figures
    assert [line["event"] for line in logs] == ["connections.refused"]


async def test_those_who_are_in_go_on(engine: ScriptedEngine, spool_dir: Path) -> None:
    async with embedded_sidecar(engine, spool_dir, max_connections=1) as sidecar, client(sidecar) as agent:
        assert (await agent.post("/tools/charge")).status_code == 200
        async with connected(sidecar.port) as (reader, _):
            assert await reader.read() == b""
        assert (await agent.post("/tools/charge")).status_code == 200


@pytest.mark.parametrize(
    ("files", "most"), [(resource.RLIM_INFINITY, 1_000), (100_000, 1_000), (RESERVED_FILES + 400, 200), (10, 1)]
)
def test_there_are_never_more_than_there_may_be_files(monkeypatch: pytest.MonkeyPatch, files: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert most_connections(1_000) == most
