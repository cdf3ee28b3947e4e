"""A whole sidecar over real sockets. The tool is real; the engine says what each test makes it say."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from interlock.governance.errors import UnavailableError
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.app import Sidecar
from tests.tool import Tool, answers, never_answers, resets, streams, waits_for
from tests.unit.proxy.scripted_engine import ScriptedEngine, embedded_sidecar, remote_sidecar, route, serving

DOWN = UnavailableError("governance_unavailable", "Redis cannot be reached")
KEY = {"Authorization": "Bearer once_live_x"}
PIECE_WITHIN_S = 10


@pytest.fixture
def engine(tool: Tool) -> ScriptedEngine:
    return ScriptedEngine(route(tool.url))


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
async def sidecar(engine: ScriptedEngine, spool_dir: Path) -> AsyncIterator[Sidecar]:
    async with embedded_sidecar(engine, spool_dir) as running:
        yield running


@pytest.fixture
async def agent(sidecar: Sidecar) -> AsyncIterator[httpx.AsyncClient]:
    async with client(sidecar) as speaking:
        yield speaking


@asynccontextmanager
async def client(sidecar: Sidecar, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    base = f"http://127.0.0.1:{sidecar.port}"
    async with httpx.AsyncClient(base_url=base, headers=KEY, timeout=30, **options) as speaking:
        yield speaking


async def spoken(sidecar: Sidecar, request: bytes) -> bytes:
    """What comes back on a bare socket until the sidecar closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


def request_bytes(target: str = "/tools/charge", headers: str = "", body: bytes = b"", method: str = "POST") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\nConnection: close\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


def spooled(folder: Path) -> list[Path]:
    return list(folder.glob("*.settlement"))


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body_of(answer: bytes) -> bytes:
    return answer.split(b"\r\n\r\n", 1)[1]


def reason_of(answer: bytes) -> str:
    return str(json.loads(body_of(answer))["reason"])


# What reaches the tool, and what comes back.


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
    await agent.post("/tools/charge", headers={"x-api-key": "the agent's"})
    assert tool.received[0].header("X-Api-Key") == "the tool's"


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


# Streams.


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
    async with asyncio.timeout(PIECE_WITHIN_S), agent.stream("POST", "/tools/charge") as answer:
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
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(request_bytes())
    await engine.settling.wait()
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head
    so_far = await reader.read(1_000_000) if chunked else b""
    engine.before_settling.set()
    rest = await reader.read()
    writer.close()
    whole = so_far + rest
    assert rest.endswith(b"0\r\n\r\n" if chunked else b"y")
    assert body in whole


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


# Tries.


async def test_a_short_answer_that_breaks_is_told_as_an_error(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "10"})
        await response.prepare(request)
        await response.write(b"half")
        return await resets()(request)

    tool.does(cut)
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (502, "upstream_reset")
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS


@pytest.mark.parametrize(
    ("on_ambiguous", "tries", "status"), [(pb.ON_AMBIGUOUS_RETRY, 3, 200), (pb.ON_AMBIGUOUS_HOLD, 1, 500)]
)
async def test_an_ambiguous_answer_is_tried_again_only_for_retry_tools(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool, on_ambiguous: int, tries: int, status: int
) -> None:
    engine.tool.MergeFrom(pb.ToolRoute(on_ambiguous=on_ambiguous, max_retries=2))
    tool.does(answers(500), answers(408), answers(200))
    assert (await agent.post("/tools/charge")).status_code == status
    assert len(tool.received) == tries
    assert len({received.header("Idempotency-Key") for received in tool.received}) == 1


async def test_an_earlier_ambiguous_try_is_not_cleared_by_a_later_rejection(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.max_retries = 1
    tool.does(answers(500), answers(404, b"{}"))
    assert (await agent.post("/tools/charge")).status_code == 404
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS
    assert engine.settled[0].answer.status == 404


async def test_a_tool_that_is_not_there_is_tried_again_and_costs_nothing(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.MergeFrom(pb.ToolRoute(on_ambiguous=pb.ON_AMBIGUOUS_HOLD, max_retries=1))
    await tool.stop()
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (502, "upstream_unreachable")
    assert answer.headers["Interlock-Decision"] == "error"
    assert engine.settled[0].outcome == pb.OUTCOME_NOT_SENT


async def test_a_tool_that_does_not_answer_in_time_is_ambiguous(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.timeout_ms = 50
    tool.does(never_answers())
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (504, "upstream_timeout")
    assert (engine.settled[0].outcome, engine.settled[0].failure) == (pb.OUTCOME_AMBIGUOUS, "upstream_timeout")


async def test_a_tool_that_keeps_failing_is_left_alone(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.max_retries = 4
    await tool.stop()
    await agent.post("/tools/charge")
    await tool.start()
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (503, "upstream_circuit_open")
    assert int(answer.headers["Retry-After"]) >= 1
    assert tool.received == []
    assert engine.settled[1].outcome == pb.OUTCOME_NOT_SENT


async def test_nothing_is_sent_under_a_lease_that_is_over(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.lease_ms = 0
    engine.renewal = pb.RenewResponse(renewed=False, reason="lease_lost")
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (503, "lease_lost")
    assert tool.received == []
    assert engine.settled[0].outcome == pb.OUTCOME_NOT_SENT


async def test_a_pulled_switch_stops_further_tries(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.max_retries = 1
    engine.lease_ms = 60
    engine.renewal = pb.RenewResponse(renewed=False, reason="kill_switch")
    renewed = asyncio.Event()
    engine.on_renewal = renewed.set
    tool.does(waits_for(renewed, answers(500)), answers(200))
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (403, "kill_switch")
    assert len(tool.received) == 1
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS


# Settling.


async def test_an_answer_whose_settlement_cannot_be_had_says_so_and_is_settled_later(
    agent: httpx.AsyncClient, engine: ScriptedEngine, spool_dir: Path
) -> None:
    engine.settle_error = DOWN
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.headers["Interlock-Settled"]) == (200, "pending")
    assert len(spooled(spool_dir)) == 1
    engine.settle_error = None
    assert (await engine.until_settled()).outcome == pb.OUTCOME_SUCCEEDED


async def test_a_spooled_settlement_outlives_its_sidecar(engine: ScriptedEngine, spool_dir: Path) -> None:
    engine.settle_error = DOWN
    async with embedded_sidecar(engine, spool_dir) as sidecar, client(sidecar) as agent:
        await agent.post("/tools/charge")
    engine.settle_error = None
    async with embedded_sidecar(engine, spool_dir):
        assert (await engine.until_settled()).answer.status == 200


async def test_an_agent_that_hangs_up_does_not_stop_its_call(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool
) -> None:
    go_on = asyncio.Event()
    tool.does(waits_for(go_on, answers(200, b'{"done":true}')))
    _, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(request_bytes())
    await tool.until_received(1)
    writer.transport.abort()
    go_on.set()
    settled = await engine.until_settled()
    assert (settled.outcome, settled.answer.body) == (pb.OUTCOME_SUCCEEDED, b'{"done":true}')


async def test_a_stream_whose_agent_hangs_up_is_read_to_its_end(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool
) -> None:
    go_on = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a" * 600
        await go_on.wait()
        for _ in range(100):
            yield b"b" * 65_536

    tool.does(streams(pieces()))
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(request_bytes())
    await reader.readuntil(b"a" * 600)
    writer.transport.abort()
    go_on.set()
    settled = await engine.until_settled()
    assert (settled.outcome, settled.answer.size) == (pb.OUTCOME_SUCCEEDED, 600 + 100 * 65_536)


async def test_an_agent_that_takes_nothing_any_more_does_not_hold_up_its_call(
    engine: ScriptedEngine, tool: Tool, spool_dir: Path
) -> None:
    async def much() -> AsyncIterator[bytes]:
        for _ in range(400):
            yield b"x" * 65_536

    tool.does(streams(much()))
    async with embedded_sidecar(engine, spool_dir, agent_stall_ms=50) as sidecar:
        _, writer = await asyncio.open_connection("127.0.0.1", sidecar.port, limit=1)
        writer.write(request_bytes())
        settled = await engine.until_settled()
        writer.transport.abort()
    assert (settled.outcome, settled.answer.size) == (pb.OUTCOME_SUCCEEDED, 400 * 65_536)


# Verdicts.


def blocked(reason: str, **fields: Any) -> pb.AuthorizeResponse:
    return pb.AuthorizeResponse(verdict=pb.VERDICT_BLOCKED, reason=reason, **fields)


@pytest.mark.parametrize(
    ("verdict", "status", "decision"),
    [
        (blocked("tool_explicitly_blocked"), 403, "blocked"),
        (blocked("tool_not_in_allowed_list"), 403, "blocked"),
        (blocked("kill_switch"), 403, "blocked"),
        (blocked("no_policy"), 403, "blocked"),
        (blocked("max_actions_per_hour_exceeded", retry_after_ms=4_100), 429, "blocked"),
        (blocked("max_calls_per_tool_exceeded", retry_after_ms=4_100), 429, "blocked"),
        (blocked("max_spend_usd_per_day_exceeded", retry_after_ms=4_100), 402, "blocked"),
        (pb.AuthorizeResponse(verdict=pb.VERDICT_MISMATCH, reason="idempotency_key_reused"), 422, "mismatch"),
        (pb.AuthorizeResponse(verdict=pb.VERDICT_UNKNOWN, reason="outcome_unknown"), 409, "unknown"),
    ],
    ids=lambda value: getattr(value, "reason", value),
)
async def test_a_refused_call_never_reaches_its_tool_and_says_why(
    agent: httpx.AsyncClient,
    engine: ScriptedEngine,
    tool: Tool,
    verdict: pb.AuthorizeResponse,
    status: int,
    decision: str,
) -> None:
    engine.verdicts.append(verdict)
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.headers["Interlock-Decision"]) == (status, decision)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.json()["reason"], answer.json()["status"]) == (verdict.reason, status)
    assert answer.headers.get("Retry-After") == ("5" if verdict.retry_after_ms else None)
    assert answer.json().get("retry_after") == (5 if verdict.retry_after_ms else None)
    assert tool.received == []
    assert engine.settled == []


async def test_what_is_left_of_the_budget_is_told(agent: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    budget = pb.Budget(
        actions_limit=37,
        actions_left=0,
        tool_calls_limit=5,
        tool_calls_left=2,
        spend_limit_micros=1_500_000,
        spend_left_micros=250_000,
        day_resets_in_ms=59_001,
    )
    engine.verdicts.append(blocked("max_actions_per_hour_exceeded", retry_after_ms=61_000, budget=budget))
    answer = await agent.post("/tools/charge")
    assert answer.json()["budget"] == {
        "actions_limit": 37,
        "actions_left": 0,
        "tool_calls_limit": 5,
        "tool_calls_left": 2,
        "spend_limit_usd": 1.5,
        "spend_left_usd": 0.25,
        "day_resets_in": 60,
    }
    assert answer.headers["RateLimit-Policy"] == '"actions";q=37;w=3600, "tool-calls";q=5;w=86400'
    assert answer.headers["RateLimit"] == '"actions";r=0;t=61, "tool-calls";r=2;t=60'


async def test_a_replayed_answer_is_the_first_one_and_says_so(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    kept = pb.Answer(status=201, headers=[pb.Header(name="X-Of-Tool", value="y")], body=b"made", kept=True, size=4)
    engine.verdicts.append(pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="tool_idempotency", answer=kept))
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.content, answer.headers["X-Of-Tool"]) == (201, b"made", "y")
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert answer.headers["Interlock-Decision"] == "dedup"
    assert tool.received == []


async def test_an_answer_that_was_not_kept_is_described_and_never_made_again(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    lost = pb.Answer(status=200, size=10**7, digest=b"\x01" * 32)
    engine.verdicts.append(pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="tool_idempotency", answer=lost))
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (409, "answer_not_kept")
    assert answer.json()["original"] == {"status": 200, "size": 10**7, "sha256": "01" * 32}
    assert answer.json()["retryable"] is False
    assert tool.received == []


async def test_a_duplicate_that_does_not_wait_is_told_when_to_come_back(
    agent: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.verdicts.append(running(retry_after_ms=1_500))
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.headers["Retry-After"]) == (409, "2")
    assert answer.headers["Interlock-Decision"] == "in_flight"
    assert engine.awaited == []


async def test_a_duplicate_that_waits_gets_its_leaders_answer(agent: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    kept = pb.Answer(status=500, body=b"of the leader", kept=True)
    engine.verdicts += [running(), pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="replayed", answer=kept)]
    answer = await agent.post("/tools/charge", headers={"Prefer": "wait=7"})
    assert (answer.status_code, answer.content) == (500, b"of the leader")
    first, second = engine.authorized
    assert first.will_wait
    assert first.attempt_id != second.attempt_id
    assert second.awaited_call_id == "call_leader"
    assert 6_000 < engine.awaited[0].wait_ms <= 7_000


async def test_a_waiter_whose_leader_got_no_answer_is_told_why(
    agent: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    failed = pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="replayed", failure="upstream_timeout")
    engine.verdicts += [running(), failed]
    answer = await agent.post("/tools/charge", headers={"Prefer": "wait"})
    assert (answer.status_code, answer.json()["reason"]) == (504, "upstream_timeout")
    # A bare `wait` is as long as the tool may take: its one try, 5 s.
    assert 4_000 < engine.awaited[0].wait_ms <= 5_000


def running(retry_after_ms: int = 0) -> pb.AuthorizeResponse:
    return pb.AuthorizeResponse(
        verdict=pb.VERDICT_IN_FLIGHT, reason="in_flight", call_id="call_leader", retry_after_ms=retry_after_ms
    )


async def test_a_tool_that_changed_is_resolved_anew_and_asked_for_again(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.verdicts.append(pb.AuthorizeResponse(verdict=pb.VERDICT_TOOL_CHANGED))
    assert (await agent.post("/tools/charge")).status_code == 200
    assert engine.resolved == 2
    assert len(tool.received) == 1


async def test_a_tool_that_never_stands_still_is_given_up(agent: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.verdicts += [pb.AuthorizeResponse(verdict=pb.VERDICT_TOOL_CHANGED)] * 5
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (409, "tool_changed")


async def test_an_engine_that_is_down_refuses_calls_without_sending_any(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.error = DOWN
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (503, "governance_unavailable")
    assert answer.headers["Retry-After"] == "1"
    assert tool.received == []


async def test_a_remote_engine_is_asked_by_the_same_pipeline(
    engine: ScriptedEngine, tool: Tool, spool_dir: Path
) -> None:
    async with serving(engine) as port, remote_sidecar(port, spool_dir) as sidecar, client(sidecar) as agent:
        answers_ = await asyncio.gather(*(agent.post("/tools/charge", json={"n": n}) for n in range(20)))
    assert {answer.status_code for answer in answers_} == {200}
    assert len(tool.received) == len(engine.settled) == 20


# Requests that are refused before anybody hears of them.


@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        ("Idempotency-Key: a\r\nIdempotency-Key: b\r\n", b"", "invalid_idempotency_key"),
        ("Idempotency-Key: " + "k" * 257 + "\r\n", b"", "invalid_idempotency_key"),
        ("Interlock-Spend-Usd: -1\r\n", b"", "invalid_spend"),
        ("Interlock-Spend-Usd: NaN\r\n", b"", "invalid_spend"),
        ("Interlock-Agent: a}b\r\n", b"", "invalid_header"),
        ("X-Latin: \xff\r\n", b"", "invalid_header"),
        ("X-Bad: a\x01b\r\n", b"", "malformed_request"),
        ("X-Bad\r\n", b"", "malformed_request"),
        ("Content-Type: text/plain\r\nContent-Type: application/json\r\n", b"{}", "malformed_request"),
        ("Content-Type: application/json\r\n", b"nope", "invalid_json"),
        ("Content-Type: application/json\r\n", b'{"a":NaN}', "invalid_json"),
        ("Content-Type: application/json\r\n", b'{"a":1,"a":2}', "invalid_json"),
        ("Content-Type: application/json\r\n", b'"\xff"', "invalid_json"),
        ("Content-Type: application/problem+json; charset=utf-8\r\n", b"[" * 200 + b"]" * 200, "invalid_json"),
    ],
)
async def test_bad_input_is_refused_with_a_reason(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool, headers: str, body: bytes, reason: str
) -> None:
    answer = await spoken(sidecar, request_bytes(headers=headers, body=body))
    assert (status_of(answer), reason_of(answer)) == (400, reason)
    assert b"Content-Type: application/problem+json" in answer
    assert engine.authorized == []
    assert tool.received == []


@pytest.mark.parametrize(
    "target",
    [
        "/tools/charge/../refund",
        "/tools/%2e%2e/refund",
        "/tools/charge%2frefund",
        "/tools/charge/%5c..",
        "/tools/charge/%00",
        "/tools/char\\ge",
        "http://localhost/tools/charge",
        "/tools/",
        "/tools/a{b}",
    ],
)
async def test_a_path_that_could_lead_elsewhere_is_refused(
    sidecar: Sidecar, engine: ScriptedEngine, target: str
) -> None:
    answer = await spoken(sidecar, request_bytes(target))
    assert (status_of(answer), reason_of(answer)) == (400, "invalid_path")
    assert engine.resolved == 0


async def test_what_a_tool_does_not_take_is_refused(agent: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    put = await agent.put("/tools/charge")
    below = await agent.post("/tools/charge/below")
    engine.tool.dedup_mode = pb.DEDUP_MODE_HEADER
    keyless = await agent.post("/tools/charge")
    unknown = await agent.post("/tools/unknown")
    assert (put.status_code, put.headers["Allow"], put.json()["reason"]) == (405, "POST", "method_not_allowed")
    assert (below.status_code, below.json()["reason"]) == (404, "subpath_not_allowed")
    assert (unknown.status_code, unknown.json()["reason"]) == (404, "tool_not_found")
    assert keyless.status_code == 200, "the tool is remembered as it was until the engine says otherwise"


async def test_a_key_that_a_tool_wants_must_be_there(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.dedup_mode = pb.DEDUP_MODE_HEADER
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (400, "idempotency_key_required")
    assert tool.received == []


async def test_a_tool_that_was_changed_to_take_a_method_takes_it_at_once(
    agent: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    assert (await agent.put("/tools/charge")).status_code == 405
    engine.tool.methods.append("PUT")
    assert (await agent.put("/tools/charge")).status_code == 200


@pytest.mark.parametrize(
    "framing",
    ["Content-Length: 101\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n65\r\n" + "x" * 101 + "\r\n"],
    ids=["by length", "chunked"],
)
async def test_a_body_that_is_too_large_is_refused_before_its_end(
    engine: ScriptedEngine, spool_dir: Path, framing: str
) -> None:
    async with embedded_sidecar(engine, spool_dir, max_body_bytes=100) as sidecar:
        head = "POST /tools/charge HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n"
        answer = await spoken(sidecar, (head + framing).encode())
    assert (status_of(answer), reason_of(answer)) == (413, "body_too_large")
    assert b"Connection: close" in answer
    assert engine.resolved == 0


async def test_a_body_of_exactly_the_limit_passes(engine: ScriptedEngine, spool_dir: Path, tool: Tool) -> None:
    async with embedded_sidecar(engine, spool_dir, max_body_bytes=100) as sidecar, client(sidecar) as agent:
        assert (await agent.post("/tools/charge", content=b"x" * 100)).status_code == 200
    assert tool.received[0].body == b"x" * 100


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"Host": "evil.example"}, 421, "host_not_allowed"),
        ({"Host": "localhost.evil.example"}, 421, "host_not_allowed"),
        ({"Origin": "http://localhost"}, 403, "origin_not_allowed"),
    ],
)
async def test_web_pages_are_not_served(
    agent: httpx.AsyncClient, engine: ScriptedEngine, headers: dict[str, str], status: int, reason: str
) -> None:
    answer = await agent.post("/tools/charge", headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert engine.resolved == 0


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:8400", "pod.internal"])
async def test_known_hosts_are_served_on_any_port(engine: ScriptedEngine, spool_dir: Path, host: str) -> None:
    async with embedded_sidecar(engine, spool_dir, allowed_hosts=["pod.internal"]) as sidecar, client(sidecar) as agent:
        assert (await agent.post("/tools/charge", headers={"Host": host})).status_code == 200


async def test_a_call_without_a_key_is_made_with_the_sidecars_own_if_it_has_one(
    engine: ScriptedEngine, spool_dir: Path
) -> None:
    async with embedded_sidecar(engine, spool_dir, agent_key="own") as sidecar, client(sidecar) as agent:
        del agent.headers["Authorization"]
        assert (await agent.post("/tools/charge")).status_code == 200
        assert engine.authorized[0].credential == "own"
        run = await agent.post("/v1/ai/run", json={"agent_id": "a", "tool": "charge"})
        assert (run.status_code, run.json()) == (401, {"detail": "Missing Authorization Bearer token"})


async def test_without_any_key_a_call_is_refused(agent: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    del agent.headers["Authorization"]
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (401, "missing_key")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_request_id_is_echoed_or_made(agent: httpx.AsyncClient) -> None:
    assert (await agent.post("/tools/charge", headers={"X-Request-Id": "mine"})).headers["X-Request-Id"] == "mine"
    assert len((await agent.get("/nowhere", headers={"X-Request-Id": "a b"})).headers["X-Request-Id"]) == 32


# Draining.


async def test_draining_refuses_new_calls_and_lets_running_ones_finish(
    sidecar: Sidecar, agent: httpx.AsyncClient, tool: Tool
) -> None:
    go_on = asyncio.Event()
    tool.does(waits_for(go_on, answers(200)))
    running_call = asyncio.create_task(agent.post("/tools/charge"))
    await tool.until_received(1)
    draining = asyncio.create_task(sidecar.drain())
    await asyncio.sleep(0)
    refused = await agent.post("/tools/charge")
    ready = await agent.get(f"http://127.0.0.1:{sidecar.admin_port}/readyz")
    assert (refused.status_code, refused.json()["reason"]) == (503, "draining")
    assert refused.headers["Connection"] == "close"
    assert ready.status_code == 503
    assert not draining.done()
    go_on.set()
    assert (await running_call).status_code == 200
    await draining


async def test_draining_ends_with_its_grace(engine: ScriptedEngine, tool: Tool, spool_dir: Path) -> None:
    tool.does(never_answers())
    async with embedded_sidecar(engine, spool_dir, drain_grace_ms=20) as sidecar, client(sidecar) as agent:
        call = asyncio.create_task(agent.post("/tools/charge"))
        await tool.until_received(1)
        async with asyncio.timeout(5):
            await sidecar.drain()
        call.cancel()


# POST /v1/ai/run.


def ran(**fields: Any) -> dict[str, Any]:
    return {"agent_id": "a", "tool": "charge", **fields}


async def test_a_run_sends_the_contracts_envelope_and_tells_the_result(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    answer = await agent.post("/v1/ai/run", json=ran(args={"amount": 5, "run_id": "r1"}, spend_usd=0.0000001))
    assert answer.json() == {
        "ok": True,
        "allowed": True,
        "decision": "executed",
        "policy_reason": "ok",
        "risk_level": "low",
        "result": {"calls": 1},
    }
    [asked] = engine.authorized
    [received] = tool.received
    assert json.loads(received.body) == {
        "tool": "charge",
        "args": {"amount": 5, "run_id": "r1"},
        "agent_id": "a",
        "run_id": "r1",
        "call_id": "call_" + "1" * 22,
        "idempotency_key": asked.fingerprint.hex(),
    }
    assert (asked.run_id, asked.declared_spend_micros, asked.agent_id) == ("r1", 1, "a")
    assert (received.method, received.header("Content-Type")) == ("POST", "application/json")


async def test_no_digit_of_an_argument_or_a_result_is_lost(agent: httpx.AsyncClient, tool: Tool) -> None:
    number = b"0.1000000000000000055511151231257827"
    tool.does(answers(200, b'{"got": ' + number + b"}"))
    body = b'{"agent_id":"a", "tool":"charge", "args": {"n": ' + number + b', "s": "\\"args\\": {"}}'
    answer = await agent.post("/v1/ai/run", content=body)
    assert number in tool.received[0].body
    assert number in answer.content


async def test_the_run_id_is_tracing_unless_the_tool_makes_it_an_argument(
    agent: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    for run_id in ("r1", "r2"):
        await agent.post("/v1/ai/run", json=ran(args={"run_id": run_id}))
    engine.tool.MergeFrom(pb.ToolRoute(dedup_run_id=True, revision=1))
    engine.verdicts.append(pb.AuthorizeResponse(verdict=pb.VERDICT_TOOL_CHANGED))
    for run_id in ("r1", "r2"):
        await agent.post("/v1/ai/run", json=ran(args={"run_id": run_id}))
    first, second, _, third, fourth = (request.fingerprint for request in engine.authorized)
    assert first == second
    assert len({first, third, fourth}) == 3


@pytest.mark.parametrize(
    ("status", "body", "ok", "result"),
    [
        (200, b"[1,2]", True, {"value": [1, 2]}),
        (200, b"null", True, {"value": None}),
        (204, b"", False, {"error": "result_not_json", "status": 204}),
        (200, b"hello", False, {"error": "result_not_json", "status": 200}),
        (200, b'"' + b"x" * 1_048_577 + b'"', False, {"error": "result_too_large", "status": 200}),
        (302, b"{}", False, {"error": "tool_error", "status": 302}),
        (500, b"{}", False, {"error": "tool_error", "status": 500}),
    ],
    ids=["list", "null", "empty", "text", "huge", "302", "500"],
)
async def test_what_is_no_json_of_a_success_is_a_tool_error(
    agent: httpx.AsyncClient, tool: Tool, status: int, body: bytes, *, ok: bool, result: object
) -> None:
    tool.does(answers(status, body))
    told = (await agent.post("/v1/ai/run", json=ran())).json()
    assert (told["ok"], told["allowed"], told["decision"]) == (ok, True, "executed")
    assert told["policy_reason"] == ("ok" if ok else "tool_error")
    assert told["result"] == result


async def test_a_tool_that_cannot_be_reached_is_a_tool_error(agent: httpx.AsyncClient, tool: Tool) -> None:
    await tool.stop()
    told = (await agent.post("/v1/ai/run", json=ran())).json()
    assert (told["ok"], told["allowed"], told["policy_reason"]) == (False, True, "tool_error")
    assert told["result"] == {"error": "upstream_unreachable", "status": None}


@pytest.mark.parametrize("reason", ["max_actions_per_hour_exceeded", "max_spend_usd_per_day_exceeded", "kill_switch"])
async def test_a_blocked_run_is_told_with_a_200(agent: httpx.AsyncClient, engine: ScriptedEngine, reason: str) -> None:
    engine.verdicts.append(blocked(reason, risk_level="high"))
    answer = await agent.post("/v1/ai/run", json=ran())
    assert answer.status_code == 200
    assert answer.json() == {
        "ok": False,
        "allowed": False,
        "decision": "blocked",
        "policy_reason": reason,
        "risk_level": "high",
        "result": None,
    }


async def test_a_run_waits_by_itself_for_the_same_call(agent: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    kept = pb.Answer(status=200, body=b'{"paid":true}', kept=True)
    replay = pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="tool_idempotency", answer=kept)
    engine.verdicts += [running(), replay]
    told = (await agent.post("/v1/ai/run", json=ran())).json()
    assert (told["decision"], told["policy_reason"], told["result"]) == ("dedup", "tool_idempotency", {"paid": True})
    assert engine.authorized[1].awaited_call_id == "call_leader"


async def test_a_run_that_has_waited_long_enough_is_told_in_flight(
    agent: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.tool.timeout_ms = 1
    engine.verdicts += [running(retry_after_ms=900)] * 50
    answer = await agent.post("/v1/ai/run", json=ran())
    assert (answer.status_code, answer.headers["Retry-After"]) == (409, "1")
    assert answer.json()["detail"]["error"] == "in_flight"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "one_mode"),
        ({"key": "k", "agent_id": "a", "tool": "charge"}, "one_mode"),
        ({"key": "k"}, "unsupported"),
        ({"agent_id": "a"}, "missing"),
        ({"agent_id": "a{b}", "tool": "charge"}, "string_pattern_mismatch"),
        ({"agent_id": "a", "tool": ".."}, "tool_name"),
        ({"agent_id": "a", "tool": "charge", "args": [1]}, "dict_type"),
        ({"agent_id": "a", "tool": "charge", "spend_usd": -1}, "greater_than_equal"),
        ({"agent_id": "a", "tool": "charge", "spend_usd": 1e300}, "less_than_equal"),
        ({"agent_id": "a", "tool": "charge", "spend_usd": "5"}, "number_type"),
        ({"agent_id": "a", "tool": "charge", "more": 1}, "extra_forbidden"),
        ([], "one_mode"),
    ],
)
async def test_a_run_that_is_no_run_is_refused_in_pydantics_shape(
    agent: httpx.AsyncClient, engine: ScriptedEngine, body: object, problem: str
) -> None:
    answer = await agent.post("/v1/ai/run", json=body)
    assert answer.status_code == 422
    [detail] = answer.json()["detail"]
    assert detail["type"] == problem
    assert set(detail) == {"type", "loc", "msg", "input"}
    assert engine.resolved == 0


async def test_a_run_of_an_unknown_tool_is_not_found(agent: httpx.AsyncClient) -> None:
    answer = await agent.post("/v1/ai/run", json=ran(tool="unknown"))
    assert (answer.status_code, answer.json()["detail"]["error"]) == (404, "tool_not_found")
