"""The exporter on a real Redis: at least once, in order, one at a time, whatever its sinks do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from interlock.audit.exporter import Exporter
from interlock.audit.lines import files_of, link_of
from interlock.audit.ports import Sink, SinkRefusedError, SinkUnavailableError
from interlock.audit.settings import AuditSettings, FileSettings
from interlock.audit.sinks.file import FileSink
from interlock.audit.verification import verify
from interlock.policy.model import Scope
from interlock.store.opening import Store, open_store
from interlock.store.settings import RedisSettings
from tests.conformance.conftest import Silent
from tests.conformance.reservations import AGENT, decide, execute
from tests.interlock_dev import until
from tests.unit.audit.trails import KEY

OTHER = Scope("acme", "bot-2")


class Figures:
    """What an exporter counts."""

    def __init__(self) -> None:
        self.leads = False
        self.exported = self.folded = self.failed = self.refused = 0
        self.lag: dict[str, tuple[int, float]] = {}

    def audit_leads(self, *, leads: bool) -> None:
        self.leads = leads

    def audit_exported(self, sink: str, events: int, folded: int) -> None:
        self.exported += events
        self.folded += folded

    def audit_failed(self, sink: str) -> None:
        self.failed += 1

    def audit_refused(self, sink: str) -> None:
        self.refused += 1

    def audit_lag(self, sink: str, events: int, seconds: float) -> None:
        self.lag[sink] = (events, seconds)


class Memory:
    """A sink that a test scripts: what it took, unless `does` says otherwise of a batch."""

    batch_max_events = 100

    def __init__(self, name: str = "http", does: Callable[[Sequence[bytes]], None] = lambda _: None) -> None:
        self.name = name
        self.does = does
        self.open = asyncio.Event()
        self.open.set()
        self.batches: list[list[bytes]] = []

    async def deliver(self, lines: Sequence[bytes]) -> None:
        await self.open.wait()
        self.does(lines)
        self.batches.append([*lines])

    async def close(self) -> None:
        pass

    def seqs(self, scope: Scope = AGENT) -> list[int]:
        links = [link_of(line) for batch in self.batches for line in batch]
        return [link.seq for link in links if link.head is None and link.agent.agent_id == scope.agent_id]


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    async with open_store(RedisSettings(url=redis_url), Silent(), backlog_cap=1000) as store:
        for scope in (AGENT, OTHER):
            await store.directory.see_agent(scope)
        yield store


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@asynccontextmanager
async def exporting(store: Store, *sinks: Sink, **settings: Any) -> AsyncIterator[Figures]:
    figures = Figures()
    chosen = AuditSettings(**{"lease_ms": 500, "sweep_s": 1, "head_every_s": 0.1, **settings})
    # Only the names are looked at: the sinks themselves are the test's.
    named = {"stdout": False, "file": None, "http": None, **{sink.name: _named(sink.name) for sink in sinks}}
    exporter = Exporter(store.trails, sinks, KEY, chosen.model_copy(update=named), figures)
    task = asyncio.create_task(exporter.run())
    try:
        yield figures
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _named(name: str) -> object:
    return True if name == "stdout" else object()


async def until_at(store: Store, seq: int, sink: str = "http", scope: Scope = AGENT) -> None:
    """Until a sink has got so far, and a head says so."""

    async def there() -> bool:
        (state,) = await store.trails.states([scope])
        return state.seq_of(sink) >= seq and state.heads.get(sink, 0) >= seq

    await until(there)


async def test_events_arrive_in_order_and_once_and_are_counted(store: Store) -> None:
    sink = Memory()
    async with exporting(store, sink) as figures:
        for n in range(250):
            await execute(store, f"call {n}")
        for n in range(25):
            await decide(store, f"refused {n}", rule_reason="no_policy")
        await store.ledger.events(AGENT, after_seq=0, limit=1)
        await until_at(store, 261)
    assert sink.seqs() == list(range(1, 262))
    assert (figures.exported, figures.folded, figures.leads) == (261, 15, False)


async def test_of_two_exporters_one_works_and_the_other_takes_over(store: Store) -> None:
    first, second = Memory(), Memory()
    async with exporting(store, second) as waiting:
        async with exporting(store, first) as leading:
            await until(lambda: _is(leading.leads or waiting.leads))
            before, after = (first, second) if leading.leads else (second, first)
            await execute(store, "one")
            await until_at(store, 1)
            assert (before.seqs(), after.seqs()) == ([1], [])
        if before is first:
            await execute(store, "two")
            await until_at(store, 2)
            assert second.seqs() == [2]


async def _is(held: bool) -> bool:
    return held


async def test_a_sink_that_hangs_holds_up_no_other(store: Store) -> None:
    hanging, sound = Memory("http"), Memory("stdout")
    hanging.open.clear()
    async with exporting(store, hanging, sound) as figures:
        for n in range(10):
            await execute(store, f"call {n}")
        await until_at(store, 10, "stdout")
        await until(lambda: _is(figures.lag.get("http", (0, 0.0))[0] == 10))
        assert figures.lag["http"][1] > 0
        assert hanging.seqs() == []
        hanging.open.set()
        await until_at(store, 10)
    assert hanging.seqs() == sound.seqs() == list(range(1, 11))


async def test_a_sink_that_fails_is_asked_again_with_the_same_bytes(store: Store) -> None:
    tried: list[list[bytes]] = []

    def fails_twice(lines: Sequence[bytes]) -> None:
        tried.append([*lines])
        if len(tried) < 3:
            raise SinkUnavailableError("not now")

    sink = Memory(does=fails_twice)
    await execute(store)
    async with exporting(store, sink) as figures:
        await until_at(store, 1)
    assert tried[0] == tried[1] == tried[2]
    assert figures.failed == 2


async def test_an_event_that_is_refused_stops_its_agent_and_no_other(store: Store) -> None:
    def refuses(lines: Sequence[bytes]) -> None:
        if any(b"acme/bot-1/3" in line for line in lines):
            raise SinkRefusedError("no")

    sink = Memory(does=refuses)
    for n in range(5):
        await execute(store, f"call {n}")
        await execute(store, f"call {n}", scope=OTHER)
    async with exporting(store, sink) as figures:
        await until_at(store, 5, scope=OTHER)
        await until(lambda: _is(figures.refused == 1))
        (state,) = await store.trails.states([AGENT])
    assert (sink.seqs(), sink.seqs(OTHER)) == ([1, 2], [1, 2, 3, 4, 5])
    assert state.seq_of("http") == 2


async def test_what_was_delivered_but_not_noted_comes_again_as_the_same_bytes(store: Store, raw: Redis) -> None:
    sink = Memory()
    async with exporting(store, sink):
        for n in range(5):
            await execute(store, f"call {n}")
        await until_at(store, 5)
    await raw.delete("il:{acme:bot-1}:export")
    again = Memory()
    async with exporting(store, again):
        await until_at(store, 5)
    lines = [{line for batch in of.batches for line in batch if b"/head" not in line} for of in (sink, again)]
    assert lines[0] == lines[1]


async def test_a_sink_that_is_added_takes_the_chain_up_where_the_trail_begins(store: Store, raw: Redis) -> None:
    async with exporting(store, Memory("http")):
        for n in range(6):
            await execute(store, f"call {n}")
        await until_at(store, 6)
    digests = {point.seq: point.hash for point in (await store.trails.states([AGENT]))[0].points}
    await raw.xtrim("il:{acme:bot-1}:audit", minid="7")
    await execute(store, "the seventh")
    added = Memory("stdout")
    async with exporting(store, Memory("http"), added):
        await until_at(store, 7, "stdout")
    link = link_of(added.batches[0][0])
    assert (link.seq, link.previous) == (7, digests[6])


async def test_a_redis_that_forgot_what_was_exported_is_found_out(store: Store, raw: Redis, tmp_path: Path) -> None:
    """As one without `appendfsync always` may: the same seqs then stand for other events."""
    sink = FileSink(FileSettings(folder=tmp_path))
    async with exporting(store, sink):
        for n in range(5):
            await execute(store, f"call {n}")
        await until_at(store, 5, "file")
        # All of the last second is gone: events, seq, and how far the sink had got.
        (entry, fields), *_ = await raw.xrange("il:{acme:bot-1}:audit", count=1)
        await raw.hset("il:{acme:bot-1}:state", "seq", 1)
        await raw.delete("il:{acme:bot-1}:audit", "il:{acme:bot-1}:export")
        await raw.xadd("il:{acme:bot-1}:audit", fields, id=entry)
        for n in range(8):
            await execute(store, f"other {n}")
        await until_at(store, 9, "file")
    found = verify(files_of([tmp_path]), [KEY.public]).problem
    assert found is not None
    assert (found.kind, found.seq) == ("altered", 5)


async def test_a_zombie_moves_no_resume_point(store: Store) -> None:
    for n in range(5):
        await execute(store, f"call {n}")
    zombie, heir = Memory(), Memory()
    zombie.open.clear()
    async with exporting(store, zombie) as figures:
        await until(lambda: _is(figures.leads))
        # Its lease is another's, and it does not know.
        async with open_store(RedisSettings(url=store.trails._redis._settings.url), Silent()) as other:
            await other.trails._redis.ask("steal", ("DEL", "il:{WORLD}:exporter"))
            async with exporting(other, heir):
                await until_at(store, 5)
                zombie.open.set()
                await until(lambda: _is(not figures.leads))
                (state,) = await store.trails.states([AGENT])
    assert state.seq_of("http") == 5
    assert heir.seqs() == [1, 2, 3, 4, 5]


async def test_ten_thousand_idle_agents_cost_few_round_trips(store: Store, raw: Redis) -> None:
    await raw.zadd("il:{acme}:agents", {f"idle-{n}": 1e12 for n in range(10_000)})
    asked: list[str] = []
    async with (
        open_store(RedisSettings(url=store.trails._redis._settings.url), Counting(asked)) as own,
        exporting(own, Memory(), sweep_s=60) as figures,
    ):
        await until(lambda: _is(figures.leads and asked.count("trail_states") >= 21))
        asked.clear()
        await execute(store, "one")
        await until_at(store, 1)
    assert asked.count("trail_states") < 10
    assert len(asked) < 60


class Counting:
    def __init__(self, asked: list[str]) -> None:
        self._asked = asked

    def redis_call(self, operation: str, seconds: float) -> None:
        self._asked.append(operation)
