"""Workers of keyed runs that are killed, in any moment: others go on, and nothing that was settled is repeated."""

import asyncio
import json
import random
from collections import Counter

from aiohttp import web

from tests.conftest import StartDev
from tests.interlock_dev import InterlockDev
from tests.redis_server import RedisServer
from tests.tool import Tool

SHORT_LEASES = {"INTERLOCK_ENGINE__RUNS__LEASE_MS": "1500", "INTERLOCK_ENGINE__RUNS__MAX_WORKERS_LOST": "50"}
ACTIONS = 5


class OnceTool:
    """A back end that does what comes under one Idempotency-Key once."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.asked: list[tuple[str, int, str]] = []
        self.done: dict[str, tuple[str, int]] = {}
        self._takes_s = takes_s

    async def __call__(self, request: web.Request) -> web.Response:
        told = json.loads(await request.read())
        what, key = (told["args"]["run"], told["args"]["n"]), request.headers["Idempotency-Key"]
        self.asked.append((*what, key))
        assert self.done.setdefault(key, what) == what
        await asyncio.sleep(self._takes_s)
        return web.json_response({"n": what[1]})

    @property
    def effects(self) -> Counter[tuple[str, int]]:
        return Counter(self.done.values())


def run_of(key: str, actions: int = ACTIONS) -> dict[str, object]:
    planned = [{"tool": "charge", "args": {"run": key, "n": n}} for n in range(actions)]
    return {"key": key, "metadata": {"agent_id": "a1", "actions": planned}}


async def result(at: InterlockDev, key: str) -> dict[str, object]:
    async with at.client() as api:
        return dict((await api.get("/v1/ai/result", params={"key": key, "wait": 60})).json())


async def test_a_worker_killed_in_the_middle_of_an_action_is_replaced_and_nothing_settled_is_repeated(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    first = await interlock_dev(own_redis.url, **SHORT_LEASES)
    third = asyncio.Event()
    once = OnceTool()

    async def holds_the_third(request: web.Request) -> web.StreamResponse:
        if len(tool.received) == 3:
            third.set()
            await asyncio.Event().wait()
        return await once(request)

    await first.register(tool.does(holds_the_third).url, timeout_ms=1_000)
    async with first.client() as api:
        (await api.post("/v1/ai/run", json=run_of("k"))).raise_for_status()
    await asyncio.wait_for(third.wait(), 20)
    await first.kill()
    second = await interlock_dev(own_redis.url, **SHORT_LEASES)
    told = await result(second, "k")
    assert told["status"] == "completed"
    asked = [json.loads(call.body)["args"]["n"] for call in tool.received]
    assert asked == [0, 1, 2, 2, 3, 4]
    assert len({call.header("Idempotency-Key") for call in tool.received}) == ACTIONS
    async with second.client() as api:
        assert (await api.get("/v1/ai/status", params={"key": "k"})).json()["version"] == 2


async def survive_kills(start: StartDev, redis: RedisServer, tool: Tool, runs: int, kills: int) -> None:
    """So many runs over three sidecars, of which now and then one is killed and started again."""
    once = OnceTool(takes_s=0.02)
    sidecars = [await start(redis.url, **SHORT_LEASES) for _ in range(3)]
    await sidecars[0].register(tool.does(once).url, timeout_ms=1_000)
    keys = [f"run-{n}" for n in range(runs)]
    async with sidecars[0].client() as api:
        posted = await asyncio.gather(*(api.post("/v1/ai/run", json=run_of(key)) for key in keys))
    assert {answer.json()["status"] for answer in posted} == {"acquired"}
    for _ in range(kills):
        await asyncio.sleep(random.uniform(0.2, 1.0))
        killed = random.choice(sidecars)
        await killed.kill()
        await killed.start()
    told = [await result(sidecars[0], key) for key in keys]
    assert Counter(run["status"] for run in told) == {"completed": runs}, [run for run in told if not run["ok"]][:3]
    assert once.effects == Counter({(key, n): 1 for key in keys for n in range(ACTIONS)})


async def test_runs_over_three_sidecars_that_are_killed_at_random_all_end_with_each_action_done_once(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    await survive_kills(interlock_dev, own_redis, tool, runs=20, kills=3)


async def test_a_sidecar_that_is_told_to_stop_gives_its_run_back_at_once(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    first = await interlock_dev(own_redis.url, INTERLOCK_ENGINE__RUNS__LEASE_MS="600000")
    begun, go = asyncio.Event(), asyncio.Event()
    once = OnceTool()

    async def waits(request: web.Request) -> web.StreamResponse:
        begun.set()
        await go.wait()
        return await once(request)

    await first.register(tool.does(waits).url)
    async with first.client() as api:
        (await api.post("/v1/ai/run", json=run_of("k"))).raise_for_status()
    await asyncio.wait_for(begun.wait(), 20)
    stopping = asyncio.create_task(first.stop())
    second = await interlock_dev(own_redis.url, INTERLOCK_ENGINE__RUNS__LEASE_MS="600000")
    go.set()
    assert await stopping == 0
    assert (await result(second, "k"))["status"] == "completed"
    assert [json.loads(call.body)["args"]["n"] for call in tool.received] == [0, 1, 2, 3, 4]


async def test_queued_runs_outlive_a_restart_of_redis(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    idle = await interlock_dev(own_redis.url, INTERLOCK_SIDECAR__RUNS__WORKERS="0")
    await idle.register(tool.does(OnceTool()).url)
    async with idle.client() as api:
        (await api.post("/v1/ai/run", json=run_of("k"))).raise_for_status()
        assert (await api.get("/v1/ai/status", params={"key": "k"})).json()["status"] == "in_progress"
    own_redis.stop()
    own_redis.start()
    working = await interlock_dev(own_redis.url)
    assert (await result(working, "k"))["status"] == "completed"
    assert len(tool.received) == ACTIONS


async def test_a_run_that_kills_its_workers_fails_as_worker_lost(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    settings = {**SHORT_LEASES, "INTERLOCK_ENGINE__RUNS__MAX_WORKERS_LOST": "1"}
    first = await interlock_dev(own_redis.url, **settings)
    begun = asyncio.Event()

    async def kills(_: web.Request) -> web.StreamResponse:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    await first.register(tool.does(kills).url)
    async with first.client() as api:
        (await api.post("/v1/ai/run", json=run_of("k"))).raise_for_status()
    await asyncio.wait_for(begun.wait(), 20)
    await first.kill()
    second = await interlock_dev(own_redis.url, **settings)
    told = await result(second, "k")
    assert (told["status"], told["error_code"]) == ("failed", "worker_lost")
