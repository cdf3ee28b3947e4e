"""A sidecar that dies, or sleeps, between a request that left and its answer: what became of it is then not known."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.outage import PRICE_USD, scene_at
from tests.acceptance.scene import Scene
from tests.acceptance.wire import Answer
from tests.conftest import StartDev
from tests.interlock_dev import InterlockDev, until
from tests.redis_server import RedisServer
from tests.tool import Tool, answers, never_answers, waits_for

CHARGE = {"order": 17}
TIMEOUT_MS = 1000
LEASE_S = TIMEOUT_MS / 1000 + 1
WAIT = {"Prefer": "wait=20"}
OWN_KEY = {"Idempotency-Key": "the-agents-own-key"}
SECOND = b'{"receipt": "ch_2"}'


@pytest.fixture
async def doomed(scene: Scene, tmp_path: Path) -> AsyncIterator[InterlockDev]:
    """One more sidecar beside those that all tests share, and so the one that may die."""
    await scene.policy(pricing_rules=[{"tool": "*", "price_usd": PRICE_USD}])
    dev = InterlockDev(tmp_path / "doomed", scene.first.redis_url, {})
    await dev.start()
    yield dev
    await dev.kill()


async def killed(dev: InterlockDev, *running: asyncio.Task[Answer]) -> None:
    await dev.kill()
    for call in running:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await call


async def interlock(dev: InterlockDev, *arguments: str) -> tuple[int, str]:
    """Exit code and output of an operator's command, run as a process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "interlock.cli.main", *arguments),
        env={**os.environ, "INTERLOCK_BASE_URL": dev.url, "INTERLOCK_API_KEY": dev.key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_calls_of_a_killed_sidecar_run_again_once_their_leases_are_over_each_under_its_key_and_charge(
    scene: Scene, doomed: InterlockDev, tool: Tool
) -> None:
    tool.does(never_answers(), never_answers(), answers(body=SECOND))
    name = await scene.register(tool.url, timeout_ms=TIMEOUT_MS)
    running = []
    for position, sent in enumerate(({}, OWN_KEY), 1):
        running.append(asyncio.create_task(scene.call(name, CHARGE, at=doomed, headers=sent)))
        await tool.until_received(position)
    await killed(doomed, *running)

    for sent in ({}, OWN_KEY):
        too_soon = await scene.call(name, CHARGE, headers=sent)
        assert (too_soon.status, too_soon.json["reason"]) == (409, "in_flight")
        assert 1 <= int(too_soon.header("Retry-After") or 0) <= LEASE_S
    assert len(tool.received) == 2
    for sent in ({}, OWN_KEY):
        again = await scene.call(name, CHARGE, headers={**sent, **WAIT})
        assert (again.status, again.decision, again.body) == (200, "executed", SECOND)
        assert (await scene.call(name, CHARGE, headers=sent)).replayed

    for first, second in zip(tool.received[:2], tool.received[2:], strict=True):
        assert first.header("Idempotency-Key") == second.header("Idempotency-Key")
        assert int(first.header("Interlock-Fence") or 0) < int(second.header("Interlock-Fence") or 0)
    assert await scene.charged() == (4, 2 * PRICE_USD)


async def test_a_call_that_must_not_be_repeated_is_held_until_an_operator_resolves_it_also_after_a_week(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    heir, doomed = await asyncio.gather(interlock_dev(own_redis.url), interlock_dev(own_redis.url))
    tool.does(never_answers(), answers(body=SECOND))
    async with scene_at(heir) as scene:
        name = await scene.register(tool.url, timeout_ms=TIMEOUT_MS, on_ambiguous="hold")
        running = asyncio.create_task(scene.call(name, CHARGE, at=doomed))
        await tool.until_received(1)
        await killed(doomed, running)
        assert (await scene.call(name, CHARGE)).json["reason"] == "in_flight"
        held = await scene.call(name, CHARGE, headers=WAIT)
        assert (held.status, held.decision, held.json["reason"]) == (409, "unknown", "outcome_unknown")
        assert held.json["retryable"] is False

        own_redis.stop()
        own_redis.start(days_later=8)
        await until(heir.ready)
        still = await scene.call(name, CHARGE, headers=WAIT)
        assert (still.status, still.json["reason"]) == (409, "outcome_unknown")
        assert len(tool.received) == 1

        code, listed = await interlock(heir, "calls", "list", "--state", "unknown", "--json")
        [call] = json.loads(listed)
        assert (code, call["agent_id"], call["charged_usd"]) == (0, scene.agent, PRICE_USD)
        code, told = await interlock(heir, "calls", "resolve", call["call_id"], "--not-sent", "--note", "it never came")
        assert code == 0, told
        again = await scene.call(name, CHARGE)
        assert (again.status, again.decision, again.body) == (200, "executed", SECOND)
        assert tool.received[0].header("Idempotency-Key") == tool.received[1].header("Idempotency-Key")


async def test_a_call_that_an_operator_says_succeeded_is_never_repeated(
    scene: Scene, doomed: InterlockDev, tool: Tool
) -> None:
    name = await scene.register(tool.does(never_answers()).url, timeout_ms=TIMEOUT_MS, on_ambiguous="hold")
    running = asyncio.create_task(scene.call(name, CHARGE, at=doomed))
    await tool.until_received(1)
    await killed(doomed, running)
    held = await scene.call(name, CHARGE, headers=WAIT)
    assert held.json["reason"] == "outcome_unknown"
    resolve = ("calls", "resolve", held.header("Interlock-Call-Id") or "", "--succeeded", "--json")
    code, resolved = await interlock(scene.first, *resolve)
    assert (code, json.loads(resolved)["state"]) == (0, "succeeded")
    assert (await interlock(scene.first, *resolve))[0] == 1

    again = await scene.call(name, CHARGE)
    assert (again.status, again.json["reason"], again.json["retryable"]) == (409, "answer_not_kept", False)
    assert (again.decision, again.replayed) == ("dedup", True)
    assert len(tool.received) == 1
    assert await scene.charged() == (1, PRICE_USD)


async def test_what_a_sidecar_says_after_it_slept_through_its_lease_changes_nothing(
    scene: Scene, doomed: InterlockDev, tool: Tool
) -> None:
    """Neither while its heir still runs nor afterwards."""
    first_may_answer, second_may_answer = asyncio.Event(), asyncio.Event()
    first = waits_for(first_may_answer, answers(body=b'{"receipt": "ch_1"}'))
    tool.does(first, waits_for(second_may_answer, answers(body=SECOND)))
    name = await scene.register(tool.url, timeout_ms=2 * TIMEOUT_MS)
    sleeping = asyncio.create_task(scene.call(name, CHARGE, at=doomed))
    await tool.until_received(1)
    assert doomed.process is not None
    doomed.process.send_signal(signal.SIGSTOP)
    heir = asyncio.create_task(scene.call(name, CHARGE, headers=WAIT))
    await tool.until_received(2)

    first_may_answer.set()
    doomed.process.send_signal(signal.SIGCONT)
    await sleeping
    assert len(await scene.events("stale_settlement")) == 1
    assert (await scene.call(name, CHARGE)).json["reason"] == "in_flight"

    second_may_answer.set()
    answered = await heir
    assert (answered.status, answered.decision, answered.body) == (200, "executed", SECOND)
    replayed = await scene.call(name, CHARGE)
    assert (replayed.status, replayed.decision, replayed.body) == (200, "dedup", SECOND)
    assert [event["verdict"] for event in await scene.events("settlement")] == ["SUCCEEDED"]
    assert len(tool.received) == 2
    assert await scene.charged() == (2, PRICE_USD)
