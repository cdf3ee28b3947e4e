"""Locks and leases at two engines: whose they are, what switches, plans and revoked keys do to them, and waiting."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from interlock.governance.errors import InterlockError
from interlock.governance.v1 import admin_pb2 as ad
from interlock.governance.v1 import locks_pb2 as pb
from interlock.governance.v1 import namespaces_pb2 as ns
from interlock.policy import waiting
from interlock.policy.model import Switch
from interlock.store.directory import RedisDirectory
from tests.integration.engines import EngineClient, Noting, running_engine
from tests.redis_server import RedisServer

FIT = 37
PLANS: dict[str, Any] = {
    "small": {"check_locks_per_month": FIT, "runs_per_month": FIT, "default_ttl_s": 60, "max_ttl_s": 3600},
    "calm": {"requests_per_minute": 2},
}


@pytest.fixture
async def engines(redis_url: str) -> AsyncIterator[list[EngineClient]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running_engine(redis_url, plans=PLANS)) for _ in range(2)]


@pytest.fixture
async def engine(engines: list[EngineClient]) -> EngineClient:
    return engines[0]


async def on_plan(engine: EngineClient, plan: str) -> None:
    await engine.ask(engine.namespaces.PutNamespace, ns.PutNamespaceRequest(name="default", plan=plan))


async def check(engine: EngineClient, key: str = "job", **fields: Any) -> pb.CheckLockResponse:
    return await engine.ask(engine.locks.CheckLock, pb.CheckLockRequest(key=key, **fields))


async def acquire(engine: EngineClient, key: str = "job", **fields: Any) -> pb.AcquireLeaseResponse:
    return await engine.ask(engine.locks.AcquireLease, pb.AcquireLeaseRequest(key=key, **fields))


async def complete(engine: EngineClient, lease_id: str, key: str = "job", **fields: Any) -> pb.Lease:
    return await engine.ask(engine.locks.CompleteLease, pb.CompleteLeaseRequest(key=key, lease_id=lease_id, **fields))


async def refusal(asked: Any) -> InterlockError:
    with pytest.raises(InterlockError) as raised:
        await asked
    return raised.value


async def an_agents(engine: EngineClient, agent: str = "bot-1") -> EngineClient:
    return engine.speaking_with((await engine.new_key(ad.ROLE_AGENT, agent)).key)


async def throw(engine: EngineClient, scope: str, *, pulled: bool, name: str = "") -> None:
    await engine.ask(engine.switches.SetSwitch, ad.SetSwitchRequest(scope=scope, pulled=pulled, name=name))


async def test_of_1000_callers_at_two_engines_one_locks_and_one_leases(engines: list[EngineClient]) -> None:
    locks = await asyncio.gather(*(check(engines[n % 2]) for n in range(1000)))
    assert Counter(lock.locked for lock in locks) == {True: 1, False: 999}
    leases = await asyncio.gather(*(acquire(engines[n % 2]) for n in range(1000)))
    assert Counter((bool(lease.lease_id), lease.charged) for lease in leases) == {(True, 1): 1, (False, 0): 999}


async def test_a_plan_says_how_long_and_how_many_exactly(engines: list[EngineClient]) -> None:
    await on_plan(engines[0], "small")
    assert ((await check(engines[1], "a")).ttl_s, (await check(engines[0], "b", ttl_s=86_400)).ttl_s) == (60, 3600)
    lease = (await acquire(engines[1], "a", ttl_s=2**40)).lease
    assert (lease.ttl_s, 3_590_000 < lease.ttl_left_ms <= 3_600_000) == (3600, True)

    async def outcome(ask: Any, n: int) -> str:
        try:
            await ask(engines[n % 2], f"key {n}")
        except InterlockError as error:
            return error.reason
        return "granted"

    for ask, before in ((check, 2), (acquire, 1)):
        said = Counter(await asyncio.gather(*(outcome(ask, n) for n in range(300))))
        assert said == {"granted": FIT - before, "payment_required": 300 - FIT + before}
        error = await refusal(ask(engines[0], "one more"))
        assert error.metadata == {"plan": "small", "limit": str(FIT), "usage": str(FIT)}
    # What is there costs nothing: a duplicate, and a poll.
    assert not (await check(engines[0], "a")).locked
    assert (await acquire(engines[0], "a")).usage == FIT


async def test_calls_leases_and_a_new_plan_are_counted_together(engine: EngineClient) -> None:
    await engine.put_tool()
    assert (await acquire(engine, "one")).usage == 1
    await engine.authorize(declared_spend_micros=0)
    await on_plan(engine, "small")
    answer = await acquire(engine, "two")
    assert (answer.usage, answer.limit) == (3, FIT)
    shown = await engine.ask(engine.namespaces.GetNamespace, ns.NamespaceRef(name="default"))
    assert shown.usage.runs == 3
    assert shown.plan.check_locks_per_month == FIT


async def test_the_month_turns_by_the_clock_of_redis(own_redis: RedisServer) -> None:
    async with running_engine(own_redis.url, plans=PLANS) as engine:
        await on_plan(engine, "small")
        assert (await acquire(engine, "one")).usage == 1
        assert (await acquire(engine, "two")).usage == 2
    own_redis.stop()
    own_redis.start(days_later=32)
    async with running_engine(own_redis.url, plans=PLANS) as engine:
        assert (await acquire(engine, "three")).usage == 1
        # More than its time and 7 days are over: nobody knows of it any more.
        assert (await acquire(engine, "one")).lease.version == 1


async def test_what_an_agent_holds_is_its_own_and_an_operators_the_namespaces(engines: list[EngineClient]) -> None:
    first, second = await an_agents(engines[0]), await an_agents(engines[1], "bot-2")
    await engines[0].ask(engines[0].namespaces.PutNamespace, ns.PutNamespaceRequest(name="team"))
    elsewhere = engines[1].acting_in("team")
    held = [await acquire(one) for one in (first, second, engines[0], elsewhere)]
    assert len({lease.lease_id for lease in held}) == 4
    for thief in (second, engines[0], elsewhere):
        error = await refusal(complete(thief, held[0].lease_id))
        assert error.reason == "lease_not_held"
    viewer = engines[1].speaking_with((await engines[0].new_key(ad.ROLE_VIEWER)).key)
    for ask in (check(viewer), acquire(viewer), complete(viewer, held[2].lease_id)):
        assert (await refusal(ask)).reason == "permission_denied"
    await complete(first, held[0].lease_id, result=b'{"by": 1}')
    show = pb.GetLeaseRequest(key="job", agent_id="bot-1")
    assert (await viewer.ask(viewer.locks.GetLeaseResult, show)).result == b'{"by": 1}'
    assert await second.refused(second.locks.GetLeaseResult, show) == "permission_denied"
    own = await viewer.ask(viewer.locks.GetLease, pb.GetLeaseRequest(key="job"))
    assert own.status == "in_progress"


@pytest.mark.parametrize(
    ("scope", "name", "reason"),
    [("global", "", "kill_switch"), ("namespace", "", "kill_switch"), ("agent", "bot-1", "agent_disabled")],
)
async def test_a_pulled_switch_holds_for_the_very_next_lock_and_lease_at_every_engine(
    engines: list[EngineClient], scope: str, name: str, reason: str
) -> None:
    agents = [await an_agents(one) for one in engines]
    held = await acquire(agents[1], "held")
    for n in range(5):
        await throw(engines[0], scope, pulled=True, name=name)
        asked = (
            check(agents[1], f"key {n}"),
            acquire(agents[1], f"key {n}"),
            agents[1].ask(agents[1].locks.ExtendLease, pb.ExtendLeaseRequest(key="held", lease_id=held.lease_id)),
        )
        assert [(await refusal(one)).reason for one in asked] == [reason] * 3
        await throw(engines[0], scope, pulled=False, name=name)
        assert (await check(agents[1], f"key {n}")).locked
        assert (await acquire(agents[1], f"key {n}")).lease_id
    await throw(engines[0], scope, pulled=True, name=name)
    assert (await complete(agents[1], held.lease_id, "held")).status == "completed"


async def test_an_engine_that_has_not_heard_of_a_switch_takes_back_what_it_grants(engines: list[EngineClient]) -> None:
    agent = await an_agents(engines[1])
    assert (await check(agent, "warm")).locked
    assert engines[1].engine is not None
    await engines[1].engine._learning.close()
    await throw(engines[0], "global", pulled=True)
    assert [(await refusal(one)).reason for one in (check(agent), acquire(agent))] == ["kill_switch"] * 2
    await throw(engines[0], "global", pulled=False)
    assert (await check(agent)).locked
    assert ((await acquire(agent)).usage, (await acquire(agent, "other")).usage) == (1, 2)


async def test_a_switch_of_an_agent_that_is_pulled_behind_the_look_at_it_is_heeded_all_the_same(
    engine: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await an_agents(engine)
    await throw(engine, "agent", pulled=True, name="bot-1")

    async def lifted(*_: object) -> Switch:
        return Switch()

    with monkeypatch.context() as before:
        before.setattr(RedisDirectory, "agent_switch", lifted)
        assert [(await refusal(one)).reason for one in (check(agent), acquire(agent))] == ["agent_disabled"] * 2
    await throw(engine, "agent", pulled=False, name="bot-1")
    assert (await check(agent)).locked
    assert (await acquire(agent)).usage == 1


@pytest.mark.parametrize(("scope", "name"), [("global", ""), ("namespace", ""), ("agent", "bot-1")])
async def test_what_is_granted_while_a_switch_is_pulled_was_granted_before_that_was_said(
    engines: list[EngineClient], scope: str, name: str
) -> None:
    """The crowd races the switch: whatever was asked for after the word that it is pulled is refused."""
    agents = [await an_agents(one) for one in engines]
    pulled = asyncio.Event()

    async def ask(n: int) -> tuple[bool, bool]:
        after = pulled.is_set()
        try:
            return bool((await acquire(agents[n % 2], f"key {n}")).lease_id), after
        except InterlockError:
            return False, after

    async def crowd() -> list[tuple[bool, bool]]:
        found = []
        for n in range(0, 400, 20):
            found += await asyncio.gather(*(ask(n + k) for k in range(20)))
        return found

    racing = asyncio.create_task(crowd())
    await asyncio.sleep(0.05)
    await throw(engines[0], scope, pulled=True, name=name)
    pulled.set()
    assert (True, True) not in await racing


async def test_a_revoked_key_locks_leases_and_settles_nothing_more(engines: list[EngineClient]) -> None:
    made = await engines[0].new_key(ad.ROLE_AGENT, "bot-1")
    agent = engines[1].speaking_with(made.key)
    held = await acquire(agent)
    await engines[0].ask(engines[0].keys.RevokeKey, ad.RevokeKeyRequest(key_id=made.info.key_id))
    asked = (
        check(agent),
        acquire(agent, "other"),
        complete(agent, held.lease_id),
        agent.ask(agent.locks.GetLease, pb.GetLeaseRequest(key="job")),
    )
    assert [(await refusal(one)).reason for one in asked] == ["invalid_key"] * 4


async def test_requests_are_limited_and_what_is_under_a_lease_is_none(engine: EngineClient) -> None:
    operator = engine.speaking_with((await engine.new_key(ad.ROLE_OPERATOR)).key)
    await on_plan(engine, "calm")
    held = await acquire(operator)
    assert (await check(operator)).locked
    assert (await refusal(check(operator))).reason == "rate_limited"
    assert (await complete(operator, held.lease_id)).status == "completed"


async def test_all_who_wait_are_told_at_once_when_a_lease_is_completed_at_another_engine(
    engines: list[EngineClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_S", 60)
    held = await acquire(engines[0])
    show = pb.GetLeaseRequest(key="job", wait_ms=20_000)
    waiters = [asyncio.create_task(engines[1].ask(engines[1].locks.GetLeaseResult, show)) for _ in range(50)]
    await asyncio.sleep(0.3)
    assert not any(waiter.done() for waiter in waiters)
    await complete(engines[0], held.lease_id, result=b'{"n": 1.10}')
    async with asyncio.timeout(10):
        told = await asyncio.gather(*waiters)
    assert {(one.lease.status, one.result) for one in told} == {("completed", b'{"n": 1.10}')}


async def test_a_wait_ends_when_the_lease_runs_out_or_the_time_is_over(engine: EngineClient) -> None:
    await acquire(engine, ttl_s=1)
    show = pb.GetLeaseRequest(key="job", wait_ms=100)
    assert (await engine.ask(engine.locks.GetLease, show)).status == "in_progress"
    show.wait_ms = 15_000
    assert (await engine.ask(engine.locks.GetLease, show)).status == "expired"


async def test_a_lock_and_a_lease_cost_an_operator_one_round_trip_each(redis_url: str) -> None:
    noting = Noting()
    async with running_engine(redis_url, noting) as engine:
        operator = engine.speaking_with((await engine.new_key(ad.ROLE_OPERATOR)).key)
        await check(operator, "warm")
        for ask, script in ((check, "check_lock"), (acquire, "acquire_lease")):
            noting.asked.clear()
            await ask(operator)
            del noting.asked["check"]  # of Redis' health, now and then
            assert noting.asked == {script: 1}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.AcquireLeaseRequest(key=""), "key"),
        (pb.AcquireLeaseRequest(key="k" * 257), "key"),
        (pb.AcquireLeaseRequest(key="k", ttl_s=0), "ttl_s"),
        (pb.AcquireLeaseRequest(key="k", attempt_id="not one"), "attempt_id"),
        (pb.CheckLockRequest(key="k", metadata=b"x" * 2049), "metadata"),
        (pb.CompleteLeaseRequest(key="k", lease_id=""), "lease_id"),
        (pb.CompleteLeaseRequest(key="k", lease_id="l", result=b"x" * 1_048_577), "result"),
        (pb.CompleteLeaseRequest(key="k", lease_id="l", result_digest=b"x"), "result_digest"),
        (pb.FailLeaseRequest(key="k", lease_id="l"), "error_code"),
        (pb.GetLeaseRequest(key="k", wait_ms=60_001), "wait_ms"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_its_field(engine: EngineClient, request_: Any, field: str) -> None:
    methods = {
        pb.AcquireLeaseRequest: engine.locks.AcquireLease,
        pb.CheckLockRequest: engine.locks.CheckLock,
        pb.CompleteLeaseRequest: engine.locks.CompleteLease,
        pb.FailLeaseRequest: engine.locks.FailLease,
        pb.GetLeaseRequest: engine.locks.GetLease,
    }
    error = await refusal(engine.ask(methods[type(request_)], request_))
    assert (error.reason, error.metadata) == ("invalid_request", {"field": field})
