"""Calls that must not be repeated, looked after: who gets which, when, and whose word holds."""

import asyncio
from collections import Counter

import pytest
from redis.asyncio import Redis

from interlock.policy.model import Answer, Outcome, Permit, Scope
from interlock.store import keys
from interlock.store.opening import Store
from tests.conformance.reservations import AGENT, decide, execute
from tests.conformance.test_ledger import let_lease_run_out, settle

HELD, UNKNOWN = keys.held()
PRICE = 1_000_000
CLAIM_MS = 60_000
ANSWER = Answer(status=200, body=b"done", size=4)


async def resolve(store: Store, permit: Permit, outcome: Outcome) -> bool:
    settled = await store.ledger.settle(permit, outcome, None, "resolved", event="resolution", facts="{}")
    return settled.applied


async def make_due(raw: Redis) -> None:
    for member in await raw.zrange(HELD, 0, -1):
        await raw.zadd(HELD, {member: 1})


async def test_a_call_that_must_not_be_repeated_is_looked_after_from_its_reservation_on(
    store: Store, raw: Redis
) -> None:
    await execute(store, "another")
    assert await raw.exists(HELD) == 0
    permit = await execute(store, hold=True, facts='{"args_hash":"ab"}', lease_ms=2_000)
    [(member, due_ms)] = await raw.zrange(HELD, 0, -1, withscores=True)
    assert member.decode() == f"acme:bot-1:{permit.key}"
    # When its lease and the longest try begun under it are over.
    assert 3_000 < due_ms - (await raw.time())[0] * 1000 < 6_000
    assert (await store.held.take(10, CLAIM_MS)).calls == ()
    await make_due(raw)
    taken = await store.held.take(10, CLAIM_MS)
    [call] = taken.calls
    assert (call.permit.call_id, call.permit.fence, call.permit.attempt_id) == (
        permit.call_id,
        permit.fence,
        permit.attempt_id,
    )
    assert (call.unknown, call.tries, call.facts, call.left) == (False, 1, '{"args_hash":"ab"}', False)
    assert -2_000 <= call.lease_over_ms < 0
    assert (taken.unknown, taken.over) == (0, ())


async def test_of_twenty_who_look_at_once_one_gets_each_call(store: Store, raw: Redis) -> None:
    for n in range(30):
        await execute(store, f"call {n}", hold=True)
    await make_due(raw)
    taken = await asyncio.gather(*(store.held.take(7, CLAIM_MS) for _ in range(20)))
    found = Counter(call.permit.call_id for each in taken for call in each.calls)
    assert len(found) == 30
    assert set(found.values()) == {1}
    assert max(len(each.calls) for each in taken) <= 7


async def test_who_dies_in_looking_leaves_the_call_to_the_next_when_the_claim_is_over(store: Store, raw: Redis) -> None:
    await execute(store, hold=True)
    await make_due(raw)
    assert len((await store.held.take(10, 500)).calls) == 1
    assert (await store.held.take(10, 500)).calls == ()
    async with asyncio.timeout(10):
        while not (await store.held.take(10, 500)).calls:  # noqa: ASYNC110 - nothing tells when a claim is over
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.REJECTED, Outcome.NOT_SENT])
async def test_what_is_settled_needs_no_looking_after(store: Store, raw: Redis, outcome: Outcome) -> None:
    permit = await execute(store, hold=True)
    await settle(store, permit, outcome, ANSWER)
    await make_due(raw)
    taken = await store.held.take(10, CLAIM_MS)
    assert taken.calls == ()
    assert taken.over == ((AGENT, permit.key),)
    await store.held.forget(taken.over)
    assert await raw.exists(HELD, UNKNOWN) == 0


async def test_a_lease_is_taken_for_over_only_when_the_patience_is_too_and_then_for_good(
    store: Store, raw: Redis
) -> None:
    permit = await execute(store, hold=True, lease_ms=60_000)
    assert not await store.held.hold(permit, 0)
    await raw.hset("il:{acme:bot-1}:call:" + permit.key, "lease_until", (await raw.time())[0] * 1000 - 5_000)
    assert not await store.held.hold(permit, 30_000)
    # The sidecar lives, and prolongs it.
    assert (await store.ledger.renew(permit, 60_000)).word == "RENEWED"
    await let_lease_run_out(raw, permit)
    assert await store.held.hold(permit, 30_000)
    assert await store.held.hold(permit, 30_000)
    assert (await store.ledger.renew(permit, 60_000)).word == "LOST"
    assert (await decide(store, hold=True)).verdict == "UNKNOWN"


async def test_one_that_is_settled_or_may_be_repeated_is_not_made_unknown(store: Store, raw: Redis) -> None:
    repeatable = await execute(store, "repeatable")
    settled = await execute(store, "settled", hold=True)
    await settle(store, settled, Outcome.SUCCEEDED, ANSWER)
    for permit in (repeatable, settled):
        await let_lease_run_out(raw, permit)
        assert not await store.held.hold(permit, 0)


async def test_that_nobody_is_asked_any_more_is_said_once_and_stays_an_operators(store: Store) -> None:
    permit = await execute(store, hold=True)
    await settle(store, permit, Outcome.AMBIGUOUS)
    said = await asyncio.gather(*(store.held.leave(permit, "reconcile_deadline_passed", "{}") for _ in range(20)))
    assert sorted(said) == [False] * 19 + [True]
    events = await store.ledger.events(AGENT, after_seq=0, limit=10)
    assert [(event.type, event.verdict, event.reason) for event in events[2:]] == [
        ("reconciliation", "UNKNOWN", "reconcile_deadline_passed")
    ]
    assert await resolve(store, permit, Outcome.NOT_SENT)
    # A later call under the key has a deadline of its own.
    again = await execute(store, hold=True)
    await settle(store, again, Outcome.AMBIGUOUS)
    assert await store.held.leave(again, "reconcile_deadline_passed", "{}")


async def test_a_retry_brings_a_call_back_that_was_held_before_anybody_looked_after_it(
    store: Store, raw: Redis
) -> None:
    """As one held by a version that had no index."""
    permit = await execute(store, hold=True)
    await settle(store, permit, Outcome.AMBIGUOUS)
    await raw.delete(HELD)
    await raw.hdel("il:{acme:bot-1}:call:" + permit.key, "facts")
    assert (await decide(store, hold=True)).verdict == "UNKNOWN"
    await make_due(raw)
    [call] = (await store.held.take(10, CLAIM_MS)).calls
    assert (call.permit.call_id, call.unknown, call.facts) == (permit.call_id, True, "")


async def test_a_resolved_call_is_out_of_the_index_at_once(store: Store, raw: Redis) -> None:
    permit = await execute(store, hold=True)
    await settle(store, permit, Outcome.AMBIGUOUS)
    await store.held.schedule(AGENT, permit.key, 60_000, unknown=True)
    assert (await store.held.take(10, CLAIM_MS)).unknown == 1
    await resolve(store, permit, Outcome.SUCCEEDED)
    assert await raw.exists(HELD, UNKNOWN) == 0


@pytest.mark.parametrize("left_unknown", [True, False], ids=["settled as unknown", "its lease ran out"])
async def test_of_a_late_settlement_and_the_tools_word_one_holds_and_the_money_is_exact(
    store: Store, raw: Redis, left_unknown: bool
) -> None:
    wins: Counter[str] = Counter()
    spent = actions = 0
    for n in range(40):
        permit = await execute(store, f"call {n}", hold=True)
        if left_unknown:
            await settle(store, permit, Outcome.AMBIGUOUS)
        else:
            await let_lease_run_out(raw, permit)
            assert await store.held.hold(permit, 0)
        said = Outcome.NOT_SENT if n % 2 else Outcome.SUCCEEDED
        late = Outcome.SUCCEEDED if n % 2 else Outcome.REJECTED
        both = [settle(store, permit, late, ANSWER), resolve(store, permit, said)]
        if n % 4 < 2:
            both.reverse()
        results = await asyncio.gather(*both)
        applied = [bool(getattr(result, "applied", result)) for result in results]
        assert applied.count(True) == 1
        if n % 4 < 2:
            applied.reverse()
        holds = late if applied[0] else said
        wins["late" if applied[0] else "said"] += 1
        spent += PRICE if holds is Outcome.SUCCEEDED else 0
        actions += 0 if holds is Outcome.NOT_SENT else 1
    figures = await store.ledger.figures(AGENT, "day")
    assert (figures.actions, figures.spend_micros) == (actions, spent)
    events = await store.ledger.events(AGENT, after_seq=0, limit=1000)
    assert sum(event.charged_micros for event in events) == spent
    assert len([event for event in events if event.type == "stale_settlement"]) == 40
    assert wins["late"] == wins["said"] == 20


def test_an_agents_name_may_hold_colons() -> None:
    scope = Scope("acme", "team:a:b")
    assert keys.held_call(keys.held_member(scope, "ab" * 32)) == (scope, "ab" * 32)
