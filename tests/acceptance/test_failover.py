"""Redis fails over under load: what was settled is never executed again, and every interruption ends by itself."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import httpx
import pytest
from redis.crc import key_slot

from interlock.policy.model import DEFAULT_NAMESPACE
from tests.acceptance.outage import PRICE_USD, scene_at
from tests.conftest import StartDev
from tests.interlock_dev import InterlockDev, until
from tests.redis_nodes import Cluster, RedisNode, cluster, replicated, wait_until, watched
from tests.tool import Tool

AGENTS = 6
CALLS_BEFORE, CALLS_AFTER = 30, 30
ONE_REPLICA = {"INTERLOCK_REDIS__WAIT_REPLICAS": "1"}
FAILS_AS_SHOULD_BE = {409, 502, 503, 504}


class Load:
    """Agents that call one after the other, each call again and again until it is answered."""

    def __init__(self, sidecar: InterlockDev) -> None:
        self._sidecar = sidecar
        self._over = asyncio.Event()
        self.answered: list[dict[str, str | int]] = []

    async def until_answered(self, more: int) -> None:
        wanted = len(self.answered) + more

        async def enough() -> bool:
            return len(self.answered) >= wanted

        await until(enough, within_s=60)

    async def __aenter__(self) -> Self:
        self._agents = [asyncio.create_task(self._work(f"agent-{number}")) for number in range(AGENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._agents)

    async def repeated(self) -> Counter[str]:
        """How every answered call is answered when it is made once more."""
        async with self._sidecar.client() as client:
            answers = await asyncio.gather(*(_call(client, order) for order in self.answered))
        return Counter(answer.headers["Interlock-Decision"] for answer in answers)

    async def _work(self, agent: str) -> None:
        async with self._sidecar.client() as client:
            number = 0
            while not self._over.is_set():
                order: dict[str, str | int] = {"agent": agent, "order": number}
                while (answer := await _call(client, order)).status_code != 200:
                    assert answer.status_code in FAILS_AS_SHOULD_BE, answer.text
                    await asyncio.sleep(0.02)
                self.answered.append(order)
                number += 1


async def _call(client: httpx.AsyncClient, order: dict[str, str | int]) -> httpx.Response:
    return await client.post("/tools/charge", json=order, headers={"Interlock-Agent": str(order["agent"])})


@pytest.fixture
def nodes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nodes")


async def executed_once_each(load: Load, sidecar: InterlockDev, tool: Tool) -> None:
    """Every call that was answered reached the tool once, and is answered from the record from now on."""

    async def all_is_told() -> bool:
        return await sidecar.ready() and not [*(sidecar.data_dir / "spool").glob("*.*")]

    await until(all_is_told, within_s=30)
    assert len(tool.received) == len(load.answered)
    assert await load.repeated() == {"dedup": len(load.answered)}
    assert len(tool.received) == len(load.answered)


async def test_a_master_that_dies_under_load_makes_no_call_happen_twice(
    interlock_dev: StartDev, nodes_folder: Path, tool: Tool
) -> None:
    with watched(nodes_folder) as redis:
        sidecar = await interlock_dev(redis.url, **ONE_REPLICA)
        await sidecar.register(tool.url, max_retries=0)
        async with Load(sidecar) as load:
            await load.until_answered(CALLS_BEFORE)
            dead = redis.master
            await asyncio.to_thread(dead.kill)
            await load.until_answered(CALLS_AFTER)
        await executed_once_each(load, sidecar, tool)
        await sidecar.stop()


async def test_a_cluster_that_loses_a_master_and_moves_a_slot_under_load_makes_no_call_happen_twice(
    interlock_dev: StartDev, nodes_folder: Path, tool: Tool
) -> None:
    slots = [key_slot(f"{DEFAULT_NAMESPACE}:agent-{number}".encode()) for number in range(AGENTS)]
    with cluster(nodes_folder) as redis:
        sidecar = await interlock_dev(redis.url, **ONE_REPLICA)
        await sidecar.register(tool.url, max_retries=0)
        async with Load(sidecar) as load:
            await load.until_answered(CALLS_BEFORE)
            await asyncio.to_thread(move, redis, slots[0])
            await load.until_answered(CALLS_AFTER)
            dead = redis.owner(slots[1])
            await asyncio.to_thread(dead.kill)
            await asyncio.to_thread(wait_until, lambda: redis.owner(slots[1]) is not dead)
            # Till it is back, as a replica, its slots have nobody who could acknowledge.
            await asyncio.to_thread(dead.start)
            await asyncio.to_thread(wait_until, lambda: redis.whole)
            await load.until_answered(CALLS_AFTER)
        await executed_once_each(load, sidecar, tool)
        await sidecar.stop()


def move(redis: Cluster, slot: int) -> None:
    """Moves a slot and all its keys to another master, as `redis-cli --cluster reshard` does."""
    source = redis.owner(slot)
    target = redis.others(source)[0]
    to, of = (str(node.ask("CLUSTER", "MYID").decode()) for node in (target, source))
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", of)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to)
    while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 10):
        source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for node in (target, source):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", to)


@pytest.fixture
async def pair(nodes_folder: Path) -> AsyncIterator[list[RedisNode]]:
    with replicated(nodes_folder) as nodes:
        yield nodes


async def test_a_decision_that_no_replica_has_is_refused_and_taken_back(
    interlock_dev: StartDev, pair: list[RedisNode], tool: Tool
) -> None:
    master, replica = pair
    sidecar = await interlock_dev(f"redis://127.0.0.1:{master.port}", **ONE_REPLICA)
    async with scene_at(sidecar) as scene:
        name = await scene.register(tool.url, on_ambiguous="hold", timeout_ms=120_000)
        assert (await scene.call(name, {"order": 1})).decision == "executed"
        replica.freeze()
        refused = await scene.call(name, {"order": 2})
        assert (refused.status, refused.json["reason"]) == (503, "governance_unavailable")
        assert len(tool.received) == 1
        replica.thaw()

        async def is_taken_back() -> bool:
            seen = await scene.operator.get(f"{sidecar.url}/v1/calls?agent_id={scene.agent}")
            return seen.status_code == 200 and seen.json() == []

        await until(is_taken_back)
        assert await scene.charged() == (1, PRICE_USD)
        assert (await scene.call(name, {"order": 2})).decision == "executed"
        assert await scene.charged() == (2, 2 * PRICE_USD)
    assert len(tool.received) == 2
