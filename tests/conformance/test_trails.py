"""What the trails promise to their readers and to their exporter, on every Redis."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis

from interlock.policy.model import ChainPoint, Event, Limits, Outcome, Policy, Progress, Scope, Switch
from interlock.policy.run_ports import Assumed
from interlock.store.opening import Store, open_store
from interlock.store.settings import RedisSettings
from tests.conformance.conftest import Silent
from tests.conformance.reservations import AGENT, decide, execute, reservation

BLOCKED = {"rule_reason": "tool_explicitly_blocked", "facts": '{"key_id":"key_1","matched_rule":"blocked_tools: c*"}'}
BASE = "il:{acme:bot-1}:"
DAY_MS = 86_400_000
CAP = 20
END_OF_MINUTE = """
local minute = redis.call('HGET', KEYS[1], 'minute')
if minute then redis.call('HSET', KEYS[1], 'minute', minute - 1) end
if redis.call('HEXISTS', KEYS[2], 'folding') == 1 then redis.call('HSET', KEYS[2], 'folding', minute - 1) end
"""


@pytest.fixture
async def exported(redis_url: str) -> AsyncIterator[Store]:
    """A store of an engine that is told that events are exported."""
    async with open_store(RedisSettings(url=redis_url), Silent(), backlog_cap=CAP) as store:
        yield store


async def trail(store: Store, scope: Scope = AGENT) -> Sequence[Event]:
    """What is there, without what reading it would add."""
    return (await store.trails.read([(scope, 0)], 10_000))[0]


def refusals(events: Sequence[Event]) -> int:
    """Told singly, and counted."""
    singles = [event for event in events if event.type == "decision" and event.verdict != "EXECUTE"]
    folds = [event.facts["count"] for event in events if event.type == "refusals"]
    return len(singles) + sum(int(str(count)) for count in folds)


async def end_the_minute(raw: Redis) -> None:
    """Moves the fold a minute back instead of the clock a minute on: to the scripts the two are one."""
    await raw.eval(END_OF_MINUTE, 2, BASE + "folds", BASE + "state")


async def note(store: Store, progress: Progress, sinks: Sequence[str], fence: int = 1) -> bool:
    """From wherever the sink is."""
    (state,) = await store.trails.states([progress.scope])
    (held,) = await store.trails.note([progress], [state.seq_of(progress.sink)], sinks, fence)
    return held


def noted(seq: int, sink: str = "file", *, age_ms: int = 0, now_ms: int = 0, scope: Scope = AGENT) -> Progress:
    return Progress(scope, sink, ChainPoint(seq, f"{seq:064x}"), now_ms - age_ms)


# Folding.


async def test_identical_refusals_beyond_ten_a_minute_become_one_event_that_counts_them(store: Store) -> None:
    await asyncio.gather(*(decide(store, f"call {n}", **BLOCKED) for n in range(300)))
    assert len(await trail(store)) == 10
    events = await store.ledger.events(AGENT, after_seq=0, limit=1000)
    assert [event.seq for event in events] == list(range(1, 12))
    fold = events[-1]
    assert (fold.type, fold.verdict, fold.reason, fold.tool) == (
        *("refusals", "BLOCKED", "tool_explicitly_blocked", "charge"),
    )
    told = dict(fold.facts)
    assert (told["count"], told["key_id"], told["matched_rule"]) == (290, "key_1", "blocked_tools: c*")
    assert events[0].at_ms <= int(str(told["first_at"])) <= int(str(told["last_at"])) <= fold.at_ms
    assert (await store.ledger.figures(AGENT, "hour")).blocked == 300


async def test_refusals_that_differ_are_folded_apart(store: Store) -> None:
    other_key = {**BLOCKED, "facts": '{"key_id":"key_2","matched_rule":"blocked_tools: c*"}'}
    other_rule = {**BLOCKED, "facts": '{"key_id":"key_1","matched_rule":"blocked_tools: ch*"}'}
    kinds = [BLOCKED, other_key, other_rule, {**BLOCKED, "tool": "mail"}, {**BLOCKED, "rule_reason": "no_policy"}]
    for kind in kinds:
        for _ in range(12):
            await decide(store, **kind)
    events = await store.ledger.events(AGENT, after_seq=0, limit=1000)
    assert Counter(event.type for event in events) == {"decision": 50, "refusals": 5}
    assert {event.facts["count"] for event in events if event.type == "refusals"} == {2}


async def test_what_is_told_of_a_refusal_that_is_folded_away_stays_the_same_on_repetition(store: Store) -> None:
    for n in range(10):
        await decide(store, f"call {n}", **BLOCKED)
    asked = reservation("the eleventh", **BLOCKED)
    first, again = [await store.ledger.authorize(asked) for _ in range(2)]
    assert first == again
    assert refusals(await store.ledger.events(AGENT, after_seq=0, limit=99)) == 11


@pytest.mark.parametrize("by", ["an event", "the exporter", "a reader"])
async def test_a_fold_is_appended_when_its_minute_is_over(store: Store, raw: Redis, by: str) -> None:
    for n in range(15):
        await decide(store, f"call {n}", **BLOCKED)
    assert refusals(await trail(store)) == 10
    await end_the_minute(raw)
    match by:
        case "an event":
            await store.directory.switch_agent(AGENT, Switch(True, ""), "{}")
            types = [event.type for event in (await trail(store))[10:]]
            assert types == ["refusals", "switch"], "what came first is told first"
        case "the exporter":
            assert refusals(await trail(store)) == 15
        case "a reader":
            assert refusals(await store.ledger.latest_events(AGENT, before_seq=None, limit=99)) == 15
    assert not await raw.hexists(BASE + "state", "folding")


async def test_each_minute_tells_its_first_ten_again(store: Store, raw: Redis) -> None:
    for _ in range(3):
        for n in range(12):
            await decide(store, f"call {n}", **BLOCKED)
        await end_the_minute(raw)
    events = await store.ledger.events(AGENT, after_seq=0, limit=99)
    assert [event.type for event in events] == 3 * [*10 * ["decision"], "refusals"]


async def test_who_reads_on_and_on_while_refused_does_not_undo_the_folding(store: Store) -> None:
    for n in range(60):
        await decide(store, f"call {n}", **BLOCKED)
        await store.ledger.events(AGENT, after_seq=0, limit=1)
    assert len(await trail(store)) == 10 + 10


async def test_every_refusal_is_in_exactly_one_event_whoever_reads_meanwhile(store: Store, raw: Redis) -> None:
    async def read() -> None:
        for _ in range(20):
            await store.ledger.events(AGENT, after_seq=0, limit=1)
            await store.trails.read([(AGENT, 0)], 1)

    async def refuse(n: int) -> None:
        await decide(store, f"call {n}", **BLOCKED)
        if n % 40 == 0:
            await end_the_minute(raw)

    await asyncio.gather(*(refuse(n) for n in range(400)), read(), read())
    await end_the_minute(raw)
    events = await store.ledger.events(AGENT, after_seq=0, limit=1000)
    assert refusals(events) == (await store.ledger.figures(AGENT, "hour")).blocked == 400
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


# The backlog.


async def test_with_too_much_unexported_nothing_is_begun_and_all_else_goes_on(exported: Store) -> None:
    permits = [await execute(exported, f"call {n}") for n in range(CAP)]
    refused = await decide(exported, "one more")
    assert (refused.verdict, refused.reason, refused.retry_after_ms) == ("BLOCKED", "audit_backlog", 5000)
    foreseen = await exported.run_queue.foresee(reservation("one more"), Assumed())
    assert (foreseen.verdict, foreseen.reason) == ("BLOCKED", "audit_backlog")
    assert (await exported.ledger.figures(AGENT, "hour")).actions == CAP
    for permit in permits:
        settled = await exported.ledger.settle(permit, Outcome.SUCCEEDED, None, "", event="settlement", facts="{}")
        assert settled.applied
    assert (await decide(exported, "call 0")).verdict == "REPLAY"
    events = (await trail(exported))[-1].seq
    assert await note(exported, noted(events), ["file"], 1)
    assert (await decide(exported, "one more")).verdict == "EXECUTE"


async def test_of_two_sinks_the_slower_counts(exported: Store) -> None:
    for n in range(CAP):
        await execute(exported, f"call {n}")
    for sink, verdict in (("file", "BLOCKED"), ("http", "EXECUTE")):
        assert await note(exported, noted(CAP, sink), ["file", "http"], 1)
        assert (await decide(exported, f"after {sink}")).verdict == verdict


@pytest.mark.parametrize("first", ["a call", "a switch", "the exporter"])
async def test_what_was_there_before_export_was_switched_on_is_no_backlog(
    store: Store, exported: Store, first: str
) -> None:
    for n in range(CAP + 5):
        await execute(store, f"call {n}")
    if first == "a switch":
        await exported.directory.switch_agent(AGENT, Switch(False), "{}")
    elif first == "the exporter":
        assert await note(exported, noted(3), ["file"], 1)
    decisions = [await decide(exported, f"another {n}") for n in range(CAP + 1)]
    assert {decision.verdict for decision in decisions[: CAP - 1]} == {"EXECUTE"}
    assert decisions[-1].reason == "audit_backlog"


async def test_facts_of_any_kind_are_folded(store: Store) -> None:
    odd = {**BLOCKED, "facts": '{"key_id":null,"matched_rule":[1],"risk_level":{},"cost_micros":1e12}'}
    for n in range(12):
        await decide(store, f"call {n}", **odd)
    assert refusals(await store.ledger.events(AGENT, after_seq=0, limit=99)) == 12


async def test_without_export_there_is_no_cap(store: Store) -> None:
    for n in range(CAP + 1):
        await execute(store, f"call {n}")


# What is kept.


async def age_the_trail(raw: Redis, first: int, then: int) -> None:
    """Events up to `first` happened before the hour that began 168 hours ago."""
    hour = (await raw.time())[0] // 3600
    await raw.hset(BASE + "hours", mapping={"at": hour - 1, f"{hour - 168}:seq": first, f"{hour - 1}:seq": then})
    await raw.hset(BASE + "minutes", "at", hour * 60 - 1)


async def test_an_event_that_is_not_exported_is_kept_whatever_its_age(exported: Store, raw: Redis) -> None:
    for n in range(4):
        await execute(exported, f"call {n}")
    await age_the_trail(raw, 2, 3)
    await execute(exported, "the first of a new hour")
    assert [event.seq for event in await trail(exported)] == [1, 2, 3, 4, 5]
    assert await raw.pttl(BASE + "audit") == -1


async def test_what_every_sink_has_is_trimmed_by_age_up_to_a_known_point_of_the_chain(
    exported: Store, raw: Redis
) -> None:
    now_ms = (await raw.time())[0] * 1000
    for n in range(6):
        await execute(exported, f"call {n}")
    old, younger, sinks = 200 * 3_600_000, 100 * 3_600_000, ["file", "http"]
    steps = [("file", 2, old), ("file", 4, younger), ("http", 1, old), ("http", 2, old), ("http", 5, younger)]
    firsts = []
    for sink, seq, age_ms in steps:
        await raw.hdel(BASE + "export", "trimmed")  # an hour later
        assert await note(exported, noted(seq, sink, age_ms=age_ms, now_ms=now_ms), sinks, 1)
        firsts.append((await trail(exported))[0].seq)
    assert firsts == [1, 1, 1, 3, 3]
    (state,) = await exported.trails.states([AGENT])
    assert state.chain_before(3) == ChainPoint(2, f"{2:064x}")
    assert state.sinks == {"file": ChainPoint(4, f"{4:064x}"), "http": ChainPoint(5, f"{5:064x}")}


async def test_a_trail_that_is_exported_goes_in_the_end_and_one_that_is_not_stays(exported: Store, raw: Redis) -> None:
    await execute(exported)
    assert await raw.pttl(BASE + "audit") == -1
    await note(exported, noted(1), ["file"], 1)
    assert 7 * DAY_MS < await raw.pttl(BASE + "audit") <= 8 * DAY_MS
    await execute(exported, "another")
    assert await raw.pttl(BASE + "audit") == -1
    assert 399 * DAY_MS < await raw.pttl(BASE + "export") <= 400 * DAY_MS


@pytest.mark.parametrize("change", ["policy", "switch"])
async def test_a_change_by_an_operator_waits_for_the_exporter_too(exported: Store, raw: Redis, change: str) -> None:
    if change == "policy":
        await exported.directory.put_policy(AGENT, Policy(), "{}")
    else:
        await exported.directory.switch_agent(AGENT, Switch(True, ""), "{}")
    assert await raw.pttl(BASE + "audit") == -1


async def test_when_export_is_switched_off_trails_end_by_age_again(exported: Store, store: Store, raw: Redis) -> None:
    for n in range(4):
        await execute(exported, f"call {n}")
    await age_the_trail(raw, 2, 3)
    await execute(store, "the first of a new hour")
    assert [event.seq for event in await trail(store)] == [3, 4, 5]
    assert await raw.pttl(BASE + "audit") > 0


# The exporter's own.


async def test_a_lower_fence_writes_nothing(exported: Store) -> None:
    for n in range(4):
        await execute(exported, f"call {n}")
    assert await note(exported, noted(3), ["file"], 7)
    assert not await note(exported, noted(4), ["file"], 6)
    assert (await exported.trails.states([AGENT]))[0].sinks["file"].seq == 3


async def test_of_two_who_move_on_from_one_point_one_does(exported: Store) -> None:
    for n in range(4):
        await execute(exported, f"call {n}")
    steps = [exported.trails.note([noted(seq)], [0], ["file"], 1) for seq in (2, 3)]
    assert sorted(await asyncio.gather(*steps)) == [[False], [True]]
    assert await exported.trails.note([noted(1)], [0], ["file"], 1) == [False]


async def test_a_signed_head_is_remembered(exported: Store) -> None:
    await execute(exported)
    for head, known in ((None, {}), (1, {"file": 1}), (None, {"file": 1})):
        made = dataclasses.replace(noted(1), head_seq=head)
        assert await note(exported, made, ["file"], 1)
        assert (await exported.trails.states([AGENT]))[0].heads == known


async def test_of_many_exporters_one_leads_until_its_lease_ends(store: Store) -> None:
    first = await store.trails.lead("a", 60_000)
    assert first is not None
    assert await asyncio.gather(*(store.trails.lead(f"b{n}", 60_000) for n in range(20))) == [None] * 20
    assert await store.trails.lead("a", 50) == first
    async with asyncio.timeout(10):
        while (taken := await store.trails.lead("c", 60_000)) is None:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.01)
    assert taken > first
    assert await store.trails.lead("a", 60_000) is None
    await store.trails.stop_leading("a")
    assert await store.trails.lead("a", 60_000) is None
    await store.trails.stop_leading("c")
    assert (await store.trails.lead("a", 60_000) or 0) > taken


async def test_trails_that_grew_are_told_of_once(exported: Store) -> None:
    await exported.directory.see_agent(AGENT)
    for n in range(5):
        await execute(exported, f"call {n}")
    async with asyncio.timeout(10):
        while not (grown := await exported.trails.take_grown(100)):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    assert grown == [AGENT]
    assert await exported.trails.take_grown(100) == []
    assert await exported.trails.namespaces() == ["acme"]
    assert await exported.trails.agents("acme") == [AGENT]


async def test_where_nothing_is_exported_nobody_is_told(store: Store, raw: Redis) -> None:
    await store.directory.see_agent(AGENT)
    await execute(store, limits=Limits(0))
    assert store.trails._telling is None
    assert not await raw.exists("il:{acme}:unexported")
