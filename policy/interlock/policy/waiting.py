"""Waiting for another's call: told by the ledger when it settles, and looked after in case that word is lost."""

import asyncio
import contextlib

import structlog

from interlock.governance.errors import InterlockError
from interlock.governance.tasks import end
from interlock.policy.model import Scope
from interlock.policy.ports import Ledger

log = structlog.get_logger(__name__)

MAX_WAIT_MS = 120_000
LOOK_S = 1.0
"""How often a running call is looked at: one look for all who wait for it here."""
RECONNECT_S = 0.5


class Waits:
    """Everybody in this process who waits for a call."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._over: dict[str, asyncio.Event] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._listener: asyncio.Task[None] | None = None

    async def close(self) -> None:
        await end(self._listener, *self._watchers.values())

    async def until_over(self, scope: Scope, call_id: str, wait_ms: int) -> bool:
        """True once the call no longer runs, False when `wait_ms` (at most two minutes) passed before."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        over = self._over.setdefault(call_id, asyncio.Event())
        if call_id not in self._watchers:
            self._watchers[call_id] = asyncio.create_task(self._watch(scope, call_id, over))
        try:
            async with asyncio.timeout(min(wait_ms, MAX_WAIT_MS) / 1000):
                await over.wait()
        except TimeoutError:
            return False
        return True

    async def _watch(self, scope: Scope, call_id: str, over: asyncio.Event) -> None:
        """Lives as long as the call: leases end, so does this."""
        try:
            while not over.is_set():
                left_ms = await self._left_ms(scope, call_id)
                if left_ms <= 0:
                    over.set()
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(LOOK_S, left_ms / 1000)):
                        await over.wait()
        finally:
            self._over.pop(call_id, None)
            self._watchers.pop(call_id, None)

    async def _left_ms(self, scope: Scope, call_id: str) -> float:
        try:
            return await self._ledger.running(scope, call_id)
        except InterlockError:
            # Redis is away: nothing is known to be over.
            return LOOK_S * 1000

    async def _listen(self) -> None:
        while True:
            try:
                async with self._ledger.settled() as settled:
                    async for call_id in settled:
                        over = self._over.get(call_id)
                        if over is not None:
                            over.set()
            except InterlockError as error:
                log.warning("waits.deaf", reason=error.reason)
            await asyncio.sleep(RECONNECT_S)
