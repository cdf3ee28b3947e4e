"""What the ledger promises, on every Redis."""

import asyncio
import collections
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from interlock.governance.errors import ConflictError
from interlock.policy.model import Answer, Epochs, Limits, Outcome, Permit, Policy, Settlement, Switch, VersionedPolicy
from interlock.policy.ports import Decided, PolicyMoved, Renewed
from interlock.store.opening import Store
from tests.conformance.reservations import AGENT, decide, execute, reservation

ANSWER = Answer(status=200, head=b"\x00head", body=b"\xff\x00body", kept=True, size=6, digest=b"\x01" * 32)
FREE = Limits(cost_micros=0)


async def settle(
    store: Store, permit: Permit, outcome: Outcome, answer: Answer | None = None, failure: str = ""
) -> Settlement:
    return await store.ledger.settle(permit, outcome, answer, failure, event="settlement", facts="{}")


async def spent(store: Store) -> int:
    return (await store.ledger.figures(AGENT, "day")).spend_micros


async def actions(store: Store) -> int:
    return (await store.ledger.figures(AGENT, "hour")).actions


async def let_lease_run_out(raw: Redis, permit: Permit) -> None:
    """Moves the record's deadline instead of the clock: to the script the two are one."""
    await raw.hset("il:{acme:bot-1}:call:" + permit.key, "lease_until", "1")


async def test_of_500_identical_calls_one_executes(store: Store) -> None:
    decisions = await asyncio.gather(*(decide(store) for _ in range(500)))
    assert collections.Counter(d.verdict for d in decisions) == {"EXECUTE": 1, "IN_FLIGHT": 499}
    assert await spent(store) == 1_000_000
    assert await actions(store) == 1


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(1_000_000, actions_per_hour=37), "max_actions_per_hour_exceeded"),
        (Limits(1_000_000, calls_of_tool=37), "max_calls_per_tool_exceeded"),
        (Limits(1_000_000, spend_micros_per_day=37_999_999), "max_spend_usd_per_day_exceeded"),
    ],
    ids=["actions", "calls of a tool", "spend"],
)
async def test_of_300_different_calls_exactly_37_fit_the_limit(store: Store, limits: Limits, reason: str) -> None:
    decisions = await asyncio.gather(*(decide(store, f"call {n}", limits=limits) for n in range(300)))
    assert collections.Counter(d.reason for d in decisions) == {"ok": 37, reason: 263}
    assert await spent(store) == 37_000_000
    assert await actions(store) == 37
    assert all(d.retry_after_ms > 0 and d.charged_micros == 0 for d in decisions if d.reason == reason)
    assert (await store.ledger.figures(AGENT, "hour")).blocked == 263


async def test_a_repeated_attempt_gets_the_same_word_one_event_and_one_charge(store: Store) -> None:
    asked = reservation()
    first, again = [await store.ledger.authorize(asked) for _ in range(2)]
    assert first == again
    assert await spent(store) == 1_000_000
    assert len(await store.ledger.events(AGENT, after_seq=0, limit=10)) == 1


async def test_who_is_refused_is_counted_and_who_waits_is_not_yet(store: Store) -> None:
    await execute(store)
    await decide(store, will_wait=True)
    assert (await store.ledger.figures(AGENT, "hour")).blocked == 0
    assert len(await store.ledger.events(AGENT, after_seq=0, limit=10)) == 1
    await decide(store)
    await decide(store, fingerprint="f" * 64)
    assert (await store.ledger.figures(AGENT, "hour")).blocked == 2


async def test_a_repeated_refusal_is_the_same_refusal_and_one_event(store: Store) -> None:
    asked = reservation(rule_reason="tool_explicitly_blocked")
    first, again = [await store.ledger.authorize(asked) for _ in range(2)]
    assert first == again
    assert (await store.ledger.figures(AGENT, "hour")).blocked == 1


async def test_a_repeated_replay_carries_the_answer_again(store: Store) -> None:
    await settle(store, await execute(store), Outcome.SUCCEEDED, ANSWER)
    asked = reservation()
    first, again = [await store.ledger.authorize(asked) for _ in range(2)]
    assert isinstance(again, Decided)
    assert first == again
    assert again.decision.answer == ANSWER


async def test_a_success_is_replayed_byte_for_byte_and_costs_nothing(store: Store) -> None:
    permit = await execute(store)
    assert await settle(store, permit, Outcome.SUCCEEDED, ANSWER) == Settlement(True, Outcome.SUCCEEDED, 1_000_000)
    replay = await decide(store)
    assert (replay.verdict, replay.answer, replay.call_id) == ("REPLAY", ANSWER, permit.call_id)
    assert await spent(store) == 1_000_000
    assert await actions(store) == 1


async def test_a_success_is_forgotten_after_its_time(store: Store, raw: Redis) -> None:
    permit = await execute(store, ttl_ms=50)
    await settle(store, permit, Outcome.SUCCEEDED, ANSWER)
    key = "il:{acme:bot-1}:call:" + permit.key
    assert 0 < await raw.pttl(key) <= 50
    while await raw.exists(key):  # noqa: ASYNC110 - nothing tells when Redis lets a key go
        await asyncio.sleep(0.01)
    assert (await decide(store)).verdict == "EXECUTE"


async def test_a_rejected_call_frees_the_key_and_returns_the_spend_but_not_the_action(store: Store) -> None:
    assert (await settle(store, await execute(store), Outcome.REJECTED, ANSWER)).charged_micros == 0
    assert (await spent(store), await actions(store)) == (0, 1)
    assert (await decide(store)).verdict == "EXECUTE"


async def test_a_call_that_was_not_sent_returns_spend_and_action(store: Store) -> None:
    limits = Limits(1_000_000, actions_per_hour=1, calls_of_tool=1, spend_micros_per_day=1_000_000)
    await settle(store, await execute(store, limits=limits), Outcome.NOT_SENT, failure="upstream_unreachable")
    assert (await spent(store), await actions(store)) == (0, 0)
    assert (await decide(store, "another", limits=limits)).verdict == "EXECUTE"


async def test_an_ambiguous_call_of_a_retry_tool_may_be_tried_again_and_is_charged_once(store: Store) -> None:
    first = await execute(store)
    await settle(store, first, Outcome.AMBIGUOUS, failure="upstream_timeout")
    second = await execute(store)
    assert (second.key, second.fence > first.fence) == (first.key, True)
    assert (await spent(store), await actions(store)) == (1_000_000, 2)


@pytest.mark.parametrize("later", [Outcome.REJECTED, Outcome.NOT_SENT])
async def test_a_later_no_never_clears_an_earlier_maybe(store: Store, later: Outcome) -> None:
    await settle(store, await execute(store), Outcome.AMBIGUOUS)
    await settle(store, await execute(store), later)
    assert await spent(store) == 1_000_000
    third = await execute(store)
    assert await spent(store) == 1_000_000
    await settle(store, third, Outcome.SUCCEEDED, ANSWER)
    assert (await decide(store)).verdict == "REPLAY"


async def test_an_ambiguous_call_of_a_hold_tool_is_never_repeated(store: Store, raw: Redis) -> None:
    permit = await execute(store, hold=True)
    await settle(store, permit, Outcome.AMBIGUOUS)
    for _ in range(3):
        refused = await decide(store, hold=True)
        assert (refused.verdict, refused.reason) == ("UNKNOWN", "outcome_unknown")
    assert await raw.pttl("il:{acme:bot-1}:call:" + permit.key) == -1
    assert [call.state for call in await store.ledger.open_calls(AGENT)] == ["unknown"]


@pytest.mark.parametrize(
    ("outcome", "then", "left"), [(Outcome.SUCCEEDED, "REPLAY", 1_000_000), (Outcome.NOT_SENT, "EXECUTE", 0)]
)
async def test_an_operator_resolves_an_unknown_call(store: Store, outcome: Outcome, then: str, left: int) -> None:
    held = await execute(store, hold=True)
    await settle(store, held, Outcome.AMBIGUOUS)
    found = await store.ledger.call(AGENT, held.call_id)
    assert found is not None
    resolved = await store.ledger.settle(found[1], outcome, None, "resolved", event="resolution", facts="{}")
    assert resolved == Settlement(True, outcome, left)
    assert await spent(store) == left
    assert await store.ledger.open_calls(AGENT) == []
    assert (await decide(store, hold=True)).verdict == then


async def test_a_lease_that_ran_out_is_taken_over_on_a_retry_tool_and_the_zombie_changes_nothing(
    store: Store, raw: Redis
) -> None:
    zombie = await execute(store)
    await let_lease_run_out(raw, zombie)
    assert [call.state for call in await store.ledger.open_calls(AGENT)] == ["expired"]
    heir = await execute(store)
    assert await spent(store) == 1_000_000
    late = await settle(store, zombie, Outcome.SUCCEEDED, ANSWER)
    assert not late.applied
    assert (await decide(store)).verdict == "IN_FLIGHT"
    await settle(store, heir, Outcome.SUCCEEDED, ANSWER)
    types = [event.type for event in await store.ledger.events(AGENT, after_seq=0, limit=10)]
    assert types == ["decision", "decision", "stale_settlement", "decision", "settlement"]


async def test_a_lease_that_ran_out_on_a_hold_tool_is_unknown_until_its_own_late_word(store: Store, raw: Redis) -> None:
    slow = await execute(store, hold=True)
    await let_lease_run_out(raw, slow)
    assert (await decide(store, hold=True)).verdict == "UNKNOWN"
    assert (await settle(store, slow, Outcome.SUCCEEDED, ANSWER)).applied
    assert (await decide(store, hold=True)).answer == ANSWER


async def test_settling_is_idempotent(store: Store) -> None:
    for outcome in Outcome:
        permit = await execute(store, outcome)
        first, again = [await settle(store, permit, outcome, ANSWER) for _ in range(2)]
        assert first == again
    settlements = [e for e in await store.ledger.events(AGENT, after_seq=0, limit=99) if e.type == "settlement"]
    assert len(settlements) == len(Outcome)
    assert await spent(store) == 2_000_000


async def test_of_50_concurrent_settlements_one_counts(store: Store) -> None:
    permit = await execute(store)
    await asyncio.gather(*(settle(store, permit, Outcome.NOT_SENT) for _ in range(50)))
    assert (await spent(store), await actions(store)) == (0, 0)


async def test_a_permit_with_a_wrong_fence_or_attempt_settles_nothing(store: Store) -> None:
    permit = await execute(store)
    for forged in (
        Permit(permit.scope, permit.tool, permit.key, permit.call_id, permit.fence + 1, permit.attempt_id, 0),
        Permit(permit.scope, permit.tool, permit.key, permit.call_id, permit.fence, "guessed", 0),
    ):
        assert not (await settle(store, forged, Outcome.NOT_SENT)).applied
        assert (await store.ledger.renew(forged, 1000)).word == "LOST"
    assert await spent(store) == 1_000_000


async def test_a_callers_key_used_for_another_call_is_a_mismatch(store: Store) -> None:
    await execute(store)
    other = await decide(store, fingerprint="f" * 64)
    assert (other.verdict, other.reason) == ("MISMATCH", "idempotency_key_reused")
    assert await spent(store) == 1_000_000


async def test_a_waiter_gets_the_leaders_refusal_though_the_key_is_free(store: Store) -> None:
    permit = await execute(store)
    waiting = await decide(store, will_wait=True)
    assert waiting.call_id == permit.call_id
    async with store.ledger.settled() as settled:
        await settle(store, permit, Outcome.REJECTED, ANSWER)
        assert await anext(aiter(settled)) == permit.call_id
    told = await decide(store, awaited_call_id=permit.call_id)
    assert (told.verdict, told.answer) == ("REPLAY", ANSWER)
    assert (await decide(store)).verdict == "EXECUTE"


async def test_a_waiter_is_told_why_its_leader_got_no_answer(store: Store) -> None:
    permit = await execute(store)
    await decide(store, will_wait=True)
    await settle(store, permit, Outcome.AMBIGUOUS, failure="upstream_timeout")
    told = await decide(store, awaited_call_id=permit.call_id)
    assert (told.verdict, told.answer, told.failure) == ("REPLAY", None, "upstream_timeout")


async def test_the_order_is_switch_then_list_then_key_then_budget(store: Store) -> None:
    none_left = Limits(1, actions_per_hour=0)
    everything = {"switch_reason": "kill_switch", "rule_reason": "tool_explicitly_blocked", "limits": none_left}
    await store.directory.switch_agent(AGENT, Switch(True, "why"), "{}")
    assert (await decide(store, **everything)).reason == "kill_switch"
    del everything["switch_reason"]
    assert (await decide(store, **everything)).reason == "agent_disabled"
    await store.directory.switch_agent(AGENT, Switch(False), "{}")
    assert (await decide(store, **everything)).reason == "tool_explicitly_blocked"
    assert (await decide(store, limits=none_left)).reason == "max_actions_per_hour_exceeded"
    await settle(store, await execute(store), Outcome.SUCCEEDED, ANSWER)
    assert (await decide(store, limits=none_left)).verdict == "REPLAY"


async def test_a_policy_that_moved_is_returned_and_nothing_is_written(store: Store) -> None:
    policy = Policy(allowed_tools=("a*",), max_calls_per_tool={"a": 1})
    assert await store.directory.put_policy(AGENT, policy, "{}") == 1
    before = await store.ledger.events(AGENT, after_seq=0, limit=9)
    moved = await store.ledger.authorize(reservation())
    assert moved == PolicyMoved(VersionedPolicy(policy, 1))
    assert await store.ledger.events(AGENT, after_seq=0, limit=9) == before
    assert (await decide(store, policy_version=1)).verdict == "EXECUTE"


async def test_the_epochs_come_with_the_decision(store: Store) -> None:
    await store.directory.set_switch("acme", Switch(True, ""))
    await store.directory.set_switch(None, Switch(False, ""))
    decided = await store.ledger.authorize(reservation())
    assert isinstance(decided, Decided)
    assert (decided.decision.basis, decided.epochs) == (Epochs(0, 0), Epochs(1, 1))


async def test_a_withdrawn_decision_can_be_judged_again_under_the_same_attempt(store: Store) -> None:
    for call, changes in (("one", {}), ("two", {"rule_reason": "tool_explicitly_blocked"})):
        asked = reservation(call, **changes)
        decided = await store.ledger.authorize(asked)
        assert isinstance(decided, Decided)
        await store.ledger.withdraw(asked, decided.decision)
        again = await store.ledger.authorize(reservation(call, attempt_id=asked.attempt_id, limits=FREE))
        assert isinstance(again, Decided)
        assert again.decision.verdict == "EXECUTE"
    assert await spent(store) == 0
    assert await actions(store) == 2


async def test_a_waiter_whose_leader_was_withdrawn_is_judged_anew(store: Store) -> None:
    leader = reservation()
    decided = await store.ledger.authorize(leader)
    assert isinstance(decided, Decided)
    waiting = await decide(store, will_wait=True)
    await store.ledger.withdraw(leader, decided.decision)
    assert (await decide(store, awaited_call_id=waiting.call_id)).verdict == "EXECUTE"


@pytest.mark.parametrize("hold", [True, False])
async def test_an_attempt_that_nobody_heard_of_is_given_up_and_costs_nothing(store: Store, hold: bool) -> None:
    unheard = reservation(hold=hold)
    await store.ledger.authorize(unheard)
    for _ in range(2):
        await store.ledger.abandon(AGENT, unheard.attempt_id)
    with pytest.raises(ConflictError):
        await store.ledger.authorize(unheard)
    assert (await spent(store), await actions(store)) == (0, 0)
    assert (await decide(store, hold=hold)).verdict == "EXECUTE"


async def test_an_attempt_given_up_before_it_arrives_reserves_nothing(store: Store) -> None:
    late = reservation()
    await store.ledger.abandon(AGENT, late.attempt_id)
    with pytest.raises(ConflictError):
        await store.ledger.authorize(late)
    assert (await spent(store), await actions(store)) == (0, 0)


async def test_giving_up_a_refused_attempt_changes_nothing(store: Store) -> None:
    await execute(store)
    refused = reservation()
    await store.ledger.authorize(refused)
    await store.ledger.abandon(AGENT, refused.attempt_id)
    assert await spent(store) == 1_000_000
    assert (await decide(store)).verdict == "IN_FLIGHT"


async def test_a_clock_that_was_far_ahead_is_not_waited_for(store: Store, raw: Redis) -> None:
    now_ms = (await raw.time())[0] * 1000
    await raw.hset("il:{acme:bot-1}:state", "clock", now_ms + 3_600_000)
    permit = await execute(store, lease_ms=60_000)
    assert 0 < await store.ledger.running(AGENT, permit.call_id) <= 60_000


async def test_a_clock_that_was_a_little_ahead_does_not_run_backwards(store: Store, raw: Redis) -> None:
    ahead_ms = (await raw.time())[0] * 1000 + 60_000
    await raw.hset("il:{acme:bot-1}:state", "clock", ahead_ms)
    await execute(store)
    assert [event.at_ms for event in await store.ledger.events(AGENT, after_seq=0, limit=1)] == [ahead_ms]


async def test_a_call_that_cannot_come_again_leaves_nothing_if_its_sidecar_dies(store: Store, raw: Redis) -> None:
    permit = await execute(store, repeatable=False)
    (await store.ledger.renew(permit, 60_000))
    assert await store.ledger.open_calls(AGENT) == []
    day_ms = 86_400_000
    assert 0 < await raw.pttl("il:{acme:bot-1}:call:" + permit.key) <= day_ms
    assert 0 < await raw.pttl("il:{acme:bot-1}:id:" + permit.call_id) <= day_ms


async def test_seq_has_no_gap_under_concurrency(store: Store) -> None:
    async def one(n: int) -> None:
        await settle(store, await execute(store, f"call {n}"), list(Outcome)[n % 4], ANSWER)

    await asyncio.gather(*(one(n) for n in range(200)))
    events = await store.ledger.events(AGENT, after_seq=0, limit=1000)
    assert [event.seq for event in events] == list(range(1, 401))
    newest = await store.ledger.latest_events(AGENT, before_seq=None, limit=3)
    assert [event.seq for event in newest] == [400, 399, 398]
    assert [e.seq for e in await store.ledger.latest_events(AGENT, before_seq=398, limit=2)] == [397, 396]


async def test_renewing_prolongs_and_tells_when_it_may_not(store: Store, raw: Redis) -> None:
    permit = await execute(store, lease_ms=1000)
    assert await store.ledger.renew(permit, 60_000) == Renewed("RENEWED", 0, Epochs())
    assert await store.ledger.running(AGENT, permit.call_id) > 50_000
    await store.directory.switch_agent(AGENT, Switch(True, "stop"), "{}")
    assert (await store.ledger.renew(permit, 60_000)).word == "DISABLED"
    await settle(store, permit, Outcome.SUCCEEDED, ANSWER)
    assert (await store.ledger.renew(permit, 60_000)).word == "LOST"
    assert await store.ledger.running(AGENT, permit.call_id) == 0


async def test_a_larger_cost_on_a_retry_charges_the_difference(store: Store) -> None:
    await settle(store, await execute(store), Outcome.AMBIGUOUS)
    await execute(store, limits=Limits(cost_micros=1_500_000))
    assert await spent(store) == 1_500_000


async def test_sums_far_beyond_14_digits_stay_exact(store: Store) -> None:
    for n in range(300):
        await execute(store, f"call {n}", limits=Limits(cost_micros=10**12 - 1))
    assert await spent(store) == 300 * (10**12 - 1)


async def test_the_hour_slides_by_the_minute(store: Store, raw: Redis) -> None:
    """An action of 60 minutes ago still counts, one of 61 does not: the buckets are moved, not the clock."""
    minutes = "il:{acme:bot-1}:minutes"
    limits = Limits(0, actions_per_hour=1)
    await execute(store, limits=limits)
    seconds = (await raw.time())[0]
    for age, verdict in ((60, "BLOCKED"), (61, "EXECUTE")):
        await raw.delete(minutes)
        await raw.hset(minutes, f"{seconds // 60 - age}:a", 1)
        decision = await decide(store, f"after {age}", limits=limits)
        assert decision.verdict == verdict
        if verdict == "BLOCKED":
            assert 0 < decision.retry_after_ms <= 60_000


async def test_day_limits_end_with_the_utc_day(store: Store) -> None:
    limits = Limits(1, spend_micros_per_day=1)
    await execute(store, limits=limits)
    refused = await decide(store, "another", limits=limits)
    now = datetime.now(UTC)
    left_ms = 86_400_000 - (now.hour * 3_600_000 + now.minute * 60_000 + now.second * 1000 + now.microsecond // 1000)
    assert refused.reason == "max_spend_usd_per_day_exceeded"
    assert abs(refused.retry_after_ms - left_ms) < 5_000


@pytest.mark.parametrize(
    "limits",
    [
        Limits(1, actions_per_hour=0),
        Limits(1, calls_of_tool=0),
        Limits(1, spend_micros_per_day=0),
        Limits(2, spend_micros_per_day=1),
    ],
    ids=["no actions", "no calls of the tool", "no spend", "more than a day's spend"],
)
async def test_what_can_never_pass_is_told_no_time_to_come_back_at(store: Store, limits: Limits) -> None:
    await execute(store, "before the limit was set", limits=FREE)
    refused = await decide(store, limits=limits)
    assert (refused.verdict, refused.retry_after_ms) == ("BLOCKED", 0)


async def test_events_older_than_168_hours_are_trimmed_and_younger_ones_kept(store: Store, raw: Redis) -> None:
    base = "il:{acme:bot-1}:"
    for n in range(4):
        await execute(store, f"call {n}")
    hour = (await raw.time())[0] // 3600
    # Events 1-2 happened before the hour that began 168 hours ago, 3-4 after it.
    await raw.hset(base + "hours", mapping={"at": hour - 1, f"{hour - 168}:seq": 2, f"{hour - 1}:seq": 3})
    await raw.hset(base + "minutes", "at", hour * 60 - 1)
    await execute(store, "the first of a new hour")
    assert [event.seq for event in await store.ledger.events(AGENT, after_seq=0, limit=9)] == [3, 4, 5]


async def test_every_key_lives_as_long_as_the_table_of_keys_says(store: Store, raw: Redis) -> None:
    second, minute, hour, day = 1000, 60_000, 3_600_000, 86_400_000
    settled = await execute(store, ttl_ms=hour)
    await settle(store, settled, Outcome.SUCCEEDED, ANSWER)
    unsettled = await execute(store, "unsettled", ttl_ms=hour)
    refused = await execute(store, "refused")
    await settle(store, refused, Outcome.REJECTED, ANSWER)
    blocked = reservation("blocked", rule_reason="tool_explicitly_blocked")
    await store.ledger.authorize(blocked)
    expected = {
        "state": 400 * day,
        f"call:{settled.key}": hour,
        f"call:{unsettled.key}": None,
        f"call:{refused.key}": 2 * minute,
        "open": None,
        f"id:{settled.call_id}": hour + 7 * day,
        f"id:{unsettled.call_id}": hour + 7 * day,
        f"id:{refused.call_id}": minute + 7 * day,
        f"attempt:{settled.attempt_id}": 2 * minute,
        f"attempt:{unsettled.attempt_id}": 2 * minute,
        f"attempt:{refused.attempt_id}": 2 * minute,
        f"attempt:{blocked.attempt_id}": 2 * minute,
        "minutes": 84 * minute,
        "hours": 192 * hour,
        "days": 31 * day,
        "audit": 8 * day,
        "folds": 400 * day,
    }
    found = {key.decode().removeprefix("il:{acme:bot-1}:"): await raw.pttl(key) for key in await raw.keys("*")}
    assert found.keys() == expected.keys()
    for name, lives_ms in expected.items():
        if lives_ms is None:
            assert found[name] == -1, name
        else:
            assert lives_ms - 20 * second < found[name] <= lives_ms, name
