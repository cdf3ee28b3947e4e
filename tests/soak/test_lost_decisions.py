"""How many acknowledged decisions a fail-over loses, with which settings: the figures of docs/guarantees.md.

INTERLOCK_SOAK_ROUNDS sets how often each case is tried (3 by default).
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from interlock.governance.errors import UnavailableError
from interlock.store import keys
from interlock.store.opening import Store, open_store
from interlock.store.settings import RedisSettings
from tests.conformance.conftest import Silent
from tests.conformance.reservations import AGENT, execute
from tests.interlock_dev import until
from tests.redis_nodes import RedisNode, replicated, wait_until, watched

ROUNDS = int(os.environ.get("INTERLOCK_SOAK_ROUNDS", "3"))
ASKERS = 20
LASTS_S = 1.5
CUT_OFF_S = 6.0
FSYNC = {
    "always": ("--appendonly", "yes", "--appendfsync", "always"),
    "everysec": ("--appendonly", "yes", "--appendfsync", "everysec"),
    "off": ("--appendonly", "no"),
}
MIN_REPLICAS = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")


@dataclass
class Asked:
    """Calls that were decided, by key, and how many were refused."""

    acknowledged: list[str] = field(default_factory=list)
    refused: int = 0

    def lost(self, survivor: RedisNode) -> int:
        """How many of the acknowledged decisions a Redis does not know."""
        with survivor.client() as client, client.pipeline(transaction=False) as pipeline:
            for key in self.acknowledged:
                pipeline.exists(keys.of_agent(AGENT, "call", key))
            return pipeline.execute().count(0)


@asynccontextmanager
async def asking(url: str, wait: int) -> AsyncIterator[Asked]:
    """Decisions are asked for, many at a time, for as long as the context lasts."""
    asked, numbers = Asked(), count()
    async with open_store(RedisSettings(url=url, wait_replicas=wait), Silent()) as store:
        await until(lambda: _answers(store))
        tasks = [asyncio.create_task(_ask(store, asked, numbers)) for _ in range(ASKERS)]
        await asyncio.sleep(LASTS_S)
        yield asked
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answers(store: Store) -> bool:
    try:
        await store.directory.epochs(AGENT.namespace)
    except UnavailableError:
        return False
    return True


async def _ask(store: Store, asked: Asked, numbers: "count[int]") -> None:
    while True:
        call = f"call {next(numbers)}"
        try:
            await execute(store, call)
        except UnavailableError:
            asked.refused += 1
            await asyncio.sleep(0.01)
        else:
            asked.acknowledged.append(hashlib.sha256(call.encode()).hexdigest())


async def killed_and_replaced(folder: Path, options: tuple[str, ...], wait: int) -> tuple[Asked, int]:
    with watched(folder, options) as redis:
        async with asking(redis.url, wait) as asked:
            dead = redis.master
            dead.kill()
            await asyncio.to_thread(wait_until, lambda: redis.master is not dead)
        return asked, asked.lost(redis.master)


async def replaced_while_it_lives(folder: Path, options: tuple[str, ...], wait: int) -> tuple[Asked, int]:
    with watched(folder, options) as redis:
        async with asking(redis.url, wait) as asked:
            await asyncio.to_thread(redis.fail_over)
        return asked, asked.lost(redis.master)


async def killed_and_started(folder: Path, options: tuple[str, ...], wait: int) -> tuple[Asked, int]:
    with replicated(folder, 0, options) as (redis,):
        async with asking(f"redis://127.0.0.1:{redis.port}", wait) as asked:
            redis.kill()
        redis.start()
        return asked, asked.lost(redis)


async def cut_off_and_replaced(folder: Path, options: tuple[str, ...], wait: int) -> tuple[Asked, int]:
    with replicated(folder, 1, options) as (master, replica):
        async with asking(f"redis://127.0.0.1:{master.port}", wait) as asked:
            replica.freeze()
            await asyncio.sleep(CUT_OFF_S)
            master.kill()
        replica.thaw()
        await asyncio.to_thread(wait_until, lambda: replica.ask("REPLICAOF", "NO", "ONE"))
        return asked, asked.lost(replica)


Fails = Callable[[Path, tuple[str, ...], int], Awaitable[tuple[Asked, int]]]
CASES: list[tuple[Fails, str, tuple[str, ...], int, bool]] = [
    *[(killed_and_started, f"AOF {fsync}", FSYNC[fsync], 0, fsync == "always") for fsync in FSYNC],
    *[(killed_and_replaced, f"AOF {fsync}", FSYNC[fsync], wait, wait > 0) for fsync in FSYNC for wait in (0, 1, 2)],
    *[(replaced_while_it_lives, "2 replicas", FSYNC["everysec"], wait, wait == 2) for wait in (0, 1, 2)],
    (cut_off_and_replaced, "1 replica", FSYNC["everysec"], 0, False),
    (cut_off_and_replaced, "1 replica, min-replicas-to-write 1", (*FSYNC["everysec"], *MIN_REPLICAS), 0, False),
    (cut_off_and_replaced, "1 replica", FSYNC["everysec"], 1, True),
]


@pytest.mark.soak
@pytest.mark.timeout(60 + 40 * ROUNDS)
@pytest.mark.parametrize(("fails", "what", "options", "wait", "loses_nothing"), CASES)
async def test_what_was_acknowledged_survives_where_we_say_so(
    tmp_path: Path, fails: Fails, what: str, options: tuple[str, ...], wait: int, loses_nothing: bool
) -> None:
    rounds = []
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        asked, lost = await fails(folder, options, wait)
        assert asked.acknowledged
        rounds.append(f"{lost} of {len(asked.acknowledged)}")
        assert not (loses_nothing and lost), rounds
    print(f"FIGURE {fails.__name__} | {what} | wait_replicas {wait} | lost {', '.join(rounds)}")  # noqa: T201 - the figures
