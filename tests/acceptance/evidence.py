"""What is in Redis, byte for byte: to see that something left no trace there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from tests.acceptance.scene import Scene
from tests.tool import Tool


@dataclass(frozen=True, slots=True)
class Evidence:
    """Every key with its value, and those of them that do not go by themselves."""

    values: dict[bytes, bytes]
    lasting: frozenset[bytes]

    def changes_to(self, later: "Evidence") -> list[str]:
        """The keys that were written, or that have gone and should not have. Nobody else may be at work meanwhile."""
        written = [key for key, value in later.values.items() if self.values.get(key) != value]
        gone = [key for key in self.lasting if key not in later.values]
        return sorted(key.decode() for key in (*written, *gone))


async def everything_in(redis_url: str | None) -> Evidence:
    assert redis_url is not None
    async with Redis.from_url(redis_url) as redis:
        values = {key: await redis.dump(key) for key in await redis.keys("*")}
        lasting = [key for key in values if await redis.pttl(key) == -1]
        return Evidence({key: value for key, value in values.items() if value is not None}, frozenset(lasting))


@asynccontextmanager
async def no_trace(scene: Scene, tool: Tool) -> AsyncIterator[None]:
    """Inside, nothing is to be stored, charged or sent to the tool."""
    before, calls = await everything_in(scene.first.redis_url), len(tool.received)
    yield
    assert before.changes_to(await everything_in(scene.first.redis_url)) == []
    assert len(tool.received) == calls
