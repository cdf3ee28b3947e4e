"""A burst of different calls against each limit: exactly as many as it allows, and the rest costs nothing."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.acceptance.scene import Scene
from tests.acceptance.wire import Answer
from tests.tool import Tool, answers

BURST = 300
FIT = 37
PRICE = 0.07


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that `FIT` calls fit in, what a call beyond it gets, and within what time the limit moves on, s."""

    policy: dict[str, Any]
    status: int
    reason: str
    matched_rule: str
    left: str
    moves_on_in: int


HOUR, DAY = 3600, 86400
PRICED = {"pricing_rules": [{"tool": "*", "price_usd": PRICE}]}
LIMITS = {
    "actions": Limit(
        {"max_actions_per_hour": FIT},
        *(429, "max_actions_per_hour_exceeded", "max_actions_per_hour: 37"),
        left="actions_left",
        moves_on_in=HOUR + 60,
    ),
    "calls of each tool": Limit(
        {"max_calls_per_tool": FIT},
        *(429, "max_calls_per_tool_exceeded", "max_calls_per_tool: 37"),
        left="tool_calls_left",
        moves_on_in=DAY,
    ),
    "calls of these tools": Limit(
        {"max_calls_per_tool": {"tool-*": FIT, "mail": 1, "*": 2}},
        *(429, "max_calls_per_tool_exceeded", "max_calls_per_tool: 37"),
        left="tool_calls_left",
        moves_on_in=DAY,
    ),
    "spend": Limit(
        {"max_spend_usd_per_day": 2.59},
        *(402, "max_spend_usd_per_day_exceeded", "max_spend_usd_per_day: 2.59"),
        left="spend_left_usd",
        moves_on_in=DAY,
    ),
    "spend with a rest": Limit(
        {"max_spend_usd_per_day": 2.65},
        *(402, "max_spend_usd_per_day_exceeded", "max_spend_usd_per_day: 2.65"),
        left="spend_left_usd",
        moves_on_in=DAY,
    ),
}
each_limit = pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS.keys())


@pytest.fixture(autouse=True)
async def same_day() -> None:
    """Day limits are given anew at midnight, UTC: no burst is to run across it."""
    now = datetime.now(UTC)
    left = (now.replace(hour=0, minute=0, second=0) + timedelta(days=1) - now).total_seconds()
    if left < 30:
        await asyncio.sleep(left + 1)


@each_limit
@pytest.mark.parametrize("through", [1, 2], ids=["one sidecar", "two sidecars"])
async def test_a_burst_of_calls_is_admitted_to_exactly_the_limit(
    scene: Scene, tool: Tool, limit: Limit, through: int
) -> None:
    await scene.policy(**PRICED, **limit.policy)
    name = await scene.register(tool.url)
    got = await asyncio.gather(
        *(scene.call(name, {"order": n}, at=scene.both[n % through]) for n in range(BURST)),
    )
    assert Counter((answer.status, answer.decision) for answer in got) == {
        (200, "executed"): FIT,
        (limit.status, "blocked"): BURST - FIT,
    }
    for answer in got:
        if answer.decision == "blocked":
            assert_refused(answer, limit)
    await assert_only_the_admitted_count(scene, tool, limit)


@each_limit
async def test_a_burst_of_runs_is_admitted_to_exactly_the_limit(scene: Scene, tool: Tool, limit: Limit) -> None:
    await scene.policy(**PRICED, **limit.policy)
    name = await scene.register(tool.url)
    got = await asyncio.gather(*(scene.run(name, {"order": n}, at=scene.both[n % 2]) for n in range(BURST)))
    assert {answer.status for answer in got} == {200}
    said = ("ok", "allowed", "decision", "policy_reason")
    assert Counter(tuple(answer.json[name] for name in said) for answer in got) == {
        (True, True, "executed", "ok"): FIT,
        (False, False, "blocked", limit.reason): BURST - FIT,
    }
    await assert_only_the_admitted_count(scene, tool, limit)


def assert_refused(answer: Answer, limit: Limit) -> None:
    problem = answer.json
    assert answer.header("Content-Type") == "application/problem+json"
    assert (problem["reason"], problem["matched_rule"]) == (limit.reason, limit.matched_rule)
    assert problem["budget"][limit.left] < PRICE
    assert 0 < int(answer.header("Retry-After") or 0) <= limit.moves_on_in
    assert (problem["retryable"], str(problem["retry_after"])) == (True, answer.header("Retry-After"))


async def assert_only_the_admitted_count(scene: Scene, tool: Tool, limit: Limit) -> None:
    """At the tool, on the account, in the log and in the trail."""
    assert len({received.body for received in tool.received}) == len(tool.received) == FIT
    assert await scene.figures() == (FIT, BURST - FIT, round(FIT * PRICE, 6))
    told: Counter[tuple[object, ...]] = Counter()
    for line in await scene.logs():
        told[line["decision"], line["policy_reason"], line["spend_usd"]] += line["count"]
    assert told == {("executed", "ok", PRICE): FIT, ("blocked", limit.reason, 0): BURST - FIT}
    decisions = await scene.events("decision")
    recorded = Counter((event["verdict"], event["charged_usd"]) for event in decisions)
    for event in await scene.events("refusals"):  # the many alike are counted, not told one by one
        recorded[event["verdict"], event["charged_usd"]] += event["facts"]["count"]
    assert recorded == {("EXECUTE", PRICE): FIT, ("BLOCKED", 0): BURST - FIT}
    assert len(decisions) < BURST / 2
    settlements = await scene.events("settlement")
    assert Counter((event["verdict"], event["charged_usd"]) for event in settlements) == {("SUCCEEDED", 0): FIT}
    admitted = {event["call_id"] for event in decisions if event["verdict"] == "EXECUTE"}
    assert admitted == {event["call_id"] for event in settlements}


async def test_an_agent_cannot_declare_less_than_a_call_costs(scene: Scene, tool: Tool) -> None:
    await scene.policy(**PRICED, max_spend_usd_per_day=0.4)
    name = await scene.register(tool.url)
    for order, (declared, charged) in enumerate([("0.01", PRICE), ("0.25", 0.32)]):
        answer = await scene.call(name, {"order": order}, headers={"Interlock-Spend-Usd": declared})
        assert (answer.status, (await scene.charged())[1]) == (200, charged)
    refused = await scene.run(name, {"order": 2}, spend_usd=0.09)
    assert (refused.json["decision"], refused.json["policy_reason"]) == ("blocked", "max_spend_usd_per_day_exceeded")
    assert (await scene.run(name, {"order": 2}, spend_usd=0.08)).json["decision"] == "executed"
    assert await scene.charged() == (3, 0.4)


async def test_a_burst_of_refused_answers_leaves_the_spend_for_others(scene: Scene, tool: Tool) -> None:
    """What the tool refuses costs nothing in the end, so the whole budget is there for who comes next."""
    await scene.policy(**PRICED, max_spend_usd_per_day=2.59)
    name = await scene.register(tool.does(answers(400)).url)
    orders = range(2 * FIT)
    for batch in (orders[:FIT], orders[FIT:]):
        got = await asyncio.gather(*(scene.call(name, {"order": n}, at=scene.both[n % 2]) for n in batch))
        assert {answer.status for answer in got} == {400}
    assert await scene.charged() == (2 * FIT, 0)
    tool.does(answers(200))
    got = await asyncio.gather(*(scene.call(name, {"order": n}, at=scene.both[n % 2]) for n in orders))
    assert Counter(answer.status for answer in got) == {200: FIT, 402: FIT}
    assert (await scene.charged())[1] == 2.59
