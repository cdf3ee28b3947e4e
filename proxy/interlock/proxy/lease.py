"""The lease of a running call: renewed while it runs, and looked at before anything is sent under it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import structlog

from interlock.governance.errors import InterlockError
from interlock.governance.tasks import end
from interlock.governance.timers import Timer, Timers
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Lease
from interlock.proxy.engine import EngineClient

log = structlog.get_logger()

STREAM_RENEWAL_S = 1.0
"""How often a stream asks whether it may go on: so long a pulled switch takes to end it."""

DEGRADED_STREAM_S = 300.0
"""So long a stream goes on of which nobody can be asked whether it may."""


class HeldLease:
    """An async context in which a permit is renewed every third of its lease. Most calls are over before the first."""

    def __init__(
        self, engine: EngineClient, timers: Timers, permit: pb.Permit, lease: Lease, credential: str = ""
    ) -> None:
        """`credential` is the key that the call was made with: revoked, it ends the lease."""
        self._engine = engine
        self._timers = timers
        self._permit = permit
        self._credential = credential
        self._lease = lease
        self._revoked = ""
        self._interval_s = lease.length_s / 3
        self._timer: Timer | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._stream: asyncio.Timeout | None = None
        self._end_timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._schedule()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._end_timer is not None:
            self._end_timer.cancel()
        if self._renewing is not None:
            await end(self._renewing)

    def why_not(self) -> str:
        """Why nothing may be sent under this lease any more, or empty."""
        if self._revoked:
            return self._revoked
        return "" if time.monotonic() < self._lease.until else "lease_lost"

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[asyncio.Timeout]:
        """A stream under this lease, which is renewed more often for it. When the lease is refused or over, it is cut:
        TimeoutError.
        """
        async with asyncio.timeout(None) as stream:
            self._stream = stream
            self._interval_s = min(self._interval_s, STREAM_RENEWAL_S)
            self._schedule()
            self._watch_end()
            try:
                yield stream
            finally:
                self._stream = None

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timers.call_later(self._interval_s, self._start_renewing)

    def _start_renewing(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(), name="lease-renewal")

    async def _renew(self) -> None:
        """One renewal. One that fails is tried again at the next interval: the lease's own end is what counts."""
        asked_at = time.monotonic()
        try:
            response = await self._engine.renew(pb.RenewRequest(permit=self._permit, credential=self._credential))
        except InterlockError as error:
            log.warning("lease.renewal_failed", call_id=self._permit.call_id, reason=error.reason)
        else:
            self._take(response, asked_at)
        if not self._revoked:
            self._schedule()

    def _take(self, response: pb.RenewResponse, asked_at: float) -> None:
        if response.renewed:
            length_s = response.lease_ms / 1000
            self._lease = Lease(until=asked_at + length_s, length_s=length_s)
            if self._stream is not None:
                self._watch_end()
            return
        self._end(response.reason or "lease_lost")

    def _watch_end(self) -> None:
        """Has the stream end with the lease, unless that is renewed meanwhile."""
        if self._end_timer is not None:
            self._end_timer.cancel()
        left_s = self._lease.until - time.monotonic()
        self._end_timer = asyncio.get_running_loop().call_later(left_s, self._end, "lease_lost")

    def _end(self, why: str) -> None:
        """Nothing is sent under this lease any more, nor is a stream read on."""
        self._revoked = self._revoked or why
        stream, self._stream = self._stream, None
        if stream is not None and not stream.expired():
            stream.reschedule(asyncio.get_running_loop().time())


class NoLease:
    """In place of a lease, for a call that nobody could be asked for: nothing is renewed, and a stream has an end."""

    def __init__(self) -> None:
        self._over = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Nothing is held."""

    def why_not(self) -> str:
        """As of a lease."""
        return "lease_lost" if self._over else ""

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[asyncio.Timeout]:
        """A stream, cut after `DEGRADED_STREAM_S`: TimeoutError."""
        async with asyncio.timeout(DEGRADED_STREAM_S) as stream:
            try:
                yield stream
            except asyncio.CancelledError:
                self._over = True
                raise
