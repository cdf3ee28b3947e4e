"""Opens the store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from interlock.store.connection import Connection, Recorder
from interlock.store.directory import RedisDirectory
from interlock.store.ledger import RedisLedger
from interlock.store.settings import RedisSettings


@dataclass(frozen=True, slots=True)
class Store:
    """What the engine needs of Redis."""

    ledger: RedisLedger
    directory: RedisDirectory


@asynccontextmanager
async def open_store(settings: RedisSettings, recorder: Recorder) -> AsyncIterator[Store]:
    """A store on the Redis at `settings.url`. Nothing is asked of Redis until the first operation."""
    connection = Connection(settings, recorder)
    try:
        yield Store(RedisLedger(connection), RedisDirectory(connection))
    finally:
        await connection.close()
