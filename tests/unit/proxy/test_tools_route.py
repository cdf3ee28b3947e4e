import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from aiohttp import web

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.app import Sidecar
from tests.tool import Tool, answers, resets, streams
from tests.unit.proxy.agents import body_of, request_bytes, spoken, status_of
from tests.unit.proxy.scripted_engine import (
    ScriptedEngine,
)


async def test_a_call_reaches_its_tool_signed_and_its_answer_comes_back(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.secrets.append("a secret of the tool")
    answer = await agent.post("/tools/charge", json={"amount": 5}, headers={"traceparent": "00-1-2-01"})
    [received] = tool.received
    assert (answer.status_code, answer.json()) == (200, {"calls": 1})
    assert json.loads(received.body) == {"amount": 5}
    assert received.header("Idempotency-Key") == engine.authorized[0].fingerprint.hex()
    assert received.header("X-OnceOnly-Signature")
    assert received.header("traceparent") == "00-1-2-01"
    assert received.header("Authorization") is None
    assert answer.headers["Interlock-Decision"] == "executed"
    assert answer.headers["Interlock-Call-Id"] == "call_" + "1" * 22
    assert "Interlock-Settled" not in answer.headers


async def test_the_tools_own_credential_takes_the_place_of_the_agents_field(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.upstream_credential.MergeFrom(pb.UpstreamCredential(header="X-Api-Key", value="the tool's"))
    await agent.post("/tools/charge", headers={"X-Api-Key": "the agent's"})
    assert tool.received[0].header("X-Api-Key") == "the tool's"


async def test_a_grpc_tool_is_called_by_http_on_no_route(agent: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.tool.url = "grpc://127.0.0.1:9"
    forwarded = await agent.post("/tools/charge")
    run = await agent.post(
        "/v1/ai/run", json={"agent_id": "a", "tool": "charge"}, headers={"Authorization": "Bearer k"}
    )
    assert (forwarded.status_code, forwarded.json()["reason"]) == (400, "tool_is_grpc")
    assert run.status_code == 422
    assert "tool_is_grpc" in run.text
    assert engine.authorized == []


async def test_path_and_query_below_the_tool_are_forwarded_byte_for_byte(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.subpaths = True
    engine.tool.url += "?own=1"
    target = "/tools/charge/a%20b/%c3%A9;v=1,2//c?q=%2F..%2e&x=+&x=<|>&e="
    await spoken(sidecar, request_bytes(target))
    assert tool.received[0].target == "/tool/a%20b/%c3%A9;v=1,2//c?own=1&q=%2F..%2e&x=+&x=<|>&e="


@pytest.mark.parametrize("status", [200, 204, 301, 304, 404, 500])
async def test_the_answer_reaches_the_agent_as_the_tool_gave_it(
    sidecar: Sidecar, tool: Tool, engine: ScriptedEngine, status: int
) -> None:
    body = b"" if status in (204, 304) else b"<what the tool said>"

    async def script(_: web.Request) -> web.Response:
        headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("ETag", '"x"'), ("Location", "http://else/")]
        return web.Response(status=status, body=body, headers=headers)

    tool.does(script)
    answer = await spoken(sidecar, request_bytes())
    assert status_of(answer) == status
    assert body_of(answer) == body
    assert answer.count(b"Set-Cookie: ") == 2
    assert b'ETag: "x"' in answer
    assert b"Location: http://else/" in answer
    assert engine.settled[0].answer.status == status


async def test_nothing_is_unpacked_on_the_way_in_either_direction(
    agent: httpx.AsyncClient, sidecar: Sidecar, tool: Tool
) -> None:
    packed = gzip.compress(b"hello")
    tool.does(answers(200, packed, {"Content-Encoding": "gzip"}))
    answer = await spoken(sidecar, request_bytes(headers="Content-Encoding: gzip\r\n", body=packed))
    assert body_of(answer) == packed
    assert tool.received[0].body == packed


async def test_a_head_answer_keeps_its_length_and_has_no_body_also_when_replayed(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.methods.append("HEAD")
    tool.does(answers(200, b"x" * 5_000))
    first = await spoken(sidecar, request_bytes(method="HEAD"))
    kept = engine.settled[0].answer
    engine.verdicts.append(pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="tool_idempotency", answer=kept))
    second = await spoken(sidecar, request_bytes(method="HEAD"))
    for answer in (first, second):
        assert b"Content-Length: 5000\r\n" in answer
        assert body_of(answer) == b""


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_is_replayed_without_one(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool, status: int
) -> None:
    answer = pb.Answer(status=status, kept=True, headers=[pb.Header(name="ETag", value='"x"')])
    engine.verdicts.append(pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="tool_idempotency", answer=answer))
    replayed = await spoken(sidecar, request_bytes())
    assert (status_of(replayed), body_of(replayed)) == (status, b"")
    assert b"Content-Length" not in replayed
    assert b"Transfer-Encoding" not in replayed
    assert tool.received == []


async def test_ten_megabytes_pass_unharmed_and_are_settled_by_size_and_digest(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    body = bytes(range(256)) * 40_000
    tool.does(answers(200, body))
    answer = await agent.post("/tools/charge")
    assert answer.content == body
    told = engine.settled[0].answer
    assert (told.kept, told.size, told.body) == (False, len(body), b"")


async def test_pieces_of_a_stream_reach_the_agent_while_the_tool_still_speaks(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    read = asyncio.Queue[None]()

    async def events() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"data: %d\n\n" % number
            await read.get()

    tool.does(streams(events(), {"Content-Type": "text/event-stream"}))
    got = []
    async with asyncio.timeout(10), agent.stream("POST", "/tools/charge") as answer:
        async for piece in answer.aiter_raw():
            got.append(piece)
            assert engine.settled == []
            read.put_nowait(None)
    assert got == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]
    assert engine.settled[0].answer.body == b"".join(got)


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "by length"])
async def test_the_end_of_an_answer_is_withheld_until_it_is_settled(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool, *, chunked: bool
) -> None:
    body = b"y" * 3_000
    engine.before_settling.clear()

    async def once() -> AsyncIterator[bytes]:
        yield body

    tool.does(streams(once()) if chunked else answers(200, body))
    with socket.create_connection(("127.0.0.1", sidecar.port)) as agent:
        agent.setblocking(False)
        agent.sendall(request_bytes())
        await engine.settling.wait()
        # What the sidecar had written by then is in this socket's buffer, and nothing else can be.
        early = agent.recv(1_000_000)
        engine.before_settling.set()
        late = await asyncio.get_running_loop().sock_recv(agent, 1_000_000)
    assert b" 200 " in early
    assert (body in early) == chunked
    assert body_of(early).count(b"y") == (len(body) if chunked else 0)
    assert late == (b"0\r\n\r\n" if chunked else body)


async def test_a_stream_that_breaks_is_told_by_its_broken_end(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool
) -> None:
    async def one() -> AsyncIterator[bytes]:
        yield b"half"

    tool.does(streams(one(), then=resets()))
    answer = await spoken(sidecar, request_bytes())
    assert b"half" in answer
    assert not answer.endswith(b"0\r\n\r\n")
    settled = await engine.until_settled()
    assert (settled.outcome, settled.failure) == (pb.OUTCOME_AMBIGUOUS, "upstream_reset")


async def test_a_stream_that_breaks_for_an_agent_of_http_1_0_is_told_by_a_reset(sidecar: Sidecar, tool: Tool) -> None:
    async def one() -> AsyncIterator[bytes]:
        yield b"half"

    tool.does(streams(one(), then=resets()))
    with pytest.raises(ConnectionResetError):
        await spoken(sidecar, request_bytes().replace(b"HTTP/1.1", b"HTTP/1.0"))


async def test_a_stream_for_an_agent_of_http_1_0_ends_with_its_connection(sidecar: Sidecar, tool: Tool) -> None:
    async def two() -> AsyncIterator[bytes]:
        yield b"one,"
        yield b"two"

    tool.does(streams(two()))
    answer = await spoken(sidecar, request_bytes().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert body_of(answer) == b"one,two"


async def test_a_problem_told_to_a_head_request_has_no_body(sidecar: Sidecar) -> None:
    answer = await spoken(sidecar, request_bytes(method="HEAD"))
    assert (status_of(answer), body_of(answer)) == (405, b"")


async def test_a_revoked_lease_ends_its_stream(agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    engine.lease_ms = 300
    engine.renewal = pb.RenewResponse(renewed=False, reason="kill_switch")
    tool.does(streams(endless()))
    with pytest.raises(httpx.RemoteProtocolError):
        await agent.post("/tools/charge")
    assert engine.settled[0].failure == "kill_switch"
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS
