"""Requests a minute: exactly as many as the plan allows, whatever they are for and whichever engine is asked."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from interlock.governance.errors import InterlockError
from interlock.governance.v1 import account_pb2
from interlock.governance.v1 import admin_pb2 as ad
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.v1 import namespaces_pb2 as ns
from tests.integration.engines import EngineClient, Noting, running_engine

FIT = 23
REVISION = 2
"""Of the tool, as its namespace counts them."""
PLANS: dict[str, Any] = {"calm": {"requests_per_minute": FIT}, "one": {"requests_per_minute": 1}}


@pytest.fixture
async def engines(redis_url: str) -> AsyncIterator[list[EngineClient]]:
    """Operators of a namespace with a tool, at two engines on one Redis; it is on no plan yet."""
    async with AsyncExitStack() as stack:
        admins = [await stack.enter_async_context(running_engine(redis_url, plans=PLANS)) for _ in range(2)]
        await admins[0].ask(admins[0].namespaces.PutNamespace, ns.PutNamespaceRequest(name="team"))
        made = await admins[0].acting_in("team").new_key(ad.ROLE_OPERATOR)
        operators = [admin.speaking_with(made.key) for admin in admins]
        tool = await operators[0].put_tool()
        assert tool.revision == REVISION
        yield [*operators, admins[0]]


async def on_plan(admin: EngineClient, plan: str) -> None:
    await admin.ask(admin.namespaces.PutNamespace, ns.PutNamespaceRequest(name="team", plan=plan))


async def outcome(engine: EngineClient, number: int) -> str:
    """Asks for something, each time for something else."""
    me, unknown = (
        account_pb2.GetAccountRequest(),
        pb.ResolveToolRequest(credential=engine.key, agent_id="bot-1", tool="nobody"),
    )
    call = engine.question(f"call {number}", declared_spend_micros=0, tool_revision=REVISION)
    asked = [
        (engine.account.GetAccount, me),
        (engine.tools.ListTools, ad.ListToolsRequest()),
        (engine.governance.Authorize, call),
        (engine.governance.ResolveTool, unknown),
    ][number % 4]
    try:
        await engine.ask(*asked)
    except InterlockError as error:
        return error.reason
    return "ok"


async def test_of_200_requests_at_two_engines_exactly_as_many_are_answered_as_the_plan_allows(
    engines: list[EngineClient],
) -> None:
    *operators, admin = engines
    await on_plan(admin, "calm")
    told = Counter(await asyncio.gather(*(outcome(operators[n // 4 % 2], n) for n in range(200))))
    assert told["rate_limited"] == 200 - FIT
    assert told["ok"] + told["tool_not_found"] == FIT
    for operator in operators:
        with pytest.raises(InterlockError) as refused:
            await operator.ask(operator.account.GetAccount, account_pb2.GetAccountRequest())
        assert refused.value.reason == "rate_limited"
        assert (refused.value.metadata["plan"], refused.value.metadata["limit"]) == ("calm", str(FIT))
        assert 1 <= (refused.value.retry_in_s or 0) <= 61
    # Of the world's other namespaces nobody notices.
    assert (await admin.ask(admin.account.GetAccount, account_pb2.GetAccountRequest())).namespace == "default"


async def test_an_attempt_that_is_asked_again_is_counted_once_and_answered_alike(engines: list[EngineClient]) -> None:
    *operators, admin = engines
    await on_plan(admin, "one")
    question = operators[0].question("one", tool_revision=REVISION)
    answers = await asyncio.gather(
        *(operators[n % 2].ask(operators[n % 2].governance.Authorize, question) for n in range(20))
    )
    assert {answer.verdict for answer in answers} == {pb.VERDICT_EXECUTE}
    assert len({answer.permit.fence for answer in answers}) == 1
    another = operators[0].question("two")
    assert await operators[1].refused(operators[1].governance.Authorize, another) == "rate_limited"


async def test_no_crowd_keeps_a_kill_switch_from_being_pulled_or_lifted(engines: list[EngineClient]) -> None:
    operator, _, admin = engines
    await on_plan(admin, "one")
    await outcome(operator, 0)
    assert await outcome(operator, 0) == "rate_limited"
    tool = ad.ToggleToolRequest(ref=ad.ToolRef(name="charge"), enabled=False)
    assert not (await operator.ask(operator.tools.ToggleTool, tool)).enabled
    for pulled in (True, False):
        switch = ad.SetSwitchRequest(scope="namespace", pulled=pulled)
        assert (await operator.ask(operator.switches.SetSwitch, switch)).pulled is pulled
    disabled = await operator.ask(operator.agents.DisableAgent, ad.DisableAgentRequest(agent_id="bot-1"))
    assert not disabled.is_enabled
    enabled = await operator.ask(operator.agents.EnableAgent, ad.EnableAgentRequest(agent_id="bot-1"))
    assert enabled.is_enabled
    assert await outcome(operator, 0) == "rate_limited"


async def test_a_plan_that_is_taken_away_lets_the_very_next_request_through(engines: list[EngineClient]) -> None:
    *operators, admin = engines
    await on_plan(admin, "one")
    await outcome(operators[0], 2)
    assert await outcome(operators[1], 6) == "rate_limited"
    await on_plan(admin, "unlimited")
    assert await outcome(operators[1], 10) == "ok"


async def test_a_plan_without_a_limit_asks_redis_nothing(redis_url: str) -> None:
    recorder = Noting()
    async with running_engine(redis_url, recorder, plans=PLANS) as engine:
        await engine.put_tool()
        await engine.authorize("one")
        assert recorder.asked["admit_request"] == 0
