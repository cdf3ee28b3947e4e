"""What is in Redis, byte for byte: to see that something left no trace there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from tests.acceptance.scene import Scene
from tests.tool import Tool

OF_THEIR_OWN = {
    b"il:{WORLD}:held",
    b"il:{WORLD}:unknown",
    b"il:{WORLD}:watcher",
    b"il:{WORLD}:queues",
    b"il:{default}:watched",
} | {b"il:{default}:" + part for part in (b"alerts", b"alerted", b"outbox", b"dead", b"deliveries")}
"""What engines write without being asked: when to look again after held calls and queues of runs that other tests have
left, which of them watches for what is worth an alert, how far it has looked at the trails of other tests, and
the alerts on those."""

# One round trip, however much the tests before have left there.
EVERYTHING = """
local rows = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  rows[#rows + 1] = { key, redis.sha1hex(redis.call('DUMP', key)), redis.call('PTTL', key) }
end
return rows
"""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The digest of every value, and the keys that do not go by themselves."""

    digests: dict[bytes, bytes]
    lasting: frozenset[bytes]

    def changes_to(self, later: "Evidence") -> list[str]:
        """The keys that were written, or that have gone and should not have. Nobody else may be at work meanwhile."""
        written = {key for key, value in later.digests.items() if self.digests.get(key) != value}
        gone = {key for key in self.lasting if key not in later.digests}
        return sorted(key.decode() for key in (written | gone) - OF_THEIR_OWN - self._unfolded(later))

    def _unfolded(self, later: "Evidence") -> set[bytes]:
        """The trails of agents whose folded refusals, which stood there before, have been read out by who watches."""
        folds = {
            key for key, value in self.digests.items() if key.endswith(b":folds") and later.digests.get(key) != value
        }
        return {key.removesuffix(b"folds") + part for key in folds for part in (b"state", b"audit", b"folds")}


async def everything_in(redis_url: str | None) -> Evidence:
    assert redis_url is not None
    async with Redis.from_url(redis_url) as redis:
        rows = await redis.eval(EVERYTHING, 0)
    return Evidence({key: digest for key, digest, _ in rows}, frozenset(key for key, _, ttl in rows if ttl == -1))


@asynccontextmanager
async def no_trace(scene: Scene, tool: Tool) -> AsyncIterator[None]:
    """Inside, nothing is to be stored, charged or sent to the tool."""
    before, calls = await everything_in(scene.first.redis_url), len(tool.received)
    yield
    changes = before.changes_to(await everything_in(scene.first.redis_url))
    assert not changes, changes
    assert len(tool.received) == calls
