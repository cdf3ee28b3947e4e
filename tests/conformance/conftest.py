"""The same tests on every Redis there is: the carried 6.2 and, if one is on PATH, a newer one."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from interlock.store.opening import Store, open_store
from interlock.store.settings import RedisSettings
from tests.redis_server import PROGRAMS, RedisServer


class Silent:
    def redis_call(self, operation: str, seconds: float) -> None:
        pass


@pytest.fixture(scope="session", params=PROGRAMS, ids=lambda server: "redis-" + ".".join(map(str, server.version)))
def some_redis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    folder: Path = tmp_path_factory.mktemp("redis")
    server = RedisServer(folder, request.param, durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def store(some_redis: RedisServer) -> AsyncIterator[Store]:
    some_redis.flush()
    async with open_store(RedisSettings(url=some_redis.url), Silent()) as store:
        yield store


@pytest.fixture
async def raw(some_redis: RedisServer) -> AsyncIterator[Redis]:
    """A client of the test's own, to look at what was written."""
    async with Redis.from_url(some_redis.url) as client:
        yield client
