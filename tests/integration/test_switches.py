"""Kill switches of every kind: who pulled which, when and why; and plans, where they gate them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from interlock.governance.errors import InvalidRequestError
from interlock.governance.v1 import admin_pb2 as ad
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.v1 import namespaces_pb2 as ns
from tests.integration.engines import EngineClient, running_engine

PLANS: dict[str, Any] = {
    "bare": {"features": []},
    "full": {"features": ["kill_switch", "logs", "metrics", "blocklist"]},
}


@pytest.fixture
async def engine(redis_url: str) -> AsyncIterator[EngineClient]:
    """It has two tools of one name, one of them bot-1's own, and knows the agent bot-1."""
    async with running_engine(redis_url, plans=PLANS) as client:
        await client.put_tool()
        await client.authorize()
        await client.put_tool(scope_id="agent:bot-1")
        yield client


async def pulled(engine: EngineClient) -> list[tuple[str, str, str, str]]:
    """Kind, name, reason and by whom, of those that are pulled."""
    listed = await engine.ask(engine.switches.ListSwitches, ad.ListSwitchesRequest())
    assert [switch.scope for switch in listed.switches][:2] == ["global", "namespace"]
    assert all(switch.changed_at_ms for switch in listed.switches if switch.pulled)
    found = [switch for switch in listed.switches if switch.pulled]
    return [(switch.scope, switch.name, switch.reason, switch.changed_by) for switch in found]


async def own_tool(engine: EngineClient) -> int:
    """The revision of bot-1's own."""
    ref = ad.ToolRef(name="charge", scope_id="agent:bot-1")
    return int((await engine.ask(engine.tools.GetTool, ref)).revision)


async def own_key(engine: EngineClient) -> str:
    (key,) = (await engine.ask(engine.keys.ListKeys, ad.ListKeysRequest())).keys
    return str(key.key_id)


@pytest.mark.parametrize(
    ("switch", "reason", "shown"),
    [
        ({"scope": "global"}, "kill_switch", ("global", "")),
        ({"scope": "namespace"}, "kill_switch", ("namespace", "default")),
        ({"scope": "agent", "name": "bot-1"}, "agent_disabled", ("agent", "bot-1")),
        ({"scope": "tool", "name": "charge", "scope_id": "agent:bot-1"}, "tool_disabled", ("tool", "charge")),
    ],
)
async def test_every_kind_is_pulled_shown_with_who_and_why_and_lifted(
    engine: EngineClient, switch: dict[str, str], reason: str, shown: tuple[str, str]
) -> None:
    by = await own_key(engine)
    set_switch = engine.switches.SetSwitch
    status = await engine.ask(set_switch, ad.SetSwitchRequest(**switch, pulled=True, reason="drill"))
    assert (status.scope, status.name, status.pulled, status.changed_by) == (*shown, True, by)
    assert await pulled(engine) == [(*shown, "drill", by)]
    assert (await engine.authorize("after", tool_revision=await own_tool(engine))).reason == reason
    await engine.ask(set_switch, ad.SetSwitchRequest(**switch, pulled=False))
    assert await pulled(engine) == []


@pytest.mark.parametrize(
    ("switch", "field"),
    [
        ({"scope": ""}, "scope"),
        ({"scope": "WORLD"}, "scope"),
        ({"scope": "agent"}, "name"),
        ({"scope": "tool"}, "name"),
        ({"scope": "global", "name": "bot-1"}, "name"),
        ({"scope": "agent", "name": "bot-1", "scope_id": "global"}, "scope_id"),
    ],
)
async def test_a_switch_that_is_named_wrongly_is_refused(
    engine: EngineClient, switch: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await engine.ask(engine.switches.SetSwitch, ad.SetSwitchRequest(**switch, pulled=True))
    assert refused.value.metadata["field"] == field
    assert await pulled(engine) == []


async def test_a_switch_of_a_tool_or_agent_nobody_knows(engine: EngineClient) -> None:
    nobody = ad.SetSwitchRequest(scope="tool", name="nobody", pulled=True)
    assert await engine.refused(engine.switches.SetSwitch, nobody) == "tool_not_found"
    # An agent need not have called before it is stopped.
    await engine.ask(engine.switches.SetSwitch, ad.SetSwitchRequest(scope="agent", name="bot-9", pulled=True))
    assert (await engine.authorize(agent_id="bot-9")).reason == "agent_disabled"


async def test_replacing_a_tool_lifts_its_switch_only_if_that_is_asked_for(engine: EngineClient) -> None:
    off = ad.SetSwitchRequest(scope="tool", name="charge", pulled=True, reason="broken")
    await engine.ask(engine.switches.SetSwitch, off)
    before = await engine.ask(engine.tools.GetTool, ad.ToolRef(name="charge"))
    after = await engine.put_tool(timeout_ms=500)
    assert (after.enabled, after.disabled_reason, after.disabled_at_ms) == (False, "broken", before.disabled_at_ms)
    assert (await engine.put_tool(enabled=True)).enabled
    gone = await engine.put_tool(enabled=False)
    assert (gone.disabled_by, gone.disabled_at_ms > 0) == (await own_key(engine), True)


async def test_what_an_earlier_version_wrote_of_switches_is_understood(engine: EngineClient, redis_url: str) -> None:
    async with Redis.from_url(redis_url) as raw:
        await raw.hset("il:{default}:switch", mapping={"pulled": "1", "reason": "old", "changed_at": "12"})
        await raw.incr("il:{default}:epoch")
        await raw.hset("il:{default:bot-1}:config", mapping={"off": "1", "off_reason": "old", "off_at": "12"})
    assert await pulled(engine) == [("namespace", "default", "old", ""), ("agent", "bot-1", "old", "")]


async def test_a_plan_without_a_feature_refuses_its_use_to_operators_and_not_to_admins(engine: EngineClient) -> None:
    operator = engine.speaking_with((await engine.new_key(ad.ROLE_OPERATOR)).key)
    blocking = ad.PutPolicyRequest(agent_id="bot-1", policy=ad.Policy(blocked_tools=["x"]))
    uses: list[tuple[str, Any]] = [
        ("agents.DisableAgent", ad.DisableAgentRequest(agent_id="bot-1")),
        ("switches.SetSwitch", ad.SetSwitchRequest(scope="namespace", pulled=True)),
        ("agents.ListDecisions", ad.ListDecisionsRequest(agent_id="bot-1")),
        ("agents.GetAgentMetrics", ad.GetAgentMetricsRequest(agent_id="bot-1", period="day")),
        ("policies.PutPolicy", blocking),
    ]

    def method(client: EngineClient, name: str) -> Any:
        service, _, rpc = name.partition(".")
        return getattr(getattr(client, service), rpc)

    put = engine.namespaces.PutNamespace
    await engine.ask(put, ns.PutNamespaceRequest(name="default", plan="bare"))
    for name, request in uses:
        assert await operator.refused(method(operator, name), request) == "feature_not_available", name
        await engine.ask(method(engine, name), request)
    # Lifting is nobody's to sell.
    await operator.ask(operator.agents.EnableAgent, ad.EnableAgentRequest(agent_id="bot-1"))
    await operator.ask(operator.switches.SetSwitch, ad.SetSwitchRequest(scope="namespace", pulled=False))
    await engine.ask(put, ns.PutNamespaceRequest(name="default", plan="full"))
    for name, request in uses:
        await operator.ask(method(operator, name), request)
    limits = ad.PutPolicyRequest(agent_id="bot-1", policy=ad.Policy(max_actions_per_hour=1))
    assert await operator.refused(operator.policies.PutPolicy, limits) == "feature_not_available"
    judged = await engine.authorize("still judged", tool_revision=await own_tool(engine))
    assert (judged.verdict, judged.reason) == (pb.VERDICT_BLOCKED, "kill_switch")


async def test_a_note_or_reason_that_is_too_long_is_named(engine: EngineClient) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await engine.ask(engine.calls.ResolveCall, ad.ResolveCallRequest(note="x" * 513))
    assert refused.value.metadata["field"] == "note"
    with pytest.raises(InvalidRequestError) as refused:
        await engine.ask(engine.agents.DisableAgent, ad.DisableAgentRequest(agent_id="bot-1", reason="x" * 513))
    assert refused.value.metadata["field"] == "reason"
