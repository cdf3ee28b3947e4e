"""A lease while its work is done: heartbeats hold it, and the work is told when it is lost.

The deadline is this process's own: the lease's time, counted from before the request that gave it was sent. So a holder
that hears nothing, or was stopped for a while, knows by itself that the lease may be another's now.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

from interlock.client.carrying import AsyncHttpCarrier, HttpCarrier
from interlock.client.errors import ConflictError, InterlockError, LeaseLostError, NotFoundError
from interlock.client.leases import LeaseAnswer, LeaseChange, LeaseOperations
from interlock.client.request import Request

BEATS = 3
"""Heartbeats in the time of a lease: two may be lost."""
MIN_BEAT_S = 0.05


class Holding:
    """What is known of a lease that is held, asked for at `asked_at` (monotonic seconds).

    `guarded` is False if nobody could be asked and the client was told to go on then: others may be at it too.
    """

    def __init__(self, answer: LeaseAnswer, asked_at: float) -> None:
        self.key = answer.key
        self.lease_id = answer.lease_id or ""
        self.version = answer.version
        self.guarded = answer.acquired
        self._ttl = answer.ttl or 0
        self._deadline = asked_at + self._ttl if self.guarded else float("inf")
        self._lost_by = ""

    @property
    def remaining_s(self) -> float:
        """How long it is held if no further heartbeat succeeds."""
        return 0.0 if self._lost_by else max(0.0, self._deadline - time.monotonic())

    @property
    def is_lost(self) -> bool:
        return self.remaining_s <= 0

    def check(self, result: object = None) -> None:
        """Errors: LeaseLostError. Call it before each step that must not be done twice."""
        if self.is_lost:
            raise LeaseLostError(self.key, self._lost_by or "it ran out, and could not be extended", result)

    def pause_s(self) -> float:
        """Until the next heartbeat, or the deadline."""
        return min(self._ttl / BEATS, self.remaining_s)

    def beat(self) -> Request[LeaseChange]:
        """The request of a heartbeat; it does not outlast the time to the next one."""
        request = LeaseOperations.extend(None, self.key, self.lease_id, self._ttl)
        return replace(request, timeout_s=max(MIN_BEAT_S, self.pause_s()))

    def extended(self, change: LeaseChange, sent_at: float) -> None:
        self._ttl = change.ttl or self._ttl
        self._deadline = sent_at + self._ttl

    def refused(self, error: InterlockError) -> None:
        """That it is held no more ends it. Anything else leaves the next heartbeats to try, until the deadline."""
        if isinstance(error, ConflictError | NotFoundError):
            self._lost_by = error.message


class _Handle:
    """What both kinds of handle show of a lease to the function that works under it."""

    def __init__(self, holding: Holding) -> None:
        self.holding = holding

    @property
    def key(self) -> str:
        return self.holding.key

    @property
    def version(self) -> int:
        """Grows with each holder: a fence for what the work writes elsewhere."""
        return self.holding.version

    @property
    def guarded(self) -> bool:
        return self.holding.guarded

    @property
    def remaining_s(self) -> float:
        return self.holding.remaining_s

    def check(self) -> None:
        """Errors: LeaseLostError. Call it before each step that must not be done twice."""
        self.holding.check()


class Lease(_Handle):
    """A lease as the function sees that works under it. `lost` is set as soon as it is lost."""

    def __init__(self, holding: Holding) -> None:
        super().__init__(holding)
        self.lost = threading.Event()


class AsyncLease(_Handle):
    """The same for asyncio."""

    def __init__(self, holding: Holding) -> None:
        super().__init__(holding)
        self.lost = asyncio.Event()


@contextlib.contextmanager
def held(carrier: HttpCarrier, holding: Holding) -> Iterator[Lease]:
    """Heartbeats from a thread, until the block ends. `carrier` must not retry: the next heartbeat does."""
    lease = Lease(holding)
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(carrier, lease, over), name=f"lease {holding.key}", daemon=True)
    if holding.guarded:
        beating.start()
    try:
        yield lease
    finally:
        over.set()
        if holding.guarded:
            beating.join()


def _beat(carrier: HttpCarrier, lease: Lease, over: threading.Event) -> None:
    holding = lease.holding
    while not over.wait(holding.pause_s()) and not holding.is_lost:
        sent_at = time.monotonic()
        try:
            holding.extended(carrier.carry(holding.beat()), sent_at)
        except InterlockError as error:
            holding.refused(error)
    if holding.is_lost:
        lease.lost.set()


@contextlib.asynccontextmanager
async def held_async(carrier: AsyncHttpCarrier, holding: Holding) -> AsyncIterator[AsyncLease]:
    """Heartbeats from a task, until the block ends. `carrier` must not retry: the next heartbeat does."""
    lease = AsyncLease(holding)
    beating = asyncio.create_task(_beat_async(carrier, lease), name=f"lease {holding.key}") if holding.guarded else None
    try:
        yield lease
    finally:
        if beating is not None:
            beating.cancel()
            await asyncio.wait([beating])


async def _beat_async(carrier: AsyncHttpCarrier, lease: AsyncLease) -> None:
    holding = lease.holding
    while not holding.is_lost:
        await asyncio.sleep(holding.pause_s())
        sent_at = time.monotonic()
        if holding.is_lost:
            break
        try:
            holding.extended(await carrier.carry(holding.beat()), sent_at)
        except InterlockError as error:
            holding.refused(error)
    lease.lost.set()
