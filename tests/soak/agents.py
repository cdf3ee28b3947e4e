"""Agents that call sidecars again and again while these, or their Redis, fail; and what the trail says of each."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx

from tests.interlock_dev import InterlockDev

LASTS_S = float(os.environ.get("INTERLOCK_SOAK_S", "60"))
SEED = int(os.environ.get("INTERLOCK_SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
PRICE = Decimal("0.01")


async def price_calls(sidecar: InterlockDev, agents: int) -> None:
    """Each call of these agents costs `PRICE`."""
    async with sidecar.client() as operator:
        for agent in map(name, range(agents)):
            policy = {"pricing_rules": [{"tool": "charge", "price_usd": float(PRICE)}]}
            (await operator.post(f"/v1/policies/{agent}", json=policy)).raise_for_status()


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


async def moments(chance: random.Random) -> AsyncIterator[None]:
    """Moments at which something may fail, half a second to three apart, until the time is over."""
    ends_at = asyncio.get_running_loop().time() + LASTS_S
    while asyncio.get_running_loop().time() < ends_at:
        await asyncio.sleep(chance.uniform(0.5, 3))
        yield


async def events(sidecar: InterlockDev, agent: str) -> list[dict[str, Any]]:
    """The agent's trail, which has no gap."""
    found: list[dict[str, Any]] = []
    async with sidecar.client() as operator:
        while page := (
            await operator.get("/v1/audit", params={"agent_id": agent, "after_seq": len(found), "limit": 500})
        ).json():
            found += page
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    return found
