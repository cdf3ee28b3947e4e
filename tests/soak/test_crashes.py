"""Two sidecars and their Redis under load, killed again and again: nothing is done twice, nothing is lost or left out.

INTERLOCK_SOAK_S sets how long (s, 60 by default), INTERLOCK_SOAK_SEED repeats the same run of crashes.
"""

import asyncio
import os
import random
from collections import Counter, defaultdict
from decimal import Decimal

import httpx
import pytest

from tests.conftest import StartDev
from tests.interlock_dev import InterlockDev
from tests.redis_server import RedisServer
from tests.tool import Tool

LASTS_S = float(os.environ.get("INTERLOCK_SOAK_S", "60"))
SEED = int(os.environ.get("INTERLOCK_SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
AGENTS = 16
PRICE = Decimal("0.01")


@pytest.mark.soak
@pytest.mark.timeout(LASTS_S + 180)
async def test_no_crash_makes_a_call_happen_twice_or_not_at_all(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    print(f"INTERLOCK_SOAK_SEED={SEED}")  # noqa: T201 - how to repeat this very run
    sidecars = [await interlock_dev(own_redis.url), await interlock_dev(own_redis.url)]
    await sidecars[0].register(tool.url, timeout_ms=500, max_retries=0)
    async with sidecars[0].client() as operator:
        for agent in map(name, range(AGENTS)):
            policy = {"pricing_rules": [{"tool": "charge", "price_usd": float(PRICE)}]}
            (await operator.post(f"/v1/policies/{agent}", json=policy)).raise_for_status()

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


def name(number: int) -> str:
    return f"agent-{number}"


async def works(agent: str, sidecars: list[InterlockDev], over: asyncio.Event) -> int:
    """Calls one after the other, each until it is answered; how many."""
    chance, done = random.Random(f"{SEED} {agent}"), 0
    headers = {"Authorization": f"Bearer {sidecars[0].key}", "Interlock-Agent": agent}
    async with httpx.AsyncClient(headers=headers, timeout=10) as client:
        while not over.is_set():
            order = {"agent": agent, "order": done}
            while not await answered(client, chance.choice(sidecars).url, order):  # noqa: ASYNC110 - an agent's retries
                await asyncio.sleep(chance.uniform(0.05, 0.3))
            done += 1
    return done


async def answered(client: httpx.AsyncClient, url: str, order: dict[str, object]) -> bool:
    try:
        answer = await client.post(f"{url}/tools/charge", json=order)
    except httpx.TransportError:
        return False
    assert answer.status_code in {200, 409, 502, 503, 504}, answer.text
    return answer.status_code == 200


async def crash_again_and_again(sidecars: list[InterlockDev], redis: RedisServer) -> Counter[str]:
    """Kills one of the sidecars, or Redis, and starts it again, until the time is over."""
    chance, crashes = random.Random(SEED), Counter[str]()
    ends_at = asyncio.get_running_loop().time() + LASTS_S
    while asyncio.get_running_loop().time() < ends_at:
        await asyncio.sleep(chance.uniform(0.5, 3))
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
    events: list[dict[str, object]] = []
    async with sidecar.client() as operator:
        while page := (
            await operator.get("/v1/audit", params={"agent_id": agent, "after_seq": len(events), "limit": 500})
        ).json():
            events += page
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert sum(Decimal(str(event["charged_usd"])) for event in events) == calls * PRICE
    succeeded = {event["call_id"] for event in events if event["verdict"] == "SUCCEEDED"}
    assert len(succeeded) == calls
