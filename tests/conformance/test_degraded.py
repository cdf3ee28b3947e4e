"""Calls that went through unjudged, on record: counted once, charged once, and their keys settled if that is sound."""

import asyncio
import dataclasses
import hashlib
import secrets
from typing import Any

import pytest
from redis.asyncio import Redis

from interlock.governance.errors import ConflictError
from interlock.governance.ids import new_id
from interlock.policy.model import Answer, Limits, Outcome
from interlock.policy.ports import DegradedCall, RecordedCall
from interlock.store.opening import Store
from tests.conformance.reservations import AGENT, decide, execute, reservation

ANSWER = Answer(status=200, head=b"\x00head", body=b"\xff\x00body", kept=True, size=6, digest=b"\x01" * 32)
PRICE = 1_000_000
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def degraded(call: str = "one", **changes: Any) -> DegradedCall:
    """The call of that name, as `reservation` makes it."""
    digest = hashlib.sha256(call.encode()).hexdigest()
    made = DegradedCall(
        scope=AGENT,
        attempt_id=secrets.token_hex(8),
        call_id=new_id("call"),
        key=digest,
        fingerprint=digest,
        tool="charge",
        outcome=Outcome.SUCCEEDED,
        cost_micros=PRICE,
        fence=1,
        repeatable=True,
        ttl_ms=60_000,
        age_ms=0,
        reason="governance_unavailable",
        failure="",
        answer=ANSWER,
        facts='{"outcome":"SUCCEEDED"}',
    )
    return dataclasses.replace(made, **changes)


async def account(store: Store) -> tuple[int, int]:
    """Actions and micro-USD, as the figures say; the trail must say the same of the money."""
    figures = await store.ledger.figures(AGENT, "week")
    events = await store.ledger.events(AGENT, after_seq=0, limit=1000)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert sum(event.charged_micros for event in events) == figures.spend_micros
    return figures.actions, figures.spend_micros


async def recorded(store: Store) -> int:
    return len(
        [event for event in await store.ledger.events(AGENT, after_seq=0, limit=1000) if event.type == "degraded"]
    )


async def test_told_a_hundred_times_at_once_it_is_recorded_and_charged_once(store: Store) -> None:
    call = degraded()
    taken = await asyncio.gather(*(store.ledger.record_degraded(call) for _ in range(100)))
    assert sorted(t.recorded for t in taken) == [False] * 99 + [True]
    assert await account(store) == (1, PRICE)
    assert await recorded(store) == 1
    [event] = await store.ledger.events(AGENT, after_seq=0, limit=9)
    assert (event.type, event.verdict, event.reason) == ("degraded", "EXECUTE", "governance_unavailable")
    assert (event.call_id, event.facts) == (call.call_id, {"outcome": "SUCCEEDED"})


async def test_a_success_is_replayed_to_whoever_comes_with_its_key(store: Store, raw: Redis) -> None:
    call = degraded()
    await store.ledger.record_degraded(call)
    replay = await decide(store)
    assert (replay.verdict, replay.answer, replay.call_id) == ("REPLAY", ANSWER, call.call_id)
    assert (await decide(store, fingerprint="f" * 64)).verdict == "MISMATCH"
    assert await account(store) == (1, PRICE)
    base = "il:{acme:bot-1}:"
    for name, ttl_ms in (
        (f"call:{call.key}", 60_000),
        (f"id:{call.call_id}", 60_000 + 7 * DAY_MS),
        (f"degraded:{call.attempt_id}", 31 * DAY_MS),
    ):
        assert ttl_ms - 20_000 < await raw.pttl(base + name) <= ttl_ms, name


@pytest.mark.parametrize(
    ("outcome", "left"),
    [(Outcome.REJECTED, (1, 0)), (Outcome.NOT_SENT, (0, 0)), (Outcome.AMBIGUOUS, (1, PRICE))],
)
async def test_what_did_not_succeed_may_be_tried_again_and_costs_what_it_always_does(
    store: Store, outcome: Outcome, left: tuple[int, int]
) -> None:
    await store.ledger.record_degraded(degraded(outcome=outcome, answer=None))
    assert await account(store) == left
    assert (await decide(store)).verdict == "EXECUTE"
    # Spend is charged once a key, also if its first try went through unjudged.
    assert await account(store) == (left[0] + 1, PRICE)


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("repeatable", [True, False])
async def test_what_its_own_attempt_reserved_unheard_is_its_own_and_not_charged_again(
    store: Store, outcome: Outcome, repeatable: bool
) -> None:
    asked = reservation(repeatable=repeatable)
    await store.ledger.authorize(asked)
    call = degraded(attempt_id=asked.attempt_id, outcome=outcome, answer=None, repeatable=repeatable)
    await store.ledger.record_degraded(call)
    expected = {
        Outcome.SUCCEEDED: (1, PRICE),
        Outcome.AMBIGUOUS: (1, PRICE),
        Outcome.REJECTED: (1, 0),
        Outcome.NOT_SENT: (0, 0),
    }[outcome]
    assert await account(store) == expected
    assert await store.ledger.open_calls(AGENT) == []
    # Giving the attempt up afterwards, as its sidecar does, takes nothing back.
    await store.ledger.abandon(AGENT, asked.attempt_id)
    assert await account(store) == expected


@pytest.mark.parametrize("abandoned_first", [True, False])
async def test_an_authorize_that_comes_late_reserves_nothing(store: Store, abandoned_first: bool) -> None:
    asked = reservation()
    if abandoned_first:
        await store.ledger.abandon(AGENT, asked.attempt_id)
    await store.ledger.record_degraded(degraded(attempt_id=asked.attempt_id))
    with pytest.raises(ConflictError):
        await store.ledger.authorize(asked)
    assert await account(store) == (1, PRICE)


async def test_a_reservation_given_up_before_is_charged_by_the_record(store: Store) -> None:
    asked = reservation()
    await store.ledger.authorize(asked)
    await store.ledger.abandon(AGENT, asked.attempt_id)
    assert await account(store) == (0, 0)
    await store.ledger.record_degraded(degraded(attempt_id=asked.attempt_id))
    assert await account(store) == (1, PRICE)
    assert (await decide(store)).verdict == "REPLAY"


async def test_a_call_that_runs_elsewhere_under_its_key_is_left_alone(store: Store) -> None:
    running = await execute(store)
    await store.ledger.record_degraded(degraded())
    assert (await decide(store)).verdict == "IN_FLIGHT"
    settled = await store.ledger.settle(running, Outcome.SUCCEEDED, ANSWER, "", event="settlement", facts="{}")
    assert settled.applied
    assert (await decide(store)).call_id == running.call_id
    # It went to the tool twice, and so counts twice; the money is charged once a key.
    assert await account(store) == (2, PRICE)


@pytest.mark.parametrize(("outcome", "actions"), [(Outcome.NOT_SENT, 1), (Outcome.REJECTED, 2)])
@pytest.mark.parametrize("cost", [PRICE // 2, PRICE, 2 * PRICE])
async def test_if_that_comes_to_nothing_the_money_of_the_one_that_went_through_stays(
    store: Store, outcome: Outcome, actions: int, cost: int
) -> None:
    running = await execute(store)
    await store.ledger.record_degraded(degraded(cost_micros=cost))
    assert await account(store) == (2, max(cost, PRICE))
    await store.ledger.settle(running, outcome, None, "", event="settlement", facts="{}")
    assert await account(store) == (actions, cost)
    # A retry is another action, and no second charge.
    assert (await decide(store)).verdict == "EXECUTE"
    assert await account(store) == (actions + 1, max(cost, PRICE))


async def test_one_whose_lease_ran_out_is_settled_by_it_and_its_own_late_word_changes_nothing(
    store: Store, raw: Redis
) -> None:
    dead = await execute(store)
    await raw.hset("il:{acme:bot-1}:call:" + dead.key, "lease_until", "1")
    await store.ledger.record_degraded(degraded())
    assert (await decide(store)).verdict == "REPLAY"
    late = await store.ledger.settle(dead, Outcome.AMBIGUOUS, None, "late", event="settlement", facts="{}")
    assert not late.applied
    assert await account(store) == (2, PRICE)


async def test_a_call_that_must_not_be_repeated_is_not_settled_by_it(store: Store) -> None:
    held = await execute(store, hold=True)
    await store.ledger.settle(held, Outcome.AMBIGUOUS, None, "", event="settlement", facts="{}")
    await store.ledger.record_degraded(degraded())
    assert (await decide(store, hold=True)).verdict == "UNKNOWN"


async def test_a_key_used_for_another_call_stays_with_that_call(store: Store) -> None:
    first = await execute(store)
    await store.ledger.settle(first, Outcome.SUCCEEDED, ANSWER, "", event="settlement", facts="{}")
    await store.ledger.record_degraded(degraded(fingerprint="f" * 64, answer=None))
    assert (await decide(store)).call_id == first.call_id
    assert await account(store) == (2, 2 * PRICE)


async def test_what_is_not_deduplicated_leaves_an_event_and_its_cost_alone(store: Store, raw: Redis) -> None:
    call = degraded(repeatable=False)
    assert await store.ledger.record_degraded(call) == RecordedCall(True, PRICE)
    assert not await raw.exists("il:{acme:bot-1}:call:" + call.key)
    assert await account(store) == (1, PRICE)


async def test_it_counts_in_the_windows_of_its_own_time(store: Store) -> None:
    await store.ledger.record_degraded(degraded(age_ms=2 * HOUR_MS))
    hour, day = [await store.ledger.figures(AGENT, period) for period in ("hour", "day")]
    assert (hour.actions, day.actions, day.spend_micros) == (0, 1, PRICE)
    # An hour's limit of one is still whole.
    assert (await decide(store, "another", limits=Limits(PRICE, actions_per_hour=1))).verdict == "EXECUTE"


async def test_fences_go_on_growing_behind_it(store: Store) -> None:
    ahead = 10**15
    await store.ledger.record_degraded(degraded(fence=ahead, outcome=Outcome.AMBIGUOUS))
    permit = await execute(store)
    assert 0 < permit.fence < ahead
    assert (await execute(store, "another")).fence > permit.fence
