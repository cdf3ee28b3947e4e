"""One at a time: a lease in Redis, with a fence that grows with every new holder."""

import asyncio
import secrets
import time
from typing import Protocol

import structlog

from interlock.governance.errors import UnavailableError

log = structlog.get_logger(__name__)


class LeaseLostError(Exception):
    """Another may be at work: nothing more may be done."""


class Leadership(Protocol):
    """Where one lease is kept."""

    async def lead(self, holder: str, ttl_ms: int) -> int | None:
        """Takes or keeps it: its fence, or None while another has it. Errors: UnavailableError."""

    async def stop_leading(self, holder: str) -> None:
        """Gives it back. Errors: UnavailableError."""


class Lease:
    """The claim of this process to be the one. Its deadline is monotonic, counted from before Redis was asked."""

    def __init__(self, leadership: Leadership, ttl_ms: int) -> None:
        self._leadership = leadership
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
            await self._leadership.stop_leading(self._holder)
        except UnavailableError:
            log.debug("lease.not_given_back")

    async def _ask(self) -> bool:
        """Whether Redis gave it, or prolonged it. One that is another's now ends at once."""
        until = time.monotonic() + self._ttl_ms / 1000
        try:
            fence = await self._leadership.lead(self._holder, self._ttl_ms)
        except UnavailableError:
            return False
        if fence is None or (self.fence and fence != self.fence and time.monotonic() < self._until):
            self._until = 0.0
            return False
        self.fence, self._until = fence, until
        return True
