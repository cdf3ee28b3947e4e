"""The way to Redis: scripts by EVALSHA, and several commands in one write.

Where that Redis is, and what becomes of a question when it moves or goes away, is its Route's business (`link`,
`sentinels`, `cluster`). Replies are as RESP2 has them: bytes, integers, None and flat lists.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import hiredis
import structlog
from redis.exceptions import RedisError

from interlock.store.addresses import Kind
from interlock.store.cluster import Cluster
from interlock.store.link import Alone, Route, unavailable
from interlock.store.pipe import Argument, Command
from interlock.store.scripts import load_all
from interlock.store.sentinels import Watched
from interlock.store.settings import RedisSettings
from interlock.store.subscriptions import messages, subscriber

log = structlog.get_logger(__name__)


class Recorder(Protocol):
    """Where latencies go."""

    def redis_call(self, operation: str, seconds: float) -> None: ...


class Connection:
    """The Redis of the URL. Every failure to reach it, and every refusal of its own, is an UnavailableError."""

    def __init__(self, settings: RedisSettings, recorder: Recorder) -> None:
        self._settings = settings
        self._recorder = recorder
        self._scripts = load_all()
        routes: dict[Kind, type[Alone | Watched | Cluster]] = {Kind.SENTINELS: Watched, Kind.CLUSTER: Cluster}
        self._route: Route = routes.get(settings.address.kind, Alone)(settings, self._scripts)

    @property
    def kind(self) -> Kind:
        """What the URL says that there is."""
        return self._settings.address.kind

    async def close(self) -> None:
        await self._route.close()

    def run(
        self, name: str, keys: Sequence[str], args: Sequence[Argument], beside: Sequence[Command] = ()
    ) -> Awaitable[list[Any]]:
        """Runs a script, then the commands `beside`, in one write. Returns the script's reply, then theirs."""
        return self.run_all(name, [(keys, args)], beside)

    async def run_all(
        self, name: str, runs: Sequence[tuple[Sequence[str], Sequence[Argument]]], beside: Sequence[Command] = ()
    ) -> list[Any]:
        """Runs a script once for each keys and arguments, then the commands `beside`, in one write; as `run`."""
        return await self.ask(name, *[self.script(name, keys, args) for keys, args in runs], *beside)

    def script(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Command:
        """A script as a command that may stand beside another one. All of them may be run again."""
        return ("EVALSHA", self._scripts[name].sha, len(keys), *keys, *args)

    async def ask(self, operation: str, *commands: Command) -> list[Any]:
        """Runs commands in one write; scripts come first."""
        began = time.perf_counter()
        try:
            replies = await self._route.ask(commands)
        finally:
            self._recorder.redis_call(operation, time.perf_counter() - began)
        return self._checked(operation, replies)

    async def ask_each(self, operation: str, *commands: Command) -> list[list[Any]]:
        """Asks each Redis there that takes writes; their replies."""
        return [self._checked(operation, replies) for replies in await self._route.ask_each(commands)]

    async def ask_atomically(self, operation: str, *commands: Command) -> list[Any]:
        """Runs commands on one slot as a transaction, so that what they read belongs together."""
        replies = await self.ask(operation, ("MULTI",), *commands, ("EXEC",))
        return self._checked(operation, replies[-1])

    @asynccontextmanager
    async def subscription(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """What is published on a channel, from the moment the context is entered."""
        async with contextlib.AsyncExitStack() as stack:
            node = await self._route.listening_at()
            client = await stack.enter_async_context(subscriber(self._settings, node))
            listener = await stack.enter_async_context(client.pubsub())
            try:
                await listener.subscribe(channel)
            except (RedisError, OSError) as error:
                raise unavailable() from error
            yield messages(listener)

    def _checked(self, operation: str, replies: Any) -> list[Any]:
        checked: list[Any] = replies if isinstance(replies, list) else [replies]
        for reply in checked:
            if isinstance(reply, hiredis.ReplyError):
                # A full, loading or read-only Redis answers with errors: whatever they say, nothing was decided.
                log.error("redis.refused", operation=operation, error=str(reply))
                self._route.refused(str(reply))
                raise unavailable() from reply
        return checked
