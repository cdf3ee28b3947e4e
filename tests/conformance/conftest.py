"""The same tests on every Redis there is: the carried 6.2, a newer one if one is on PATH, and a cluster of six."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from interlock.store.opening import Store, open_store
from interlock.store.settings import RedisSettings

CLUSTER = "redis+cluster://"


class Silent:
    def redis_call(self, operation: str, seconds: float) -> None:
        pass


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    async with open_store(RedisSettings(url=redis_url, connect_timeout_ms=5_000), Silent()) as store:
        yield store


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[Redis | RedisCluster]:
    """A client of the test's own, to look at what was written."""
    of_cluster = redis_url.startswith(CLUSTER)
    node = redis_url.removeprefix(CLUSTER).partition(",")[0]
    async with RedisCluster.from_url(f"redis://{node}") if of_cluster else Redis.from_url(redis_url) as client:
        yield client
