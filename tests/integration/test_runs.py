"""Runs a month: never more than the plan allows, whoever asks, and only what was let through costs one."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from interlock.governance.ids import new_id
from interlock.governance.v1 import admin_pb2 as ad
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.v1 import namespaces_pb2 as ns
from tests.integration.engines import EngineClient, Noting, running_engine
from tests.redis_server import RedisServer

FIT = 37
PLANS: dict[str, Any] = {"small": {"runs_per_month": FIT}, "tiny": {"runs_per_month": 2}, "none": {"runs_per_month": 0}}
EXECUTE, BLOCKED = pb.VERDICT_EXECUTE, pb.VERDICT_BLOCKED
EXCEEDED = "max_runs_per_month_exceeded"
UNSENT, SUCCEEDED = pb.OUTCOME_NOT_SENT, pb.OUTCOME_SUCCEEDED


@pytest.fixture
async def engines(redis_url: str) -> AsyncIterator[list[EngineClient]]:
    """Two on one Redis; the namespace has a tool, revision 1, and no plan yet."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(running_engine(redis_url, plans=PLANS)) for _ in range(2)]
        await clients[0].put_tool()
        yield clients


@pytest.fixture
async def engine(engines: list[EngineClient]) -> EngineClient:
    return engines[0]


async def on_plan(engine: EngineClient, plan: str) -> None:
    put = ns.PutNamespaceRequest(name="default", plan=plan)
    await engine.ask(engine.namespaces.PutNamespace, put)


async def used(engine: EngineClient) -> int:
    found = await engine.ask(engine.namespaces.GetNamespace, ns.NamespaceRef(name="default"))
    return int(found.usage.runs)


async def settle(engine: EngineClient, decided: pb.AuthorizeResponse, outcome: pb.Outcome.ValueType) -> None:
    request = pb.SettleRequest(permit=decided.permit, outcome=outcome)
    assert (await engine.ask(engine.governance.Settle, request)).applied


async def test_of_300_calls_at_two_engines_exactly_as_many_go_through_as_the_plan_allows(
    engines: list[EngineClient],
) -> None:
    await on_plan(engines[0], "small")
    agents = ["bot-1", "bot-2", "bot-3"]
    answers = await asyncio.gather(
        *(engines[n % 2].authorize(f"call {n}", agent_id=agents[n % 3], declared_spend_micros=0) for n in range(300))
    )
    assert Counter((answer.verdict, answer.reason) for answer in answers) == {
        (EXECUTE, "ok"): FIT,
        (BLOCKED, EXCEEDED): 300 - FIT,
    }
    assert await used(engines[1]) == FIT
    refused = next(answer for answer in answers if answer.verdict == BLOCKED)
    assert (refused.quota.plan, refused.quota.limit, refused.quota.usage) == ("small", FIT, FIT)
    assert refused.matched_rule == "plan small: runs_per_month: 37"
    assert 0 < refused.retry_after_ms <= 31 * 86_400_000
    for answer in answers:
        if answer.verdict == EXECUTE:
            await settle(engines[0], answer, SUCCEEDED)
    assert await used(engines[1]) == FIT
    assert (await engines[1].authorize("one more")).reason == EXCEEDED


async def test_what_is_not_let_through_or_never_left_costs_no_run(engine: EngineClient) -> None:
    await on_plan(engine, "small")
    first = await engine.authorize("one")
    await settle(engine, first, SUCCEEDED)
    assert await used(engine) == 1
    refusals = [
        await engine.authorize("one"),
        await engine.authorize("two", idempotency_key="k", agent_id="bot-2"),
        await engine.authorize("three", idempotency_key="k", agent_id="bot-2"),
        await engine.authorize("two", idempotency_key="k", agent_id="bot-2"),
    ]
    verdicts = [pb.VERDICT_REPLAY, EXECUTE, pb.VERDICT_MISMATCH, pb.VERDICT_IN_FLIGHT]
    assert [refusal.verdict for refusal in refusals] == verdicts
    assert await used(engine) == 2
    await settle(engine, refusals[1], UNSENT)
    assert await used(engine) == 1

    policy = ad.Policy(blocked_tools=["x"], max_actions_per_hour=0)
    await engine.ask(engine.policies.PutPolicy, ad.PutPolicyRequest(agent_id="bot-3", policy=policy))
    assert (await engine.authorize("four", agent_id="bot-3")).reason == "max_actions_per_hour_exceeded"
    asked = engine.question("five", attempt_id="given-up")
    assert (await engine.ask(engine.governance.Authorize, asked)).verdict == EXECUTE
    assert await used(engine) == 2
    for _ in range(2):
        abandon = pb.AbandonRequest(credential=engine.key, agent_id="bot-1", attempt_id="given-up")
        await engine.ask(engine.governance.Abandon, abandon)
        assert await used(engine) == 1
    assert await engine.refused(engine.governance.Authorize, asked) == "attempt_abandoned"
    gone = engine.question("six", tool="nobody")
    assert await engine.refused(engine.governance.Authorize, gone) == "tool_not_found"
    assert await used(engine) == 1


async def test_what_may_have_happened_costs_a_run_until_an_operator_says_that_it_did_not(engine: EngineClient) -> None:
    await on_plan(engine, "small")
    tool = await engine.put_tool("transfer", on_ambiguous=pb.ON_AMBIGUOUS_HOLD)
    happened, did_not = [
        await engine.authorize(call, tool="transfer", tool_revision=tool.revision) for call in ("one", "two")
    ]
    for decided, outcome in ((happened, SUCCEEDED), (did_not, UNSENT)):
        await settle(engine, decided, pb.OUTCOME_AMBIGUOUS)
        assert await used(engine) == 2
        resolve = ad.ResolveCallRequest(ref=ad.CallRef(call_id=decided.call_id), outcome=outcome)
        await engine.ask(engine.calls.ResolveCall, resolve)
    assert await used(engine) == 1


async def test_an_attempt_asked_and_settled_again_costs_one_run_and_gives_back_one(engines: list[EngineClient]) -> None:
    await on_plan(engines[0], "small")
    await settle(engines[0], await engines[0].authorize("another"), SUCCEEDED)
    question = engines[0].question("one")
    answers = await asyncio.gather(
        *(engines[n % 2].ask(engines[n % 2].governance.Authorize, question) for n in range(20))
    )
    assert len({answer.permit.fence for answer in answers}) == 1
    assert await used(engines[0]) == 2
    await asyncio.gather(*(settle(engines[n % 2], answers[0], UNSENT) for n in range(20)))
    assert await used(engines[0]) == 1


async def test_one_that_was_used_up_is_neither_counted_again_nor_given_back(engine: EngineClient) -> None:
    await on_plan(engine, "small")
    question = engine.question("one")
    decided = await engine.ask(engine.governance.Authorize, question)
    await settle(engine, decided, SUCCEEDED)
    await engine.ask(engine.governance.Authorize, question)
    abandon = pb.AbandonRequest(credential=engine.key, agent_id="bot-1", attempt_id=question.attempt_id)
    await engine.ask(engine.governance.Abandon, abandon)
    assert await used(engine) == 1


async def test_what_an_authorize_that_nobody_heard_has_reserved_is_given_back_if_the_call_came_to_nothing(
    engine: EngineClient,
) -> None:
    await on_plan(engine, "small")
    unheard = engine.question("one")
    reserved = (await engine.ask(engine.governance.Authorize, unheard)).permit
    record = pb.RecordDegradedRequest(
        attempt_id=unheard.attempt_id,
        credential_digest=hashlib.sha256(engine.key.encode()).digest(),
        agent_id=reserved.agent_id,
        tool=reserved.tool,
        method="POST",
        call_id=new_id("call"),
        key=reserved.key,
        repeatable=True,
        fingerprint=unheard.fingerprint,
        reason="governance_unavailable",
        outcome=UNSENT,
    )
    assert (await engine.ask(engine.governance.RecordDegraded, record)).recorded
    assert await used(engine) == 0


async def test_a_replay_is_answered_when_nothing_is_left(engine: EngineClient) -> None:
    await on_plan(engine, "tiny")
    for call in ("one", "two"):
        await settle(engine, await engine.authorize(call), SUCCEEDED)
    assert (await engine.authorize("three")).reason == EXCEEDED
    assert (await engine.authorize("one")).verdict == pb.VERDICT_REPLAY
    assert await used(engine) == 2


async def test_a_refusal_by_the_plan_stands_in_the_agents_trail(engine: EngineClient) -> None:
    await on_plan(engine, "none")
    refused = await engine.authorize("one")
    assert (refused.reason, refused.retry_after_ms, refused.quota.limit) == (EXCEEDED, 0, 0)
    events = (await engine.ask(engine.audit.ListEvents, ad.ListEventsRequest(agent_id="bot-1"))).events
    assert [(event.verdict, event.reason) for event in events] == [("BLOCKED", EXCEEDED)]
    assert (await engine.ask(engine.agents.ListDecisions, ad.ListDecisionsRequest(agent_id="bot-1"))).decisions


async def test_what_went_through_without_a_limit_counts_once_there_is_one(engine: EngineClient) -> None:
    for call in ("one", "two", "three"):
        await settle(engine, await engine.authorize(call), SUCCEEDED)
    await settle(engine, await engine.authorize("unsent"), UNSENT)
    assert await used(engine) == 3
    await on_plan(engine, "tiny")
    assert (await used(engine), (await engine.authorize("four")).reason) == (3, EXCEEDED)
    await on_plan(engine, "small")
    assert (await engine.authorize("four")).verdict == EXECUTE
    await on_plan(engine, "unlimited")
    assert (await engine.authorize("five")).verdict == EXECUTE
    assert await used(engine) == 5


async def test_two_namespaces_on_a_plan_use_up_their_own(engine: EngineClient) -> None:
    await on_plan(engine, "tiny")
    request = ns.PutNamespaceRequest(name="team-a", plan="tiny")
    await engine.ask(engine.namespaces.PutNamespace, request)
    team = engine.speaking_with((await engine.acting_in("team-a").new_key(ad.ROLE_OPERATOR)).key)
    revision = (await team.put_tool()).revision
    for client, at in ((engine, 1), (team, revision)):
        answers = [await client.authorize(f"call {number}", tool_revision=at) for number in range(3)]
        assert [answer.verdict for answer in answers] == [EXECUTE, EXECUTE, BLOCKED]


async def test_a_new_month_begins_anew_and_takes_nothing_back_from_the_last(own_redis: RedisServer) -> None:
    async with running_engine(own_redis.url, plans=PLANS) as engine:
        await engine.put_tool()
        await on_plan(engine, "tiny")
        late = await engine.authorize("late", declared_spend_micros=0)
        assert [(await engine.authorize(call)).verdict for call in ("one", "two")] == [EXECUTE, BLOCKED]
    own_redis.stop()
    own_redis.start(days_later=32)
    async with running_engine(own_redis.url, plans=PLANS) as engine:
        assert await used(engine) == 0
        assert [(await engine.authorize(call)).verdict for call in ("three", "four", "five")] == [
            *(EXECUTE, EXECUTE, BLOCKED)
        ]
        await engine.ask(engine.governance.Settle, pb.SettleRequest(permit=late.permit, outcome=UNSENT))
        assert (await used(engine), (await engine.authorize("six")).verdict) == (2, BLOCKED)


async def test_a_plan_that_does_not_limit_runs_costs_no_further_round_trip(redis_url: str) -> None:
    counted = Noting()
    async with running_engine(redis_url, recorder=counted, plans=PLANS | {"tools": {"tools": 5}}) as engine:
        await engine.put_tool()
        for plan in ("tools", "unlimited"):
            await on_plan(engine, plan)
            await settle(engine, await engine.authorize(f"first on {plan}"), SUCCEEDED)
            before = Counter(counted.asked)
            for number in range(10):
                await settle(engine, await engine.authorize(f"{plan} {number}"), SUCCEEDED)
            asked = counted.asked - before
            # Beside the calls, health is looked at, and what was just changed is read by whom it was told to.
            assert {*asked} <= {"authorize", "settle", "check", "snapshot"}
            assert (asked["authorize"], asked["settle"]) == (10, 10)
