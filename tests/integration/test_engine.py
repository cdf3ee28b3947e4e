"""The engine by direct gRPC: what it refuses whatever a sidecar says, and that a change holds for the next decision."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis

from interlock.governance.v1 import admin_pb2 as ad
from interlock.governance.v1 import configuration_pb2 as cf
from interlock.governance.v1 import governance_pb2 as pb
from tests.integration.engines import EngineClient, running_engine
from tests.redis_server import RedisServer


@pytest.fixture
async def engine(redis_url: str) -> AsyncIterator[EngineClient]:
    async with running_engine(redis_url) as client:
        await client.put_tool()
        yield client


@pytest.fixture
async def other_engine(redis_url: str, engine: EngineClient) -> AsyncIterator[EngineClient]:
    """A second engine on the same Redis, which knows what the first one knew at the start."""
    async with running_engine(redis_url) as client:
        await client.authorize("a first look")
        yield client


async def everything(redis_url: str) -> dict[bytes, Any]:
    """All that Redis holds, to see that nothing changed."""
    async with Redis.from_url(redis_url) as raw:
        return {key: await raw.dump(key) for key in await raw.keys("*") if not key.startswith(b"il:{default}:agents")}


def operator_routes(client: EngineClient) -> list[tuple[Any, Any]]:
    """Every RPC that is not an agent's to call, or that names another agent."""
    tool, ref = ad.Tool(name="x", url="http://127.0.0.1:9/"), ad.ToolRef(name="charge")
    other = ad.AgentRef(agent_id="bot-2")
    succeeded = pb.OUTCOME_SUCCEEDED
    call = ad.CallRef(call_id="call_" + "a" * 22, agent_id="bot-2")
    return [
        (client.tools.PutTool, ad.PutToolRequest(tool=tool)),
        (client.tools.DeleteTool, ref),
        (client.tools.ToggleTool, ad.ToggleToolRequest(ref=ref, enabled=False)),
        (client.policies.PutPolicy, ad.PutPolicyRequest(agent_id="bot-1", policy=ad.Policy())),
        (client.policies.PutPolicy, ad.PutPolicyRequest(agent_id="bot-2", policy=ad.Policy())),
        (client.policies.PutPolicyFromTemplate, ad.PutPolicyFromTemplateRequest(agent_id="bot-1", template="strict")),
        (client.policies.GetPolicy, other),
        (client.policies.ListPolicies, ad.ListPoliciesRequest()),
        (client.policies.DeletePolicy, ad.AgentRef(agent_id="bot-1")),
        (client.configuration.Apply, cf.ApplyRequest(tools=[ad.PutToolRequest(tool=tool)])),
        (client.agents.DisableAgent, ad.DisableAgentRequest(agent_id="bot-2")),
        (client.agents.EnableAgent, ad.EnableAgentRequest(agent_id="bot-1")),
        (client.agents.GetAgent, other),
        (client.agents.ListDecisions, ad.ListDecisionsRequest(agent_id="bot-2")),
        (client.agents.GetAgentMetrics, ad.GetAgentMetricsRequest(agent_id="bot-2", period="day")),
        (client.switches.SetSwitch, ad.SetSwitchRequest(scope="namespace", pulled=True)),
        (client.switches.SetSwitch, ad.SetSwitchRequest(scope="global", pulled=True)),
        (client.switches.ListSwitches, ad.ListSwitchesRequest()),
        (client.keys.CreateKey, ad.CreateKeyRequest(role=ad.ROLE_OPERATOR)),
        (client.keys.CreateKey, ad.CreateKeyRequest(role=ad.ROLE_AGENT, agent_id="bot-1")),
        (client.keys.ListKeys, ad.ListKeysRequest()),
        (client.keys.RevokeKey, ad.RevokeKeyRequest(key_id="key_x")),
        (client.calls.ListCalls, ad.ListCallsRequest(agent_id="bot-2")),
        (client.calls.GetCall, call),
        (client.calls.ResolveCall, ad.ResolveCallRequest(ref=call, outcome=succeeded)),
        (client.audit.ListEvents, ad.ListEventsRequest(agent_id="bot-2")),
        (client.audit.ListTrails, ad.ListTrailsRequest(agent_id="bot-2")),
        (client.governance.Authorize, client.question(agent_id="bot-2")),
        (client.governance.ResolveTool, pb.ResolveToolRequest(credential=client.key, agent_id="bot-2", tool="charge")),
        (client.governance.Await, pb.AwaitRequest(credential=client.key, agent_id="bot-2", call_id=call.call_id)),
        (client.governance.Abandon, pb.AbandonRequest(credential=client.key, agent_id="bot-2", attempt_id="x")),
    ]


async def test_an_agent_key_is_denied_every_operator_route_and_changes_nothing(
    engine: EngineClient, redis_url: str
) -> None:
    agent = engine.speaking_with((await engine.new_key(ad.ROLE_AGENT, "bot-1")).key)
    before = await everything(redis_url)
    for method, request in operator_routes(agent):
        assert await agent.refused(method, request) == "permission_denied", request
    assert await everything(redis_url) == before


async def test_every_rpc_is_in_the_list_above_or_is_an_agents_own(engine: EngineClient) -> None:
    """So that a new RPC cannot be forgotten."""
    own = {"Tools/GetTool", "Tools/ListTools", "Governance/Renew", "Governance/Settle", "Governance/Exchange"}
    own |= {"Agents/ListAgents", "Audit/FollowEvents", "Governance/RecordDegraded"}
    files = (ad.DESCRIPTOR, pb.DESCRIPTOR, cf.DESCRIPTOR)
    services = [service for file in files for service in file.services_by_name.values()]
    methods = {f"{service.name}/{method.name}" for service in services for method in service.methods}
    listed = {method._method.decode().rpartition(".")[2] for method, _ in operator_routes(engine)}
    assert methods == own | listed


async def test_no_key_and_a_wrong_key_are_told_apart_everywhere(engine: EngineClient) -> None:
    for key, reason in (("", "missing_key"), ("once_live_" + "a" * 43, "invalid_key"), ("nonsense", "invalid_key")):
        client = engine.speaking_with(key)
        for method, request in operator_routes(client):
            assert await client.refused(method, request) == reason


async def test_governance_answers_sidecars_only(engine: EngineClient) -> None:
    permit = (await engine.authorize()).permit
    for token in ("", "another-token-entirely"):
        stranger = EngineClient(engine.channel, engine.key, token)
        for method, request in (
            (stranger.governance.Authorize, stranger.question("x")),
            (stranger.governance.Settle, pb.SettleRequest(permit=permit, outcome=pb.OUTCOME_NOT_SENT)),
            (stranger.governance.Renew, pb.RenewRequest(permit=permit)),
            (stranger.governance.ResolveTool, pb.ResolveToolRequest(credential=engine.key, tool="charge")),
            (stranger.governance.Await, pb.AwaitRequest(credential=engine.key, agent_id="a", call_id=permit.call_id)),
        ):
            assert await stranger.refused(method, request) == "sidecar_only"


async def test_an_operator_makes_no_admin_and_pulls_no_global_switch(engine: EngineClient) -> None:
    operator = engine.speaking_with((await engine.new_key(ad.ROLE_OPERATOR)).key)
    admins = [key for key in (await engine.ask(engine.keys.ListKeys, ad.ListKeysRequest())).keys if key.role == 4]
    for method, request in (
        (operator.keys.CreateKey, ad.CreateKeyRequest(role=ad.ROLE_ADMIN)),
        (operator.keys.RevokeKey, ad.RevokeKeyRequest(key_id=admins[0].key_id)),
        (operator.switches.SetSwitch, ad.SetSwitchRequest(scope="global", pulled=True)),
    ):
        assert await operator.refused(method, request) == "permission_denied"


async def test_a_policy_changed_through_one_engine_holds_for_the_next_decision_of_another(
    engine: EngineClient, other_engine: EngineClient
) -> None:
    policy = ad.Policy(blocked_tools=["charge"])
    await engine.ask(engine.policies.PutPolicy, ad.PutPolicyRequest(agent_id="bot-1", policy=policy))
    assert (await other_engine.authorize("next")).reason == "tool_explicitly_blocked"
    await engine.ask(engine.policies.PutPolicy, ad.PutPolicyRequest(agent_id="bot-1", policy=ad.Policy()))
    assert (await other_engine.authorize("next")).reason == "ok"


@pytest.mark.parametrize("scope", ["global", "namespace", "agent", "tool"])
async def test_a_switch_pulled_through_one_engine_holds_for_the_next_decision_of_another(
    engine: EngineClient, other_engine: EngineClient, scope: str
) -> None:
    reasons = {"agent": "agent_disabled", "tool": "tool_disabled"}
    for turn, pulled in enumerate((True, False, True, False)):
        await pull(engine, scope, pulled)
        revision = (await engine.ask(engine.tools.GetTool, ad.ToolRef(name="charge"))).revision
        decided = await other_engine.authorize(f"call {turn}", tool_revision=revision)
        assert decided.reason == (reasons.get(scope, "kill_switch") if pulled else "ok")


async def pull(engine: EngineClient, scope: str, pulled: bool) -> None:
    match scope:
        case "agent":
            method = engine.agents.DisableAgent if pulled else engine.agents.EnableAgent
            message = ad.DisableAgentRequest if pulled else ad.EnableAgentRequest
            await engine.ask(method, message(agent_id="bot-1"))
        case "tool":
            ref = ad.ToolRef(name="charge")
            await engine.ask(engine.tools.ToggleTool, ad.ToggleToolRequest(ref=ref, enabled=not pulled))
        case _:
            await engine.ask(engine.switches.SetSwitch, ad.SetSwitchRequest(scope=scope, pulled=pulled))


async def test_a_switch_pulled_under_the_nose_of_an_engine_costs_nothing(
    engine: EngineClient, other_engine: EngineClient, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other engine reserves on what it remembers, sees the epoch moved, and gives the reservation back."""
    spent = (await figures(engine)).total_spend_micros
    async with Redis.from_url(redis_url) as raw:
        # It is not told of the switch, however long the rest takes.
        monkeypatch.setattr("interlock.policy.learning.RECONNECT_S", 3600)
        await raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await pull(engine, "namespace", True)
    assert (await other_engine.authorize("next")).reason == "kill_switch"
    assert (await figures(engine)).total_spend_micros == spent
    types = [event.type for event in (await events(engine))[-3:]]
    assert types == ["decision", "withdrawal", "decision"]


async def test_a_replay_is_not_given_once_a_switch_is_pulled(engine: EngineClient, other_engine: EngineClient) -> None:
    permit = (await engine.authorize()).permit
    answer = pb.Answer(status=200, body=b"done", kept=True, size=4)
    await engine.ask(
        engine.governance.Settle, pb.SettleRequest(permit=permit, outcome=pb.OUTCOME_SUCCEEDED, answer=answer)
    )
    assert (await other_engine.authorize()).verdict == pb.VERDICT_REPLAY
    await pull(engine, "global", True)
    assert (await other_engine.authorize()).reason == "kill_switch"


async def test_a_revoked_key_is_refused_by_the_next_decision_of_an_engine_that_knew_it(
    engine: EngineClient, other_engine: EngineClient
) -> None:
    made = await engine.new_key(ad.ROLE_AGENT, "bot-1")
    agent = other_engine.speaking_with(made.key)
    assert (await agent.authorize("before")).reason == "ok"
    await engine.ask(engine.keys.RevokeKey, ad.RevokeKeyRequest(key_id=made.info.key_id))
    assert await agent.refused(agent.governance.Authorize, agent.question("after")) == "invalid_key"


async def test_a_changed_tool_is_told_before_anything_runs(engine: EngineClient, other_engine: EngineClient) -> None:
    changed = await engine.put_tool(timeout_ms=500)
    for client in (engine, other_engine):
        assert (await client.authorize("next")).verdict == pb.VERDICT_TOOL_CHANGED
    assert (await figures(engine)).total_actions == 1, "the first look of the other engine"
    assert (await other_engine.authorize("next", tool_revision=changed.revision)).reason == "ok"


async def test_renewing_ends_what_a_switch_has_stopped(engine: EngineClient, other_engine: EngineClient) -> None:
    permit = (await other_engine.authorize("stream")).permit
    renew = pb.RenewRequest(permit=permit)
    assert (await other_engine.ask(other_engine.governance.Renew, renew)).renewed
    for scope, reason in (("namespace", "kill_switch"), ("global", "kill_switch"), ("agent", "agent_disabled")):
        await pull(engine, scope, True)
        stopped = await other_engine.ask(other_engine.governance.Renew, renew)
        assert (stopped.renewed, stopped.reason) == (False, reason)
        await pull(engine, scope, False)
        assert (await other_engine.ask(other_engine.governance.Renew, renew)).renewed


async def test_renewing_ends_what_a_policy_would_not_let_through_any_more(
    engine: EngineClient, other_engine: EngineClient
) -> None:
    permit = (await other_engine.authorize("stream")).permit
    policy = ad.Policy(blocked_tools=["charge"])
    await engine.ask(engine.policies.PutPolicy, ad.PutPolicyRequest(agent_id="bot-1", policy=policy))
    stopped = await other_engine.ask(other_engine.governance.Renew, pb.RenewRequest(permit=permit))
    assert (stopped.renewed, stopped.reason) == (False, "tool_explicitly_blocked")


async def test_an_attempt_that_nobody_heard_of_is_given_up(engine: EngineClient) -> None:
    spent = (await figures(engine)).total_spend_micros
    unheard = engine.question("unheard")
    await engine.ask(engine.governance.Authorize, unheard)
    abandon = pb.AbandonRequest(credential=engine.key, agent_id="bot-1", attempt_id=unheard.attempt_id)
    await engine.ask(engine.governance.Abandon, abandon)
    assert (await figures(engine)).total_spend_micros == spent
    assert (await events(engine))[-1].reason == "abandoned"


async def test_many_questions_in_one_stream_are_each_answered_once(engine: EngineClient) -> None:
    questions = [pb.Question(id=n, authorize=engine.question(f"call {n % 100}")) for n in range(300)]
    questions.append(pb.Question(id=300, authorize=engine.question(tool="nobody")))
    questions.append(pb.Question(id=301))
    stream = engine.governance.Exchange(metadata=engine.metadata)
    for start in range(0, len(questions), 50):
        await stream.write(pb.ExchangeRequest(questions=questions[start : start + 50]))
    await stream.done_writing()
    replies = {reply.id: reply async for batch in stream for reply in batch.replies}
    verdicts = Counter(replies[n].authorize.verdict for n in range(300))
    assert verdicts == {pb.VERDICT_EXECUTE: 100, pb.VERDICT_IN_FLIGHT: 200}
    assert (replies[300].failure.reason, replies[301].failure.reason) == ("tool_not_found", "invalid_request")
    assert len(replies) == 302


async def test_an_engine_that_drains_ends_streams_in_good_order_also_one_that_begins_then(engine: EngineClient) -> None:
    assert engine.engine is not None
    stream = engine.governance.Exchange(metadata=engine.metadata)
    await stream.write(pb.ExchangeRequest(questions=[pb.Question(id=1, authorize=engine.question("before"))]))
    assert [reply.id for reply in (await stream.read()).replies] == [1]
    await engine.engine.drain()
    late = engine.governance.Exchange(metadata=engine.metadata)
    async with asyncio.timeout(5):
        for ended in (stream, late):
            assert await ended.read() is aio.EOF
            assert await ended.code() is StatusCode.OK


async def test_waiting_ends_when_the_call_does_though_another_engine_settles_it(
    engine: EngineClient, other_engine: EngineClient
) -> None:
    permit = (await engine.authorize("slow")).permit
    assert (await other_engine.authorize("slow", will_wait=True)).call_id == permit.call_id
    request = pb.AwaitRequest(credential=engine.key, agent_id="bot-1", call_id=permit.call_id, wait_ms=20_000)
    waiting = asyncio.ensure_future(other_engine.ask(other_engine.governance.Await, request))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    await engine.ask(engine.governance.Settle, pb.SettleRequest(permit=permit, outcome=pb.OUTCOME_REJECTED))
    async with asyncio.timeout(5):
        assert (await waiting).settled


async def test_waiting_ends_without_a_word_when_its_time_is_over(engine: EngineClient) -> None:
    permit = (await engine.authorize("slow")).permit
    request = pb.AwaitRequest(credential=engine.key, agent_id="bot-1", call_id=permit.call_id, wait_ms=50)
    assert not (await engine.ask(engine.governance.Await, request)).settled


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attempt_id": ""}, "invalid_request"),
        ({"attempt_id": "a}b"}, "invalid_request"),
        ({"fingerprint": b"short"}, "invalid_request"),
        ({"idempotency_key": "k" * 257}, "invalid_request"),
        ({"declared_spend_micros": -1}, "invalid_request"),
        ({"declared_spend_micros": 10**12 + 1}, "invalid_request"),
        ({"method": "PO ST"}, "invalid_request"),
        ({"agent_id": "a}b"}, "invalid_agent_id"),
        ({"agent_id": ""}, "invalid_agent_id"),
        ({"tool": "no}body"}, "tool_not_found"),
        ({"tool": "nobody"}, "tool_not_found"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused_and_stores_nothing(
    engine: EngineClient, redis_url: str, changes: dict[str, Any], reason: str
) -> None:
    before = await everything(redis_url)
    assert await engine.refused(engine.governance.Authorize, engine.question(**changes)) == reason
    assert await everything(redis_url) == before


@pytest.mark.parametrize("part", ["namespace", "agent_id", "tool", "key", "call_id", "attempt_id"])
async def test_a_permit_that_would_break_out_of_a_key_is_refused(engine: EngineClient, part: str) -> None:
    permit = (await engine.authorize()).permit
    setattr(permit, part, "a}:b")
    settle = pb.SettleRequest(permit=permit, outcome=pb.OUTCOME_SUCCEEDED)
    assert await engine.refused(engine.governance.Settle, settle) == "invalid_request"


async def test_secrets_reach_sidecars_only_and_are_sealed_at_rest(engine: EngineClient, redis_url: str) -> None:
    upstream = pb.UpstreamCredential(header="X-Api-Key", value="upstream-secret")
    tool = ad.Tool(name="mail", url="http://127.0.0.1:9/")
    request = ad.PutToolRequest(tool=tool, secret="signing-secret", upstream_credential=upstream)
    shown = str(await engine.ask(engine.tools.PutTool, request))
    shown += str(await engine.ask(engine.tools.ListTools, ad.ListToolsRequest()))
    stored = str(await everything(redis_url))
    for secret in ("signing-secret", "upstream-secret", engine.key):
        assert secret not in shown
        assert secret not in stored
    resolve = pb.ResolveToolRequest(credential=engine.key, agent_id="bot-1", tool="mail")
    route = (await engine.ask(engine.governance.ResolveTool, resolve)).route
    assert (list(route.secrets), route.upstream_credential) == (["signing-secret"], upstream)


async def test_a_call_that_is_not_deduplicated_is_never_held(engine: EngineClient) -> None:
    """It cannot come again, so an unknown outcome would only lie about for ever."""
    revision = (await engine.put_tool("look", methods=["GET"], on_ambiguous=pb.ON_AMBIGUOUS_HOLD)).revision
    asked = {"tool": "look", "method": "GET", "tool_revision": revision}
    permit = (await engine.authorize(**asked)).permit
    await engine.ask(engine.governance.Settle, pb.SettleRequest(permit=permit, outcome=pb.OUTCOME_AMBIGUOUS))
    assert not (await engine.ask(engine.calls.ListCalls, ad.ListCallsRequest())).calls
    assert (await engine.authorize(**asked)).reason == "ok"


async def test_an_agent_sees_nothing_of_a_tools_secret_or_address(engine: EngineClient) -> None:
    agent = engine.speaking_with((await engine.new_key(ad.ROLE_AGENT, "bot-1")).key)
    listed = (await agent.ask(agent.tools.ListTools, ad.ListToolsRequest())).tools
    for tool in (*listed, await agent.ask(agent.tools.GetTool, ad.ToolRef(name="charge"))):
        assert tool.has_secret
        assert (tool.url, tool.secret_id, tool.secret_mask, tool.upstream_header) == ("", "", "", "")


async def test_without_a_policy_the_safe_default_denies(redis_url: str) -> None:
    async with running_engine(redis_url, default_policy="deny") as engine:
        await engine.put_tool()
        assert (await engine.authorize()).reason == "no_policy"


async def test_health_follows_redis(own_redis: RedisServer) -> None:
    async with running_engine(own_redis.url) as engine:
        health = health_pb2_grpc.HealthStub(engine.channel)
        watching = health.Watch(health_pb2.HealthCheckRequest(service="interlock.governance.v1.Governance"))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        own_redis.stop()
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await engine.refused(engine.governance.Authorize, engine.question()) == "governance_unavailable"
        own_redis.start()
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert await engine.refused(engine.governance.Authorize, engine.question()) == "tool_not_found"


async def figures(engine: EngineClient) -> ad.AgentMetrics:
    request = ad.GetAgentMetricsRequest(agent_id="bot-1", period="day")
    found: ad.AgentMetrics = await engine.ask(engine.agents.GetAgentMetrics, request)
    return found


async def events(engine: EngineClient) -> list[ad.Event]:
    request = ad.ListEventsRequest(agent_id="bot-1", limit=1000)
    return list((await engine.ask(engine.audit.ListEvents, request)).events)


async def test_what_a_call_declares_and_what_its_policy_asks_count_anew_though_rules_are_remembered(
    engine: EngineClient, other_engine: EngineClient
) -> None:
    charged = []
    for price_micros in (0, 500, 2_000, 100):
        policy = ad.Policy(pricing_rules=[ad.PricingRule(tool="charge", price_micros=price_micros)])
        await engine.ask(engine.policies.PutPolicy, ad.PutPolicyRequest(agent_id="bot-1", policy=policy))
        for declared in (0, 1_000, 0):
            call = f"{price_micros} {len(charged)}"
            charged.append((await other_engine.authorize(call, declared_spend_micros=declared)).charged_micros)
    assert charged == [0, 1_000, 0, 500, 1_000, 500, 2_000, 2_000, 2_000, 100, 1_000, 100]
