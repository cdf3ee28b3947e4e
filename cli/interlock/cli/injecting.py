"""`interlock injector`: the webhook that puts sidecars into pods."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from interlock.cli import serving
from interlock.cli.configuration import Configuration
from interlock.cli.problems import ConfigurationError, Place, Problem
from interlock.cli.role import Role
from interlock.injector.settings import InjectorSettings
from interlock.injector.sidecar import SidecarFile
from interlock.injector.webhook import webhook
from interlock.proxy.admin import admin_app, listening
from interlock.proxy.metrics import Metrics

log = structlog.get_logger(__name__)


def run(config: Path | None) -> None:
    """Runs it until it is told to stop; see `serving.run` for the exit codes."""
    serving.run(Role.INJECTOR, _serve, config)


async def _serve(configuration: Configuration, stop: asyncio.Event) -> None:
    settings, metrics = configuration.injector, Metrics()
    assert settings.tls is not None, "the role's needs say so"  # noqa: S101 - for the type checker
    async with AsyncExitStack() as stack:
        sidecar, readiness = _sidecar_file(settings), _Readiness()
        await stack.enter_async_context(
            listening(admin_app(metrics, readiness), settings.admin_host, settings.admin_port)
        )
        try:
            port = await stack.enter_async_context(webhook(settings, settings.tls, sidecar, metrics))
        except ValueError as error:
            raise ConfigurationError([Problem(Place(), "injector.tls", str(error))]) from error
        readiness.reason = ""
        log.info("injector.started", port=port)
        await stop.wait()
        readiness.reason = "draining"
        log.info("injector.draining")
        await asyncio.sleep(settings.drain_grace_ms / 1000)


def _sidecar_file(settings: InjectorSettings) -> SidecarFile:
    assert settings.sidecar_file is not None, "the role's needs say so"  # noqa: S101 - for the type checker
    try:
        return SidecarFile(settings.sidecar_file)
    except (OSError, ValueError) as error:
        raise ConfigurationError([Problem(Place(), "injector.sidecar_file", str(error))]) from error


class _Readiness:
    """Ready from when the webhook listens until it drains."""

    reason = "starting"

    async def why_not(self) -> str:
        return self.reason
