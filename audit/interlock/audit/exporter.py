"""The exporter: takes every agent's events from the trails to the sinks, one process at a time."""

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from interlock.audit.heads import SigningKey
from interlock.audit.ports import Recorder, Sink
from interlock.audit.settings import AuditSettings
from interlock.audit.shipping import Shipping
from interlock.governance.errors import UnavailableError
from interlock.policy.leading import Lease, LeaseLostError
from interlock.policy.model import Scope
from interlock.policy.ports import Trails

log = structlog.get_logger(__name__)

POLL_S = 0.2
HINTS = 1000
PAGE = 500
MEASURE_S = 2.0
MAX_MEASURED = 5000
FAILED_PAUSE_S = 1.0


class Exporter:
    """While it holds the lease: asks which trails grew, looks through all of them now and then, and ships.

    Each sink goes its own way, so one that hangs holds up no other.
    """

    def __init__(
        self, trails: Trails, sinks: Sequence[Sink], key: SigningKey, settings: AuditSettings, recorder: Recorder
    ) -> None:
        self._trails = trails
        self._settings = settings
        self._recorder = recorder
        self._lease = Lease(trails, settings.lease_ms)
        self._shippings = [Shipping(sink, trails, key, settings, recorder) for sink in sinks]

    async def run(self) -> None:
        """Works until it is cancelled."""
        try:
            while True:
                self._recorder.audit_leads(leads=False)
                await self._lease.take()
                await self._lead()
        finally:
            self._recorder.audit_leads(leads=False)
            await self._lease.give_back()

    async def _lead(self) -> None:
        """Works until the lease is lost, or something fails that nobody thought of."""
        log.info("audit.leading", fence=self._lease.fence, sinks=self._settings.sinks)
        self._recorder.audit_leads(leads=True)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._lease.keep())
                tasks.create_task(self._feed())
                tasks.create_task(self._sweep())
                tasks.create_task(self._measure())
                for shipping in self._shippings:
                    tasks.create_task(shipping.run(self._lease))
        except* LeaseLostError:
            log.warning("audit.lease_lost")
        except* Exception:
            log.exception("audit.failed")
            await asyncio.sleep(FAILED_PAUSE_S)

    def _wake(self, scopes: Sequence[Scope]) -> None:
        for shipping in self._shippings:
            shipping.wake(scopes)

    async def _feed(self) -> None:
        """Hears of trails that grew."""
        while True:
            grown: Sequence[Scope] = ()
            with contextlib.suppress(UnavailableError):
                grown = await self._trails.take_grown(HINTS)
                if grown:
                    self._wake(grown)
            if len(grown) < HINTS:
                await asyncio.sleep(POLL_S)

    async def _sweep(self) -> None:
        """Looks through all trails: hints may have been lost with who gave or took them."""
        while True:
            pause_s = self._settings.sweep_s
            try:
                for namespace in await self._trails.namespaces():
                    await self._sweep_namespace(await self._trails.agents(namespace))
            except UnavailableError:
                pause_s = 1.0
            await asyncio.sleep(pause_s)

    async def _sweep_namespace(self, scopes: Sequence[Scope]) -> None:
        for start in range(0, len(scopes), PAGE):
            states = await self._trails.states(scopes[start : start + PAGE])
            for shipping in self._shippings:
                shipping.wake(
                    state.scope
                    for state in states
                    if state.folding
                    or state.last_seq > min(state.seq_of(shipping.sink), state.heads.get(shipping.sink, 0))
                )

    async def _measure(self) -> None:
        """How far behind each sink is."""
        while True:
            for shipping in self._shippings:
                waiting = shipping.waiting()[:MAX_MEASURED]
                events = 0
                with contextlib.suppress(UnavailableError):
                    for start in range(0, len(waiting), PAGE):
                        states = await self._trails.states(waiting[start : start + PAGE])
                        events += sum(max(0, state.last_seq - state.seq_of(shipping.sink)) for state in states)
                self._recorder.audit_lag(shipping.sink, events, shipping.oldest_s())
            await asyncio.sleep(MEASURE_S)
