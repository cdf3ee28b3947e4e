"""Two sidecars under load, and a Redis that is away again and again: calls of an open tool go through meanwhile,
and in the end each is on record once.

INTERLOCK_SOAK_S sets how long (s, 60 by default), INTERLOCK_SOAK_SEED repeats the same run of outages.
"""

import asyncio
import random
from collections import Counter, defaultdict
from decimal import Decimal

import pytest

from tests.conftest import StartDev
from tests.interlock_dev import InterlockDev, until
from tests.redis_server import RedisServer
from tests.soak.agents import LASTS_S, PRICE, SEED, events, moments, name, price_calls, works
from tests.tool import Tool

AGENTS = 6


@pytest.mark.soak
@pytest.mark.timeout(LASTS_S + 180)
async def test_every_call_that_went_out_is_on_record_once_whoever_let_it(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    print(f"INTERLOCK_SOAK_SEED={SEED}")  # noqa: T201 - how to repeat this very run
    sidecars = [await interlock_dev(own_redis.url), await interlock_dev(own_redis.url)]
    open_tool = {"on_governance_failure": "open", "open_max_calls_per_minute": 1000}
    await sidecars[0].register(tool.url, timeout_ms=500, max_retries=0, **open_tool)
    await price_calls(sidecars[0], AGENTS)

    over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for number in range(AGENTS):
            tasks.create_task(works(name(number), sidecars, over))
        outages = await fail_again_and_again(sidecars, own_redis)
        over.set()
    for sidecar in sidecars:
        await until(lambda sidecar=sidecar: is_told(sidecar), within_s=60)  # type: ignore[misc] # mypy cannot infer it

    keys = defaultdict(set)
    for received in tool.received:
        keys[received.body].add(received.header("Idempotency-Key"))
    assert {len(used) for used in keys.values()} == {1}, "a call went out under two keys: the tool would do it twice"
    trail = [event for number in range(AGENTS) for event in await events(sidecars[0], name(number))]
    let_out = Counter(event["call_id"] for event in trail if event["verdict"] == "EXECUTE")
    assert {received.header("Interlock-Call-Id") for received in tool.received} <= {*let_out}
    assert {*let_out.values()} == {1}
    unjudged = [event for event in trail if event["type"] == "degraded"]
    assert unjudged, "no outage let a call through"
    assert sum(Decimal(str(event["charged_usd"])) for event in trail) == len(keys) * PRICE
    print(f"{len(keys)} calls, {len(unjudged)} of them unjudged, through {dict(outages)}")  # noqa: T201 - as above


async def is_told(sidecar: InterlockDev) -> bool:
    """Whether nothing waits on its disk."""
    return await sidecar.ready() and not [*(sidecar.data_dir / "spool").glob("*.*")]


async def fail_again_and_again(sidecars: list[InterlockDev], redis: RedisServer) -> Counter[str]:
    """Has Redis hang or end for a while, or kills a sidecar while it is away, until the time is over."""
    chance, outages = random.Random(SEED), Counter[str]()
    async for _ in moments(chance):
        kind = chance.choice(["hangs", "ends", "ends under a dying sidecar"])
        outages[kind] += 1
        if kind == "hangs":
            redis.freeze()
            await asyncio.sleep(chance.uniform(0.2, 2))
            redis.thaw()
            continue
        await asyncio.to_thread(redis.kill)
        await asyncio.sleep(chance.uniform(0.1, 1.5))
        victim = chance.choice(sidecars)
        if kind != "ends":
            await victim.kill()
        await asyncio.to_thread(redis.start)
        if kind != "ends":
            await victim.start()
    return outages
