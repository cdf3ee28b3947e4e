"""What agents did, day by day, on every Redis."""

import asyncio
from collections import Counter

from redis.asyncio import Redis

from interlock.policy.figures_ports import DayFigures
from interlock.policy.model import Outcome, Scope
from interlock.policy.ports import Decided, Reservation
from interlock.store.opening import Store
from tests.conformance.reservations import AGENT, decide, execute, reservation

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


async def test_what_is_withdrawn_is_not_counted_however_it_was_decided_and_withdrawn(store: Store, raw: Redis) -> None:
    done = await execute(store, "done")
    await store.ledger.settle(done, Outcome.SUCCEEDED, None, "", event="settlement", facts="{}")
    await execute(store, "running")
    asked = [
        *(reservation("done") for _ in range(20)),
        *(reservation("refused", rule_reason="tool_disabled") for _ in range(30)),
        *(reservation("running") for _ in range(3)),
        *(reservation("running", will_wait=True) for _ in range(5)),
        *(reservation("done", fingerprint="of another call") for _ in range(4)),
        *(reservation(f"let through {n}") for n in range(6)),
    ]

    async def decided_and_withdrawn(one: Reservation) -> str:
        decided = await store.ledger.authorize(one)
        assert isinstance(decided, Decided)
        await asyncio.gather(*(store.ledger.withdraw(one, decided.decision) for _ in range(2)))
        return decided.decision.verdict

    verdicts = await asyncio.gather(*(decided_and_withdrawn(one) for one in asked))
    assert Counter(verdicts) == {"REPLAY": 20, "BLOCKED": 30, "IN_FLIGHT": 8, "MISMATCH": 4, "EXECUTE": 6}
    [row] = [row for row in await store.figures.days([AGENT], await today(raw), await today(raw)) if row.actions]
    assert (row.actions, row.blocked, row.replayed, row.spend_micros) == (2, 0, 0, 2_000_000)
    for part in ("minutes", "hours", "days"):
        counts = await raw.hgetall(f"il:{{acme:bot-1}}:{part}")
        kinds = {name: int(count) for name, count in counts.items() if name.endswith((b":b", b":r", b":d"))}
        assert set(kinds.values()) <= {0}, part


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
