import asyncio
from pathlib import Path

import httpx
import pytest

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.problems import MESSAGES
from tests.tool import Tool
from tests.unit.proxy.agents import client
from tests.unit.proxy.scripted_engine import (
    DOWN,
    ScriptedEngine,
    blocked,
    remote_sidecar,
    running,
    serving,
)


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
        (blocked("max_actions_per_hour_exceeded"), 429, "blocked"),
        (blocked("audit_backlog", retry_after_ms=4_100), 503, "blocked"),
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
    if verdict.reason.startswith("max_"):
        assert answer.json()["retryable"] == bool(verdict.retry_after_ms), "a limit of 0 never passes"
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


@pytest.mark.parametrize(
    ("failure", "status", "retryable"),
    [
        ("upstream_timeout", 504, True),
        ("upstream_invalid", 502, False),
        ("agent_gone", 504, True),
        ("lease_lost", 503, True),
        ("internal", 500, False),
    ],
)
async def test_a_waiter_whose_leader_got_no_answer_is_told_why(
    agent: httpx.AsyncClient, engine: ScriptedEngine, failure: str, status: int, *, retryable: bool
) -> None:
    failed = pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="replayed", failure=failure)
    engine.verdicts += [running(), failed]
    answer = await agent.post("/tools/charge", headers={"Prefer": "wait"})
    assert (answer.status_code, answer.json()["reason"]) == (status, failure)
    assert answer.json()["retryable"] is retryable
    assert answer.json()["detail"] == MESSAGES[failure]
    # A bare `wait` is as long as the tool may take: its one try, 5 s.
    assert 4_000 < engine.awaited[0].wait_ms <= 5_000


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
