"""The exporter of the audit trail: put together, and run beside a role or as one of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from interlock.audit.exporter import Exporter
from interlock.audit.heads import SigningKey
from interlock.audit.ports import Sink
from interlock.audit.settings import AuditSettings
from interlock.audit.sinks.file import FileSink
from interlock.audit.sinks.http import HttpSink
from interlock.audit.sinks.stdout import StdoutSink
from interlock.cli import serving
from interlock.cli.configuration import Configuration
from interlock.cli.role import Role
from interlock.governance.errors import UnavailableError
from interlock.proxy.admin import admin_app, listening
from interlock.proxy.metrics import Metrics
from interlock.store.opening import Store, open_store
from interlock.store.settings import RedisSettings

log = structlog.get_logger(__name__)

END_WITHIN_S = 3.0


def run(config: Path | None) -> None:
    """Runs `interlock exporter` until it is told to stop; see `serving.run` for the exit codes."""
    serving.run(Role.EXPORTER, _serve, config)


@asynccontextmanager
async def exporting(
    settings: AuditSettings, redis: RedisSettings, metrics: Metrics, key_file: Path | None = None
) -> AsyncIterator[None]:
    """Exports while the context is open, if a sink is named and this process is to. `key_file` stands in for none."""
    file = settings.signing_key_file or key_file
    if not settings.exports or not settings.in_engine or file is None:
        yield
        return
    # A connection of its own: pages of events are no company for decisions.
    async with (
        open_store(redis, metrics, backlog_cap=settings.cap) as store,
        _running(settings, store, SigningKey.load(file), metrics),
    ):
        yield


async def _serve(configuration: Configuration, stop: asyncio.Event) -> None:
    settings, metrics = configuration.audit, Metrics()
    assert settings.signing_key_file is not None, "the role's needs say so"  # noqa: S101 - for the type checker
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(configuration.redis, metrics, backlog_cap=settings.cap))
        key = SigningKey.load(settings.signing_key_file)
        readiness = _Readiness(store)
        await stack.enter_async_context(
            listening(admin_app(metrics, readiness), settings.admin_host, settings.admin_port)
        )
        await stack.enter_async_context(_running(settings, store, key, metrics))
        log.info("exporter.started", sinks=settings.sinks, key_id=key.public.key_id)
        await stop.wait()
        readiness.draining = True


@asynccontextmanager
async def _running(settings: AuditSettings, store: Store, key: SigningKey, metrics: Metrics) -> AsyncIterator[None]:
    exporter = Exporter(store.trails, _sinks(settings), key, settings, metrics)
    task = asyncio.create_task(exporter.run())
    try:
        yield
    finally:
        task.cancel()
        # What hangs now is taken up again by who exports next.
        await asyncio.wait([task], timeout=END_WITHIN_S)


def _sinks(settings: AuditSettings) -> list[Sink]:
    sinks: list[Sink] = []
    if settings.stdout:
        sinks.append(StdoutSink())
    if settings.file is not None:
        sinks.append(FileSink(settings.file))
    if settings.http is not None:
        sinks.append(HttpSink(settings.http))
    return sinks


class _Readiness:
    """Ready while Redis can be used, whoever leads, and until it drains."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.draining = False

    async def why_not(self) -> str:
        if self.draining:
            return "draining"
        with contextlib.suppress(UnavailableError):
            return await self._store.directory.check()
        return "governance_unavailable"
