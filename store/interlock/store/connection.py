"""The way to Redis: scripts by EVALSHA, several commands in one write, and a breaker that answers at once.

All that the rest of the store knows of redis-py is here, so a faster connection can take its place.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar, cast

import structlog
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from interlock.governance.errors import UnavailableError
from interlock.store.scripts import load_all
from interlock.store.settings import RedisSettings

log = structlog.get_logger(__name__)

Argument = str | bytes | int
Command = tuple[Argument, ...]
T = TypeVar("T")
BREAK_S = 0.25
"""After a time-out nothing is asked for this long: a Redis that hangs costs one slow call, not every call."""


class Recorder(Protocol):
    """Where latencies go."""

    def redis_call(self, operation: str, seconds: float) -> None: ...


class Connection:
    """A pool of connections to one Redis. Every failure to reach it is an UnavailableError."""

    def __init__(self, settings: RedisSettings, recorder: Recorder) -> None:
        self._client = _client(settings, settings.timeout_ms / 1000)
        self._patient_client = _client(settings, None)
        self._recorder = recorder
        self._scripts = load_all()
        self._broken_until = 0.0

    async def close(self) -> None:
        await self._client.aclose()
        await self._patient_client.aclose()

    async def run(
        self, name: str, keys: Sequence[str], args: Sequence[Argument], beside: Sequence[Command] = ()
    ) -> list[Any]:
        """Runs a script, then the commands `beside`, in one write. Returns the script's reply, then theirs."""
        script = self._scripts[name]
        evalsha = ("EVALSHA", script.sha, len(keys), *keys, *args)
        with _timed(self._recorder, name):
            replies = await self._pipeline([evalsha, *beside])
            if isinstance(replies[0], NoScriptError):
                await self._pipeline([("SCRIPT", "LOAD", script.source)])
                replies = await self._pipeline([evalsha, *beside])
        return [_checked(name, reply) for reply in replies]

    async def ask(self, operation: str, *commands: Command) -> list[Any]:
        """Runs commands in one write."""
        with _timed(self._recorder, operation):
            return [_checked(operation, reply) for reply in await self._pipeline(commands)]

    async def ask_atomically(self, operation: str, *commands: Command) -> list[Any]:
        """Runs commands on one slot as a transaction, so that what they read belongs together."""
        with _timed(self._recorder, operation):
            return [_checked(operation, reply) for reply in await self._pipeline(commands, transaction=True)]

    @asynccontextmanager
    async def subscription(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """What is published on a channel, from the moment the context is entered."""
        listener = self._patient_client.pubsub()
        try:
            await self._guarded(listener.subscribe(channel))
            yield _messages(listener)
        finally:
            await listener.aclose()  # type: ignore[no-untyped-call]

    async def _pipeline(self, commands: Sequence[Command], *, transaction: bool = False) -> list[Any]:
        pipe = self._client.pipeline(transaction=transaction)
        for command in commands:
            pipe.execute_command(*command)
        return cast("list[Any]", await self._guarded(pipe.execute(raise_on_error=False)))

    async def _guarded(self, work: Awaitable[T]) -> T:
        if time.monotonic() < self._broken_until:
            if asyncio.iscoroutine(work):
                work.close()
            raise _unavailable()
        try:
            return await work
        except (RedisError, OSError) as error:
            if isinstance(error, RedisTimeoutError | TimeoutError):
                self._broken_until = time.monotonic() + BREAK_S
            log.warning("redis.unreachable", error=type(error).__name__)
            raise _unavailable() from error


def _client(settings: RedisSettings, answer_s: float | None) -> redis.Redis:
    """A client that waits so long for an answer; None is for subscriptions, which have none coming."""
    if settings.url is None:
        raise ValueError("redis.url is not set")
    url = settings.url.get_secret_value()
    tls: dict[str, Any] = {}
    if url.startswith("rediss://"):
        files = {
            "ssl_ca_certs": settings.tls_ca_file,
            "ssl_certfile": settings.tls_cert_file,
            "ssl_keyfile": settings.tls_key_file,
        }
        tls = {name: value for name, value in files.items() if value}
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=settings.max_connections,
        timeout=settings.timeout_ms / 1000,
        socket_timeout=answer_s,
        socket_connect_timeout=settings.connect_timeout_ms / 1000,
        # Every operation may be repeated, so a connection that died in the pool is replaced without a word.
        retry=Retry(NoBackoff(), 1),
        retry_on_error=[ConnectionError],
        **tls,
    )
    return redis.Redis.from_pool(pool)


def _checked(operation: str, reply: Any) -> Any:
    if isinstance(reply, Exception):
        # A full or read-only Redis answers with errors: whatever they say, nothing was decided.
        log.error("redis.refused", operation=operation, error=str(reply))
        raise _unavailable() from reply
    return reply


def _unavailable() -> UnavailableError:
    return UnavailableError("governance_unavailable", "Redis cannot be reached")


async def _messages(listener: Any) -> AsyncIterator[bytes]:
    try:
        async for message in listener.listen():
            if message["type"] == "message":
                yield message["data"]
    except (RedisError, OSError) as error:
        raise _unavailable() from error


class _timed:  # noqa: N801 - reads as a statement: with _timed(…)
    __slots__ = ("_began", "_operation", "_recorder")

    def __init__(self, recorder: Recorder, operation: str) -> None:
        self._recorder, self._operation = recorder, operation

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._recorder.redis_call(self._operation, time.perf_counter() - self._began)
