"""What agents did, day by day, on every Redis."""

import asyncio

from redis.asyncio import Redis

from interlock.policy.figures_ports import DayFigures
from interlock.policy.model import Outcome, Scope
from interlock.store.opening import Store
from tests.conformance.reservations import AGENT, decide, execute

OTHER = Scope("acme", "bot-2")
DAY_S = 86_400


async def today(raw: Redis) -> int:
    return int((await raw.time())[0]) // DAY_S


async def test_a_day_is_counted_exactly_over_agents_and_crowds(store: Store, raw: Redis) -> None:
    day = await today(raw)

    async def call(number: int, scope: Scope) -> None:
        permit = await execute(store, f"{number}", scope=scope)
        await store.ledger.settle(permit, Outcome.SUCCEEDED, None, "", event="settlement", facts="{}")
        await asyncio.gather(*(decide(store, f"{number}", scope=scope) for _ in range(2)))

    assert (await store.figures.days([AGENT], day, day))[0].actions == 0
    await asyncio.gather(*(call(number, scope) for number in range(30) for scope in (AGENT, OTHER)))
    await asyncio.gather(*(decide(store, "no", rule_reason="tool_disabled", scope=OTHER) for _ in range(40)))
    unsent = await execute(store, "unsent")
    await store.ledger.settle(unsent, Outcome.NOT_SENT, None, "x", event="settlement", facts="{}")
    assert [row for row in await store.figures.days([AGENT, OTHER], day, day) if row.day == day] == [
        DayFigures(day, actions=60, blocked=40, replayed=120, spend_micros=60_000_000)
    ]
    assert (await store.figures.days([OTHER], day, day))[0].actions == 30


async def test_there_is_a_row_for_each_day_that_is_known_and_asked_for(store: Store, raw: Redis) -> None:
    day = await today(raw)
    for ago in range(12):
        await raw.hset("il:{acme:bot-1}:days", mapping={f"{day - ago}:a": ago + 1, f"{day - ago}:s": 5})
    rows = await store.figures.days([AGENT], day - 30, day + 30)
    assert [(row.day, row.actions, row.spend_micros) for row in rows] == [
        (day - ago, ago + 1, 5) for ago in reversed(range(8))
    ]
    assert [row.day for row in await store.figures.days([AGENT], day - 3, day - 2)] == [day - 3, day - 2]
    assert await store.figures.days([AGENT], day - 30, day - 9) == []
    assert [row.actions for row in await store.figures.days([OTHER], day, day)] == [0]
