"""A pipe to Redis that is opened anew whenever it broke, and a breaker that answers at once meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import hiredis
import structlog

from interlock.governance.errors import UnavailableError
from interlock.store.addresses import Node
from interlock.store.pipe import Command, Pipe, PipeLostError, PipeTimeoutError, PipeUnacknowledgedError, open_pipe
from interlock.store.scripts import Script
from interlock.store.settings import RedisSettings

log = structlog.get_logger(__name__)

HANG_BREAK_S = 0.25
"""After a time-out nothing is asked for this long: a Redis that hangs costs one slow call, not every call."""
REFUSED_BREAK_S = 0.02
"""After a failed connection nobody else tries for this long: a burst of calls is one attempt."""
ATTEMPTS = 2
"""Every operation may be repeated, so one that a dying connection took along is asked again, once."""
Scripts = Mapping[str, Script]


class Route(Protocol):
    """The way to what the URL names. Every failure to reach it is an UnavailableError."""

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Runs commands, of which scripts come first; one reply each, in order. Scripts are loaded where needed."""

    async def ask_each(self, commands: Sequence[Command]) -> list[list[Any]]:
        """Asks every Redis there that takes writes; each one's replies."""

    async def listening_at(self) -> Node:
        """Where to subscribe."""

    def refused(self, error: str) -> None:
        """Redis refused a command with this error."""

    async def close(self) -> None: ...


class Link:
    """One connection that everybody shares."""

    def __init__(self, opened: Callable[[], Awaitable[Pipe]], scripts: Scripts) -> None:
        """`opened` raises OSError or hiredis.ReplyError."""
        self._open = opened
        self._scripts = {script.sha: script.source for script in scripts.values()}
        self._pipe: Pipe | None = None
        self._opening = asyncio.Lock()
        self._broken = False
        self._broken_until = 0.0

    def drop(self) -> None:
        """Closes the connection; the next question opens another one."""
        if self._pipe is not None:
            self._pipe.close()

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Runs commands in one write; an unknown script is loaded, and all of them are run again."""
        replies = await self._asked(commands)
        if unknown := {command[1] for command, reply in zip(commands, replies, strict=True) if _no_script(reply)}:
            await self._asked([("SCRIPT", "LOAD", self._scripts[str(sha)]) for sha in unknown])
            replies = await self._asked(commands)
        return replies

    async def _asked(self, commands: Sequence[Command]) -> list[Any]:
        asked = False
        for left in reversed(range(ATTEMPTS)):
            pipe = self._pipe if self._pipe is not None and self._pipe.open else await self._opened(asked=asked)
            asked = True
            try:
                return await pipe.ask(commands)
            except PipeLostError as error:
                if not left:
                    raise self._break(error, REFUSED_BREAK_S) from error
            except (PipeTimeoutError, PipeUnacknowledgedError) as error:
                raise self._break(error, HANG_BREAK_S) from error
        raise AssertionError("the last attempt returns or raises")

    async def _opened(self, *, asked: bool) -> Pipe:
        """An open pipe. `asked`: the commands have been sent before, so that they may have had an effect."""
        if self._broken and self._opening.locked():
            # Somebody is trying already; to wait for a Redis that was just away would only add to the call.
            raise unavailable(asked=asked)
        async with self._opening:
            if self._pipe is not None and self._pipe.open:
                return self._pipe
            if time.monotonic() < self._broken_until:
                raise unavailable(asked=asked)
            try:
                self._pipe = await self._open()
            except (OSError, hiredis.ReplyError) as error:
                hangs = isinstance(error, TimeoutError | PipeUnacknowledgedError)
                raise self._break(error, HANG_BREAK_S if hangs else REFUSED_BREAK_S, asked=asked) from error
            self._broken = False
            return self._pipe

    def _break(self, error: Exception, break_s: float, *, asked: bool = True) -> UnavailableError:
        if not self._broken:
            log.warning("redis.unreachable", error=type(error).__name__, why=str(error))
        self._broken = True
        self._broken_until = time.monotonic() + break_s
        return unavailable(asked=asked)


class Alone:
    """The Route to one Redis."""

    def __init__(self, settings: RedisSettings, scripts: Scripts) -> None:
        self._settings = settings
        self._link = Link(lambda: open_pipe(settings), scripts)
        self.ask = self._link.ask

    async def ask_each(self, commands: Sequence[Command]) -> list[list[Any]]:
        return [await self._link.ask(commands)]

    async def listening_at(self) -> Node:
        return self._settings.address.nodes[0]

    def refused(self, error: str) -> None:
        if is_replica(error):  # what stands behind the name may have changed
            self._link.drop()

    async def close(self) -> None:
        self._link.drop()


def is_replica(error: str) -> bool:
    """Whether Redis refused since it is no master any more. Redis 6.2 tells of it inside a script's own error."""
    return error.startswith(("READONLY", "MASTERDOWN")) or "-READONLY " in error


def unavailable(*, asked: bool = True) -> UnavailableError:
    effect = {} if asked else {"effect": "none"}
    return UnavailableError("governance_unavailable", "Redis cannot be reached", **effect)


def _no_script(reply: object) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")
