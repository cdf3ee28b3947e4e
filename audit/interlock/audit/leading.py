"""One exporter at a time: a lease in Redis, with a fence that grows with every new holder."""

import asyncio
import secrets
import time

import structlog

from interlock.governance.errors import UnavailableError
from interlock.policy.ports import Trails

log = structlog.get_logger(__name__)


class LeaseLostError(Exception):
    """Another exporter may be at work: nothing more may be delivered."""


class Lease:
    """The claim of this process to be the one. Its deadline is monotonic, counted from before Redis was asked."""

    def __init__(self, trails: Trails, ttl_ms: int) -> None:
        self._trails = trails
        self._ttl_ms = ttl_ms
        self._holder = secrets.token_urlsafe(12)
        self._until = 0.0
        self.fence = 0

    def check(self) -> None:
        """Raises LeaseLostError unless the lease holds now."""
        if time.monotonic() >= self._until:
            raise LeaseLostError

    async def take(self) -> None:
        """Returns when the lease is ours."""
        while not await self._ask():  # noqa: ASYNC110 - the lease is in Redis, which tells nobody
            await asyncio.sleep(self._ttl_ms / 4000)

    async def keep(self) -> None:
        """Prolongs it for ever. Raises LeaseLostError when it could not be prolonged in time."""
        while True:
            await asyncio.sleep(self._ttl_ms / 4000)
            if not await self._ask():
                self.check()

    async def give_back(self) -> None:
        self._until = 0.0
        try:
            await self._trails.stop_leading(self._holder)
        except UnavailableError:
            log.debug("audit.lease_not_given_back")

    async def _ask(self) -> bool:
        """Whether Redis gave it, or prolonged it. One that is another's now ends at once."""
        until = time.monotonic() + self._ttl_ms / 1000
        try:
            fence = await self._trails.lead(self._holder, self._ttl_ms)
        except UnavailableError:
            return False
        if fence is None or (self.fence and fence != self.fence and time.monotonic() < self._until):
            self._until = 0.0
            return False
        self.fence, self._until = fence, until
        return True
