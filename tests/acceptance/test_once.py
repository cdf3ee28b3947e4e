"""The same call, however often it is made and wherever: it happens once, and everybody gets its answer."""

import asyncio
from collections import Counter

import pytest

from tests.acceptance.scene import Scene
from tests.tool import Tool, answers, waits_for

CROWD = 500
CHARGE = {"order": 17, "amount": "12.50"}
WAIT = {"Prefer": "wait"}


async def test_500_identical_calls_through_two_sidecars_happen_once(scene: Scene, tool: Tool) -> None:
    await scene.policy(pricing_rules=[{"tool": "*", "price_usd": 0.25}])
    all_have_asked = asyncio.Event()
    name = await scene.register(tool.does(waits_for(all_have_asked, answers(201, b'{"receipt": "ch_1"}'))).url)
    sidecars = scene.both * (CROWD // 2)
    asked = await scene.asked()
    async with asyncio.TaskGroup() as crowd:
        calls = [crowd.create_task(scene.call(name, CHARGE, at=at, headers=WAIT)) for at in sidecars]
        await scene.until_asked(asked + CROWD, *calls)
        all_have_asked.set()
    got = [call.result() for call in calls]
    assert {(answer.status, answer.body, answer.whole) for answer in got} == {(201, b'{"receipt": "ch_1"}', True)}
    assert Counter((answer.decision, answer.replayed) for answer in got) == {
        ("executed", False): 1,
        ("dedup", True): CROWD - 1,
    }
    assert len(tool.received) == 1
    assert await scene.charged() == (1, 0.25)


async def test_500_identical_runs_through_two_sidecars_happen_once(scene: Scene, tool: Tool) -> None:
    await scene.policy(pricing_rules=[{"tool": "*", "price_usd": 0.25}])
    all_have_asked = asyncio.Event()
    name = await scene.register(tool.does(waits_for(all_have_asked, answers(200, b'{"receipt": "ch_1"}'))).url)
    sidecars = scene.both * (CROWD // 2)
    asked = await scene.asked()
    async with asyncio.TaskGroup() as crowd:
        runs = [crowd.create_task(scene.run(name, CHARGE, at=at)) for at in sidecars]
        await scene.until_asked(asked + CROWD, *runs)
        all_have_asked.set()
    got = [run.result() for run in runs]
    assert {answer.status for answer in got} == {200}
    assert {(answer.json["ok"], answer.json["allowed"], answer.json["result"]["receipt"]) for answer in got} == {
        (True, True, "ch_1")
    }
    assert Counter((answer.json["decision"], answer.json["policy_reason"]) for answer in got) == {
        ("executed", "ok"): 1,
        ("dedup", "tool_idempotency"): CROWD - 1,
    }
    assert len(tool.received) == 1
    assert await scene.charged() == (1, 0.25)


async def test_all_who_wait_get_the_refusal_that_the_leader_got(scene: Scene, tool: Tool) -> None:
    all_have_asked = asyncio.Event()
    refusal = answers(422, b'{"error": "card declined"}', {"X-Tool": "till"})
    name = await scene.register(tool.does(waits_for(all_have_asked, refusal)).url)
    asked = await scene.asked()
    async with asyncio.TaskGroup() as crowd:
        calls = [
            crowd.create_task(scene.call(name, CHARGE, at=at, headers={**WAIT, "Interlock-Spend-Usd": "0.25"}))
            for at in scene.both * 20
        ]
        await scene.until_asked(asked + len(calls), *calls)
        all_have_asked.set()
    got = [call.result() for call in calls]
    assert {(answer.status, answer.body, answer.header("X-Tool")) for answer in got} == {
        (422, b'{"error": "card declined"}', "till")
    }
    assert len(tool.received) == 1
    assert await scene.charged() == (1, 0)


@pytest.mark.parametrize(
    ("on_ambiguous", "waiters_get"),
    [("retry", (500, "dedup", b"<html>oh</html>")), ("hold", (409, "unknown", b"outcome_unknown"))],
)
async def test_all_who_wait_for_a_call_that_may_have_happened_learn_so_and_none_repeats_it(
    scene: Scene, tool: Tool, on_ambiguous: str, waiters_get: tuple[int, str, bytes]
) -> None:
    all_have_asked = asyncio.Event()
    failing = waits_for(all_have_asked, answers(500, b"<html>oh</html>"))
    name = await scene.register(tool.does(failing).url, on_ambiguous=on_ambiguous, max_retries=0)
    asked = await scene.asked()
    async with asyncio.TaskGroup() as crowd:
        calls = [crowd.create_task(scene.call(name, CHARGE, at=at, headers=WAIT)) for at in scene.both * 10]
        await scene.until_asked(asked + len(calls), *calls)
        all_have_asked.set()
    got = [call.result() for call in calls]
    (leader,) = [answer for answer in got if answer.decision == "executed"]
    assert (leader.status, leader.body) == (500, b"<html>oh</html>")
    status, decision, words = waiters_get
    others = [answer for answer in got if answer is not leader]
    assert {(answer.status, answer.decision, words in answer.body) for answer in others} == {(status, decision, True)}
    assert len(tool.received) == 1


async def test_a_duplicate_that_does_not_wait_is_told_to_come_back(scene: Scene, tool: Tool) -> None:
    done = asyncio.Event()
    name = await scene.register(tool.does(waits_for(done, answers())).url)
    async with asyncio.TaskGroup() as crowd:
        leader = crowd.create_task(scene.call(name, CHARGE))
        await tool.until_received(1)
        duplicates = await asyncio.gather(
            *(scene.call(name, CHARGE, at=at) for at in scene.both * 10),
            scene.call(name, CHARGE, headers={"Prefer": "wait=1"}),
        )
        done.set()
    assert {(answer.status, answer.json["reason"], answer.json["retryable"]) for answer in duplicates} == {
        (409, "in_flight", True)
    }
    for answer in duplicates:
        retry_after = answer.header("Retry-After")
        assert retry_after is not None and 0 < int(retry_after) <= 16  # the tool's time-out, and a second
        assert (answer.decision, answer.header("Content-Type")) == ("in_flight", "application/problem+json")
    assert leader.result().status == 200
    assert (await scene.call(name, CHARGE)).replayed
    assert len(tool.received) == 1
    assert await scene.charged() == (1, 0)


async def test_a_duplicate_of_a_run_waits_no_longer_than_the_tool_may_take(scene: Scene, tool: Tool) -> None:
    done = asyncio.Event()
    name = await scene.register(tool.does(waits_for(done, answers())).url)
    async with asyncio.TaskGroup() as crowd:
        leader = crowd.create_task(scene.run(name, CHARGE))
        await tool.until_received(1)
        # The leader has the time it was given; from now on the tool may take a quarter of a second.
        await scene.register(tool.url, name=name, timeout_ms=250, max_retries=0)
        duplicate = await scene.run(name, CHARGE, at=scene.second)
        done.set()
    assert (duplicate.status, duplicate.json["detail"]["error"]) == (409, "in_flight")
    assert int(duplicate.header("Retry-After") or 0) > 0
    assert leader.result().json["decision"] == "executed"
    assert len(tool.received) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"body": {**CHARGE, "amount": "12.51"}},
        {"body": CHARGE, "below": "?draft=1"},
        {"body": CHARGE, "below": "/other"},
        {"body": CHARGE, "method": "PUT"},
        {"body": CHARGE, "headers": {"Content-Type": "application/json; v=2"}},
    ],
    ids=["arguments", "query", "path", "method", "content type"],
)
@pytest.mark.parametrize("running", [True, False], ids=["running", "over"])
async def test_the_same_key_for_another_call_is_refused(
    scene: Scene, tool: Tool, other: dict[str, object], running: bool
) -> None:
    done = asyncio.Event()
    name = await scene.register(
        tool.does(waits_for(done, answers())).url, methods=["POST", "PUT"], subpaths=True, dedup={"mode": "header"}
    )
    mine = {"Idempotency-Key": "order-17", "Interlock-Spend-Usd": "0.25"}
    other = {**other, "headers": {**mine, **other.get("headers", {})}}
    async with asyncio.TaskGroup() as calls:
        first = calls.create_task(scene.call(name, CHARGE, headers=mine))
        await tool.until_received(1)
        if not running:
            done.set()
            await first
        refused = await scene.call(name, at=scene.second, **other)
        done.set()
    assert (refused.status, refused.decision) == (422, "mismatch")
    assert (refused.json["reason"], refused.json["retryable"]) == ("idempotency_key_reused", False)
    assert (await scene.call(name, CHARGE, headers=mine)).replayed
    assert len(tool.received) == 1
    assert await scene.charged() == (1, 0.25)


async def test_the_same_key_for_another_tool_is_refused(scene: Scene, tool: Tool) -> None:
    first, second = await scene.register(tool.url), await scene.register(tool.url)
    mine = {"Idempotency-Key": "order-17"}
    assert (await scene.call(first, CHARGE, headers=mine)).status == 200
    assert (await scene.call(second, CHARGE, headers=mine)).status == 422
    assert len(tool.received) == 1


async def test_the_same_key_for_another_run_is_refused(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    mine = {"Idempotency-Key": "order-17"}
    assert (await scene.run(name, CHARGE, headers=mine)).json["decision"] == "executed"
    refused = await scene.run(name, {**CHARGE, "amount": "12.51"}, headers=mine, at=scene.second)
    assert (refused.status, refused.decision) == (422, "mismatch")
    (problem,) = refused.json["detail"]
    assert (problem["type"], problem["loc"]) == ("idempotency_key_reused", ["header", "Idempotency-Key"])
    assert len(tool.received) == 1
