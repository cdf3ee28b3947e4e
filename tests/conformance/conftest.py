"""The same tests on every Redis there is: the carried 6.2 and, if one is on PATH, a newer one."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from interlock.store.opening import Store, open_store
from interlock.store.settings import RedisSettings


class Silent:
    def redis_call(self, operation: str, seconds: float) -> None:
        pass


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    async with open_store(RedisSettings(url=redis_url, connect_timeout_ms=5_000), Silent()) as store:
        yield store


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[Redis]:
    """A client of the test's own, to look at what was written."""
    async with Redis.from_url(redis_url) as client:
        yield client
