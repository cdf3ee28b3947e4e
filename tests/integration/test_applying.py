"""Applying tools and policies to a real engine on a real Redis: what it changes, and what it leaves."""

import asyncio
import collections
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock

import pytest
from redis.asyncio import Redis

from interlock.governance.errors import ConflictError, InterlockError, UnavailableError
from interlock.governance.v1 import admin_pb2 as ad
from interlock.governance.v1 import configuration_pb2 as pb
from interlock.governance.v1 import governance_pb2 as governance
from interlock.store.directory import RedisDirectory
from tests.integration.engines import EngineClient, running_engine

URL = "http://127.0.0.1:9/charge"


@pytest.fixture
async def engine(redis_url: str) -> AsyncIterator[EngineClient]:
    async with running_engine(redis_url) as client:
        yield client


def tool(name: str, secret: str | None = None, **fields: Any) -> ad.PutToolRequest:
    return ad.PutToolRequest(tool=ad.Tool(**{"name": name, "url": URL} | fields), secret=secret)


def policy(agent: str, **fields: Any) -> ad.PutPolicyRequest:
    return ad.PutPolicyRequest(agent_id=agent, policy=ad.Policy(**fields))


async def apply(engine: EngineClient, *asked: Any, owner: str = "team", **how: Any) -> dict[str, str]:
    """Applies tools and policies; what became of each."""
    tools = [item for item in asked if isinstance(item, ad.PutToolRequest)]
    policies = [item for item in asked if isinstance(item, ad.PutPolicyRequest)]
    how = {"owner": owner, "prune": True} | how
    answer = await engine.ask(engine.configuration.Apply, pb.ApplyRequest(tools=tools, policies=policies, **how))
    return {name_of(change): pb.ChangeAction.Name(change.action)[14:].lower() for change in answer.changes}


def name_of(change: pb.Change) -> str:
    tool, policy = change.tool_after, change.policy_after
    return tool.name or policy.agent_id or change.tool_before.name or change.policy_before.agent_id


async def tools_of(engine: EngineClient) -> dict[str, ad.Tool]:
    return {tool.name: tool for tool in (await engine.ask(engine.tools.ListTools, ad.ListToolsRequest())).tools}


async def everything(redis_url: str) -> dict[bytes, Any]:
    """All that Redis holds, but for the times at which agents were seen."""
    async with Redis.from_url(redis_url) as raw:
        return {key: await raw.dump(key) for key in await raw.keys("*") if not key.endswith(b":agents")}


async def test_applied_twice_changes_nothing_not_even_an_epoch(engine: EngineClient, redis_url: str) -> None:
    asked = (
        tool("charge", "s3cr3t-s3cr3t", methods=["PUT"]),
        tool("mail", scope_id="agent:bot-1"),
        policy("bot-1", max_actions_per_hour=5, max_calls_per_tool={"charge": 3}),
    )
    asked[1].upstream_credential.CopyFrom(governance.UpstreamCredential(header="X-Key", value="up-secret"))
    assert set((await apply(engine, *asked)).values()) == {"create"}
    before = await everything(redis_url)
    assert set((await apply(engine, *asked)).values()) == {"unchanged"}
    assert await everything(redis_url) == before


async def test_a_dry_run_says_what_would_change_and_changes_nothing(engine: EngineClient, redis_url: str) -> None:
    await apply(engine, tool("old"), policy("gone"))
    await engine.put_tool("by-hand")
    before = await everything(redis_url)
    would = await apply(engine, tool("new"), tool("by-hand"), policy("bot-1"), dry_run=True)
    assert would == {"new": "create", "by-hand": "adopt", "old": "delete", "gone": "delete", "bot-1": "create"}
    assert await everything(redis_url) == before
    assert await apply(engine, tool("new"), tool("by-hand"), policy("bot-1")) == would


async def test_a_secret_is_told_to_change_and_nothing_else_of_it(engine: EngineClient) -> None:
    await apply(engine, tool("charge", "first-secret-of-the-tool"))
    request = pb.ApplyRequest(owner="team", tools=[tool("charge", "second-secret-of-the-tool")], dry_run=True)
    answer = await engine.ask(engine.configuration.Apply, request)
    (change,) = answer.changes
    assert change.secret_changed
    assert change.tool_after.has_secret
    for part in ("secret-of", 'tool"', "•"):
        assert part not in str(answer).replace('"charge"', "")


async def test_pruning_spares_what_is_anothers_or_nobodys(engine: EngineClient) -> None:
    await engine.put_tool("by-hand")
    await engine.ask(engine.policies.PutPolicy, policy("by-hand"))
    await apply(engine, tool("theirs"), policy("theirs"), owner="others")
    await apply(engine, tool("mine"), policy("mine"))
    assert await apply(engine) == {"mine": "delete"}
    assert set(await tools_of(engine)) == {"by-hand", "theirs"}
    held = await engine.ask(engine.policies.ListPolicies, ad.ListPoliciesRequest())
    assert [policy.agent_id for policy in held.policies] == ["by-hand", "theirs"]
    assert await apply(engine, owner="") == {}


async def test_a_conflict_stops_everything_before_anything_is_written(engine: EngineClient, redis_url: str) -> None:
    await apply(engine, tool("theirs"), policy("theirs"), owner="others")
    before = await everything(redis_url)
    with pytest.raises(ConflictError) as refused:
        await apply(engine, tool("a"), tool("theirs"), policy("mine"), policy("theirs"))
    assert refused.value.reason == "managed_by_another"
    assert "policy theirs (others), tool theirs (others)" in refused.value.message
    assert await everything(redis_url) == before
    assert (await apply(engine, tool("theirs"), force=True))["theirs"] == "update"
    assert (await tools_of(engine))["theirs"].managed_by == "team"


async def test_what_is_wrong_is_told_and_nothing_is_written(engine: EngineClient, redis_url: str) -> None:
    before = await everything(redis_url)
    with pytest.raises(InterlockError) as refused:
        await apply(engine, tool("good"), tool("bad", url="ftp://x"), policy("bot-1", on_anomaly="?"))
    assert "tools.bad.url" in refused.value.message
    assert "policies.bot-1.on_anomaly" in refused.value.message
    assert await everything(redis_url) == before


async def test_another_namespace_than_the_keys_is_out_of_reach(engine: EngineClient) -> None:
    request = pb.ApplyRequest(namespace="other", tools=[tool("a")])
    operator = engine.speaking_with((await engine.new_key(ad.ROLE_OPERATOR)).key)
    assert await operator.refused(operator.configuration.Apply, request) == "permission_denied"
    assert await engine.refused(engine.configuration.Apply, request) == "namespace_not_found"
    assert await apply(engine, tool("a"), namespace="default") == {"a": "create"}


async def test_an_applied_policy_and_a_deleted_one_hold_for_the_very_next_decision(
    engine: EngineClient, redis_url: str
) -> None:
    async with running_engine(redis_url) as other:
        await apply(engine, tool("charge"))
        assert (await other.authorize("one")).verdict == governance.VERDICT_EXECUTE
        await apply(engine, tool("charge"), policy("bot-1", blocked_tools=["*"]))
        assert (await other.authorize("two")).reason == "tool_explicitly_blocked"
        await engine.ask(engine.policies.DeletePolicy, ad.AgentRef(agent_id="bot-1"))
        assert (await other.authorize("three")).verdict == governance.VERDICT_EXECUTE
        assert await engine.refused(engine.policies.DeletePolicy, ad.AgentRef(agent_id="bot-1")) == "policy_not_found"


async def test_a_change_by_hand_keeps_the_owner_and_the_next_apply_takes_it_back(engine: EngineClient) -> None:
    await apply(engine, tool("charge", timeout_ms=500), policy("bot-1", max_actions_per_hour=1))
    await engine.put_tool("charge", timeout_ms=9000)
    put = await engine.ask(engine.policies.PutPolicy, policy("bot-1", max_actions_per_hour=9))
    assert (put.version, put.managed_by) == (2, "team")
    assert (await tools_of(engine))["charge"].managed_by == "team"
    asked = (tool("charge", timeout_ms=500), policy("bot-1", max_actions_per_hour=1))
    assert set((await apply(engine, *asked)).values()) == {"update"}
    assert (await tools_of(engine))["charge"].timeout_ms == 500


async def test_a_kill_switch_pulled_by_hand_outlasts_every_apply(engine: EngineClient) -> None:
    await apply(engine, tool("charge"))
    ref = ad.ToolRef(name="charge")
    await engine.ask(engine.tools.ToggleTool, ad.ToggleToolRequest(ref=ref, enabled=False))
    for asked in (tool("charge"), tool("charge", enabled=True), tool("charge", timeout_ms=500)):
        await apply(engine, asked)
        assert not (await tools_of(engine))["charge"].enabled
    await engine.ask(engine.tools.ToggleTool, ad.ToggleToolRequest(ref=ref, enabled=True))
    assert (await apply(engine, tool("charge", timeout_ms=500))) == {"charge": "unchanged"}
    assert (await tools_of(engine))["charge"].enabled


async def test_of_concurrent_applies_of_one_file_each_succeeds_and_one_changes(
    engine: EngineClient, redis_url: str
) -> None:
    asked = [*(tool(f"t{n}", "s3cr3t-s3cr3t") for n in range(5)), *(policy(f"p{n}") for n in range(5))]
    async with running_engine(redis_url) as other:
        results = await asyncio.gather(*(apply(at, *asked) for at in (engine, other) * 4))
    created = collections.Counter(name for result in results for name, done in result.items() if done == "create")
    assert created == dict.fromkeys((*(f"t{n}" for n in range(5)), *(f"p{n}" for n in range(5))), 1)
    assert len({tool.revision for tool in (await tools_of(engine)).values()}) == 1


async def test_concurrent_owners_lose_nothing_of_one_another(engine: EngineClient, redis_url: str) -> None:
    async with running_engine(redis_url) as other:
        for turn in range(5):
            mine = [tool(f"mine-{n}", timeout_ms=1000 + turn) for n in range(3)]
            theirs = [tool(f"theirs-{n}", timeout_ms=2000 + turn) for n in range(3)]
            by_hand = engine.put_tool("by-hand", timeout_ms=3000 + turn)
            await asyncio.gather(apply(engine, *mine), apply(other, *theirs, owner="others"), by_hand)
            found = {name: tool.timeout_ms for name, tool in (await tools_of(engine)).items()}
            assert found == {
                **{f"mine-{n}": 1000 + turn for n in range(3)},
                **{f"theirs-{n}": 2000 + turn for n in range(3)},
                "by-hand": 3000 + turn,
            }


async def test_two_versions_of_a_file_applied_at_once_leave_the_tools_of_one_of_them(
    engine: EngineClient, redis_url: str
) -> None:
    async with running_engine(redis_url) as other:
        for turn in range(10):
            versions = [[tool(f"t{n}", timeout_ms=1000 + 2 * turn + of) for n in range(4)] for of in (0, 1)]
            await asyncio.gather(apply(engine, *versions[0]), apply(other, *versions[1]))
            assert len({tool.timeout_ms for tool in (await tools_of(engine)).values()}) == 1


async def test_what_was_done_before_a_failure_is_told_and_applying_again_finishes_it(
    engine: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (policy("bot-1"), tool("charge"))
    with monkeypatch.context() as failing:
        error = UnavailableError("governance_unavailable", "Redis cannot be reached", effect="none")
        failing.setattr(RedisDirectory, "change_tools", AsyncMock(side_effect=error))
        with pytest.raises(UnavailableError) as failed:
            await apply(engine, *asked)
    assert failed.value.message.startswith("Redis cannot be reached; done before: create policy bot-1; apply again")
    assert not failed.value.had_no_effect
    assert await apply(engine, *asked) == {"bot-1": "unchanged", "charge": "create"}


async def test_of_two_versions_applied_at_once_no_tool_is_left_without_the_policy_that_came_with_it(
    engine: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = (policy("bot-1", blocked_tools=["charge"]), tool("charge"))
    await apply(engine, *guarded)
    reached, goes = asyncio.Event(), asyncio.Event()
    delete_policy = RedisDirectory.delete_policy

    async def late(*of: Any, **how: Any) -> int | None:
        reached.set()
        await goes.wait()
        return await delete_policy(*of, **how)

    monkeypatch.setattr(RedisDirectory, "delete_policy", late)
    nothing = asyncio.create_task(apply(engine))
    await reached.wait()
    await apply(engine, *guarded)
    goes.set()
    await nothing
    left = await engine.ask(engine.policies.ListPolicies, ad.ListPoliciesRequest())
    assert ("charge" in await tools_of(engine)) == bool(left.policies)


async def test_a_tool_that_goes_is_gone_before_the_policy_that_forbade_it_is_changed(
    engine: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await apply(engine, policy("bot-1", blocked_tools=["danger"]), tool("danger"), tool("safe"))
    there: list[set[str]] = []
    put_policy = RedisDirectory.put_policy

    async def watched(*of: Any, **how: Any) -> int:
        there.append({*await tools_of(engine)})
        return await put_policy(*of, **how)

    monkeypatch.setattr(RedisDirectory, "put_policy", watched)
    changed = await apply(engine, policy("bot-1"), tool("safe", timeout_ms=700))
    assert changed == {"bot-1": "update", "safe": "update", "danger": "delete"}
    assert there == [{"safe"}]
