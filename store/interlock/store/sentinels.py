"""The master that Redis Sentinel knows, before, in and after a fail-over.

As https://redis.io/docs/latest/develop/reference/sentinel-clients/ asks it of clients: the sentinels are asked anew for
every connection, and what they name has to say itself that it is a master.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from interlock.governance.errors import UnavailableError
from interlock.governance.tasks import end
from interlock.store.addresses import Node
from interlock.store.link import Link, Scripts, is_replica, unavailable
from interlock.store.pipe import Command, Pipe, open_pipe
from interlock.store.settings import RedisSettings
from interlock.store.subscriptions import client_options, messages

log = structlog.get_logger(__name__)

RECONNECT_S = 0.5
SWITCHED = "+switch-master"


class MasterUnknownError(ConnectionError):
    """No sentinel that answers knows a master which is up."""


class Sentinels:
    """The sentinels of one service."""

    def __init__(self, settings: RedisSettings) -> None:
        address = settings.address
        self._service = address.service
        self._within_s = settings.connect_timeout_ms / 1000
        options = client_options(settings) | {"socket_timeout": None}
        options |= {"username": address.sentinel_username or None, "password": address.sentinel_password or None}
        nodes = [(node.host, node.port) for node in address.nodes]
        self._sentinel = Sentinel(nodes, sentinel_kwargs=options)  # type: ignore[no-untyped-call] # redis-py

    async def close(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients), return_exceptions=True)

    async def master(self) -> Node:
        """Where the master is. Raises MasterUnknownError.

        Of what more than half of the sentinels say, or all that answer in time, the newest configuration counts: one
        that was cut off does not know of the last fail-over.
        """
        told = await self._told()
        states = [masters.get(self._service) for masters in told]
        known = [state for state in states if state and self._sentinel.check_master_state(state, self._service)]
        if not known:
            what = f"knows a master {self._service!r} that is up" if told else "answers"
            raise MasterUnknownError(f"none of {len(self._clients)} sentinels {what}")
        newest = max(known, key=lambda state: int(state["config-epoch"]))
        return Node(str(newest["ip"]), int(newest["port"]))

    async def watch(self, switched: Callable[[], None]) -> None:
        """Tells when any of them says that the master is another one, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for client in self._clients:
                tasks.create_task(self._listen(client, switched))

    @property
    def _clients(self) -> Sequence[Redis]:
        return self._sentinel.sentinels

    async def _told(self) -> list[dict[str, Any]]:
        asked = [asyncio.create_task(_masters(client)) for client in self._clients]
        told: list[dict[str, Any]] = []
        try:
            for answer in asyncio.as_completed(asked, timeout=self._within_s):
                with suppress(RedisError, ConnectionError):
                    told.append(await answer)
                if 2 * len(told) > len(asked):
                    break
        except TimeoutError:
            pass
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return told

    async def _listen(self, client: Redis, switched: Callable[[], None]) -> None:
        while True:
            with suppress(RedisError, OSError, UnavailableError):
                async with client.pubsub() as listener:
                    await listener.subscribe(SWITCHED)
                    async for told in messages(listener):
                        if told.split(b" ", 1)[0].decode() == self._service:
                            switched()
            await asyncio.sleep(RECONNECT_S)


async def _masters(client: Redis) -> dict[str, Any]:
    """What a sentinel says of each master that it watches, by service."""
    return cast("dict[str, Any]", await client.sentinel_masters())


class Watched:
    """The Route to the master."""

    def __init__(self, settings: RedisSettings, scripts: Scripts) -> None:
        self._settings = settings
        self._sentinels = Sentinels(settings)
        self._link = Link(self._opened, scripts)
        self._watching: asyncio.Task[None] | None = None
        self.ask = self._link.ask

    async def ask_each(self, commands: Sequence[Command]) -> list[list[Any]]:
        return [await self._link.ask(commands)]

    async def listening_at(self) -> Node:
        try:
            return await self._sentinels.master()
        except MasterUnknownError as unknown:
            raise unavailable() from unknown

    def refused(self, error: str) -> None:
        if is_replica(error):
            self._link.drop()

    async def close(self) -> None:
        await end(self._watching)
        self._link.drop()
        await self._sentinels.close()

    async def _opened(self) -> Pipe:
        if self._watching is None:
            self._watching = asyncio.create_task(self._sentinels.watch(self._switched))
        return await open_pipe(self._settings, await self._sentinels.master())

    def _switched(self) -> None:
        """An old master that is cut off from its sentinels, and not from here, would go on taking writes."""
        log.info("redis.switched", service=self._settings.address.service)
        self._link.drop()
