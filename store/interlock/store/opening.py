"""Opens the store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from interlock.policy.model import NO_EXPORT
from interlock.store.accounts import RedisAccounts
from interlock.store.connection import Connection, Recorder
from interlock.store.directory import RedisDirectory
from interlock.store.figures import RedisFigures
from interlock.store.held import RedisHeld
from interlock.store.ledger import RedisLedger
from interlock.store.locks import RedisLocks
from interlock.store.outbox import RedisOutbox
from interlock.store.overview import RedisOverview
from interlock.store.quotas import RedisQuotas
from interlock.store.requests import RedisRequests
from interlock.store.run_queue import RedisRunQueue
from interlock.store.settings import RedisSettings
from interlock.store.timelines import RedisTimeline
from interlock.store.trails import RedisTrails
from interlock.store.watch import RedisWatch


@dataclass(frozen=True, slots=True)
class Store:
    """What the engine and the exporter need of Redis."""

    ledger: RedisLedger
    directory: RedisDirectory
    trails: RedisTrails
    overview: RedisOverview
    quotas: RedisQuotas
    held: RedisHeld
    accounts: RedisAccounts
    requests: RedisRequests
    timeline: RedisTimeline
    figures: RedisFigures
    locks: RedisLocks
    watch: RedisWatch
    outbox: RedisOutbox
    run_queue: RedisRunQueue


@asynccontextmanager
async def open_store(
    settings: RedisSettings, recorder: Recorder, *, backlog_cap: int = NO_EXPORT
) -> AsyncIterator[Store]:
    """A store on the Redis at `settings.url`. Nothing is asked of Redis until the first operation.

    `backlog_cap` says that events are exported, and how many of an agent may wait for it.
    """
    connection = Connection(settings, recorder)
    trails = RedisTrails(connection, backlog_cap)
    try:
        ledger, directory = RedisLedger(connection, trails), RedisDirectory(connection, trails)
        yield Store(
            ledger,
            directory,
            trails,
            RedisOverview(connection, trails),
            RedisQuotas(connection),
            RedisHeld(connection, trails),
            RedisAccounts(connection),
            RedisRequests(connection),
            RedisTimeline(connection),
            RedisFigures(connection),
            RedisLocks(connection),
            RedisWatch(connection, trails),
            RedisOutbox(connection),
            RedisRunQueue(connection, backlog_cap),
        )
    finally:
        await trails.close()
        await connection.close()
