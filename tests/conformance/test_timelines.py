"""What the timelines of runs promise, on every Redis."""

import asyncio
import dataclasses

import pytest
from redis.asyncio import Redis

from interlock.policy.timeline_ports import EVERYBODY, TimelineEvent
from interlock.store.opening import Store


def note(event_id: str, run_id: str = "run-1", **said: object) -> TimelineEvent:
    return dataclasses.replace(TimelineEvent(event_id, run_id, "note"), **said)  # type: ignore[arg-type] # fields of it


async def append(store: Store, *events: TimelineEvent, namespace: str = "acme") -> None:
    for event in events:
        await store.timeline.append(namespace, event)


async def ids(store: Store, reader: str | None = EVERYBODY, run_id: str = "run-1", **where: int) -> list[str]:
    page = {"offset": 0, "limit": 200} | where
    _, events = await store.timeline.of_run("acme", reader, run_id, **page)
    return [event.event_id for event in events]


async def recent(store: Store, reader: str | None = EVERYBODY, **where: int) -> list[str]:
    page = {"offset": 0, "limit": 200} | where
    return [event.event_id for event in await store.timeline.recent("acme", reader, **page)]


async def test_an_event_comes_back_as_it_was_posted(store: Store) -> None:
    told = note(
        "ev-1", run_id="run x/y ü", ts=1_700_000_000, agent_id="a", status="ok", step="s", tool="t", req_id="r",
        message="m", duration_ms=0, data='{"n": 12345678901234567890}', extra='{"k":[]}', lease_digest="ab",
        posted_by="key_1",
    )  # fmt: skip
    await append(store, told)
    total, (event,) = await store.timeline.of_run("acme", EVERYBODY, told.run_id, offset=0, limit=1)
    assert total == 1
    assert event == dataclasses.replace(told, recorded_at_ms=event.recorded_at_ms)
    assert event.recorded_at_ms > 1_700_000_000_000


async def test_of_200_times_the_same_event_and_100_others_each_is_recorded_once(store: Store) -> None:
    events = [note("same")] * 200 + [note(f"other-{number}") for number in range(100)]
    await asyncio.gather(*(store.timeline.append("acme", event) for event in events))
    assert sorted(await ids(store)) == sorted({"same", *(f"other-{number}" for number in range(100))})
    total, (run,) = await store.timeline.runs("acme", EVERYBODY, "", offset=0, limit=10)
    assert (total, run.events) == (1, 101)


async def test_events_stand_by_their_second_and_in_it_as_they_came(store: Store, raw: Redis) -> None:
    now = (await raw.time())[0]
    await append(store, note("now"), note("old", ts=9), note("older", ts=3), note("also-old", ts=9))
    await append(store, note("ahead", ts=now + 9999), note("last", agent_id="a"))
    assert await ids(store) == ["older", "old", "also-old", "now", "ahead", "last"]
    assert await recent(store) == ["last", "ahead", "now", "also-old", "old", "older"]
    total, (run,) = await store.timeline.runs("acme", EVERYBODY, "", offset=0, limit=10)
    assert (total, run.events, run.last.event_id) == (1, 6, "last")


async def test_every_page_is_what_stands_there_whoever_wrote_it(store: Store) -> None:
    for number in range(250):
        owner = ("", "a", "b")[number % 3]
        await append(store, note(f"{number}", agent_id=owner, run_id=f"run-{number % 2}", ts=number))
    every = [f"{number}" for number in range(250)]
    even = every[::2]
    paged = [await ids(store, run_id="run-0", offset=at, limit=20) for at in range(0, 140, 20)]
    assert [event for page in paged for event in page] == even
    newest = [await recent(store, offset=at, limit=40) for at in range(0, 280, 40)]
    assert [event for page in newest for event in page] == every[::-1]
    assert await ids(store, run_id="run-0", offset=9999) == []


async def test_the_newest_are_found_in_whichever_run_they_are(store: Store) -> None:
    for run in range(230):
        await append(store, *(note(f"{run}-{number}", run_id=f"run-{run}", ts=run * 10 + number) for number in (0, 1)))
    # Touched last, and yet not newer than any other.
    await append(store, note("old", run_id="run-0", ts=1))
    every = [f"{run}-{number}" for run in range(230) for number in (0, 1)]
    every.insert(2, "old")
    assert await recent(store, limit=5) == every[:-6:-1]
    assert await recent(store, offset=450, limit=200) == every[10::-1]


async def test_an_agent_sees_its_own_and_namespaces_see_nothing_of_each_other(store: Store) -> None:
    await append(store, note("mine", agent_id="a"), note("yours", agent_id="b"), note("ours"))
    await append(store, note("other-run", "run-2", agent_id="b"))
    await append(store, note("elsewhere"), namespace="globex")
    assert [await ids(store, reader) for reader in ("a", "b", "c", None)] == [
        ["mine"],
        ["yours"],
        [],
        ["mine", "yours", "ours"],
    ]
    assert [await recent(store, reader) for reader in ("a", "c")] == [["mine"], []]
    runs = [await store.timeline.runs("acme", reader, "", offset=0, limit=10) for reader in ("a", "b", "c", None)]
    assert [(total, [(run.run_id, run.events) for run in found]) for total, found in runs] == [
        (1, [("run-1", 1)]),
        (2, [("run-2", 1), ("run-1", 1)]),
        (0, []),
        (2, [("run-2", 1), ("run-1", 3)]),
    ]
    total, found = await store.timeline.runs("globex", EVERYBODY, "", offset=0, limit=10)
    assert (total, [run.last.event_id for run in found]) == (1, ["elsewhere"])


async def test_runs_are_found_by_how_their_ids_begin(store: Store) -> None:
    for run_id in ("job-1", "job-2", "task-1", "job-3", "j*b"):
        await append(store, note(run_id, run_id))
    total, found = await store.timeline.runs("acme", EVERYBODY, "job-", offset=1, limit=1)
    assert (total, [run.run_id for run in found]) == (3, ["job-2"])
    assert (await store.timeline.runs("acme", EVERYBODY, "j*", offset=0, limit=9))[0] == 1


async def test_a_run_keeps_its_latest_5000_events_and_everything_has_an_end(store: Store, raw: Redis) -> None:
    for first in range(0, 5003, 500):
        batch = range(first, min(5003, first + 500))
        await asyncio.gather(*(store.timeline.append("acme", note(f"{number}")) for number in batch))
    total, _ = await store.timeline.of_run("acme", EVERYBODY, "run-1", offset=0, limit=1)
    assert total == 5000
    unbounded = [key async for key in raw.scan_iter("il:*") if await raw.ttl(key) < 0]
    assert unbounded == []


@pytest.mark.parametrize("agent", ["", "a:b"])
async def test_what_was_recorded_is_forgotten_after_7_days(store: Store, raw: Redis, agent: str) -> None:
    await append(store, note("ev", agent_id=agent))
    lives = {key.decode().split("}:")[1].split(":")[0]: await raw.ttl(key) async for key in raw.scan_iter("il:*")}
    week = 7 * 86_400
    assert {"timeline", "told", "runs", "agents"} <= {*lives}
    assert all(week - 5 <= seconds <= week for name, seconds in lives.items() if name != "state")
