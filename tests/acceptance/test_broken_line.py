"""The line between sidecar and engine, and the one between engine and Redis: a reply lost, a line cut, an end dead."""

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.acceptance.outage import PRICE_USD, Apart, Line, apart, scene_at, timed
from tests.acceptance.scene import Scene
from tests.interlock_dev import InterlockDev, until
from tests.redis_server import RedisServer
from tests.tool import Tool, answers, waits_for

# Three processes for all tests of this file: they, the line and the tool live in one loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")

CHARGE = {"order": 17}
# What only the reply in question holds: an Authorize's names a call, its script's says EXECUTE, the settling one how.
AUTHORIZED = b"call_"
RESERVED = b"EXECUTE"
SETTLED = b"SUCCEEDED"
WAIT = {"Prefer": "wait=20"}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def processes(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Apart]:
    async with apart(tmp_path_factory.mktemp("apart"), redis.url) as roles:
        yield roles


@pytest_asyncio.fixture(loop_scope="module")
async def roles(processes: Apart, redis: RedisServer) -> AsyncIterator[Apart]:
    """All runs, whatever the test before left behind."""
    if not redis.runs:
        redis.start()
    await processes.start()
    yield processes


@pytest_asyncio.fixture(loop_scope="module")
async def tool() -> AsyncIterator[Tool]:
    backend = Tool()
    await backend.start()
    yield backend
    await backend.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def scene(roles: Apart) -> AsyncIterator[Scene]:
    async with scene_at(roles.near, roles.far) as scene:
        yield scene


async def settlements(scene: Scene) -> list[str]:
    return [event["verdict"] for event in await scene.events("settlement")]


async def test_an_authorize_whose_reply_is_lost_runs_and_charges_once(roles: Apart, scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    lost = roles.line.loses_reply(AUTHORIZED)
    answer = await scene.call(name, CHARGE, at=roles.far)
    assert lost.is_set()
    assert (answer.status, answer.decision, answer.json) == (200, "executed", {"calls": 1})
    assert len(tool.received) == 1
    assert [event["verdict"] for event in await scene.events("decision")] == ["EXECUTE"]
    assert await settlements(scene) == ["SUCCEEDED"]
    assert await scene.charged() == (1, PRICE_USD)


async def test_an_authorize_whose_reply_comes_after_it_was_asked_for_again_runs_and_charges_once(
    roles: Apart, scene: Scene, tool: Tool
) -> None:
    name = await scene.register(tool.url)
    await scene.call(name, {"order": 16}, at=roles.far)
    kept = roles.line.keeps_reply(AUTHORIZED, until_asked=name.encode())
    answer = await scene.call(name, CHARGE, at=roles.far)
    assert kept.is_set()
    assert (answer.status, answer.decision, answer.json) == (200, "executed", {"calls": 2})
    assert len(tool.received) == 2
    assert [event["verdict"] for event in await scene.events("decision")] == ["EXECUTE"] * 2
    assert await scene.charged() == (2, 2 * PRICE_USD)


@pytest.mark.parametrize("lost_reply", ["of an Authorize", "of a ResolveTool"])
async def test_60_calls_under_way_when_the_line_breaks_run_and_are_charged_once_each(
    roles: Apart, scene: Scene, tool: Tool, lost_reply: str
) -> None:
    name = await scene.register(tool.url)
    lost = roles.line.loses_reply(AUTHORIZED if lost_reply == "of an Authorize" else tool.url.encode())
    async with asyncio.TaskGroup() as crowd:
        calls = [crowd.create_task(scene.call(name, {"order": order}, at=roles.far)) for order in range(60)]
    assert lost.is_set()
    assert {(call.result().status, call.result().decision) for call in calls} == {(200, "executed")}
    assert len(tool.received) == 60
    assert [event["verdict"] for event in await scene.events("decision")] == ["EXECUTE"] * 60
    assert await scene.charged() == (60, 60 * PRICE_USD)


async def test_a_decision_whose_reply_redis_could_not_deliver_is_made_and_charged_once(
    redis: RedisServer, tmp_path: Path, tool: Tool
) -> None:
    async with Line(redis.url.removeprefix("unix://")) as line:
        dev = InterlockDev(tmp_path / "dev", f"redis://{line.address}", {})
        await dev.start()
        async with scene_at(dev) as scene:
            name = await scene.register(tool.url)
            for reply, order in ((RESERVED, 1), (SETTLED, 2)):
                lost = line.loses_reply(reply)
                answer = await scene.call(name, {"order": order})
                assert lost.is_set()
                assert (answer.status, answer.decision, answer.json) == (200, "executed", {"calls": order})
                assert answer.header("Interlock-Settled") is None
                assert len(tool.received) == order
            assert [event["verdict"] for event in await scene.events("decision")] == ["EXECUTE"] * 2
            assert await settlements(scene) == ["SUCCEEDED"] * 2
            assert await scene.charged() == (2, 2 * PRICE_USD)
        assert await dev.stop() == 0


async def test_a_late_settlement_whose_fence_is_current_resolves_a_call_of_unknown_outcome(
    roles: Apart, scene: Scene, tool: Tool
) -> None:
    may_answer = asyncio.Event()
    tool.does(waits_for(may_answer, answers(body=b'{"receipt": "ch_1"}')))
    name = await scene.register(tool.url, on_ambiguous="hold", timeout_ms=1000)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(scene.call(name, CHARGE, at=roles.far))
        await tool.until_received(1)
        await roles.line.cut()
        may_answer.set()
    answered = running.result()
    assert (answered.status, answered.json) == (200, {"receipt": "ch_1"})
    assert answered.header("Interlock-Settled") == "pending"

    unknown = await scene.call(name, CHARGE, headers=WAIT)
    assert (unknown.status, unknown.decision, unknown.json["reason"]) == (409, "unknown", "outcome_unknown")
    roles.line.mend()

    async def is_settled() -> bool:
        return await settlements(scene) == ["SUCCEEDED"]

    await until(is_settled)
    replayed = await scene.call(name, CHARGE)
    assert (replayed.status, replayed.decision, replayed.json) == (200, "dedup", {"receipt": "ch_1"})
    assert len(tool.received) == 1
    assert await scene.charged() == (1, PRICE_USD)


async def test_a_settlement_survives_the_sidecar_that_could_not_deliver_it(
    roles: Apart, redis: RedisServer, scene: Scene, tool: Tool
) -> None:
    may_answer = asyncio.Event()
    tool.does(waits_for(may_answer, answers(201, b'{"receipt": "ch_1"}')))
    name = await scene.register(tool.url)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(scene.call(name, CHARGE, at=roles.far))
        await tool.until_received(1)
        redis.stop()
        may_answer.set()
    answered = running.result()
    assert (answered.status, answered.json, answered.decision) == (201, {"receipt": "ch_1"}, "executed")
    assert answered.header("Interlock-Settled") == "pending"

    await roles.far.kill()
    await roles.far.start(ready=False)
    redis.start()
    await until(roles.far.ready)

    async def is_settled() -> bool:
        return await settlements(scene) == ["SUCCEEDED"]

    await until(is_settled)
    replayed = await scene.call(name, CHARGE)
    assert (replayed.status, replayed.json, replayed.replayed) == (201, {"receipt": "ch_1"}, True)
    assert len(tool.received) == 1
    assert await scene.charged() == (1, PRICE_USD)


async def test_without_its_engine_a_sidecar_refuses_at_once_and_works_again_once_it_is_back(
    roles: Apart, scene: Scene, tool: Tool
) -> None:
    name = await scene.register(tool.url)
    await scene.call(name, {"order": 0})
    await roles.engine.kill()
    measured = [await timed(scene.call(name, {"order": order}), scene.first) for order in range(1, 51)]
    assert {(answer.status, answer.json["reason"], answer.header("Retry-After")) for _, _, answer in measured} == {
        (503, "governance_unavailable", "1")
    }
    assert statistics.median(took for took, _, _ in measured) < 0.1
    assert max(less_noise for _, less_noise, _ in measured) < 0.1
    assert len(tool.received) == 1
    await roles.engine.start()

    async def works() -> bool:
        answer = await scene.call(name, {"order": 51})
        assert answer.status in (200, 503)
        return answer.status == 200

    await until(works, within_s=5)
    assert len(tool.received) == 2
    assert await scene.charged() == (2, 2 * PRICE_USD)


async def test_an_engine_that_is_told_to_end_does_not_wait_for_its_sidecars(
    roles: Apart, scene: Scene, tool: Tool
) -> None:
    name = await scene.register(tool.url)
    assert (await scene.call(name, CHARGE)).status == 200
    async with asyncio.timeout(10):
        assert await roles.engine.stop() == 0
