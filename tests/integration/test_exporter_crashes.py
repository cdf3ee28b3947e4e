"""The exporter and Redis are killed at random while calls go on: the short form of `tests/soak`."""

import asyncio
from pathlib import Path

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

CALLS, AGENTS, SEED = 1200, 8, 3


async def test_every_decision_is_exported_and_proved_though_exporter_and_redis_are_killed(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool, tmp_path: Path
) -> None:
    settings = audit_settings(tmp_path / "audit", own_redis.url, INTERLOCK_AUDIT__FILE__ROTATE_BYTES="200000")
    dev = await interlock_dev(own_redis.url, **{**settings, "INTERLOCK_AUDIT__IN_ENGINE": "false"})
    await dev.register(tool.url)
    await dev.register(tool.url, "forbidden", enabled=False)
    told, over = Told(), asyncio.Event()
    async with running_exporter(tmp_path / "audit", settings) as exporter, asyncio.TaskGroup() as tasks:
        killing = tasks.create_task(kill_at_random(exporter, own_redis, over, SEED, (0.7, 2)))
        await asyncio.gather(*(work(dev, f"a{n}", CALLS // AGENTS, told, SEED) for n in range(AGENTS)))
        over.set()
        kills = await killing
        states = await until_exported(own_redis.url)
    assert kills["exporter"] >= 1
    assert_proved(tmp_path / "audit", states)
    verdicts = await assert_every_decision_is_there_once(tmp_path / "audit", told, dev)
    assert sum(verdicts.values()) >= CALLS
