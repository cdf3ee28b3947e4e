"""The lease of a running call: renewed while it runs, and looked at before anything is sent under it."""

import asyncio
import time
from types import TracebackType
from typing import Self

import structlog

from interlock.governance.errors import InterlockError
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Lease
from interlock.proxy.engine import EngineClient

log = structlog.get_logger()

STREAM_RENEWAL_S = 1.0
"""How often a stream asks whether it may go on: so long a pulled switch takes to end it."""


class HeldLease:
    """An async context in which a permit is renewed every third of its lease. Most calls are over before the first."""

    def __init__(self, engine: EngineClient, permit: pb.Permit, lease: Lease) -> None:
        self._engine = engine
        self._permit = permit
        self._lease = lease
        self._revoked = ""
        self._interval_s = lease.length_s / 3
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._stream: asyncio.Timeout | None = None

    async def __aenter__(self) -> Self:
        self._schedule()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])

    def why_not(self) -> str:
        """Why nothing may be sent under this lease any more, or empty."""
        if self._revoked:
            return self._revoked
        return "" if time.monotonic() < self._lease.until else "lease_lost"

    def cuts(self, stream: asyncio.Timeout) -> None:
        """A stream runs under this lease from now on: it is renewed more often, and its end cuts the stream."""
        self._stream = stream
        self._interval_s = min(self._interval_s, STREAM_RENEWAL_S)
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._start_renewing)

    def _start_renewing(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(), name="lease-renewal")

    async def _renew(self) -> None:
        """One renewal. One that fails is tried again at the next interval: the lease's own end is what counts."""
        asked_at = time.monotonic()
        try:
            response = await self._engine.renew(pb.RenewRequest(permit=self._permit))
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
            return
        self._revoked = response.reason or "lease_lost"
        if self._stream is not None:
            self._stream.reschedule(asyncio.get_running_loop().time())
