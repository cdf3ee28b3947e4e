"""How every role runs: until it is told to stop, and with one clear line if it cannot."""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import typer

from interlock.audit.heads import KeyFileError
from interlock.cli.configuration import Configuration, Settings
from interlock.cli.needs import load_for
from interlock.cli.problems import ConfigurationError, UnreadableFileError
from interlock.cli.role import Role
from interlock.cli.start import KILLED, leave_no_orphans
from interlock.governance.errors import InterlockError
from interlock.policy.secrets import MasterKeyError
from interlock.proxy import logs

FAILED = 1
USAGE = 2
COLLECTED_EVERY = 20_000
"""So many objects more than before, and the collector looks for cycles among them."""

Serve = Callable[[Configuration, asyncio.Event], Awaitable[None]]


def run(
    role: Role, serve: Serve, config: Path | None, *, defaults: Settings | None = None, flags: Settings | None = None
) -> None:
    """Reads the configuration and runs `serve` with it and an event that says: drain, and come back.

    SIGTERM or SIGINT sets the event; a second one cancels `serve` where it stands. Exit codes: 0 ended as asked,
    1 failed, 2 wrong usage or configuration, 128 + N ended at once by the second signal N.
    """
    try:
        configuration = load_for(role, config, defaults=defaults, flags=flags)
        logs.configure(_log_level(role, configuration))
        _tend_memory_rarely()
        if role is not Role.DEV:  # it has a Redis of its own, and asks how that ended
            leave_no_orphans()
        interrupted = asyncio.run(_until_told(serve, configuration))
    except (ConfigurationError, UnreadableFileError, MasterKeyError, KeyFileError) as error:
        raise _ended(error, USAGE) from error
    except (InterlockError, OSError) as error:
        raise _ended(error, FAILED) from error
    if interrupted is not None:
        raise typer.Exit(KILLED + interrupted)


def _log_level(role: Role, configuration: Configuration) -> str:
    match role:
        case Role.ENGINE:
            return configuration.engine.log_level
        case Role.EXPORTER:
            return configuration.audit.log_level
        case Role.INJECTOR:
            return configuration.injector.log_level
        case _:
            return configuration.sidecar.log_level


def _tend_memory_rarely() -> None:
    """What is loaded by now stays, and a call leaves hardly a cycle behind: looking for some is a tenth of its cost."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_EVERY, 20, 20)


async def _until_told(serve: Serve, configuration: Configuration) -> signal.Signals | None:
    """Returns the second signal, if there was one."""
    stop = asyncio.Event()
    serving = asyncio.ensure_future(serve(configuration, stop))
    interrupted: list[signal.Signals] = []

    def told(by: signal.Signals) -> None:
        if stop.is_set():
            interrupted.append(by)
            serving.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told, number)
    try:
        await serving
    except asyncio.CancelledError:
        if not interrupted:
            raise
    return interrupted[0] if interrupted else None


def _ended(error: Exception, code: int) -> typer.Exit:
    typer.echo(f"interlock: {_in_one_line(error)}" if code == FAILED else str(error), err=True)
    return typer.Exit(code)


def _in_one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
