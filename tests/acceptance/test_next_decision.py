"""What an operator changes at one sidecar holds for the very next call at another."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.acceptance.scene import Scene
from tests.tool import Tool, answers

Act = Callable[[Scene, str], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Change:
    """What an operator does, what undoes it, and what the next call gets."""

    act: Act
    undo: Act
    status: int
    reason: str


def policy(**fields: Any) -> Act:
    return lambda scene, _: scene.ask("POST", f"/v1/policies/{scene.agent}", fields, at=scene.second)


def agent(act: str) -> Act:
    return lambda scene, _: scene.ask("POST", f"/v1/agents/{scene.agent}/{act}", {"reason": "drill"}, at=scene.second)


def tool_enabled(enabled: bool) -> Act:
    return lambda scene, name: scene.ask("POST", f"/v1/tools/{name}/toggle", {"enabled": enabled}, at=scene.second)


def switch(scope: str, *, pulled: bool) -> Act:
    return lambda scene, _: scene.ask("POST", f"/v1/switches/{scope}", {"pulled": pulled}, at=scene.second)


CHANGES = {
    "blocklist": Change(policy(blocked_tools=["tool-*"]), policy(), 403, "tool_explicitly_blocked"),
    "allowlist": Change(policy(allowed_tools=[]), policy(allowed_tools=["*"]), 403, "tool_not_in_allowed_list"),
    "actions": Change(policy(max_actions_per_hour=1), policy(), 429, "max_actions_per_hour_exceeded"),
    "calls": Change(policy(max_calls_per_tool=1), policy(), 429, "max_calls_per_tool_exceeded"),
    "price": Change(
        policy(max_spend_usd_per_day=1, pricing_rules=[{"tool": "*", "price_usd": 1.01}]),
        policy(max_spend_usd_per_day=1),
        *(402, "max_spend_usd_per_day_exceeded"),
    ),
    "agent": Change(agent("disable"), agent("enable"), 403, "agent_disabled"),
    "tool": Change(tool_enabled(False), tool_enabled(True), 403, "tool_disabled"),
    "namespace": Change(switch("namespace", pulled=True), switch("namespace", pulled=False), 403, "kill_switch"),
    "world": Change(switch("global", pulled=True), switch("global", pulled=False), 403, "kill_switch"),
}


@pytest.fixture(autouse=True)
async def switches_lifted(scene: Scene) -> AsyncIterator[None]:
    """The sidecars are everybody's: a test that fails must not leave a switch pulled."""
    yield
    for scope in ("namespace", "global"):
        await scene.ask("POST", f"/v1/switches/{scope}", {"pulled": False})


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_a_change_at_one_sidecar_holds_for_the_next_call_at_the_other(
    scene: Scene, tool: Tool, change: Change
) -> None:
    name = await scene.register(tool.url)
    await scene.policy()
    for at in (scene.first, scene.second):  # both know the agent, its policy and the tool
        assert (await scene.call(name, f"before {at.port}".encode(), at=at)).status == 200

    await change.act(scene, name)
    for refused in (await scene.call(name, b"after"), await scene.call(name, b"after", at=scene.second)):
        assert (refused.status, refused.json["reason"], refused.decision) == (change.status, change.reason, "blocked")
    run = await scene.run(name, {"after": 1})
    assert (run.json["decision"], run.json["policy_reason"]) == ("blocked", change.reason)
    assert len(tool.received) == 2

    await change.undo(scene, name)
    assert (await scene.call(name, b"after")).status == 200
    assert len(tool.received) == 3
    assert (await scene.figures())[:2] == (3, 3)


async def test_a_replay_too_is_refused_once_a_switch_is_pulled(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    assert (await scene.call(name, b"order 17")).status == 200
    await scene.ask("POST", f"/v1/agents/{scene.agent}/disable", {}, at=scene.second)
    assert (await scene.call(name, b"order 17")).json["reason"] == "agent_disabled"
    await scene.ask("POST", f"/v1/agents/{scene.agent}/enable", {}, at=scene.second)
    assert (await scene.call(name, b"order 17")).replayed


async def test_a_tool_moved_at_one_sidecar_is_called_at_its_new_place_by_the_other(scene: Scene, tool: Tool) -> None:
    other = Tool().does(answers(202))
    await other.start()
    try:
        name = await scene.register(tool.url)
        assert (await scene.call(name, b"one")).status == 200
        await scene.ask("POST", "/v1/tools", {"name": name, "url": other.url}, at=scene.second)
        assert (await scene.call(name, b"two")).status == 202
        assert [received.body for received in (*tool.received, *other.received)] == [b"one", b"two"]
    finally:
        await other.stop()


async def test_a_tool_deleted_at_one_sidecar_is_unknown_to_the_next_call_at_the_other(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    assert (await scene.call(name, b"one")).status == 200
    await scene.ask("DELETE", f"/v1/tools/{name}", at=scene.second)
    gone = await scene.call(name, b"two")
    assert (gone.status, gone.json["reason"]) == (404, "tool_not_found")
    assert (await scene.run(name, {})).status == 404
    assert len(tool.received) == 1


async def test_a_key_revoked_at_one_sidecar_is_no_key_for_the_next_call_at_the_other(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    made = await scene.ask("POST", "/v1/keys", {"role": "agent", "agent_id": scene.agent})
    mine = {"Authorization": f"Bearer {made['key']}", "Interlock-Agent": ""}
    assert (await scene.call(name, b"one", headers=mine)).status == 200
    await scene.ask("DELETE", f"/v1/keys/{made['key_id']}", at=scene.second)
    refused = await scene.call(name, b"two", headers=mine)
    assert (refused.status, refused.json["reason"]) == (403, "invalid_key")
    assert len(tool.received) == 1
