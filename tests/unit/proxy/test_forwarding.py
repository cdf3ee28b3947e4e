import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.app import Sidecar
from interlock.proxy.stages import forward
from tests.tool import Tool, answers, never_answers, resets, streams, waits_for
from tests.unit.proxy.agents import client, request_bytes, spoken
from tests.unit.proxy.scripted_engine import (
    DOWN,
    ScriptedEngine,
    embedded_sidecar,
    executed,
)


async def endless_after(first: bytes, event: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """One piece, and, once the event is there, more without an end; without an event, nothing."""
    yield first
    await (event or asyncio.Event()).wait()
    while True:
        yield b"x" * 65_536
        await asyncio.sleep(0)


def spooled(folder: Path) -> list[Path]:
    return list(folder.glob("*.settlement"))


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


async def test_nothing_of_an_answer_that_was_left_unread_comes_with_another(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.MergeFrom(pb.ToolRoute(max_retries=2))
    tool.does(answers(500, b'"first"'), answers(429, b'"second"', {"Retry-After": "0"}), answers(200, b'"third"'))
    assert (await agent.post("/tools/charge")).text == '"third"'
    assert (await agent.post("/tools/charge", content=b"1")).text == '"third"'
    assert engine.settled[0].answer.body == b'"third"'


async def test_a_connection_that_brought_much_at_once_carries_the_next_call(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.timeout_ms = 1_000
    for size in (50_000, 100_000, 200_000, 400_000, 1_000_000):
        tool.does(answers(200, b"x" * size))
        for number in range(3):
            answer = await agent.post("/tools/charge", content=f"{size}/{number}")
            assert (answer.status_code, len(answer.content)) == (200, size)


@pytest.mark.parametrize("status", [200, 503])
async def test_a_retry_after_that_is_none_does_not_spoil_an_answer(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool, status: int
) -> None:
    odd = "Thu, 01 Jan 2026 00:00:99999999999999999999 GMT"
    tool.does(answers(status, b'"paid"', headers={"Retry-After": odd}))
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.content, answer.headers["Retry-After"]) == (status, b'"paid"', odd)
    assert engine.settled[0].answer.status == status


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


async def test_an_agent_whose_calls_time_out_opens_no_circuit_for_the_others(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.MergeFrom(pb.ToolRoute(timeout_ms=50, max_retries=4))
    tool.does(never_answers())
    await agent.post("/tools/charge")
    assert (await agent.post("/tools/charge")).json()["reason"] == "upstream_circuit_open"
    tool.does(answers())
    another = executed(pb.AuthorizeRequest(tool="charge", fingerprint=b"f", attempt_id="1"))
    another.permit.agent_id = "another"
    engine.verdicts.append(another)
    assert (await agent.post("/tools/charge")).status_code == 200


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
    assert answer.json()["detail"] == "a kill switch is pulled; an earlier try of this call was sent and may have acted"
    assert len(tool.received) == 1
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS


async def test_a_call_whose_lease_ends_between_its_tries_is_told_as_the_one_that_was_sent(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.max_retries = 1
    engine.lease_ms = 300
    engine.renew_error = DOWN
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    # The first renewal is asked for under the lease: a whole one later, that has ended.
    engine.on_renewal = lambda: loop.call_later(engine.lease_ms / 1000, over.set)
    tool.does(waits_for(over, answers(500)), answers(200))
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"]) == (502, "upstream_error")
    assert "whether it acted is not known" in answer.json()["detail"]
    assert answer.headers["Interlock-Decision"] == "executed"
    assert len(tool.received) == 1
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS


async def test_a_stream_whose_lease_cannot_be_renewed_ends_with_it(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.lease_ms = 200
    engine.renew_error = DOWN
    tool.does(streams(endless_after(b"first")))
    answer = await spoken(sidecar, request_bytes())
    assert b"first" in answer
    assert not answer.endswith(b"0\r\n\r\n")
    settled = await engine.until_settled()
    assert (settled.outcome, settled.failure) == (pb.OUTCOME_AMBIGUOUS, "lease_lost")


async def test_a_stream_that_is_renewed_outlives_its_lease(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.lease_ms = 900
    engine.renewal = pb.RenewResponse(renewed=True, lease_ms=900)
    outlived, renewals = asyncio.Event(), count(1)
    engine.on_renewal = lambda: outlived.set() if next(renewals) == 4 else None

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        await outlived.wait()
        yield b"last"

    tool.does(streams(pieces()))
    assert (await spoken(sidecar, request_bytes())).endswith(b"4\r\nlast\r\n0\r\n\r\n")
    assert (await engine.until_settled()).outcome == pb.OUTCOME_SUCCEEDED


async def test_a_bug_of_ours_leaves_no_call_unsettled_and_is_told_as_one(
    agent: httpx.AsyncClient, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "signed", lambda *_: 1 / 0)
    answer = await agent.post("/tools/charge")
    assert (answer.status_code, answer.json()["reason"], answer.json()["retryable"]) == (500, "internal", False)
    assert "whether the tool acted is not known" in answer.json()["detail"]
    assert (engine.settled[0].outcome, engine.settled[0].failure) == (pb.OUTCOME_AMBIGUOUS, "internal")


@pytest.mark.parametrize(
    ("tool_is", "headers", "retryable"),
    [
        ({"on_ambiguous": pb.ON_AMBIGUOUS_RETRY}, {}, True),
        ({"on_ambiguous": pb.ON_AMBIGUOUS_HOLD}, {}, False),
        ({"on_ambiguous": pb.ON_AMBIGUOUS_HOLD, "read_only": True}, {}, True),
        ({"on_ambiguous": pb.ON_AMBIGUOUS_HOLD, "dedup_mode": pb.DEDUP_MODE_OFF}, {}, True),
        ({"on_ambiguous": pb.ON_AMBIGUOUS_HOLD, "dedup_mode": pb.DEDUP_MODE_OFF}, {"Idempotency-Key": "k"}, False),
        ({"on_ambiguous": pb.ON_AMBIGUOUS_HOLD, "dedup_mode": pb.DEDUP_MODE_DERIVED, "read_only": True}, {}, False),
    ],
    ids=["retry", "hold", "read only", "not remembered", "not remembered, with a key", "read only, remembered"],
)
async def test_a_call_that_may_have_happened_and_is_held_is_not_to_be_made_again(
    agent: httpx.AsyncClient,
    engine: ScriptedEngine,
    tool: Tool,
    tool_is: dict[str, Any],
    headers: dict[str, str],
    *,
    retryable: bool,
) -> None:
    engine.tool.MergeFrom(pb.ToolRoute(**tool_is))
    tool.does(resets())
    answer = await agent.post("/tools/charge", headers=headers)
    assert (answer.json()["reason"], answer.json()["retryable"]) == ("upstream_reset", retryable)


async def test_what_a_held_tool_was_not_sent_may_be_sent_again(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.on_ambiguous = pb.ON_AMBIGUOUS_HOLD
    await tool.stop()
    answer = await agent.post("/tools/charge")
    assert (answer.json()["reason"], answer.json()["retryable"]) == ("upstream_unreachable", True)


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


async def test_a_stream_without_an_end_is_not_read_for_ever_once_its_agent_is_gone(
    sidecar: Sidecar, engine: ScriptedEngine, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "MAX_UNHEARD_S", 0.05)
    gone = asyncio.Event()
    tool.does(streams(endless_after(b"first", gone)))
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(request_bytes())
    await reader.readuntil(b"first")
    writer.transport.abort()
    gone.set()
    settled = await engine.until_settled()
    assert (settled.outcome, settled.failure) == (pb.OUTCOME_AMBIGUOUS, "agent_gone")
