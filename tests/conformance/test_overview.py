"""What is read of many agents at once, on every Redis."""

import asyncio
import dataclasses

import pytest
from redis.asyncio import Redis

from interlock.policy.model import Limits, Outcome, Policy, Scope, Switch
from interlock.policy.ports import Position
from interlock.store.opening import Store
from tests.conformance.reservations import AGENT, decide, execute

OTHER = Scope("acme", "bot-2")
NOBODY = Scope("acme", "nobody")


async def test_agents_stand_as_what_they_did_says(store: Store) -> None:
    await store.directory.put_policy(AGENT, Policy(max_actions_per_hour=9), "{}")
    running, done, lost = [
        await execute(store, call, hold=True, policy_version=1) for call in ("running", "done", "lost")
    ]
    await store.ledger.settle(done, Outcome.SUCCEEDED, None, "", event="settlement", facts="{}")
    await store.ledger.settle(lost, Outcome.AMBIGUOUS, None, "reset", event="settlement", facts="{}")
    await decide(store, "refused", rule_reason="tool_explicitly_blocked", policy_version=1)
    await store.directory.switch_agent(OTHER, Switch(True, "too dear", changed_by="key_1"), "{}")

    first, other, nobody = await store.overview.standings([AGENT, OTHER, NOBODY])
    assert (first.actions_in_hour, first.spend_today_micros, first.blocked_today) == (3, 3_000_000, 1)
    assert (first.running, first.unknown) == (1, 1)
    assert first.policy.policy is not None
    assert first.policy.policy.max_actions_per_hour == 9
    assert 1.5 <= first.actions_per_minute <= 3
    assert first.last_seen_ms == (await store.ledger.latest_events(AGENT, before_seq=None, limit=1))[0].at_ms
    assert other.switch == await store.directory.agent_switch(OTHER)
    assert (other.switch.pulled, other.switch.reason, other.switch.changed_by) == (True, "too dear", "key_1")
    assert dataclasses.replace(nobody, agent_id="") == dataclasses.replace(
        nobody, agent_id="", last_seen_ms=0, actions_in_hour=0, running=0, unknown=0, switch=Switch()
    )
    assert running.call_id != lost.call_id


@pytest.mark.parametrize(("ago", "counted"), [(0, 8), (59, 8), (60, 8), (61, 0)])
async def test_an_idle_agents_hour_is_counted_anew(store: Store, raw: Redis, ago: int, counted: int) -> None:
    seconds, _ = await raw.time()
    then = seconds // 60 - ago
    await raw.hset("il:{acme:bot-1}:minutes", mapping={"at": then, "total": 99 if ago else 8, f"{then}:a": 8})
    (standing,) = await store.overview.standings([AGENT])
    assert standing.actions_in_hour == counted


async def test_a_thousand_agents_are_read_in_a_few_writes(store: Store, raw: Redis) -> None:
    scopes = [Scope("acme", f"a{number}") for number in range(1000)]
    await decide(store, "one", scope=scopes[500], limits=Limits(cost_micros=7))
    before = (await raw.info("commandstats"))["cmdstat_time"]["calls"]
    standings = await store.overview.standings(scopes)
    # A page asks for the time once, and is one write.
    assert (await raw.info("commandstats"))["cmdstat_time"]["calls"] - before == 5
    assert [standing.agent_id for standing in standings] == [scope.agent_id for scope in scopes]
    assert sum(standing.spend_today_micros for standing in standings) == 7


async def test_the_end_of_a_trail_is_found_by_time(store: Store, raw: Redis) -> None:
    for seq in range(1, 251):
        await raw.xadd("il:{acme:bot-1}:audit", {"type": "x"}, id=f"{seq}-{1000 + seq}")
    asked = {1000: 0, 1001: 0, 1002: 1, 1200: 199, 1251: 250, 9999: 250}
    found = {at: (await store.overview.ends([AGENT, NOBODY], at))[AGENT] for at in asked}
    assert {at: position.seq for at, position in found.items()} == asked
    assert found[1200] == Position(199, 1199)
    assert (await store.overview.ends([NOBODY], 5))[NOBODY] == Position()


async def test_news_come_after_a_seq_and_the_last_before_one(store: Store) -> None:
    await asyncio.gather(*(decide(store, f"{number}") for number in range(5)))
    await decide(store, scope=OTHER)
    news = await store.overview.news({AGENT: 2, OTHER: 1, NOBODY: 0}, 2)
    assert {scope: [event.seq for event in events] for scope, events in news.items()} == {AGENT: [3, 4]}
    last = await store.overview.last_of({AGENT: 4, OTHER: 1}, 3)
    assert {scope: [event.seq for event in events] for scope, events in last.items()} == {AGENT: [2, 3, 4], OTHER: [1]}
