"""The account of a namespace, as its keys see it."""

from collections.abc import AsyncIterator

import pytest

from interlock.governance.v1 import account_pb2 as pb
from interlock.governance.v1 import admin_pb2 as ad
from interlock.governance.v1 import namespaces_pb2 as ns
from tests.integration.engines import EngineClient, running_engine

PLANS = {"small": {"runs_per_month": 5, "tools": 2, "features": ["logs"]}}


@pytest.fixture
async def engine(redis_url: str) -> AsyncIterator[EngineClient]:
    async with running_engine(redis_url, plans=PLANS) as client:
        yield client


async def team(engine: EngineClient, name: str) -> EngineClient:
    """An operator of a new namespace on the plan `small`."""
    await engine.ask(engine.namespaces.PutNamespace, ns.PutNamespaceRequest(name=name, plan="small"))
    made = await engine.acting_in(name).new_key(ad.ROLE_OPERATOR)
    return engine.speaking_with(made.key)


async def account_of(engine: EngineClient) -> pb.AccountInfo:
    found: pb.AccountInfo = await engine.ask(engine.account.GetAccount, pb.GetAccountRequest())
    return found


async def test_every_key_sees_its_own_account(engine: EngineClient) -> None:
    operator = await team(engine, "team-a")
    made = await operator.new_key(ad.ROLE_AGENT, "bot-1")
    told = await account_of(engine.speaking_with(made.key))
    assert (told.namespace, told.plan.name, told.plan.runs_per_month) == ("team-a", "small", 5)
    assert (told.key_id, told.role, told.agent_id) == (made.info.key_id, ad.ROLE_AGENT, "bot-1")
    assert (await account_of(operator)).role == ad.ROLE_OPERATOR
    assert (await account_of(engine)).plan.name == "unlimited"


async def test_preferences_are_an_operators_to_change_and_stay_in_their_namespace(engine: EngineClient) -> None:
    one, other = await team(engine, "team-a"), await team(engine, "team-b")
    changed = await one.ask(one.account.UpdateNotifications, pb.UpdateNotificationsRequest(email=False))
    assert changed == pb.Notifications(email=False, tool_errors=True, run_failures=True)
    assert (await account_of(one)).notifications == changed
    assert (await account_of(other)).notifications == pb.Notifications(email=True, tool_errors=True, run_failures=True)
    nothing = pb.UpdateNotificationsRequest()
    assert await one.refused(one.account.UpdateNotifications, nothing) == "invalid_request"
    for role, agent in ((ad.ROLE_AGENT, "bot-1"), (ad.ROLE_VIEWER, "")):
        reader = engine.speaking_with((await one.new_key(role, agent)).key)
        asked = pb.UpdateNotificationsRequest(email=True)
        assert await reader.refused(reader.account.UpdateNotifications, asked) == "permission_denied"
    assert (await account_of(one)).notifications == changed
