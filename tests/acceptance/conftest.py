"""The sidecars that acceptance tests share: each test has agents and tools of its own, so none sees another's."""

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.acceptance.scene import Scene, Sidecars
from tests.interlock_dev import InterlockDev
from tests.redis_server import RedisServer

UNHURRIED = {"INTERLOCK_SIDECAR__ENGINE__TIMEOUT_MS": "20000"}
"""Crowds of calls share two cores here with all that sends and counts them: what is slow then is not the engine."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sidecars(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecars]:
    """Two sidecars on one Redis, for all the session."""
    folder = tmp_path_factory.mktemp("sidecars")
    with pytest.MonkeyPatch.context() as environment, tempfile.TemporaryDirectory(prefix="redis-") as data:
        for name in [name for name in os.environ if name.startswith("INTERLOCK_")]:
            environment.delenv(name)
        redis = RedisServer(Path(data), durable=False)
        redis.start()
        first, second = (InterlockDev(folder / name, redis.url, UNHURRIED) for name in ("first", "second"))
        try:
            await first.start()
            await second.start()
            yield Sidecars(first, second)
        finally:
            for sidecar in (first, second):
                if sidecar.process is not None:
                    await sidecar.stop()
            redis.stop()


@pytest.fixture
async def scene(sidecars: Sidecars) -> AsyncIterator[Scene]:
    """A new agent at the shared sidecars."""
    headers = {"Authorization": f"Bearer {sidecars.first.key}"}
    async with httpx.AsyncClient(headers=headers, timeout=60, verify=False) as operator:
        yield Scene(sidecars, operator)
