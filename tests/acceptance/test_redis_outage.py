"""Redis stops and comes back: closed at once, nothing forwarded meanwhile, nothing forgotten afterwards."""

import asyncio
import statistics
from collections.abc import AsyncIterator

import pytest

from interlock.store.link import HANG_BREAK_S
from tests.acceptance.outage import PRICE_USD, is_back, scene_at, timed
from tests.acceptance.scene import Scene
from tests.conftest import StartDev
from tests.interlock_dev import until
from tests.redis_server import RedisServer
from tests.tool import Tool, answers, waits_for

CHARGE = {"order": 17}
RECEIPT = b'{"receipt": "ch_1"}'


@pytest.fixture
async def scene(interlock_dev: StartDev, own_redis: RedisServer) -> AsyncIterator[Scene]:
    async with scene_at(await interlock_dev(own_redis.url)) as scene:
        yield scene


async def refusals(scene: Scene, name: str) -> list[tuple[float, float]]:
    """How long 50 refused calls took, each, and each less the machine's noise, s."""
    measured = [await timed(scene.call(name, {"order": f"refused {count}"}), scene.first) for count in range(50)]
    told = {(answer.status, answer.json["reason"], answer.header("Retry-After")) for _, _, answer in measured}
    assert told == {(503, "governance_unavailable", "1")}
    assert {answer.decision for _, _, answer in measured} == {"error"}
    return [(took, less_noise) for took, less_noise, _ in measured]


async def test_without_redis_every_call_is_refused_at_once_and_works_again_once_it_is_back(
    scene: Scene, own_redis: RedisServer, tool: Tool
) -> None:
    name = await scene.register(tool.url)
    await scene.call(name, CHARGE)
    own_redis.stop()
    times = await refusals(scene, name)
    assert statistics.median(took for took, _ in times) < 0.1
    assert max(less_noise for _, less_noise in times) < 0.1
    run = await scene.run(name, CHARGE)
    assert (run.status, run.json["detail"]["error"], run.header("Retry-After")) == (503, "governance_unavailable", "1")

    async def is_not_ready() -> bool:
        return not await scene.first.ready()

    await until(is_not_ready)
    own_redis.start()
    await until(lambda: is_back(scene), within_s=5)
    await until(scene.first.ready)
    assert (await scene.call(name, CHARGE)).replayed
    assert (await scene.call(name, {"order": 18})).json == {"calls": 2}
    assert len(tool.received) == 2
    assert await scene.charged() == (2, 2 * PRICE_USD)


async def test_a_redis_that_hangs_delays_few_calls_and_lets_none_through(
    scene: Scene, own_redis: RedisServer, tool: Tool
) -> None:
    name = await scene.register(tool.url)
    await scene.call(name, CHARGE)
    own_redis.freeze()
    times = await refusals(scene, name)
    quick = [took for took, _ in times if took < 0.1]
    assert statistics.median(took for took, _ in times) < 0.1
    # Who waits in vain buys the others so long a time without waiting.
    assert len(times) - len(quick) <= 2 + sum(quick) / HANG_BREAK_S
    assert len(tool.received) == 1
    own_redis.thaw()

    async def works() -> bool:
        answer = await scene.call(name, CHARGE)
        assert answer.replayed or answer.status == 503
        return answer.replayed

    await until(works, within_s=5)


async def test_answers_that_cannot_be_settled_go_out_as_pending_and_are_settled_once_redis_is_back(
    scene: Scene, own_redis: RedisServer, tool: Tool
) -> None:
    may_answer = asyncio.Event()
    charges, declines = answers(201, RECEIPT, {"X-Tool": "till"}), answers(422, b'{"error": "declined"}')
    name = await scene.register(tool.does(waits_for(may_answer, charges), waits_for(may_answer, declines)).url)
    charging = asyncio.create_task(scene.call(name, CHARGE))
    await tool.until_received(1)
    declining = asyncio.create_task(scene.call(name, {"order": 18}))
    await tool.until_received(2)
    own_redis.stop()
    may_answer.set()
    charged, declined = await charging, await declining
    assert (charged.status, charged.body, charged.whole) == (201, RECEIPT, True)
    assert (declined.status, declined.body, declined.whole) == (422, b'{"error": "declined"}', True)
    for answer in (charged, declined):
        assert (answer.decision, answer.header("Interlock-Settled")) == ("executed", "pending")
    assert (await scene.call(name, CHARGE)).json["reason"] == "governance_unavailable"

    own_redis.start()
    await until(lambda: is_back(scene))

    async def all_are_settled() -> bool:
        return len(await scene.events("settlement")) == 2

    await until(all_are_settled)
    assert sorted(event["verdict"] for event in await scene.events("settlement")) == ["REJECTED", "SUCCEEDED"]
    replayed = await scene.call(name, CHARGE)
    assert (replayed.status, replayed.body, replayed.header("X-Tool")) == (201, RECEIPT, "till")
    assert replayed.replayed
    assert len(tool.received) == 2
    assert await scene.charged() == (2, PRICE_USD)


async def test_what_a_hanging_redis_reserved_unheard_is_taken_back(
    scene: Scene, own_redis: RedisServer, tool: Tool
) -> None:
    """Else the call would stay charged, and of a `hold` tool nobody would know that it was never sent."""
    name = await scene.register(tool.url, on_ambiguous="hold", timeout_ms=120_000)
    await scene.call(name, CHARGE)
    own_redis.freeze()
    assert (await scene.call(name, {"order": "unheard"})).json["reason"] == "governance_unavailable"
    own_redis.thaw()

    async def nothing_is_reserved() -> bool:
        return await is_back(scene) and not (await scene.ask("GET", f"/v1/calls?agent_id={scene.agent}"))

    await until(nothing_is_reserved)
    assert await scene.charged() == (1, PRICE_USD)
    assert (await scene.call(name, {"order": "unheard"})).decision == "executed"
    assert len(tool.received) == 2
