"""Keyed runs: `POST /v1/ai/run` with a key, done by the workers of whichever sidecar has one free."""

import asyncio
import json
import secrets
from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from onceonly import OnceOnly

from tests.acceptance.scene import Scene
from tests.interlock_dev import until
from tests.tool import Tool, answers, waits_for


async def start(scene: Scene, key: str, *actions: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    told = {"agent_id": scene.agent, "actions": list(actions), **metadata}
    return dict(await scene.ask("POST", "/v1/ai/run", {"key": key, "metadata": told}))


async def ended(scene: Scene, key: str) -> dict[str, Any]:
    """How a run ended, with its result."""
    return dict(await scene.ask("GET", f"/v1/ai/result?key={key}&wait=50"))


def new_key() -> str:
    return f"run-{secrets.token_hex(6)}"


async def test_a_run_does_its_actions_in_order_as_its_agent(scene: Scene, tool: Tool) -> None:
    name, key = await scene.register(tool.url), new_key()
    begun = await start(scene, key, *({"tool": name, "args": {"n": n}} for n in range(3)))
    assert (begun["status"], begun["lease_id"], begun["charged"]) == ("acquired", None, 1)
    told = await ended(scene, key)
    assert told["status"] == "completed"
    assert [json.loads(call.body)["args"]["n"] for call in tool.received] == [0, 1, 2]
    assert {json.loads(call.body)["agent_id"] for call in tool.received} == {scene.agent}
    assert {json.loads(call.body)["run_id"] for call in tool.received} == {key}
    actions = told["result"]["actions"]
    assert [(action["decision"], action["result"]) for action in actions] == [
        ("executed", {"calls": n}) for n in (1, 2, 3)
    ]


async def test_a_blocked_action_fails_the_run_and_no_later_one_is_done(scene: Scene, tool: Tool) -> None:
    allowed, blocked = await scene.register(tool.url), await scene.register(tool.url)
    await scene.policy(blocked_tools=[blocked])
    key = new_key()
    await start(scene, key, {"tool": allowed}, {"tool": blocked}, {"tool": allowed, "args": {"later": True}})
    told = await ended(scene, key)
    assert (told["status"], told["error_code"]) == ("failed", "tool_explicitly_blocked")
    assert [action["decision"] for action in told["result"]["actions"]] == ["executed", "blocked"]
    assert len(tool.received) == 1


@pytest.mark.parametrize(
    ("behaviour", "fields", "error_code"),
    [
        (answers(400), {}, "tool_error"),
        (answers(500), {"max_retries": 0}, "tool_error"),
        (answers(500), {"max_retries": 0, "on_ambiguous": "hold"}, "outcome_unknown"),
        (answers(200, b"no JSON"), {}, "tool_error"),
    ],
)
async def test_a_failing_action_fails_its_run(
    scene: Scene, tool: Tool, behaviour: Any, fields: dict[str, Any], error_code: str
) -> None:
    name, key = await scene.register(tool.does(behaviour).url, **fields), new_key()
    await start(scene, key, {"tool": name}, {"tool": name, "args": {"later": True}})
    told = await ended(scene, key)
    assert (told["status"], told["error_code"]) == ("failed", error_code)
    assert len(tool.received) == 1


async def test_an_action_of_a_tool_that_nobody_registered_fails_its_run(scene: Scene) -> None:
    key = new_key()
    await start(scene, key, {"tool": "nobody-knows-it"})
    told = await ended(scene, key)
    assert (told["status"], told["error_code"]) == ("failed", "tool_not_found")


async def test_a_cancelled_run_does_no_further_action_and_may_be_run_again_without_repeating_one(
    scene: Scene, tool: Tool
) -> None:
    may_answer = asyncio.Event()
    name, key = await scene.register(tool.does(waits_for(may_answer, answers())).url), new_key()
    actions = [{"tool": name, "args": {"n": n}} for n in range(3)]
    await start(scene, key, *actions)
    await tool.until_received(1)
    cancelled = await scene.ask("POST", "/v1/ai/run/cancel", {"key": key, "reason": "withdrawn"}, at=scene.second)
    assert (cancelled["ok"], cancelled["status"]) == (True, "cancelled")
    may_answer.set()
    assert (await ended(scene, key))["status"] == "cancelled"
    events = (await scene.ask("GET", f"/v1/runs/{key}"))["events"]
    assert [(event["status"], event["message"]) for event in events if event["type"] == "run_finished"] == [
        ("cancelled", "withdrawn")
    ]
    again = await start(scene, key, *actions)
    assert (again["status"], again["charged"]) == ("acquired", 1)
    told = await ended(scene, key)
    assert [action["decision"] for action in told["result"]["actions"]] == ["dedup", "executed", "executed"]
    assert [json.loads(call.body)["args"]["n"] for call in tool.received] == [0, 1, 2]
    over = await scene.operator.post(f"{scene.first.url}/v1/ai/run/cancel", json={"key": key})
    assert (over.status_code, over.json()["detail"]["error"]) == (409, "lease_settled")


async def test_whose_a_run_is_decides_who_may_cancel_it(scene: Scene, tool: Tool) -> None:
    may_answer = asyncio.Event()
    name, key = await scene.register(tool.does(waits_for(may_answer, answers())).url), new_key()
    own, other = await scene.key(scene.agent), await scene.key(f"{scene.agent}-other")

    async def asks(bearer: str, **whose: str) -> tuple[int, str]:
        async with scene.first.client(bearer) as api:
            answer = await api.post("/v1/ai/run/cancel", json={"key": key, **whose})
        told = answer.json()
        return answer.status_code, told.get("status") or told["detail"]["error"]

    async with scene.first.client(own) as api:
        await api.post("/v1/ai/run", json={"key": key, "metadata": {"actions": [{"tool": name}]}})
    await tool.until_received(1)
    assert await asks(other) == (404, "not_found")
    assert (await asks(other, agent_id=scene.agent))[0] == 403
    assert await asks(scene.first.key) == (404, "not_found")
    assert await asks(scene.first.key, agent_id=scene.agent) == (200, "cancelled")
    may_answer.set()
    await scene.until_idle()


@pytest.mark.parametrize("none", [[], None])
async def test_a_run_with_no_actions_in_it_is_the_callers_to_do(scene: Scene, none: list[object] | None) -> None:
    begun = await scene.ask("POST", "/v1/ai/run", {"key": new_key(), "metadata": {"actions": none, "note": "mine"}})
    assert (begun["status"], begun["charged"], bool(begun["lease_id"])) == ("acquired", 1, True)


async def test_of_many_identical_posts_one_is_a_run(scene: Scene, tool: Tool) -> None:
    name, key = await scene.register(tool.url), new_key()
    body = {"key": key, "metadata": {"agent_id": scene.agent, "actions": [{"tool": name}]}}
    async with scene.first.client() as first, scene.second.client() as second:
        posts = [(first, second)[n % 2].post("/v1/ai/run", json=body) for n in range(1000)]
        answered = [answer.json() for answer in await asyncio.gather(*posts)]
    told = Counter([(answer["status"] == "acquired", answer["charged"]) for answer in answered])
    assert told == {(True, 1): 1, (False, 0): 999}
    await ended(scene, key)
    assert len(tool.received) == 1


async def test_a_dry_run_decides_as_a_run_would_and_touches_nothing(scene: Scene, tool: Tool) -> None:
    allowed, blocked = await scene.register(tool.url), await scene.register(tool.url)
    await scene.policy(blocked_tools=[blocked], max_actions_per_hour=3, max_spend_usd_per_day=10)
    assert (await scene.run(allowed, {"before": 1})).status == 200
    before = (await scene.figures(), await scene.events())
    key = new_key()
    costly = {"tool": allowed, "spend_usd": 9, "args": {"n": 1}}
    asked = (
        {"tool": allowed},
        {"tool": blocked},
        costly,
        {**costly, "args": {"n": 2}},
        {"tool": allowed, "args": {"n": 3}},
    )
    await start(scene, key, *asked, dry_run=True)
    told = await ended(scene, key)
    assert told["status"] == "completed"
    assert [(action["decision"], action["policy_reason"]) for action in told["result"]["actions"]] == [
        ("dry_run", "ok"),
        ("blocked", "tool_explicitly_blocked"),
        ("dry_run", "ok"),
        ("blocked", "max_actions_per_hour_exceeded"),
        ("blocked", "max_actions_per_hour_exceeded"),
    ]
    assert len(tool.received) == 1
    assert (await scene.figures(), await scene.events()) == before


async def test_what_a_dry_run_would_spend_counts_for_its_later_actions(scene: Scene, tool: Tool) -> None:
    name, key = await scene.register(tool.url), new_key()
    await scene.policy(max_spend_usd_per_day=10, max_calls_per_tool={name: 3})
    spending = ({"tool": name, "spend_usd": spend} for spend in (6, 6, 4, 0, 0))
    await start(scene, key, *spending, dry_run=True)
    assert [action["policy_reason"] for action in (await ended(scene, key))["result"]["actions"]] == [
        "ok",
        "max_spend_usd_per_day_exceeded",
        "ok",
        "ok",
        "max_calls_per_tool_exceeded",
    ]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, ["body"]),
        ({"key": "k", "agent_id": "a", "tool": "t"}, ["body"]),
        ({"key": ""}, ["body", "key"]),
        ({"key": "k" * 257}, ["body", "key"]),
        ({"key": "k", "metadata": []}, ["body", "metadata"]),
        ({"key": "k", "metadata": {"actions": {}}}, ["body", "metadata", "actions"]),
        ({"key": "k", "metadata": {"actions": [{"tool": "t"}] * 51}}, ["body", "metadata", "actions"]),
        (
            {"key": "k", "metadata": {"actions": [{"tool": "t"}, {"tool": "t/"}]}},
            ["body", "metadata", "actions", 1, "tool"],
        ),
        ({"key": "k", "metadata": {"actions": [{"tool": "t", "args": 1}]}}, ["body", "metadata", "actions", 0, "args"]),
        ({"key": "k", "metadata": {"actions": [{"tool": "t"}], "dry_run": "yes"}}, ["body", "metadata", "dry_run"]),
        ({"key": "k", "metadata": {"actions": [{"tool": "t"}]}}, ["body", "metadata", "agent_id"]),
        ({"key": "k", "metadata": {"actions": [{"tool": "t"}], "agent_id": "/"}}, ["body", "metadata", "agent_id"]),
        ({"key": "k", "metadata": {"pad": "x" * 262_144}}, ["body", "metadata"]),
    ],
)
async def test_what_is_no_run_is_refused_with_its_place(
    scene: Scene, body: dict[str, Any], place: list[object]
) -> None:
    refused = await scene.operator.post(f"{scene.first.url}/v1/ai/run", json=body)
    assert refused.status_code == 422, refused.text
    assert [found["loc"] for found in refused.json()["detail"]] == [place]


async def test_an_agents_key_starts_runs_as_itself_alone(scene: Scene, tool: Tool) -> None:
    name, mine = await scene.register(tool.url), await scene.key(scene.agent)
    for agent, status in ((scene.agent, 200), ("another", 403), (None, 200)):
        metadata = {"actions": [{"tool": name}], **({"agent_id": agent} if agent else {})}
        body = {"key": new_key(), "metadata": metadata}
        headers = {"Authorization": f"Bearer {mine}"}
        asked = await scene.operator.post(f"{scene.first.url}/v1/ai/run", json=body, headers=headers)
        assert asked.status_code == status, asked.text
    seen = await tool.until_received(2)
    assert {json.loads(call.body)["agent_id"] for call in seen} == {scene.agent}


async def test_a_revoked_key_ends_its_runs(scene: Scene, tool: Tool) -> None:
    name, key = await scene.register(tool.url, max_retries=0), new_key()
    made = await scene.ask("POST", "/v1/keys", {"role": "agent", "agent_id": scene.agent})

    async def revoke(_: web.Request) -> web.Response:
        await scene.ask("DELETE", f"/v1/keys/{made['key_id']}")
        return web.json_response({})

    tool.does(revoke)
    body = {"key": key, "metadata": {"actions": [{"tool": name, "args": {"n": n}} for n in range(3)]}}
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert (await scene.operator.post(f"{scene.first.url}/v1/ai/run", json=body, headers=headers)).status_code == 200
    told = await scene.ask("GET", f"/v1/ai/result?key={key}&wait=50&agent_id={scene.agent}")
    assert (told["status"], told["error_code"], len(tool.received)) == ("failed", "invalid_key", 1)


async def test_a_switch_that_is_pulled_stops_a_run_at_its_next_action(scene: Scene, tool: Tool) -> None:
    name, key = await scene.register(tool.url), new_key()

    async def disable(_: web.Request) -> web.Response:
        await scene.ask("POST", f"/v1/agents/{scene.agent}/disable", {"reason": "test"})
        return web.json_response({})

    tool.does(disable)
    await start(scene, key, *({"tool": name, "args": {"n": n}} for n in range(3)))
    told = await ended(scene, key)
    assert (told["status"], told["error_code"], len(tool.received)) == ("failed", "agent_disabled", 1)


async def test_without_actions_or_a_handler_the_caller_does_the_run(scene: Scene) -> None:
    key = new_key()
    lease = await scene.ask("POST", "/v1/ai/run", {"key": key, "metadata": {"agent_id": 5, "what": "ever"}})
    assert (lease["status"], bool(lease["lease_id"])) == ("acquired", True)
    done = {"key": key, "lease_id": lease["lease_id"], "result": {"by": "hand"}}
    await scene.ask("POST", "/v1/ai/complete", done)
    assert (await ended(scene, key))["result"] == {"by": "hand"}


async def test_without_actions_the_namespaces_handler_is_called_with_the_metadata(scene: Scene, tool: Tool) -> None:
    namespace, key = f"ns-{secrets.token_hex(6)}", new_key()
    await scene.ask("POST", f"/v1/namespaces/{namespace}", {"run_handler": "handle", "default_policy": "allow"})
    elsewhere = {"Interlock-Namespace": namespace}
    there = await scene.operator.post(f"{scene.first.url}/v1/keys", json={"role": "operator"}, headers=elsewhere)
    headers = {"Authorization": f"Bearer {there.json()['key']}"}
    url = scene.first.url
    await scene.operator.post(f"{url}/v1/tools", json={"name": "handle", "url": tool.url}, headers=headers)
    asked = {"key": key, "metadata": {"order": 1.10}}
    begun = await scene.operator.post(f"{url}/v1/ai/run", json=asked, headers=headers)
    assert (begun.json()["status"], begun.json()["lease_id"]) == ("acquired", None)
    told = await scene.operator.get(f"{url}/v1/ai/result?key={key}&wait=50", headers=headers)
    assert told.json()["result"]["actions"][0]["result"] == {"calls": 1}
    assert json.loads(tool.received[0].body)["args"] == {"order": 1.1}


async def test_results_that_are_too_large_are_cut_and_the_run_completes(scene: Scene, tool: Tool) -> None:
    name, key = await scene.register(tool.does(answers(200, b'{"x":"%b"}' % (b"x" * 300_000))).url), new_key()
    await start(scene, key, *({"tool": name, "args": {"n": n}} for n in range(6)))
    told = await ended(scene, key)
    assert told["status"] == "completed"
    cut = [action.get("result_cut_bytes", 0) > 300_000 for action in told["result"]["actions"]]
    assert cut == [False, False, False, True, True, True]
    assert len(json.dumps(told["result"])) <= 1_048_576


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_stock_client_runs_and_waits(scene: Scene, tool: Tool, asynchronous: bool) -> None:
    name, key = await scene.register(tool.url), new_key()
    client = OnceOnly(api_key=scene.first.key, base_url=f"{scene.first.url}/v1")
    metadata = {"agent_id": scene.agent, "actions": [{"tool": name, "args": {"a": 1}}]}
    try:
        if asynchronous:
            told = await client.ai.run_and_wait_async(key, metadata=metadata, timeout=30)
            again = await client.ai.run_async(key, metadata=metadata)
        else:
            told = await asyncio.to_thread(client.ai.run_and_wait, key, metadata=metadata, timeout=30)
            again = await asyncio.to_thread(client.ai.run, key, metadata=metadata)
    finally:
        client.close()
        await client.aclose()
    assert (told.status, told.result["actions"][0]["result"]) == ("completed", {"calls": 1})
    assert again.status == "completed"
    assert len(tool.received) == 1


async def test_the_timeline_shows_a_run_from_its_beginning_to_its_end(scene: Scene, tool: Tool) -> None:
    allowed, blocked, key = await scene.register(tool.url), await scene.register(tool.url), new_key()
    await scene.policy(blocked_tools=[blocked])
    await start(scene, key, {"tool": allowed}, {"tool": blocked})
    await ended(scene, key)

    async def told() -> list[tuple[str, str]]:
        events = (await scene.ask("GET", f"/v1/runs/{key}"))["events"]
        return [(event["type"], event["status"]) for event in events]

    async def is_whole() -> bool:
        return ("run_finished", "failed") in await told()

    await until(is_whole)
    assert sorted(await told()) == sorted(
        [
            ("run_started", "in_progress"),
            ("tool_call", "allowed"),
            ("tool_result", "ok"),
            ("tool_call", "blocked"),
            ("tool_result", "blocked"),
            ("run_finished", "failed"),
        ]
    )
