"""Runs (`POST /v1/ai/run`) and other bodies of the REST API that make no sense: told why, and leaving no trace."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.acceptance.evidence import no_trace
from tests.acceptance.scene import JSON, Scene
from tests.acceptance.wire import Answer, send
from tests.tool import Tool


async def posted(scene: Scene, path: str, body: bytes, *fields: tuple[str, str]) -> Answer:
    whose = (("Authorization", f"Bearer {scene.first.key}"), *JSON.items())
    return await send(scene.first.port, "POST", path, (*whose, *fields), body)


def found(answer: Answer) -> list[str]:
    """Where each of the invalid values stands, as the contract tells it."""
    assert answer.status == 422, answer
    for problem in answer.json["detail"]:
        assert problem.keys() == {"type", "loc", "msg", "input"}
        assert problem["msg"]
    return [".".join(map(str, problem["loc"])) for problem in answer.json["detail"]]


def run(scene: Scene, name: str, changes: Mapping[str, Any] = {}) -> bytes:
    """A good run's body, but for the changes; what is changed to `...` is left out."""
    body = {"agent_id": scene.agent, "tool": name, "args": {"order": 17}, **changes}
    return json.dumps({field: value for field, value in body.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({"key": "run-1"}, ["body"]),
        ({"key": "run-1", "agent_id": ...}, ["body"]),
        ({"agent_id": ..., "tool": ...}, ["body"]),
        ({"agent_id": ..., "tool": ..., "args": ...}, ["body"]),
        ({"agent_id": ...}, ["body.agent_id"]),
        ({"tool": ...}, ["body.tool"]),
        ({"agent_id": "a}b"}, ["body.agent_id"]),
        ({"agent_id": "{a"}, ["body.agent_id"]),
        ({"agent_id": "a\r\nX-Evil: 1"}, ["body.agent_id"]),
        ({"agent_id": "a\n"}, ["body.agent_id"]),
        ({"agent_id": "a" * 129}, ["body.agent_id"]),
        ({"agent_id": ""}, ["body.agent_id"]),
        ({"agent_id": 7}, ["body.agent_id"]),
        ({"agent_id": None, "tool": None}, ["body.agent_id", "body.tool"]),
        ({"tool": "a/b"}, ["body.tool"]),
        ({"tool": ".."}, ["body.tool"]),
        ({"tool": "."}, ["body.tool"]),
        ({"tool": "a%2fb"}, ["body.tool"]),
        ({"tool": "a\x00b"}, ["body.tool"]),
        ({"tool": "a\n"}, ["body.tool"]),
        ({"tool": "a}b"}, ["body.tool"]),
        ({"tool": ""}, ["body.tool"]),
        ({"tool": "a" * 129}, ["body.tool"]),
        ({"args": [1]}, ["body.args"]),
        ({"args": "order 17"}, ["body.args"]),
        ({"spend_usd": -1}, ["body.spend_usd"]),
        ({"spend_usd": -0.0000001}, ["body.spend_usd"]),
        ({"spend_usd": 1000000.01}, ["body.spend_usd"]),
        ({"spend_usd": 1e300}, ["body.spend_usd"]),
        ({"spend_usd": "1"}, ["body.spend_usd"]),
        ({"spend_usd": True}, ["body.spend_usd"]),
        ({"spend_usd": [1]}, ["body.spend_usd"]),
        ({"spend": 1}, ["body.spend"]),
        (
            {"agent_id": "a b", "tool": "a b", "args": 1, "spend_usd": -1},
            ["body.agent_id", "body.tool", "body.args", "body.spend_usd"],
        ),
    ],
    ids=str,
)
async def test_a_run_that_makes_no_sense_is_refused(
    scene: Scene, tool: Tool, changes: dict[str, Any], places: list[str]
) -> None:
    name = await scene.register(tool.url)
    async with no_trace(scene, tool):
        answer = await posted(scene, "/v1/ai/run", run(scene, name, changes))
        assert found(answer) == places
        assert answer.decision == "error"


NO_JSON = (
    b"",
    b"agent_id=a&tool=t",
    b"{",
    b'{"agent_id": "a", "agent_id": "b", "tool": "t"}',
    b'{"agent_id": "a", "tool": "t", "args": {"x": 1, "x": 2}}',
    b'{"agent_id": "a", "tool": "t", "spend_usd": NaN}',
    b'{"agent_id": "a", "tool": "t", "spend_usd": 1e999}',
    b'{"agent_id": "a", "tool": "t", "spend_usd": Infinity}',
    b'{"agent_id": "a", "tool": "t", "args": {"x": NaN}}',
    b'{"agent_id": "a", "tool": "t", "args": ' + b'{"x":' * 200 + b"1" + b"}" * 200 + b"}",
    b'{"agent_id": "a", "tool": "t", "args": {"x": "\xff"}}',
    b'{"agent_id": "a", "tool": "t", "args": {"x": "\\udfff"}}',
    b"[" * 200_000,
)


@pytest.mark.parametrize("path", ["/v1/ai/run", "/v1/tools", "/v1/policies/someone", "/v1/agents/someone/disable"])
async def test_a_body_that_is_no_json_is_refused(scene: Scene, tool: Tool, path: str) -> None:
    async with no_trace(scene, tool):
        for body in NO_JSON[1:] if path.endswith("disable") or "policies" in path else NO_JSON:
            answer = await posted(scene, path, body)
            assert found(answer), body


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"text"'])
@pytest.mark.parametrize("path", ["/v1/ai/run", "/v1/tools", "/v1/policies/someone", "/v1/keys"])
async def test_a_body_that_is_no_object_is_refused(scene: Scene, tool: Tool, path: str, body: bytes) -> None:
    async with no_trace(scene, tool):
        assert found(await posted(scene, path, body)) == ["body"]


async def test_a_run_of_a_tool_that_nobody_registered_is_not_found(scene: Scene, tool: Tool) -> None:
    async with no_trace(scene, tool):
        answer = await posted(scene, "/v1/ai/run", run(scene, "nobody"))
        assert (answer.status, answer.json["detail"]["error"]) == (404, "tool_not_found")


async def test_a_run_of_a_disabled_tool_is_refused_by_policy_and_costs_nothing(scene: Scene, tool: Tool) -> None:
    await scene.policy(pricing_rules=[{"tool": "*", "price_usd": 1}])
    name = await scene.register(tool.url, enabled=False)
    told = (await scene.run(name, {"order": 17})).json
    assert (told["ok"], told["allowed"], told["decision"], told["policy_reason"]) == (
        *(False, False),
        *("blocked", "tool_disabled"),
    )
    assert await scene.charged() == (0, 0)
    assert tool.received == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Idempotency-Key", "k" * 257),
        ("Idempotency-Key", '"open'),
        ("Idempotency-Key", ""),
    ],
)
async def test_a_run_with_a_header_that_makes_no_sense_is_refused(
    scene: Scene, tool: Tool, name: str, value: str
) -> None:
    called = await scene.register(tool.url)
    async with no_trace(scene, tool):
        answer = await posted(scene, "/v1/ai/run", run(scene, called), (name, value))
        assert found(answer)


async def test_no_argument_can_break_out_of_a_header_that_the_tool_gets(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    await scene.run(name, {"run_id": "r\r\nX-Evil: 1", "order": "17\r\nX-Evil: 1"})
    [received] = tool.received
    assert received.header("X-Evil") is None
    assert json.loads(received.body)["args"] == {"run_id": "r\r\nX-Evil: 1", "order": "17\r\nX-Evil: 1"}


@pytest.mark.parametrize(
    ("policy", "places"),
    [
        ({"max_actions_per_hour": -1}, ["body.max_actions_per_hour"]),
        ({"max_actions_per_hour": 1.5}, ["body.max_actions_per_hour"]),
        ({"max_actions_per_hour": 10**30}, ["body.max_actions_per_hour"]),
        ({"max_spend_usd_per_day": -0.01}, ["body.max_spend_usd_per_day"]),
        ({"max_spend_usd_per_day": 1e300}, ["body.max_spend_usd_per_day"]),
        ({"max_spend_usd_per_day": "5"}, ["body.max_spend_usd_per_day"]),
        ({"blocked_tools": ["a}b"]}, ["body.blocked_tools.0"]),
        ({"allowed_tools": "charge"}, ["body.allowed_tools"]),
        ({"pricing_rules": [{"tool": "*", "price_usd": -1}]}, ["body.pricing_rules.0.price_usd"]),
        ({"max_actions_per_day": 5}, ["body.max_actions_per_day"]),
        ({"agent_id": "somebody-else"}, ["body.agent_id"]),
    ],
    ids=str,
)
async def test_a_policy_that_makes_no_sense_is_refused(
    scene: Scene, tool: Tool, policy: dict[str, Any], places: list[str]
) -> None:
    async with no_trace(scene, tool):
        assert found(await posted(scene, f"/v1/policies/{scene.agent}", json.dumps(policy).encode())) == places


@pytest.mark.parametrize("agent", ["a%7Db", "a%0d%0aX:1", "a%20b", "%C3%A4", "a" * 129])
async def test_an_agent_in_a_path_whose_name_would_break_out_of_a_hash_tag_is_refused(
    scene: Scene, tool: Tool, agent: str
) -> None:
    async with no_trace(scene, tool):
        for path in (f"/v1/policies/{agent}", f"/v1/agents/{agent}/disable"):
            answer = await posted(scene, path, b"{}")
            assert answer.status in (400, 422), answer


async def test_overrides_of_null_are_none(scene: Scene) -> None:
    path = f"/v1/policies/{scene.agent}/from-template"
    plain = await scene.ask("POST", path, {"template": "read_only"})
    assert await scene.ask("POST", path, {"template": "read_only", "overrides": None}) == plain
