"""The client at real sidecars: who is first, who takes over, and what is counted."""

import asyncio
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from interlock.client import Action, AsyncInterlock, AsyncLease, ConflictError, LeaseLostError, NotFoundError
from tests.acceptance.scene import Scene
from tests.tool import Tool, answers, waits_for

WORKER = """
import sys, time
from interlock.client import Interlock

def work():
    print("working", flush=True)
    time.sleep(float(sys.argv[2]))
    return {"by": sys.argv[3]}

with Interlock() as interlock:
    done = interlock.run_fn(sys.argv[1], work, ttl=1)
    print(done.executed, done.value["by"], flush=True)
"""


@pytest.fixture
async def clients(scene: Scene) -> AsyncIterator[tuple[AsyncInterlock, AsyncInterlock]]:
    """One at each of two sidecars."""
    async with (
        AsyncInterlock(scene.first.key, scene.first.url, timeout_s=30) as first,
        AsyncInterlock(scene.second.key, scene.second.url, timeout_s=30) as second,
    ):
        yield first, second


@pytest.fixture
def key(scene: Scene) -> str:
    return f"key-{secrets.token_hex(8)}"


async def test_of_200_who_ask_one_gets_the_lock(clients: tuple[AsyncInterlock, AsyncInterlock], key: str) -> None:
    asked = [client.check_lock(key, 60, metadata={"n": n}) for n in range(100) for client in clients]
    locks = await asyncio.gather(*asked)
    assert sum(lock.locked for lock in locks) == 1
    assert all(lock.first_seen_at for lock in locks if lock.duplicate)
    assert {lock.ttl for lock in locks} == {60}


async def test_a_repeated_attempt_is_no_second_one(clients: tuple[AsyncInterlock, AsyncInterlock], key: str) -> None:
    """What a client does whose first answer was lost."""
    first, second = clients
    locking = AsyncInterlock.check_lock(None, key, 60)
    leasing = type(first.leases).acquire(None, key, 60)
    assert [(await client._carrier.carry(locking)).locked for client in (first, second, first)] == [True] * 3
    leases = [await client._carrier.carry(leasing) for client in (first, second)]
    assert [lease.acquired for lease in leases] == [True, True]
    assert leases[0].lease_id == leases[1].lease_id
    assert [lease.charged for lease in leases] == [1, 1]


async def test_of_50_who_bring_the_work_one_does_it_and_all_have_its_result(
    clients: tuple[AsyncInterlock, AsyncInterlock], key: str
) -> None:
    ran = []

    async def work() -> dict[str, int]:
        ran.append(1)
        await asyncio.sleep(0.2)
        return {"n": 7}

    done = await asyncio.gather(*(client.run_fn(key, work, ttl=30) for _ in range(25) for client in clients))
    assert len(ran) == 1
    assert [result.value for result in done] == [{"n": 7}] * 50
    assert sum(result.executed for result in done) == 1


async def test_a_lease_goes_its_way(clients: tuple[AsyncInterlock, AsyncInterlock], key: str) -> None:
    first, second = (client.leases for client in clients)
    held = await first.acquire(key, 60, metadata={"why": "test"})
    assert held.acquired
    assert held.lease_id is not None
    polled = await second.acquire(key, 60)
    assert (polled.status, polled.lease_id, polled.charged) == ("polling", None, 0)
    assert (await first.extend(key, held.lease_id, 120)).ttl == 120
    with pytest.raises(ConflictError):
        await second.complete(key, "forged")
    assert (await second.status(key)).status == "in_progress"
    await first.cancel(key, held.lease_id, reason="changed my mind")
    assert (await second.status(key)).status == "cancelled"
    again = await second.acquire(key, 60)
    assert again.acquired
    assert again.lease_id is not None
    assert again.version > held.version
    await second.fail(key, again.lease_id, error_code="broken")
    told = await first.result(key)
    assert (told.status, told.error_code, told.ok) == ("failed", "broken", False)
    with pytest.raises(NotFoundError):
        await first.status("never seen")


async def test_a_run_that_is_no_longer_wanted_is_cancelled(
    clients: tuple[AsyncInterlock, AsyncInterlock], scene: Scene, tool: Tool, key: str
) -> None:
    first, second = clients
    may_answer = asyncio.Event()
    name = await scene.register(tool.does(waits_for(may_answer, answers())).url)
    await first.run(key, actions=[Action(name)], agent_id=scene.agent)
    await tool.until_received(1)
    assert (await second.cancel_run(key, reason="changed my mind")).status == "cancelled"
    assert (await first.wait(key, timeout_s=30)).status == "cancelled"
    with pytest.raises(NotFoundError):
        await first.cancel_run("never seen")
    may_answer.set()
    await scene.until_idle()


async def test_who_waits_is_told_as_soon_as_it_is_done(
    clients: tuple[AsyncInterlock, AsyncInterlock], key: str
) -> None:
    first, second = clients
    held = await first.leases.acquire(key, 60)
    waiting = asyncio.create_task(second.wait(key, timeout_s=30))
    await asyncio.sleep(0.3)
    assert held.lease_id is not None
    await first.leases.complete(key, held.lease_id, result={"n": 1})
    async with asyncio.timeout(5):
        assert (await waiting).result == {"n": 1}


async def test_a_lease_taken_by_another_is_told_to_who_had_it(
    clients: tuple[AsyncInterlock, AsyncInterlock], key: str
) -> None:
    first, second = clients
    took_over = asyncio.Event()

    async def slow(lease: AsyncLease) -> None:
        await second.leases.cancel(key, lease.holding.lease_id)
        await second.leases.acquire(key, 60)
        took_over.set()
        await asyncio.wait_for(lease.lost.wait(), 10)
        lease.check()

    with pytest.raises(LeaseLostError):
        await first.run_fn(key, slow, ttl=1)
    assert took_over.is_set()
    assert (await second.leases.status(key)).status == "in_progress"


async def test_heartbeats_hold_what_would_have_run_out(
    clients: tuple[AsyncInterlock, AsyncInterlock], key: str
) -> None:
    first, second = clients

    async def slow() -> str:
        for _ in range(4):
            await asyncio.sleep(0.6)
            assert (await second.leases.acquire(key, 1)).status == "polling"
        return "held"

    assert (await first.run_fn(key, slow, ttl=1)).value == "held"


async def test_a_worker_that_is_killed_is_taken_over(scene: Scene, key: str, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {"INTERLOCK_API_KEY": scene.first.key, "PYTHONPATH": ":".join(sys.path)}

    def start(seconds: str, name: str, url: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), key, seconds, name]
        return subprocess.Popen(
            command, env={**environment, "INTERLOCK_BASE_URL": url}, stdout=subprocess.PIPE, text=True
        )

    with start("60", "first", scene.first.url) as first:
        assert first.stdout is not None
        assert await asyncio.to_thread(first.stdout.readline) == "working\n"
        with start("0", "second", scene.second.url) as second:
            first.send_signal(signal.SIGKILL)
            told, _ = await asyncio.to_thread(second.communicate, timeout=30)
    assert told == "working\nTrue second\n"
