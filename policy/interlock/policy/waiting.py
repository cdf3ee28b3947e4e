"""Waiting for a call or lease of another: told by the store when it settles, or by looking if that word is lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from interlock.governance.errors import InterlockError
from interlock.governance.tasks import end
from interlock.policy.model import Scope

log = structlog.get_logger(__name__)

MAX_WAIT_MS = 120_000
LOOK_S = 1.0
"""How often what runs is looked at: one look for all who wait for it here."""
RECONNECT_S = 0.5


class Running(Protocol):
    """Where calls or leases are kept."""

    async def running(self, scope: Scope, call_id: str) -> int:
        """How long it still holds, ms; 0 if it is no longer running."""

    def settled(self) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Ids of those that settle, from the moment the context is entered."""


@dataclass(slots=True)
class _Watched:
    """Something that runs, while somebody waits for it."""

    over: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    watcher: asyncio.Task[None] | None = None


class Waits:
    """Everybody in this process who waits for a call, or for a lease."""

    def __init__(self, kept: Running) -> None:
        self._kept = kept
        self._watched: dict[str, _Watched] = {}
        self._listener: asyncio.Task[None] | None = None

    async def close(self) -> None:
        await end(self._listener, *(watched.watcher for watched in self._watched.values()))

    def release(self) -> None:
        """Nobody waits any longer."""
        for watched in self._watched.values():
            watched.over.set()

    async def until_over(self, scope: Scope, call_id: str, wait_ms: int) -> bool:
        """True once it no longer runs, False when `wait_ms` (at most two minutes) passed before."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        watched = self._watched.get(call_id) or self._watch_over(scope, call_id)
        watched.waiting += 1
        try:
            async with asyncio.timeout(min(wait_ms, MAX_WAIT_MS) / 1000):
                await watched.over.wait()
        except TimeoutError:
            return False
        finally:
            watched.waiting -= 1
            if not watched.waiting:
                self._leave(call_id, watched)
        return True

    def _watch_over(self, scope: Scope, call_id: str) -> _Watched:
        watched = self._watched[call_id] = _Watched()
        watched.watcher = asyncio.create_task(self._watch(scope, call_id, watched))
        return watched

    def _leave(self, call_id: str, watched: _Watched) -> None:
        """Nobody waits for it any more: a lease may be held for weeks."""
        if self._watched.get(call_id) is watched:
            del self._watched[call_id]
        if watched.watcher is not None:
            watched.watcher.cancel()

    async def _watch(self, scope: Scope, call_id: str, watched: _Watched) -> None:
        """Looks until it is over: leases end, so does this."""
        while not watched.over.is_set():
            left_ms = await self._left_ms(scope, call_id)
            if left_ms <= 0:
                watched.over.set()
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_S, left_ms / 1000)):
                    await watched.over.wait()
        # Who comes from now on waits for what runs then.
        if self._watched.get(call_id) is watched:
            del self._watched[call_id]

    async def _left_ms(self, scope: Scope, call_id: str) -> float:
        try:
            return await self._kept.running(scope, call_id)
        except InterlockError:
            # Redis is away: nothing is known to be over.
            return LOOK_S * 1000

    async def _listen(self) -> None:
        while True:
            try:
                async with self._kept.settled() as settled:
                    async for call_id in settled:
                        watched = self._watched.get(call_id)
                        if watched is not None:
                            watched.over.set()
            except InterlockError as error:
                log.warning("waits.deaf", reason=error.reason)
            await asyncio.sleep(RECONNECT_S)
