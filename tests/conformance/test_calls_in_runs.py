"""What governed calls write into the timelines of their runs, on every Redis."""

import asyncio
import collections
import dataclasses
import json
from typing import Any

from redis.asyncio import Redis

from interlock.policy.model import Epochs, Outcome, Permit, Scope
from interlock.policy.ports import Decided, DegradedCall
from interlock.policy.timeline_ports import EVERYBODY, TimelineEvent
from interlock.store.opening import Store
from tests.conformance.reservations import AGENT, decide, execute, reservation

RUN = "run-1"
ALONE = ["run_started", "tool_call", "tool_result", "run_finished"]


async def told(store: Store, reader: str | None = EVERYBODY, run_id: str = RUN) -> list[TimelineEvent]:
    _, events = await store.timeline.of_run("acme", reader, run_id, offset=0, limit=5000)
    return list(events)


async def lines(store: Store) -> list[tuple[str, str, str]]:
    return [(event.type, event.status, event.message) for event in await told(store)]


async def settle(store: Store, permit: Permit, outcome: Outcome, failure: str = "", event: str = "settlement") -> None:
    facts = '{"upstream_us":12999,"status":200}'
    await store.ledger.settle(permit, outcome, None, failure, event=event, facts=facts)


async def test_a_call_alone_begins_its_run_and_ends_it(store: Store) -> None:
    permit = await execute(store, run_id=RUN, facts='{"args_hash":"ab","risk_level":"low","key_id":"key_1"}')
    assert await lines(store) == [("run_started", "in_progress", ""), ("tool_call", "allowed", "")]
    await settle(store, permit, Outcome.SUCCEEDED)
    events = await told(store)
    assert [(event.type, event.status) for event in events] == [
        ("run_started", "in_progress"),
        ("tool_call", "allowed"),
        ("tool_result", "ok"),
        ("run_finished", "completed"),
    ]
    assert {(event.req_id, event.tool, event.agent_id, event.posted_by) for event in events} == {
        (permit.call_id, "charge", "bot-1", "")
    }
    assert len({event.event_id for event in events}) == 4
    assert json.loads(events[1].data) == {"args_hash": "ab", "risk_level": "low"}
    assert events[2].duration_ms == 12
    assert json.loads(events[2].data) == {
        "decision": "executed",
        "policy_reason": "ok",
        "http_status": 200,
        "spend_usd": 1.0,
    }
    assert all(event.ts == event.recorded_at_ms // 1000 for event in events)


async def test_a_call_of_no_run_writes_nothing(store: Store, raw: Redis) -> None:
    await settle(store, await execute(store), Outcome.SUCCEEDED)
    assert not [key async for key in raw.scan_iter("*") if b"timeline" in key or b"runs" in key]


async def test_of_50_calls_at_once_each_is_told_of_once_however_often_it_is_asked_and_settled(store: Store) -> None:
    async def call(number: int) -> None:
        asked = reservation(f"{number}", run_id=RUN)
        first, *_ = await asyncio.gather(*(store.ledger.authorize(asked) for _ in range(3)))
        assert isinstance(first, Decided)
        assert first.decision.permit is not None
        await asyncio.gather(*(settle(store, first.decision.permit, Outcome.SUCCEEDED) for _ in range(3)))

    await asyncio.gather(*(call(number) for number in range(50)))
    events = await told(store)
    counts = collections.Counter(event.type for event in events)
    assert (counts["run_started"], counts["tool_call"], counts["tool_result"]) == (1, 50, 50)
    assert (events[0].type, events[-1].type) == ("run_started", "run_finished")
    by_call = collections.Counter((event.req_id, event.type) for event in events if event.type.startswith("tool_"))
    assert {*by_call.values()} == {1}
    total, (run,) = await store.timeline.runs("acme", EVERYBODY, "", offset=0, limit=5)
    assert (total, run.events, run.last.type) == (1, len(events), "run_finished")


async def test_a_run_is_over_when_the_last_of_its_calls_is(store: Store) -> None:
    one, two = [await execute(store, call, run_id=RUN) for call in ("one", "two")]
    await settle(store, one, Outcome.SUCCEEDED)
    assert "run_finished" not in [line[0] for line in await lines(store)]
    await settle(store, two, Outcome.REJECTED)
    assert (await lines(store))[-2:] == [
        ("tool_result", "error", "tool_error"),
        ("run_finished", "failed", "tool_error"),
    ]
    await settle(store, await execute(store, "three", run_id=RUN), Outcome.SUCCEEDED)
    kinds = [line[0] for line in await lines(store)]
    assert kinds[-3:] == ["tool_call", "tool_result", "run_finished"]
    assert kinds.count("run_started") == 1


async def test_refusals_are_each_told_of_even_where_the_trail_counts_them_together(store: Store) -> None:
    for number in range(30):
        await decide(store, f"{number}", rule_reason="tool_explicitly_blocked", run_id=RUN)
    found = await lines(store)
    assert found[1:4] == [
        ("tool_call", "blocked", ""),
        ("tool_result", "blocked", "tool_explicitly_blocked"),
        ("run_finished", "blocked", "tool_explicitly_blocked"),
    ]
    assert collections.Counter(kind for kind, *_ in found) == {
        "run_started": 1,
        "tool_call": 30,
        "tool_result": 30,
        "run_finished": 30,
    }


async def test_a_replay_is_told_of_and_who_waits_is_not_until_the_wait_is_over(store: Store) -> None:
    permit = await execute(store, run_id=RUN)
    await decide(store, run_id=RUN, will_wait=True)
    assert len(await told(store)) == 2
    await settle(store, permit, Outcome.SUCCEEDED)
    await decide(store, run_id=RUN)
    assert [event.status for event in (await told(store))[4:]] == ["dedup", "ok", "completed"]
    assert json.loads((await told(store))[5].data)["decision"] == "dedup"


async def test_a_step_of_a_keyed_run_shows_the_call_alone(store: Store) -> None:
    permit = await execute(store, run_id=RUN, part_of_run=True)
    await settle(store, permit, Outcome.SUCCEEDED)
    await decide(store, "two", run_id=RUN, part_of_run=True, rule_reason="tool_disabled")
    assert [line[0] for line in await lines(store)] == ["tool_call", "tool_result"] * 2


async def test_a_withdrawn_decision_is_untold_and_told_of_as_it_is_judged_anew(store: Store) -> None:
    let_through, refused = reservation(run_id=RUN), reservation("two", run_id=RUN, rule_reason="tool_disabled")
    for asked in (let_through, refused):
        first = await store.ledger.authorize(asked)
        assert isinstance(first, Decided)
        await store.ledger.withdraw(asked, first.decision)
        assert [line[0] for line in await lines(store)] == ["run_started"]
    blocked = dataclasses.replace(let_through, switch_reason="kill_switch", basis=Epochs(0, 1))
    await store.ledger.authorize(blocked)
    assert [line[0] for line in await lines(store)] == ALONE


async def test_a_call_whose_word_was_never_heard_ends(store: Store) -> None:
    asked = reservation(run_id=RUN)
    await store.ledger.authorize(asked)
    for _ in range(2):
        await store.ledger.abandon(AGENT, asked.attempt_id)
    assert (await lines(store))[1:] == [
        ("tool_call", "allowed", ""),
        ("tool_result", "error", "abandoned"),
        ("run_finished", "failed", "abandoned"),
    ]


async def test_a_held_call_is_unknown_and_then_resolved(store: Store) -> None:
    permit = await execute(store, run_id=RUN, hold=True)
    await settle(store, permit, Outcome.AMBIGUOUS, "upstream_timeout")
    await decide(store, run_id=RUN)
    found = await store.ledger.call(AGENT, permit.call_id)
    assert found is not None
    assert found[1].run_id == RUN
    for _ in range(2):
        await settle(store, found[1], Outcome.SUCCEEDED, event="resolution")
    assert [line[:2] for line in await lines(store)] == [
        ("run_started", "in_progress"),
        ("tool_call", "allowed"),
        ("tool_result", "unknown"),
        ("run_finished", "unknown"),
        ("tool_call", "unknown"),
        ("tool_result", "unknown"),
        ("run_finished", "unknown"),
        ("tool_resolved", "ok"),
    ]


async def test_a_call_that_takes_the_place_of_a_dead_sidecars_says_so(store: Store, raw: Redis) -> None:
    lost = await execute(store, run_id=RUN)
    await raw.hset("il:{acme:bot-1}:call:" + lost.key, "lease_until", "1")
    again = await execute(store, run_id=RUN)
    await settle(store, again, Outcome.SUCCEEDED)
    await settle(store, lost, Outcome.SUCCEEDED)
    assert await lines(store) == [
        ("run_started", "in_progress", ""),
        ("tool_call", "allowed", ""),
        ("tool_result", "unknown", "lease_expired"),
        ("tool_call", "allowed", ""),
        ("tool_result", "ok", ""),
        ("run_finished", "completed", ""),
    ]


def degraded(attempt_id: str, **changes: Any) -> DegradedCall:
    asked = reservation()
    made = DegradedCall(
        scope=AGENT, attempt_id=attempt_id, call_id="call_" + "d" * 22, key=asked.key, fingerprint=asked.fingerprint,
        tool="charge", outcome=Outcome.SUCCEEDED, cost_micros=5, fence=1, repeatable=True, ttl_ms=60_000, age_ms=90_000,
        reason="governance_unavailable", failure="", answer=None, facts='{"upstream_us":7000}', run_id=RUN,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


async def test_a_call_that_nobody_judged_is_told_of_once_and_when_it_was(store: Store) -> None:
    unheard = reservation(run_id=RUN)
    await store.ledger.authorize(unheard)
    for _ in range(2):
        await store.ledger.record_degraded(degraded(unheard.attempt_id))
    events = await told(store)
    assert collections.Counter(event.type for event in events) == dict.fromkeys(ALONE, 1)
    assert {event.req_id for event in events if event.type != "run_started"} == {"call_" + "d" * 22}
    ages = {event.recorded_at_ms // 1000 - (event.ts or 0) for event in events if event.type != "run_started"}
    assert ages <= {89, 90, 91}


async def test_an_agent_sees_its_own_calls_in_a_run_that_it_shares(store: Store) -> None:
    other = Scope("acme", "bot-2")
    for scope in (AGENT, other):
        permit = await execute(store, f"{scope}", scope=scope, run_id=RUN)
        await settle(store, permit, Outcome.SUCCEEDED)
    await store.timeline.append("acme", TimelineEvent("note", RUN, "note"))
    assert [event.type for event in await told(store, "bot-1")] == ALONE
    assert collections.Counter(event.type for event in await told(store)) == {**dict.fromkeys(ALONE, 2), "note": 1}
    assert await told(store, "bot-3") == []


async def test_all_that_calls_write_has_an_end(store: Store, raw: Redis) -> None:
    await execute(store, run_id=RUN)
    parts = ("timeline", "running", "runs", "agents:")
    names = [key.decode() async for key in raw.scan_iter("*")]
    lives = [await raw.ttl(name) for name in names if any(f":{part}" in name for part in parts)]
    assert len(lives) >= 5
    assert all(0 < seconds <= 7 * 86_400 for seconds in lives)
