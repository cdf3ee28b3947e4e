"""50,000 calls while the exporter and Redis are killed at random: what was exported proves every decision.

INTERLOCK_SOAK_CALLS sets how many, INTERLOCK_SOAK_SEED repeats the same run of kills.
"""

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from tests.conftest import StartDev
from tests.exported_trail import (
    Told,
    assert_every_decision_is_there_once,
    assert_proved,
    audit_settings,
    kill_at_random,
    running_exporter,
    until_exported,
    work,
)
from tests.redis_server import RedisServer
from tests.tool import Tool

CALLS = int(os.environ.get("INTERLOCK_SOAK_CALLS", "50000"))
SEED = int(os.environ.get("INTERLOCK_SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
AGENTS = 20


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_every_decision_of_50000_calls_is_proved_though_exporter_and_redis_are_killed(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool, tmp_path: Path
) -> None:
    print(f"INTERLOCK_SOAK_SEED={SEED}")  # noqa: T201 - how to repeat this very run
    settings = audit_settings(tmp_path / "audit", own_redis.url, INTERLOCK_AUDIT__FILE__ROTATE_BYTES="4000000")
    dev = await interlock_dev(own_redis.url, **{**settings, "INTERLOCK_AUDIT__IN_ENGINE": "false"})
    await dev.register(tool.url)
    await dev.register(tool.url, "forbidden", enabled=False)
    told, over, began = Told(), asyncio.Event(), time.monotonic()
    async with running_exporter(tmp_path / "audit", settings) as exporter, asyncio.TaskGroup() as tasks:
        killing = tasks.create_task(kill_at_random(exporter, own_redis, over, SEED, (3, 12)))
        await asyncio.gather(*(work(dev, f"a{n}", CALLS // AGENTS, told, SEED) for n in range(AGENTS)))
        over.set()
        kills, took_s = await killing, time.monotonic() - began
        states = await until_exported(own_redis.url, 300)
    caught_up_s = time.monotonic() - began - took_s
    repeats = assert_proved(tmp_path / "audit", states)
    verdicts = await assert_every_decision_is_there_once(tmp_path / "audit", told, dev)
    events = sum(state.last_seq for state in states.values())
    print(  # noqa: T201 - the figures of this run
        f"{CALLS} calls in {took_s:.0f} s through {dict(kills)}: {dict(verdicts)}, told nothing: {dict(told.failures)};"
        f" {events} events exported, {repeats} repeats, caught up {caught_up_s:.1f} s after the last call"
    )
