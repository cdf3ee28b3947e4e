"""What the directory promises, on every Redis."""

import asyncio
import dataclasses
import json
from datetime import UTC, datetime, timedelta
from importlib import resources

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from interlock.governance.errors import UnavailableError
from interlock.policy.model import (
    ApiKey,
    Dedup,
    Epochs,
    Identity,
    OAuth2,
    Policy,
    PricingRule,
    Role,
    Scope,
    Sealed,
    Switch,
    Tool,
    ToolSecret,
    VersionedPolicy,
)
from interlock.policy.ports import ToolChange
from interlock.store.opening import Store, open_store
from interlock.store.settings import RedisSettings
from tests.conformance.conftest import Silent
from tests.conformance.reservations import AGENT

SEALED = Sealed("m1", "bm9uY2U=", "Y2lwaGVy")
TOOL = Tool(
    name="charge",
    scope_id="global",
    url="https://tools.example/charge",
    methods=("POST", "PUT"),
    dedup=Dedup.HEADER,
    dedup_ignore=("trace",),
    hold=True,
    secrets=(ToolSecret("sec_1", "•••• cret", SEALED), ToolSecret("sec_0", "•••• old", SEALED, 12)),
    upstream_header="X-Key",
    upstream_value=SEALED,
)
KEPT = Tool(name="kept", scope_id="global", url="https://x.example")
KEY = ApiKey(Identity("key_1", "acme", Role.AGENT, "bot-1"), "for tests", 0)


async def test_a_tool_comes_back_as_it_was_put(store: Store) -> None:
    put = await store.directory.put_tool("acme", TOOL, None)
    assert put is not None
    assert put.revision == 1
    snapshot = await store.directory.snapshot("acme")
    assert snapshot.tools == {("global", "charge"): put}
    assert snapshot.epochs == Epochs(0, 1)


async def test_a_tool_with_a_token_comes_back_as_it_was_put(store: Store) -> None:
    oauth2 = OAuth2("https://login.example/token", "client-1", params=(("resource", "r"),), secret=SEALED)
    tool = Tool("charge", "global", "https://tools.example/", upstream_oauth2=oauth2, upstream_mask="••••")
    put = await store.directory.put_tool("acme", tool, None)
    assert (await store.directory.snapshot("acme")).tools == {("global", "charge"): put}


async def test_an_agents_own_tool_hides_the_global_one(store: Store) -> None:
    own = Tool(name="charge", scope_id="agent:bot-1", url="https://own.example")
    await store.directory.put_tool("acme", TOOL, None)
    await store.directory.put_tool("acme", own, None)
    snapshot = await store.directory.snapshot("acme")
    mine, theirs = snapshot.tool_for("bot-1", "charge"), snapshot.tool_for("bot-2", "charge")
    assert mine is not None
    assert theirs is not None
    assert (mine.url, theirs.url) == ("https://own.example", TOOL.url)


async def test_of_concurrent_replacements_one_wins_and_the_others_are_told(store: Store) -> None:
    stored = await store.directory.put_tool("acme", TOOL, None)
    changes = [Tool(name="charge", scope_id="global", url=f"https://{n}.example") for n in range(20)]
    results = await asyncio.gather(*(store.directory.put_tool("acme", change, stored) for change in changes))
    assert sum(result is not None for result in results) == 1


async def test_a_tool_called_revision_is_a_tool_like_any_other(store: Store) -> None:
    odd = Tool(name="revision", scope_id="global", url="https://tools.example")
    await store.directory.put_tool("acme", odd, None)
    assert list((await store.directory.snapshot("acme")).tools) == [("global", "revision")]


async def test_deleting_a_tool_raises_the_epoch_once(store: Store) -> None:
    await store.directory.put_tool("acme", TOOL, None)
    assert await store.directory.delete_tool("acme", "global", "charge")
    assert not await store.directory.delete_tool("acme", "global", "charge")
    assert (await store.directory.epochs("acme"), (await store.directory.snapshot("acme")).tools) == (Epochs(0, 2), {})


async def test_a_policy_comes_back_as_it_was_put_with_a_growing_version(store: Store) -> None:
    policy = Policy(("a*",), ("b",), 1, 2, {"c": 3}, (PricingRule("d", 4),), "alert")
    assert await store.directory.policy(AGENT) == VersionedPolicy(None, 0)
    for version in (1, 2):
        assert await store.directory.put_policy(AGENT, policy, "{}") == version
    assert await store.directory.policy(AGENT) == VersionedPolicy(policy, 2)
    assert (await store.directory.policies([Scope("acme", "other"), AGENT]))[1].policy == policy


async def test_a_policy_changes_only_from_the_version_that_is_named(store: Store) -> None:
    put = store.directory.put_policy
    policies = [Policy(max_actions_per_hour=n) for n in range(20)]
    versions = await asyncio.gather(*(put(AGENT, policy, "{}", replaces=0) for policy in policies))
    assert sorted(versions) == [0] * 19 + [1]
    assert await put(AGENT, policies[0], "{}", managed_by="team", replaces=1) == 2
    assert await put(AGENT, policies[1], "{}") == 3
    assert await store.directory.policy(AGENT) == VersionedPolicy(policies[1], 3, "team")


async def test_a_deleted_policy_is_none_of_a_later_version(store: Store, raw: Redis) -> None:
    directory = store.directory
    assert await directory.delete_policy(AGENT, "{}") == 0
    await directory.put_policy(AGENT, Policy(), "{}", managed_by="team")
    assert await directory.delete_policy(AGENT, "{}", replaces=7) is None
    assert await directory.delete_policy(AGENT, "{}", replaces=1) == 2
    assert await directory.policy(AGENT) == VersionedPolicy(None, 2)
    assert await directory.delete_policy(AGENT, "{}", replaces=2) == 0
    events = await store.ledger.events(AGENT, after_seq=0, limit=10)
    assert [(event.type, event.verdict) for event in events] == [("policy", "SET"), ("policy", "DELETED")]


async def test_tools_change_together_or_not_at_all(store: Store) -> None:
    directory = store.directory
    one, two = (Tool(name=name, scope_id="global", url="https://x.example") for name in ("one", "two"))
    assert await directory.change_tools("acme", [ToolChange(None, one), ToolChange(None, two)]) == 1
    held = (await directory.snapshot("acme")).tools
    first, second = held["global", "one"], held["global", "two"]
    assert (first.revision, second.revision) == (1, 1)
    assert await directory.put_tool("acme", dataclasses.replace(second), second)  # the same again is a change, too
    late = [ToolChange(first, None), ToolChange(second, dataclasses.replace(second, risk="high"))]
    assert await directory.change_tools("acme", late) is None
    held = (await directory.snapshot("acme")).tools
    assert await directory.change_tools("acme", [ToolChange(held["global", "one"], None)]) is not None
    assert [*(await directory.snapshot("acme")).tools] == [("global", "two")]


async def test_a_tool_that_stays_as_it_is_keeps_its_revision_but_is_watched(store: Store) -> None:
    stored = await store.directory.put_tool("acme", TOOL, None)
    other = Tool(name="other", scope_id="global", url="https://x.example")
    assert await store.directory.change_tools("acme", [ToolChange(stored, stored), ToolChange(None, other)]) == 2
    assert (await store.directory.snapshot("acme")).tools["global", "charge"] == stored
    moved = dataclasses.replace(TOOL, revision=7)
    assert await store.directory.change_tools("acme", [ToolChange(moved, moved), ToolChange(None, KEPT)]) is None


async def test_a_tool_that_another_version_wrote_can_be_replaced(store: Store, raw: Redis) -> None:
    """Its text is not what this version would have written: fields are missing, and one is unknown."""
    stored = await store.directory.put_tool("acme", TOOL, None)
    assert stored is not None
    document = json.loads(await raw.hget("il:{acme}:tools", "global|charge"))
    del document["managed_by"], document["disabled_by_file"]
    await raw.hset("il:{acme}:tools", "global|charge", json.dumps(document | {"from_the_future": 1}))
    read = (await store.directory.snapshot("acme")).tools["global", "charge"]
    assert read == stored
    assert await store.directory.put_tool("acme", dataclasses.replace(read, risk="high"), read) is not None


async def test_an_agents_switch_keeps_the_time_of_its_first_pull(store: Store) -> None:
    first = await store.directory.switch_agent(AGENT, Switch(True, "one"), "{}")
    await asyncio.sleep(0.005)
    again = await store.directory.switch_agent(AGENT, Switch(True, "two"), "{}")
    assert (again.changed_at_ms, again.reason) == (first.changed_at_ms, "two")
    assert await store.directory.switch_agent(AGENT, Switch(False), "{}") == Switch()
    assert await store.directory.agent_switch(AGENT) == Switch()


async def test_switches_of_namespace_and_world_raise_their_own_epochs(store: Store) -> None:
    await store.directory.set_switch("acme", Switch(True, "ns"))
    await store.directory.set_switch(None, Switch(True, "all"))
    acme, other = await store.directory.snapshot("acme"), await store.directory.snapshot("other")
    assert (acme.epochs, other.epochs) == (Epochs(1, 1), Epochs(1, 0))
    assert (acme.namespace_switch.reason, other.namespace_switch.pulled) == ("ns", False)
    assert acme.world_switch == other.world_switch


async def test_a_revoked_key_is_known_for_ever_and_never_created_again(store: Store, raw: Redis) -> None:
    sha = "a" * 64
    assert await store.directory.create_key(sha, KEY)
    assert not await store.directory.create_key(sha, KEY)
    revoked = await store.directory.revoke_key("acme", "key_1")
    assert revoked is not None
    assert revoked.revoked_at_ms > 0
    assert not await store.directory.create_key(sha, KEY)
    assert await store.directory.key(sha) == revoked
    assert await store.directory.revoke_key("acme", "key_1") == revoked
    assert await raw.ttl(f"il:key:{sha}") == -1
    assert (await store.directory.epochs("acme")).namespace == 2


async def test_of_50_concurrent_creations_of_a_key_one_counts(store: Store) -> None:
    """As when many engines start with the same bootstrap key."""
    keys = [ApiKey(Identity(f"key_{n}", "acme", Role.ADMIN), "bootstrap", 0) for n in range(50)]
    created = await asyncio.gather(*(store.directory.create_key("b" * 64, key) for key in keys))
    assert sum(created) == 1
    assert len(await store.directory.keys("acme")) == 1


async def test_keys_are_listed_in_their_namespace_only(store: Store) -> None:
    await store.directory.create_key("a" * 64, KEY)
    assert [key.identity for key in await store.directory.keys("acme")] == [KEY.identity]
    assert await store.directory.keys("other") == []
    assert await store.directory.revoke_key("other", "key_1") is None


async def test_a_redis_that_may_evict_is_refused(store: Store, raw: Redis) -> None:
    assert await store.directory.check() == ""
    await raw.config_set("maxmemory-policy", "allkeys-lru")
    assert "noeviction" in await store.directory.check()


async def test_a_redis_that_is_full_is_unavailable_and_decides_nothing(store: Store, raw: Redis) -> None:
    if isinstance(raw, RedisCluster):
        pytest.skip("this fills one Redis, and not each node of a cluster")
    used = (await raw.info("memory"))["used_memory"]
    await raw.config_set("maxmemory", used // 2)
    try:
        with pytest.raises(UnavailableError):
            await store.directory.set_switch("acme", Switch(True))
    finally:
        await raw.config_set("maxmemory", 0)
    assert (await store.directory.epochs("acme")) == Epochs()


async def test_scripts_are_loaded_again_after_redis_forgot_them(store: Store, raw: Redis) -> None:
    await store.directory.set_switch("acme", Switch(True))
    await raw.script_flush()
    await store.directory.set_switch("acme", Switch(False))
    assert (await store.directory.epochs("acme")).namespace == 2


async def test_a_redis_that_is_not_there_is_unavailable() -> None:
    async with open_store(RedisSettings(url="unix:///nowhere/redis.sock"), Silent()) as store:
        with pytest.raises(UnavailableError):
            await store.directory.epochs("acme")


async def test_the_month_of_a_time_is_that_of_the_calendar(raw: Redis) -> None:
    source = (resources.files("interlock.store") / "lua" / "include" / "month.lua").read_text()
    days = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(0, 60_000, 7)]
    edges = [datetime(year, month, 1, tzinfo=UTC) for year in (2000, 2024, 2026, 2100) for month in range(1, 13)]
    times = [*days, *edges, *(edge - timedelta(milliseconds=1) for edge in edges)]
    asked = [int(time.timestamp() * 1000) for time in times]
    script = (
        source + "\nlocal told = {}\nfor i, at in ipairs(ARGV) do told[i] = month_of(tonumber(at)) end\nreturn told"
    )
    told = [month for at in range(0, len(asked), 500) for month in await raw.eval(script, 0, *asked[at : at + 500])]
    assert [month.decode() for month in told] == [time.strftime("%Y-%m") for time in times]
