"""The way to Redis: scripts by EVALSHA, several commands in one write, and a breaker that answers at once.

Decisions travel on a `Pipe`; subscriptions, which wait for what may never come, on a client of redis-py's. Replies are
as RESP2 has them: bytes, integers, None and flat lists.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import hiredis
import structlog
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from interlock.governance.errors import UnavailableError
from interlock.store.pipe import Argument, Command, Pipe, PipeLostError, PipeTimeoutError, open_pipe
from interlock.store.scripts import load_all
from interlock.store.settings import RedisSettings

log = structlog.get_logger(__name__)

HANG_BREAK_S = 0.25
"""After a time-out nothing is asked for this long: a Redis that hangs costs one slow call, not every call."""
REFUSED_BREAK_S = 0.02
"""After a failed connection nobody else tries for this long: a burst of calls is one attempt."""
ATTEMPTS = 2
"""Every operation may be repeated, so one that a dying connection took along is asked again, once."""


class Recorder(Protocol):
    """Where latencies go."""

    def redis_call(self, operation: str, seconds: float) -> None: ...


class Connection:
    """One Redis. Every failure to reach it, and every refusal of its own, is an UnavailableError."""

    def __init__(self, settings: RedisSettings, recorder: Recorder) -> None:
        self._settings = settings
        self._recorder = recorder
        self._scripts = load_all()
        self._pipe: Pipe | None = None
        self._opening = asyncio.Lock()
        self._broken = False
        self._broken_until = 0.0

    async def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()

    def run(
        self, name: str, keys: Sequence[str], args: Sequence[Argument], beside: Sequence[Command] = ()
    ) -> Awaitable[list[Any]]:
        """Runs a script, then the commands `beside`, in one write. Returns the script's reply, then theirs."""
        return self.run_all(name, [(keys, args)], beside)

    async def run_all(
        self, name: str, runs: Sequence[tuple[Sequence[str], Sequence[Argument]]], beside: Sequence[Command] = ()
    ) -> list[Any]:
        """Runs a script once for each keys and arguments, then the commands `beside`, in one write; as `run`."""
        commands = [*[self.script(name, keys, args) for keys, args in runs], *beside]
        began = time.perf_counter()
        try:
            replies = await self._asked(commands)
            if unknown := {command[1] for command, reply in zip(commands, replies, strict=True) if _no_script(reply)}:
                sources = [script.source for script in self._scripts.values() if script.sha in unknown]
                await self._asked([("SCRIPT", "LOAD", source) for source in sources])
                replies = await self._asked(commands)
        finally:
            self._recorder.redis_call(name, time.perf_counter() - began)
        return _checked(name, replies)

    def script(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Command:
        """A script as a command that may stand beside another one. All of them may be run again."""
        return ("EVALSHA", self._scripts[name].sha, len(keys), *keys, *args)

    async def ask(self, operation: str, *commands: Command) -> list[Any]:
        """Runs commands in one write."""
        began = time.perf_counter()
        try:
            replies = await self._asked(commands)
        finally:
            self._recorder.redis_call(operation, time.perf_counter() - began)
        return _checked(operation, replies)

    async def ask_atomically(self, operation: str, *commands: Command) -> list[Any]:
        """Runs commands on one slot as a transaction, so that what they read belongs together."""
        replies = await self.ask(operation, ("MULTI",), *commands, ("EXEC",))
        return _checked(operation, replies[-1])

    @asynccontextmanager
    async def subscription(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """What is published on a channel, from the moment the context is entered."""
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(_subscriber(self._settings))
            listener = await stack.enter_async_context(client.pubsub())
            try:
                await listener.subscribe(channel)
            except (RedisError, OSError) as error:
                raise _unavailable() from error
            yield _messages(listener)

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
            except PipeTimeoutError as error:
                raise self._break(error, HANG_BREAK_S) from error
        raise AssertionError("the last attempt returns or raises")

    async def _opened(self, *, asked: bool) -> Pipe:
        """An open pipe. `asked`: the commands have been sent before, so that they may have had an effect."""
        if self._broken and self._opening.locked():
            # Somebody is trying already; to wait for a Redis that was just away would only add to the call.
            raise _unavailable(asked=asked)
        async with self._opening:
            if self._pipe is not None and self._pipe.open:
                return self._pipe
            if time.monotonic() < self._broken_until:
                raise _unavailable(asked=asked)
            try:
                self._pipe = await open_pipe(self._settings)
            except (OSError, hiredis.ReplyError) as error:
                hangs = isinstance(error, TimeoutError)
                raise self._break(error, HANG_BREAK_S if hangs else REFUSED_BREAK_S, asked=asked) from error
            self._broken = False
            return self._pipe

    def _break(self, error: Exception, break_s: float, *, asked: bool = True) -> UnavailableError:
        if not self._broken:
            log.warning("redis.unreachable", error=type(error).__name__, why=str(error))
        self._broken = True
        self._broken_until = time.monotonic() + break_s
        return _unavailable(asked=asked)


def _subscriber(settings: RedisSettings) -> redis.Redis:
    """A client that waits for an answer as long as it takes."""
    url = settings.url.get_secret_value() if settings.url else ""
    files = {"ssl_ca_certs": settings.tls_ca_file, "ssl_certfile": settings.tls_cert_file}
    files["ssl_keyfile"] = settings.tls_key_file
    secure = url.startswith("rediss://")
    tls: dict[str, Any] = {name: value for name, value in files.items() if value} if secure else {}
    return redis.Redis.from_url(
        url,
        socket_timeout=None,
        socket_connect_timeout=settings.connect_timeout_ms / 1000,
        retry=Retry(NoBackoff(), 0),
        **tls,
    )


def _no_script(reply: object) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


def _checked(operation: str, replies: Any) -> list[Any]:
    checked: list[Any] = replies if isinstance(replies, list) else [replies]
    for reply in checked:
        if isinstance(reply, hiredis.ReplyError):
            # A full, loading or read-only Redis answers with errors: whatever they say, nothing was decided.
            log.error("redis.refused", operation=operation, error=str(reply))
            raise _unavailable() from reply
    return checked


def _unavailable(*, asked: bool = True) -> UnavailableError:
    effect = {} if asked else {"effect": "none"}
    return UnavailableError("governance_unavailable", "Redis cannot be reached", **effect)


async def _messages(listener: Any) -> AsyncIterator[bytes]:
    try:
        async for message in listener.listen():
            if message["type"] == "message":
                yield message["data"]
    except (RedisError, OSError) as error:
        raise _unavailable() from error
