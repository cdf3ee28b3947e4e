"""`interlock sidecar`: the sidecar alone, asking an engine elsewhere."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from interlock.cli import serving
from interlock.cli.configuration import Configuration
from interlock.cli.role import Role
from interlock.proxy.app import Sidecar
from interlock.proxy.engine import dial
from interlock.proxy.metrics import Metrics


def run(config: Path | None) -> None:
    """Runs it until it is told to stop; see `serving.run` for the exit codes."""
    serving.run(Role.SIDECAR, _serve, config)


async def _serve(configuration: Configuration, stop: asyncio.Event) -> None:
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(dial(configuration.sidecar.engine))
        sidecar = Sidecar(configuration.sidecar, channel, metrics=Metrics())
        stack.push_async_callback(sidecar.close)
        await sidecar.start()
        await stop.wait()
        await sidecar.drain()
