"""The watch and its deliveries, run by one engine at a time."""

import asyncio

import structlog

from interlock.governance.errors import UnavailableError
from interlock.governance.tasks import end
from interlock.policy.alert_ports import AlertRecorder, Watch
from interlock.policy.delivering import Dispatcher
from interlock.policy.leading import Lease, LeaseLostError
from interlock.policy.ports import Trails
from interlock.policy.watching import Watcher

log = structlog.get_logger(__name__)

LOOK_S = 0.5
FAILED_PAUSE_S = 1.0


class Alerting:
    """While it holds the lease: watches, and delivers."""

    def __init__(
        self,
        watch: Watch,
        trails: Trails,
        watcher: Watcher,
        dispatcher: Dispatcher,
        recorder: AlertRecorder,
        lease_ms: int,
    ) -> None:
        self._trails = trails
        self._watcher = watcher
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._lease = Lease(watch, lease_ms)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="alerting")

    async def close(self) -> None:
        await end(self._task)
        self._task = None
        await self._dispatcher.close()

    async def _run(self) -> None:
        try:
            while True:
                self._recorder.watches(leads=False)
                await self._lease.take()
                await self._lead()
        finally:
            self._recorder.watches(leads=False)
            await self._lease.give_back()

    async def _lead(self) -> None:
        """Works until the lease is lost, or something fails that nobody thought of."""
        log.info("alerts.watching", fence=self._lease.fence)
        self._recorder.watches(leads=True)
        self._watcher.forget()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._lease.keep())
                tasks.create_task(self._keep_watching())
                tasks.create_task(self._keep_delivering())
        except* LeaseLostError:
            log.warning("alerts.lease_lost")
        except* Exception:
            log.exception("alerts.failed")
            await asyncio.sleep(FAILED_PAUSE_S)

    async def _keep_watching(self) -> None:
        while True:
            self._lease.check()
            try:
                await self._watcher.look(self._lease.check)
            except UnavailableError as error:
                log.debug("alerts.wait", reason=error.reason)
            await asyncio.sleep(LOOK_S)

    async def _keep_delivering(self) -> None:
        while True:
            self._lease.check()
            taken = 0
            try:
                taken = await self._dispatcher.look(await self._trails.namespaces())
            except UnavailableError as error:
                log.debug("alerts.wait", reason=error.reason)
            if not taken:
                await asyncio.sleep(LOOK_S)
