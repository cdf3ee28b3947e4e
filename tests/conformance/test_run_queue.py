"""The queue of keyed runs on every Redis: who works on a run, and what becomes of it when it is taken back."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from redis.asyncio import Redis

from interlock.governance.ids import new_id
from interlock.policy.lock_ports import AcquiredWord, Dequeued, Grounds, LeaseStatus, Queued, Wanted
from interlock.policy.locking import named
from interlock.policy.model import Scope
from interlock.policy.run_plan import PlannedAction, RunPlan
from interlock.policy.run_ports import Begun, Holding, RunName
from interlock.store import keys
from interlock.store.locks import MAX_QUEUED
from interlock.store.opening import Store

OWNER = Scope("acme", "bot-1")
LEASE_MS = 60_000
PLAN = RunPlan("bot-1", "run of the test", dry_run=False, actions=(PlannedAction("charge", "{}"),) * 3).as_json()
QUEUED = Queued(PLAN, "bot-1", "address of a key")
USAGE, QUEUE = keys.of_namespace("acme", "usage"), keys.of_namespace("acme", "queue")


def wanted(key: str = "job", *, attempt_id: str = "", limit: int = 100) -> Wanted:
    return Wanted(
        named=named(OWNER, key),
        grounds=Grounds(0),
        token=new_id("lease"),
        attempt_id=attempt_id,
        ttl_ms=LEASE_MS,
        limit=limit,
        run=QUEUED,
    )


def run_named(key: str = "job") -> RunName:
    return RunName("acme", named(OWNER, key).digest)


async def begun(store: Store, worker: str = "w1", lease_ms: int = LEASE_MS) -> tuple[Holding, Begun]:
    """The next run that is due to a worker, held by it."""
    entry = await store.run_queue.take("acme", worker, lease_ms)
    assert entry.run is not None
    holding = Holding(entry.run, new_id("work"))
    held = await store.run_queue.begin(entry, holding.token, worker, lease_ms)
    assert held is not None
    return holding, held


async def charges(raw: Redis, month: str) -> Sequence[int]:
    return [int(count or 0) for count in await raw.hmget(USAGE, f"leases:{month}", month)]


async def left_of(raw: Redis, key: str = "job") -> tuple[int, bool]:
    """How many entries the queue has, and whether anything is kept of the run's work."""
    return await raw.xlen(QUEUE), bool(await raw.exists(keys.of_namespace("acme", "work", named(OWNER, key).digest)))


async def test_a_run_that_was_begun_is_withdrawn_from_its_worker_and_costs_nothing(store: Store, raw: Redis) -> None:
    asked = wanted()
    month = (await store.locks.acquire(asked)).month
    holding, _ = await begun(store)
    assert await store.run_queue.checkpoint(holding, LEASE_MS, 0, b"{}")
    withdrawn = await store.locks.withdraw_lease(asked, month)
    assert withdrawn is not None
    assert (withdrawn.plan, withdrawn.done, withdrawn.begun) == (PLAN, 1, True)
    assert await charges(raw, month) == [0, 0]
    assert await left_of(raw) == (0, False)
    assert not await store.run_queue.renew(holding, LEASE_MS)
    assert await store.run_queue.granted(holding) is None
    assert not await store.run_queue.finish(holding, result=b"{}", result_hash="hash", error_code="")
    shown = await store.locks.show(asked.named, with_result=True)
    assert (shown.lease and shown.lease.status, shown.result) == (LeaseStatus.CANCELLED, None)
    assert (await store.locks.acquire(wanted())).word == "ACQUIRED"


async def test_a_run_is_withdrawn_once_and_only_by_the_asking_that_it_was_granted_to(store: Store, raw: Redis) -> None:
    asked = wanted()
    month = (await store.locks.acquire(asked)).month
    await begun(store)
    assert await store.locks.withdraw_lease(wanted(), month) is None
    assert await charges(raw, month) == [1, 1]
    taken_back = await asyncio.gather(*(store.locks.withdraw_lease(asked, month) for _ in range(20)))
    assert len([one for one in taken_back if one is not None]) == 1
    assert await charges(raw, month) == [0, 0]


async def test_a_run_that_is_over_stands_with_its_charge_when_it_would_be_withdrawn(store: Store, raw: Redis) -> None:
    asked = wanted()
    month = (await store.locks.acquire(asked)).month
    holding, _ = await begun(store)
    assert await store.run_queue.finish(holding, result=b"{}", result_hash="hash", error_code="")
    assert await store.locks.withdraw_lease(asked, month) is None
    assert await charges(raw, month) == [1, 1]


async def test_of_runs_that_workers_begin_while_they_are_withdrawn_each_is_withdrawn_and_none_stays_charged(
    store: Store, raw: Redis
) -> None:
    asked = [wanted(f"job {n}") for n in range(100)]
    month = (await store.locks.acquire(asked[0])).month
    await asyncio.gather(*(store.locks.acquire(one) for one in asked[1:]))
    assert await charges(raw, month) == [100, 100]

    async def work(worker: str) -> None:
        for _ in range(40):
            entry = await store.run_queue.take("acme", worker, LEASE_MS)
            await store.run_queue.begin(entry, new_id("work"), worker, LEASE_MS)

    working = (work(f"w{n}") for n in range(3))
    withdrawing = (store.locks.withdraw_lease(one, month) for one in asked)
    *_, taken_back = await asyncio.gather(*working, asyncio.gather(*withdrawing))
    assert sum(one is not None for one in taken_back) == 100
    assert await charges(raw, month) == [0, 0]
    assert await raw.xlen(QUEUE) == 0


async def test_who_asks_again_for_a_run_that_was_begun_is_told_that_it_is_theirs_and_pays_once(
    store: Store, raw: Redis
) -> None:
    by_token, by_attempt = wanted("one"), wanted("two", attempt_id="attempt-1")
    words: list[AcquiredWord] = []
    for asked, again in ((by_token, by_token), (by_attempt, wanted("two", attempt_id="attempt-1"))):
        words.append(await store.locks.acquire(asked))
        await begun(store)
        words.append(await store.locks.acquire(again))
    assert Counter(word.word for word in words) == {"ACQUIRED": 4}
    assert await charges(raw, words[0].month) == [2, 2]
    assert (await store.locks.acquire(wanted("one"))).word == "POLLING"


async def test_a_run_is_cancelled_whether_it_waits_or_is_worked_on_and_may_be_run_again(
    store: Store, raw: Redis
) -> None:
    await store.locks.acquire(wanted())
    word, waited = await store.locks.cancel_run(named(OWNER, "job"), "no longer wanted")
    assert (word.word, word.lease and word.lease.status, waited.begun) == ("DONE", LeaseStatus.CANCELLED, False)
    await store.locks.acquire(wanted())
    holding, _ = await begun(store)
    word, worked_on = await store.locks.cancel_run(named(OWNER, "job"), "")
    assert (word.word, worked_on.plan, worked_on.begun) == ("DONE", PLAN, True)
    assert not await store.run_queue.checkpoint(holding, LEASE_MS, 0, b"{}")
    assert await left_of(raw) == (0, False)
    again, nothing = await store.locks.cancel_run(named(OWNER, "job"), "")
    assert (again.word, nothing) == ("DONE", Dequeued("", b"", 0, begun=False))


async def test_what_is_no_run_what_is_over_and_what_nobody_knows_is_not_cancelled(store: Store) -> None:
    await store.locks.acquire(Wanted(named(OWNER, "lease"), Grounds(0), new_id("lease"), "", LEASE_MS, -1))
    await store.locks.acquire(wanted("over"))
    holding, _ = await begun(store)
    await store.run_queue.finish(holding, result=b"{}", result_hash="hash", error_code="tool_error")
    words = [(await store.locks.cancel_run(named(OWNER, key), ""))[0].word for key in ("lease", "over", "nobody's")]
    assert words == ["LOST", "SETTLED", "UNKNOWN"]


async def test_one_worker_of_many_begins_a_run_and_the_entry_goes_with_it(store: Store, raw: Redis) -> None:
    await store.locks.acquire(wanted())
    entries = await asyncio.gather(*(store.run_queue.take("acme", f"w{n}", LEASE_MS) for n in range(50)))
    assert sum(entry.run is not None for entry in entries) == 1
    [entry] = [entry for entry in entries if entry.run is not None]
    tokens = [new_id("work") for _ in range(50)]
    held = await asyncio.gather(*(store.run_queue.begin(entry, token, "w", LEASE_MS) for token in tokens))
    [token] = [token for token, one in zip(tokens, held, strict=True) if one is not None]
    assert await store.run_queue.finish(Holding(run_named(), token), result=b"{}", result_hash="h", error_code="")
    assert await left_of(raw) == (0, False)


async def test_a_zombie_that_lives_on_after_another_took_its_run_over_changes_nothing(store: Store) -> None:
    await store.locks.acquire(wanted())
    zombie, _ = await begun(store, "zombie", lease_ms=1)
    assert await store.run_queue.checkpoint(zombie, 1, 0, b'{"by":"zombie"}')
    await asyncio.sleep(0.05)  # its lease of a millisecond, by Redis' clock
    heir, taken_over = await begun(store, "heir", lease_ms=1)
    assert await store.run_queue.renew(heir, LEASE_MS)
    assert (taken_over.done, heir.run) == (1, zombie.run)
    assert not await store.run_queue.renew(zombie, LEASE_MS)
    assert not await store.run_queue.checkpoint(zombie, LEASE_MS, 1, b'{"by":"zombie"}')
    assert not await store.run_queue.give_back(zombie)
    assert not await store.run_queue.finish(zombie, result=b"{}", result_hash="hash", error_code="")
    assert (await store.run_queue.granted(zombie), await store.run_queue.kept(zombie)) == (None, None)
    assert await store.run_queue.checkpoint(heir, LEASE_MS, 1, b'{"by":"heir"}')
    kept = await store.run_queue.kept(heir)
    assert kept is not None
    assert kept.outcomes == {0: b'{"by":"zombie"}', 1: b'{"by":"heir"}'}


async def test_a_full_queue_takes_no_run_and_charges_nothing(store: Store, raw: Redis) -> None:
    month = (await store.locks.acquire(wanted("first"))).month
    async with raw.pipeline(transaction=False) as filling:
        for _ in range(MAX_QUEUED - 1):
            filling.xadd(QUEUE, {"run": "0" * 64})
        await filling.execute()
    assert (await store.locks.acquire(wanted("one too many"))).word == "FULL"
    assert await charges(raw, month) == [1, 1]
    await store.locks.cancel_run(named(OWNER, "first"), "")
    assert (await store.locks.acquire(wanted("one too many"))).word == "ACQUIRED"
