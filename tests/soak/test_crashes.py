"""Two sidecars and their Redis under load, killed again and again: nothing is done twice, nothing is lost or left out.

INTERLOCK_SOAK_S sets how long (s, 60 by default), INTERLOCK_SOAK_SEED repeats the same run of crashes.
"""

import asyncio
import random
from collections import Counter, defaultdict
from decimal import Decimal

import pytest

from tests.conftest import StartDev
from tests.interlock_dev import InterlockDev
from tests.redis_server import RedisServer
from tests.soak.agents import LASTS_S, PRICE, SEED, events, moments, name, price_calls, works
from tests.tool import Tool

AGENTS = 16


@pytest.mark.soak
@pytest.mark.timeout(LASTS_S + 180)
async def test_no_crash_makes_a_call_happen_twice_or_not_at_all(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    print(f"INTERLOCK_SOAK_SEED={SEED}")  # noqa: T201 - how to repeat this very run
    sidecars = [await interlock_dev(own_redis.url), await interlock_dev(own_redis.url)]
    await sidecars[0].register(tool.url, timeout_ms=500, max_retries=0)
    await price_calls(sidecars[0], AGENTS)

    over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        working = [tasks.create_task(works(name(number), sidecars, over)) for number in range(AGENTS)]
        crashes = await crash_again_and_again(sidecars, own_redis)
        over.set()
    done = {name(number): task.result() for number, task in enumerate(working)}

    keys = defaultdict(set)
    for received in tool.received:
        keys[received.body].add(received.header("Idempotency-Key"))
    assert len(keys) == sum(done.values())
    assert {len(used) for used in keys.values()} == {1}, "a call went out under two keys: the tool would do it twice"
    for agent, calls in done.items():
        await check_trail(sidecars[0], agent, calls)
    print(f"{sum(done.values())} calls through {dict(crashes)}; {len(tool.received)} requests")  # noqa: T201 - see above


async def crash_again_and_again(sidecars: list[InterlockDev], redis: RedisServer) -> Counter[str]:
    """Kills one of the sidecars, or Redis, and starts it again, until the time is over."""
    chance, crashes = random.Random(SEED), Counter[str]()
    async for _ in moments(chance):
        victim = chance.choice(["first sidecar", "second sidecar", "redis"])
        crashes[victim] += 1
        if victim == "redis":
            await asyncio.to_thread(redis.kill)
            await asyncio.sleep(chance.uniform(0, 0.5))
            await asyncio.to_thread(redis.start)
        else:
            sidecar = sidecars[victim == "second sidecar"]
            await sidecar.kill()
            await sidecar.start()
    return crashes


async def check_trail(sidecar: InterlockDev, agent: str, calls: int) -> None:
    """The trail has no gap, and says that each call was charged once."""
    trail = await events(sidecar, agent)
    assert sum(Decimal(str(event["charged_usd"])) for event in trail) == calls * PRICE
