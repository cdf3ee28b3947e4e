"""A hundred keyed runs over three sidecars, of which one after another is killed in no particular moment."""

import pytest

from tests.acceptance.test_run_workers import survive_kills
from tests.conftest import StartDev
from tests.redis_server import RedisServer
from tests.tool import Tool

pytestmark = pytest.mark.soak


async def test_a_hundred_runs_end_with_each_action_done_once_however_often_a_worker_is_killed(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    await survive_kills(interlock_dev, own_redis, tool, runs=100, kills=15)
