"""Locks and leases on every Redis: who gets a key, for how long, and what it costs."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from redis.asyncio import Redis

from interlock.governance.ids import new_id
from interlock.policy.lock_ports import (
    AcquiredWord,
    Completion,
    Grounds,
    Held,
    LeaseStatus,
    Wanted,
)
from interlock.policy.locking import named
from interlock.policy.model import Scope
from interlock.store import keys
from interlock.store.opening import Store

OWNER = Scope("acme", "bot-1")
FIT = 37
MINUTE_MS = 60_000
USAGE = keys.of_namespace("acme", "usage")


def wanted(key: str = "job", *, owner: Scope = OWNER, reason: str = "", epoch: int = 0, **changes: Any) -> Wanted:
    fields: dict[str, Any] = {"token": new_id("lease"), "attempt_id": "", "ttl_ms": MINUTE_MS, "limit": -1}
    return Wanted(named=named(owner, key), grounds=Grounds(epoch, reason), **(fields | changes))


def held(word: AcquiredWord, key: str = "job", *, version: int | None = None, epoch: int = 0) -> Held:
    return Held(named(OWNER, key), epoch, word.lease_id, version)


def result(text: str = "1") -> Completion:
    return Completion(b'{"value":%b}' % text.encode(), "hash", f"proof of {text}")


async def run_out(raw: Redis, key: str = "job") -> None:
    """Its time is over."""
    await raw.hset(keys.of_namespace("acme", "lease", named(OWNER, key).digest), "expires_at_ms", 1)


async def month_of(store: Store) -> str:
    return (await store.accounts.month("acme")).month


async def test_of_1000_callers_at_once_one_locks_the_key(store: Store) -> None:
    words = await asyncio.gather(*(store.locks.check(wanted()) for _ in range(1000)))
    assert Counter(word.word for word in words) == {"LOCKED": 1, "DUPLICATE": 999}
    assert len({word.first_seen_at_ms for word in words}) == 1
    assert {word.ttl_ms for word in words} == {MINUTE_MS}


async def test_a_lock_is_free_again_when_its_time_is_over(store: Store) -> None:
    assert (await store.locks.check(wanted(ttl_ms=1))).word == "LOCKED"
    await asyncio.sleep(0.05)
    assert (await store.locks.check(wanted())).word == "LOCKED"


async def test_a_lock_and_a_lease_of_a_key_and_those_of_other_owners_are_different_things(store: Store) -> None:
    for owner in (OWNER, Scope("acme", "bot-2"), Scope("acme", ""), Scope("umbrella", "bot-1")):
        assert (await store.locks.check(wanted(owner=owner))).word == "LOCKED"
        assert (await store.locks.acquire(wanted(owner=owner))).word == "ACQUIRED"


async def test_who_asks_for_a_lock_again_with_the_same_attempt_or_token_has_it_still_and_pays_once(
    store: Store, raw: Redis
) -> None:
    first = wanted(attempt_id="attempt-1")
    again = (first, first, wanted(attempt_id="attempt-1"))
    assert [(await store.locks.check(one)).word for one in again] == ["LOCKED"] * 3
    assert (await store.locks.check(wanted(attempt_id="attempt-2"))).word == "DUPLICATE"
    assert await raw.hget(USAGE, f"make:{await month_of(store)}") == b"1"


@pytest.mark.parametrize("kind", ["check", "acquire"])
async def test_of_300_at_once_exactly_as_many_are_charged_as_the_month_allows(
    store: Store, raw: Redis, kind: str
) -> None:
    ask = store.locks.check if kind == "check" else store.locks.acquire
    words = await asyncio.gather(*(ask(wanted(f"key {n}", limit=FIT)) for n in range(300)))
    granted = "LOCKED" if kind == "check" else "ACQUIRED"
    assert Counter(word.word for word in words) == {granted: FIT, "EXHAUSTED": 300 - FIT}
    month = await month_of(store)
    name, of = ("make", "make") if kind == "check" else ("leases", "ai")
    counts = await raw.hmget(USAGE, f"{name}:{month}", f"requests:{of}:{month}", f"blocked:{of}:{month}")
    assert [int(count) for count in counts] == [FIT, 300, 300 - FIT]
    assert max(word.used for word in words) == FIT


async def test_leases_and_calls_share_the_runs_of_a_plan_that_limits_them(store: Store) -> None:
    await store.quotas.reserve_run(OWNER, "attempt", 2)
    assert (await store.locks.acquire(wanted("one", limit=2))).used == 2
    assert (await store.locks.acquire(wanted("two", limit=2))).word == "EXHAUSTED"
    assert not (await store.quotas.reserve_run(OWNER, "another", 2)).granted
    assert (await store.accounts.month("acme")).reserved == 2


async def test_the_month_and_the_12_before_it_are_kept(store: Store, raw: Redis) -> None:
    month = await month_of(store)
    year, rest = int(month[:4]), month[4:]
    kept, old = f"{year - 1}{rest}", f"{year - 2}{rest}"
    for name in ("", "make:", "requests:ai:"):
        await raw.hset(USAGE, mapping={f"{name}{kept}": 5, f"{name}{old}": 5})
    await store.locks.check(wanted())
    await store.quotas.reserve_run(OWNER, "attempt", 10)
    names = {name.decode() for name in await raw.hkeys(USAGE)}
    assert {kept, f"make:{kept}", f"requests:ai:{kept}", month, f"make:{month}"} <= names
    assert not [name for name in names if name.endswith(old)]


async def test_of_1000_callers_at_once_one_has_the_lease_and_all_others_poll(store: Store, raw: Redis) -> None:
    words = await asyncio.gather(*(store.locks.acquire(wanted()) for _ in range(1000)))
    assert Counter((word.word, bool(word.lease_id), word.charged) for word in words) == {
        ("ACQUIRED", True, 1): 1,
        ("POLLING", False, 0): 999,
    }
    month = await month_of(store)
    counts = await raw.hmget(USAGE, f"leases:{month}", f"requests:ai:{month}", f"polling:{month}")
    assert [int(count) for count in counts] == [1, 1000, 999]


async def test_of_1000_who_wait_for_a_lease_that_ran_out_one_takes_it_over(store: Store, raw: Redis) -> None:
    first = await store.locks.acquire(wanted())
    await run_out(raw)
    words = await asyncio.gather(*(store.locks.acquire(wanted()) for _ in range(1000)))
    (taken,) = [word for word in words if word.word == "ACQUIRED"]
    assert taken.took_over
    assert taken.lease is not None
    assert taken.lease.version == 2
    late = await store.locks.complete(held(first), result())
    assert (late.word, late.lease and late.lease.status) == ("LOST", LeaseStatus.IN_PROGRESS)
    assert (await store.locks.complete(held(taken), result())).word == "DONE"


async def test_who_asks_for_a_lease_again_with_the_same_attempt_or_token_gets_it_again(
    store: Store, raw: Redis
) -> None:
    first = wanted(attempt_id="attempt-1")
    words = [await store.locks.acquire(one) for one in (first, first, wanted(attempt_id="attempt-1"))]
    assert {(word.word, word.lease_id, word.charged) for word in words} == {("ACQUIRED", first.token, 1)}
    assert await raw.hget(USAGE, f"leases:{await month_of(store)}") == b"1"
    await run_out(raw)
    again = await store.locks.acquire(wanted(attempt_id="attempt-1"))
    assert (again.word, again.lease and again.lease.version) == ("ACQUIRED", 2)
    assert again.lease_id != first.token


async def test_a_run_is_not_leased_by_the_attempt_that_began_it(store: Store, raw: Redis) -> None:
    begun = await store.locks.acquire(wanted(attempt_id="attempt-1"))
    await raw.hset(keys.of_namespace("acme", "lease", named(OWNER, "job").digest), "kind", "run")
    again = await store.locks.acquire(wanted(attempt_id="attempt-1"))
    assert (begun.word, again.word, again.lease_id) == ("ACQUIRED", "POLLING", "")


async def test_nobody_settles_or_extends_a_lease_with_another_id_or_version(store: Store, raw: Redis) -> None:
    word = await store.locks.acquire(wanted())
    at = keys.of_namespace("acme", "lease", named(OWNER, "job").digest)
    before = await raw.hgetall(at)
    stranger = Held(named(OWNER, "job"), 0, new_id("lease"), None)
    for wrong in (stranger, held(word, version=2)):
        said = [
            await store.locks.complete(wrong, result()),
            await store.locks.fail(wrong, "bad", ""),
            await store.locks.cancel(wrong, ""),
            await store.locks.extend(wrong, "", 1, MINUTE_MS),
        ]
        assert {one.word for one in said} == {"LOST"}
    assert await raw.hgetall(at) == before
    assert (await store.locks.complete(held(word, version=1), result())).word == "DONE"


async def test_a_lease_that_ran_out_is_not_its_holders_even_if_nobody_took_it(store: Store, raw: Redis) -> None:
    word = await store.locks.acquire(wanted())
    await run_out(raw)
    assert (await store.locks.extend(held(word), "", MINUTE_MS, MINUTE_MS)).word == "LOST"
    assert (await store.locks.complete(held(word), result())).word == "LOST"
    shown = await store.locks.show(named(OWNER, "job"), with_result=False)
    assert shown.lease is not None
    assert (shown.lease.status, shown.lease.left_ms) == (LeaseStatus.EXPIRED, 0)


async def test_completing_twice_with_the_same_result_is_once_and_with_another_is_refused(store: Store) -> None:
    word = await store.locks.acquire(wanted())
    said = await asyncio.gather(*(store.locks.complete(held(word), result(str(n % 2))) for n in range(100)))
    assert Counter(one.word for one in said) == {"DONE": 50, "SETTLED": 50}
    assert (await store.locks.fail(held(word), "bad", "")).word == "SETTLED"
    shown = await store.locks.show(named(OWNER, "job"), with_result=True)
    assert shown.result == result("0").result
    assert (await store.locks.acquire(wanted())).word == "OVER"


async def test_what_failed_is_over_and_what_was_cancelled_is_free(store: Store) -> None:
    failed = await store.locks.acquire(wanted("one"))
    for _ in range(2):
        assert (await store.locks.fail(held(failed, "one"), "bad", "")).word == "DONE"
    assert (await store.locks.fail(held(failed, "one"), "worse", "")).word == "SETTLED"
    over = await store.locks.acquire(wanted("one"))
    assert (over.word, over.lease and over.lease.error_code) == ("OVER", "bad")
    given_up = await store.locks.acquire(wanted("two"))
    assert (await store.locks.cancel(held(given_up, "two"), "no")).word == "DONE"
    again = await store.locks.acquire(wanted("two"))
    assert (again.word, again.lease and again.lease.version, again.took_over) == ("ACQUIRED", 2, False)


async def test_settled_leases_are_known_for_7_days_and_those_in_progress_7_longer_than_they_hold(
    store: Store, raw: Redis
) -> None:
    week = 7 * 86_400_000
    word = await store.locks.acquire(wanted())
    at = keys.of_namespace("acme", "lease", named(OWNER, "job").digest)
    assert week < await raw.pttl(at) <= week + MINUTE_MS
    await store.locks.extend(held(word), "", 10 * MINUTE_MS, 5 * MINUTE_MS)
    assert week + 4 * MINUTE_MS < await raw.pttl(at) <= week + 5 * MINUTE_MS
    await store.locks.complete(held(word), result())
    assert week - MINUTE_MS < await raw.pttl(at) <= week


async def test_nothing_is_written_on_an_epoch_that_moved(store: Store, raw: Redis) -> None:
    word = await store.locks.acquire(wanted())
    await raw.incr(keys.of_namespace("acme", "epoch"))
    before = {key: await raw.dump(key) for key in await raw.keys()}
    assert (await store.locks.check(wanted())).word == "MOVED"
    assert (await store.locks.acquire(wanted("other"))).word == "MOVED"
    assert (await store.locks.extend(held(word), "", 1, 1)).word == "MOVED"
    assert (await store.locks.complete(held(word), result())).word == "MOVED"
    assert (await store.locks.fail(held(word), "bad", "")).word == "MOVED"
    assert (await store.locks.cancel(held(word), "")).word == "MOVED"
    assert {key: await raw.dump(key) for key in await raw.keys()} == before


async def test_a_switch_refuses_what_is_wanted_and_lets_what_is_held_be_settled(store: Store) -> None:
    word = await store.locks.acquire(wanted())
    assert (await store.locks.check(wanted(reason="kill_switch"))).word == "SWITCHED"
    assert (await store.locks.acquire(wanted("other", reason="kill_switch"))).word == "SWITCHED"
    assert (await store.locks.extend(held(word), "kill_switch", 0, MINUTE_MS)).word == "SWITCHED"
    assert (await store.locks.complete(held(word), result())).word == "DONE"


async def test_what_is_withdrawn_is_free_and_costs_nothing(store: Store, raw: Redis) -> None:
    lock, lease = wanted(limit=5), wanted(limit=5)
    await store.locks.withdraw_lock(lock, (await store.locks.check(lock)).month)
    month = (await store.locks.acquire(lease)).month
    for _ in range(2):
        await store.locks.withdraw_lease(lease, month)
    counts = await raw.hmget(USAGE, f"make:{month}", f"leases:{month}", month)
    assert [int(count) for count in counts] == [0, 0, 0]
    assert (await store.locks.check(wanted())).word == "LOCKED"
    assert (await store.locks.acquire(wanted())).word == "ACQUIRED"


async def test_the_word_of_a_settled_lease_goes_out(store: Store) -> None:
    word = await store.locks.acquire(wanted())
    async with store.locks.settled() as settled:
        await store.locks.complete(held(word), result())
        async with asyncio.timeout(10):
            assert await anext(settled) == named(OWNER, "job").digest
    assert await store.locks.running(OWNER, named(OWNER, "job").digest) == 0
