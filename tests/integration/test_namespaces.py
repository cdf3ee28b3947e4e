"""Namespaces by direct gRPC: they see nothing of each other, and only an admin reaches from one to another."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from interlock.governance.errors import InterlockError
from interlock.governance.v1 import admin_pb2 as ad
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.v1 import namespaces_pb2 as ns
from tests.integration.engines import EngineClient, running_engine

PLANS: dict[str, Any] = {"two-tools": {"tools": 2, "default_ttl_s": 60, "max_ttl_s": 3600}}


@pytest.fixture
async def engine(redis_url: str) -> AsyncIterator[EngineClient]:
    """Its namespace `default` has a tool, and bot-1 has called it."""
    async with running_engine(redis_url, plans=PLANS) as client:
        await client.put_tool()
        await client.authorize()
        yield client


@pytest.fixture
async def other_engine(redis_url: str, engine: EngineClient) -> AsyncIterator[EngineClient]:
    async with running_engine(redis_url, plans=PLANS) as client:
        await client.authorize("a first look")
        yield client


async def team(engine: EngineClient, name: str = "team-a", **fields: Any) -> EngineClient:
    """A client that speaks with an operator's key of a new namespace."""
    await engine.ask(engine.namespaces.PutNamespace, ns.PutNamespaceRequest(name=name, **fields))
    made = await engine.acting_in(name).new_key(ad.ROLE_OPERATOR)
    return engine.speaking_with(made.key)


def timeless(namespace: ns.Namespace) -> ns.Namespace:
    """Without what changes as time passes."""
    namespace.usage.month_resets_in_ms = 0
    return namespace


def reads(client: EngineClient, call_id: str) -> list[tuple[Any, Any]]:
    """Every RPC that tells something of a namespace."""
    return [
        (client.tools.ListTools, ad.ListToolsRequest()),
        (client.tools.GetTool, ad.ToolRef(name="charge")),
        (client.policies.ListPolicies, ad.ListPoliciesRequest()),
        (client.policies.GetPolicy, ad.AgentRef(agent_id="bot-1")),
        (client.agents.GetAgent, ad.AgentRef(agent_id="bot-1")),
        (client.agents.ListAgents, ad.ListAgentsRequest()),
        (client.agents.ListDecisions, ad.ListDecisionsRequest(agent_id="bot-1")),
        (client.agents.GetAgentMetrics, ad.GetAgentMetricsRequest(agent_id="bot-1", period="day")),
        (client.switches.ListSwitches, ad.ListSwitchesRequest()),
        (client.keys.ListKeys, ad.ListKeysRequest()),
        (client.calls.ListCalls, ad.ListCallsRequest()),
        (client.calls.GetCall, ad.CallRef(call_id=call_id)),
        (client.audit.ListEvents, ad.ListEventsRequest(agent_id="bot-1")),
        (client.namespaces.GetNamespace, ns.NamespaceRef()),
    ]


async def told(client: EngineClient, call_id: str) -> list[object]:
    """What the reads above tell, or the reason that they do not."""
    found: list[object] = []
    for method, request in reads(client, call_id):
        try:
            answer = await client.ask(method, request)
        except InterlockError as error:
            found.append(error.reason)
        else:
            found.append(timeless(answer) if isinstance(answer, ns.Namespace) else answer)
    return found


async def test_two_namespaces_see_nothing_of_each_other_on_any_rpc(engine: EngineClient) -> None:
    a, b = await team(engine, "team-a"), await team(engine, "team-b")
    empty = await told(b, "call_" + "a" * 22)
    await a.put_tool()
    await a.ask(a.policies.PutPolicy, ad.PutPolicyRequest(agent_id="bot-1", policy=ad.Policy(blocked_tools=["x"])))
    await a.new_key(ad.ROLE_AGENT, "bot-1")
    call = await a.authorize(tool_revision=(await a.ask(a.tools.GetTool, ad.ToolRef(name="charge"))).revision)
    await a.ask(a.agents.DisableAgent, ad.DisableAgentRequest(agent_id="bot-1"))
    await a.ask(a.switches.SetSwitch, ad.SetSwitchRequest(scope="namespace", pulled=True, reason="drill"))
    in_a = await told(a, call.call_id)
    assert call.verdict == pb.VERDICT_EXECUTE
    assert not [reason for reason in in_a if isinstance(reason, str)]
    assert await told(b, call.call_id) == empty
    assert all(seen != unseen for seen, unseen in zip(in_a, empty, strict=True))


async def test_the_same_call_in_two_namespaces_is_two_calls(engine: EngineClient) -> None:
    permits = []
    for name in ("team-a", "team-b"):
        client = await team(engine, name)
        tool = await client.put_tool()
        permits.append((await client.authorize(tool_revision=tool.revision)).permit)
    assert len({permit.key for permit in permits}) == 2
    assert [permit.namespace for permit in permits] == ["team-a", "team-b"]


def changes(client: EngineClient, key_id: str, call_id: str) -> list[tuple[Any, Any]]:
    """Every RPC that changes something in a namespace, and those that a sidecar asks."""
    ref = ad.ToolRef(name="charge")
    call = ad.CallRef(call_id=call_id, agent_id="bot-1")
    return [
        (client.tools.PutTool, ad.PutToolRequest(tool=ad.Tool(name="charge", url="http://127.0.0.1:9/"))),
        (client.tools.DeleteTool, ref),
        (client.tools.ToggleTool, ad.ToggleToolRequest(ref=ref)),
        (client.policies.PutPolicy, ad.PutPolicyRequest(agent_id="bot-1")),
        (client.agents.DisableAgent, ad.DisableAgentRequest(agent_id="bot-1")),
        (client.agents.EnableAgent, ad.EnableAgentRequest(agent_id="bot-1")),
        (client.switches.SetSwitch, ad.SetSwitchRequest(scope="namespace", pulled=True)),
        (client.keys.CreateKey, ad.CreateKeyRequest(role=ad.ROLE_VIEWER)),
        (client.keys.RevokeKey, ad.RevokeKeyRequest(key_id=key_id)),
        (client.calls.ResolveCall, ad.ResolveCallRequest(ref=call, outcome=pb.OUTCOME_NOT_SENT)),
    ]


def of_namespaces(client: EngineClient) -> list[tuple[Any, Any]]:
    """Every RPC that only an admin may ask."""
    return [
        (client.namespaces.PutNamespace, ns.PutNamespaceRequest(name="team-a", plan="unlimited")),
        (client.namespaces.PutNamespace, ns.PutNamespaceRequest(name="new")),
        (client.namespaces.GetNamespace, ns.NamespaceRef(name="default")),
        (client.namespaces.ListNamespaces, ns.ListNamespacesRequest()),
        (client.namespaces.DeleteNamespace, ns.DeleteNamespaceRequest(name="default", force=True)),
        (client.namespaces.DeleteNamespace, ns.DeleteNamespaceRequest(name="team-a", force=True)),
    ]


async def everything(redis_url: str) -> dict[bytes, Any]:
    async with Redis.from_url(redis_url) as raw:
        return {key: await raw.dump(key) for key in await raw.keys("*")}


@pytest.mark.parametrize("role", [ad.ROLE_AGENT, ad.ROLE_VIEWER, ad.ROLE_OPERATOR])
async def test_nobody_but_an_admin_reaches_beyond_its_namespace(
    engine: EngineClient, redis_url: str, role: ad.Role.ValueType
) -> None:
    a = await team(engine)
    made = await a.new_key(role, "bot-1" if role == ad.ROLE_AGENT else "")
    outside = engine.speaking_with(made.key).acting_in("default")
    before = await everything(redis_url)
    for method, request in [*reads(outside, "call_" + "a" * 22), *changes(outside, "key_x", "call_" + "a" * 22)]:
        if method is not outside.namespaces.GetNamespace:
            assert await outside.refused(method, request) == "permission_denied", request
    for method, request in of_namespaces(outside):
        assert await outside.refused(method, request) == "permission_denied", request
    assert await everything(redis_url) == before


@pytest.mark.parametrize(
    "name", ["", "Team", "WORLD", "{default}", "default:bot-1", "a" * 64, "team_a", "team a", "tëam", "default}", "."]
)
async def test_a_name_that_could_break_out_of_its_tag_is_refused_everywhere(engine: EngineClient, name: str) -> None:
    put = ns.PutNamespaceRequest(name=name)
    assert await engine.refused(engine.namespaces.PutNamespace, put) == "invalid_namespace"
    delete = ns.DeleteNamespaceRequest(name=name)
    assert await engine.refused(engine.namespaces.DeleteNamespace, delete) == "invalid_namespace"
    if name and name.isascii():
        elsewhere = engine.acting_in(name)
        assert await elsewhere.refused(elsewhere.tools.ListTools, ad.ListToolsRequest()) == "invalid_namespace"
    permit = (await engine.authorize("permit")).permit
    permit.namespace = name
    for method, request in [
        (engine.governance.Renew, pb.RenewRequest(permit=permit)),
        (engine.governance.Settle, pb.SettleRequest(permit=permit, outcome=pb.OUTCOME_SUCCEEDED)),
    ]:
        assert await engine.refused(method, request) == "invalid_request"


async def test_the_longest_name_is_a_name(engine: EngineClient) -> None:
    name = "a" * 62 + "-"
    assert (await team(engine, name)).key
    listed = await engine.ask(engine.namespaces.ListNamespaces, ns.ListNamespacesRequest())
    assert [namespace.name for namespace in listed.namespaces] == [name, "default"]


async def test_what_is_not_given_stays_and_what_is_given_holds(engine: EngineClient) -> None:
    put = engine.namespaces.PutNamespace
    first = await engine.ask(put, ns.PutNamespaceRequest(name="team-a", description="the first"))
    assert (first.plan.name, first.default_policy.rule) == ("unlimited", "engine")
    deny = ns.DefaultPolicy(rule="deny")
    await engine.ask(put, ns.PutNamespaceRequest(name="team-a", plan="two-tools", default_policy=deny))
    again = await engine.ask(put, ns.PutNamespaceRequest(name="team-a"))
    assert (again.description, again.plan.name, again.plan.tools) == ("the first", "two-tools", 2)
    assert (again.default_policy.rule, again.created_at_ms) == ("deny", first.created_at_ms)
    assert again.revision > first.revision
    for wrong in (
        ns.PutNamespaceRequest(name="team-a", plan="gold"),
        ns.PutNamespaceRequest(name="team-a", default_policy=ns.DefaultPolicy(rule="perhaps")),
        ns.PutNamespaceRequest(name="team-a", default_policy=ns.DefaultPolicy()),
    ):
        assert await engine.refused(put, wrong) in ("unknown_plan", "invalid_policy")
    found = await engine.ask(engine.namespaces.GetNamespace, ns.NamespaceRef(name="team-a"))
    assert timeless(found) == timeless(again)


async def test_of_30_that_change_a_namespace_at_once_none_loses_what_another_gave(engine: EngineClient) -> None:
    put = engine.namespaces.PutNamespace
    plan = ns.PutNamespaceRequest(name="team-a", plan="two-tools")
    texts = [ns.PutNamespaceRequest(name="team-a", description=str(number)) for number in range(4)]
    await asyncio.gather(*(engine.ask(put, request) for request in (*texts, plan)))
    found = await engine.ask(engine.namespaces.GetNamespace, ns.NamespaceRef(name="team-a"))
    assert (found.plan.name, found.description != "") == ("two-tools", True)


@pytest.mark.parametrize("known", [False, True])
async def test_a_key_is_good_for_nothing_once_its_namespace_is_deleted(
    engine: EngineClient, other_engine: EngineClient, known: bool
) -> None:
    a = await team(engine)
    tool = await a.put_tool()
    elsewhere = other_engine.speaking_with(a.key)
    if known:
        assert (await elsewhere.authorize(tool_revision=tool.revision)).verdict == pb.VERDICT_EXECUTE
    assert (
        await engine.refused(engine.namespaces.DeleteNamespace, ns.DeleteNamespaceRequest(name="team-a"))
        == "namespace_in_use"
    )
    await engine.ask(engine.namespaces.DeleteNamespace, ns.DeleteNamespaceRequest(name="team-a", force=True))
    for client in (elsewhere, a):
        assert await client.refused(client.governance.Authorize, client.question(tool_revision=1)) == "invalid_key"
        resolve = pb.ResolveToolRequest(credential=a.key, agent_id="bot-1", tool="charge")
        assert await client.refused(client.governance.ResolveTool, resolve) == "invalid_key"
        for method, request in [*reads(client, "call_" + "a" * 22), *changes(client, "key_x", "call_" + "a" * 22)]:
            assert await client.refused(method, request) == "invalid_key"


async def test_a_deleted_namespace_keeps_its_trail_and_its_name_and_takes_nothing(engine: EngineClient) -> None:
    a = await team(engine)
    tool = await a.put_tool()
    executed = await a.authorize(tool_revision=tool.revision)
    await engine.ask(engine.namespaces.DeleteNamespace, ns.DeleteNamespaceRequest(name="team-a", force=True))
    # A call that is on the wire still settles.
    settle = pb.SettleRequest(permit=executed.permit, outcome=pb.OUTCOME_SUCCEEDED)
    assert (await engine.ask(engine.governance.Settle, settle)).applied
    stopped = await engine.ask(engine.governance.Renew, pb.RenewRequest(permit=executed.permit))
    assert not stopped.renewed
    admin = engine.acting_in("team-a")
    events = (await admin.ask(admin.audit.ListEvents, ad.ListEventsRequest(agent_id="bot-1"))).events
    assert [event.type for event in events] == ["decision", "settlement"]
    assert (await admin.ask(admin.tools.ListTools, ad.ListToolsRequest())).tools == []
    for method, request in changes(admin, "key_x", executed.call_id):
        assert await admin.refused(method, request) == "permission_denied"
    put = ns.PutNamespaceRequest(name="team-a")
    assert await engine.refused(engine.namespaces.PutNamespace, put) == "namespace_deleted"
    listed = engine.namespaces.ListNamespaces
    assert [found.name for found in (await engine.ask(listed, ns.ListNamespacesRequest())).namespaces] == ["default"]
    everyone = (await engine.ask(listed, ns.ListNamespacesRequest(with_deleted=True))).namespaces
    assert [(found.name, bool(found.deleted_at_ms)) for found in everyone] == [("default", False), ("team-a", True)]


async def test_neither_default_nor_ones_own_namespace_is_deleted(engine: EngineClient) -> None:
    await team(engine)
    admin = engine.speaking_with((await engine.acting_in("team-a").new_key(ad.ROLE_ADMIN)).key)
    for name in ("default", "team-a"):
        request = ns.DeleteNamespaceRequest(name=name, force=True)
        assert await admin.refused(admin.namespaces.DeleteNamespace, request) == "namespace_in_use"
    unknown = ns.DeleteNamespaceRequest(name="nobody", force=True)
    assert await admin.refused(admin.namespaces.DeleteNamespace, unknown) == "namespace_not_found"
    elsewhere = engine.acting_in("nobody")
    assert await elsewhere.refused(elsewhere.tools.ListTools, ad.ListToolsRequest()) == "namespace_not_found"


BLOCKING = ns.DefaultPolicy(rule="policy", policy=ad.Policy(blocked_tools=["char*"]))
LIMITED = ns.DefaultPolicy(rule="policy", policy=ad.Policy(max_actions_per_hour=1))


@pytest.mark.parametrize(
    ("default", "reason", "rule"),
    [
        (ns.DefaultPolicy(rule="deny"), "no_policy", "namespace's default_policy: deny"),
        (BLOCKING, "tool_explicitly_blocked", "namespace's default_policy: blocked_tools: char*"),
        (LIMITED, "max_actions_per_hour_exceeded", "namespace's default_policy: max_actions_per_hour: 1"),
    ],
)
async def test_a_default_policy_holds_for_the_next_decision_on_every_engine_and_for_renewals(
    engine: EngineClient, other_engine: EngineClient, default: ns.DefaultPolicy, reason: str, rule: str
) -> None:
    running = await other_engine.authorize("before")
    assert running.verdict == pb.VERDICT_EXECUTE
    put = engine.namespaces.PutNamespace
    await engine.ask(put, ns.PutNamespaceRequest(name="default", default_policy=default))
    for number, client in enumerate((other_engine, engine)):
        refused = await client.authorize(f"after {number}")
        assert (refused.verdict, refused.reason, refused.matched_rule) == (pb.VERDICT_BLOCKED, reason, rule)
    renewed = await other_engine.ask(other_engine.governance.Renew, pb.RenewRequest(permit=running.permit))
    assert renewed.renewed == (default is LIMITED)
    # An agent's own policy goes before it, and the engine's setting comes back with the rule `engine`.
    await engine.ask(engine.policies.PutPolicy, ad.PutPolicyRequest(agent_id="bot-1", policy=ad.Policy()))
    assert (await other_engine.authorize("own")).verdict == pb.VERDICT_EXECUTE
    await engine.ask(put, ns.PutNamespaceRequest(name="default", default_policy=ns.DefaultPolicy(rule="engine")))
    assert (await other_engine.authorize("without", agent_id="bot-2")).verdict == pb.VERDICT_EXECUTE


async def test_a_namespace_may_allow_what_the_engine_denies(redis_url: str) -> None:
    async with running_engine(redis_url, default_policy="deny") as engine:
        tool = await engine.put_tool()
        denied = await engine.authorize(tool_revision=tool.revision)
        assert (denied.reason, denied.matched_rule) == ("no_policy", "default_policy: deny")
        allow = ns.PutNamespaceRequest(name="default", default_policy=ns.DefaultPolicy(rule="allow"))
        await engine.ask(engine.namespaces.PutNamespace, allow)
        assert (await engine.authorize(tool_revision=tool.revision)).verdict == pb.VERDICT_EXECUTE


async def test_of_20_tools_put_at_once_a_plan_takes_exactly_as_many_as_it_allows(
    engine: EngineClient, other_engine: EngineClient
) -> None:
    a = await team(engine, plan="two-tools")
    b = other_engine.speaking_with(a.key)

    async def put(number: int) -> str:
        tool = ad.PutToolRequest(tool=ad.Tool(name=f"tool-{number}", url="http://127.0.0.1:9/"))
        client = (a, b)[number % 2]
        try:
            await client.ask(client.tools.PutTool, tool)
        except InterlockError as error:
            return error.reason
        return "put"

    answers = await asyncio.gather(*(put(number) for number in range(20)))
    assert answers.count("put") == 2
    assert set(answers) <= {"put", "payment_required", "tool_changing"}
    tools = (await a.ask(a.tools.ListTools, ad.ListToolsRequest())).tools
    assert len(tools) == 2
    # What is there may still be changed, switched and, one gone, another put.
    for tool in tools:
        await a.put_tool(tool.name, timeout_ms=500)
        await a.ask(a.tools.ToggleTool, ad.ToggleToolRequest(ref=ad.ToolRef(name=tool.name)))
    await a.ask(a.tools.DeleteTool, ad.ToolRef(name=tools[0].name))
    await a.put_tool("another")


async def test_a_plan_below_what_is_used_takes_nothing_away_and_lets_nothing_be_added(engine: EngineClient) -> None:
    a = await team(engine)
    for name in ("one", "two", "three"):
        await a.put_tool(name)
    put = ns.PutNamespaceRequest(name="team-a", plan="two-tools")
    await engine.ask(engine.namespaces.PutNamespace, put)
    revision = (await a.put_tool("three")).revision
    assert (await a.authorize(tool="three", tool_revision=revision)).verdict == pb.VERDICT_EXECUTE
    tool = ad.PutToolRequest(tool=ad.Tool(name="four", url="http://127.0.0.1:9/"))
    assert await a.refused(a.tools.PutTool, tool) == "payment_required"


async def test_how_long_answers_are_replayed_is_the_plans_default_and_at_most_its_maximum(engine: EngineClient) -> None:
    a = await team(engine, plan="two-tools")
    assert (await a.put_tool("one")).dedup_ttl_s == 60
    assert (await a.put_tool("one", dedup_ttl_s=2_592_000)).dedup_ttl_s == 3600
    assert (await a.put_tool("one", dedup_ttl_s=5)).dedup_ttl_s == 5


async def test_an_engine_that_does_not_know_the_plan_lets_nothing_through(engine: EngineClient, redis_url: str) -> None:
    a = await team(engine, plan="two-tools")
    tool = await a.put_tool()
    async with running_engine(redis_url) as unaware:
        client = unaware.speaking_with(a.key)
        asked = client.question(tool_revision=tool.revision)
        assert await client.refused(client.governance.Authorize, asked) == "plan_unknown"
        off = ad.ToggleToolRequest(ref=ad.ToolRef(name="charge"), enabled=False)
        assert not (await client.ask(client.tools.ToggleTool, off)).enabled
