import asyncio
import json
from typing import Any

import httpx
import pytest

from interlock.governance.v1 import governance_pb2 as pb
from tests.tool import Tool, answers, waits_for
from tests.unit.proxy.scripted_engine import ScriptedEngine, blocked, running


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


async def test_a_run_that_a_switch_stops_before_it_is_sent_is_blocked(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.max_retries = 10
    engine.lease_ms = 60
    engine.renewal = pb.RenewResponse(renewed=False, reason="kill_switch")
    await tool.stop()
    told = (await agent.post("/v1/ai/run", json=ran())).json()
    assert (told["ok"], told["allowed"], told["decision"]) == (False, False, "blocked")
    assert (told["policy_reason"], told["result"]) == ("kill_switch", None)
    assert engine.settled[0].outcome == pb.OUTCOME_NOT_SENT


async def test_a_run_that_a_switch_stops_after_a_try_that_may_have_acted_is_not_told_as_blocked(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.tool.max_retries = 1
    engine.lease_ms = 60
    engine.renewal = pb.RenewResponse(renewed=False, reason="kill_switch")
    renewed = asyncio.Event()
    engine.on_renewal = renewed.set
    tool.does(waits_for(renewed, answers(500)))
    told = (await agent.post("/v1/ai/run", json=ran())).json()
    assert (told["ok"], told["allowed"], told["decision"]) == (False, True, "executed")
    assert (told["policy_reason"], told["result"]) == ("tool_error", {"error": "kill_switch", "status": None})
    assert len(tool.received) == 1
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS


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
        ({"key": ""}, "string_too_short"),
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


async def test_a_success_that_only_an_operator_knows_of_is_no_failure_of_the_tool(
    agent: httpx.AsyncClient, engine: ScriptedEngine, tool: Tool
) -> None:
    engine.verdicts.append(
        pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="tool_idempotency", failure="resolved")
    )
    answer = await agent.post("/v1/ai/run", json=ran())
    assert (answer.status_code, answer.json()["detail"]["error"]) == (409, "answer_not_kept")
    assert tool.received == []
