"""`/v1/policies`: what each agent may do."""

from collections.abc import Iterator

from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy.api.errors import InvalidField, InvalidFieldsError
from interlock.proxy.api.models import AGENT_ID, PolicyBody
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.visit import Visit
from interlock.proxy.money import micros_of, usd_of


async def put(visit: Visit) -> object:
    agent_id = visit.path("agent_id", AGENT_ID)
    body = await visit.body(PolicyBody)
    if body.agent_id not in {None, agent_id}:
        place, message = ("body", "agent_id"), "Input should be the path's agent_id"
        raise InvalidFieldsError([InvalidField("agent_id_mismatch", place, message, body.agent_id)])
    asked = pb.PutPolicyRequest(agent_id=agent_id, policy=policy_of(body))
    return agent_policy_json(await visit.ask(visit.api.policies.PutPolicy, asked))


async def show(visit: Visit) -> object:
    asked = pb.AgentRef(agent_id=visit.path("agent_id", AGENT_ID))
    return agent_policy_json(await visit.ask(visit.api.policies.GetPolicy, asked))


async def delete(visit: Visit) -> object:
    await visit.ask(visit.api.policies.DeletePolicy, pb.AgentRef(agent_id=visit.path("agent_id", AGENT_ID)))
    return {"ok": True, "deleted": True}


async def show_all(visit: Visit) -> object:
    held = await visit.ask(visit.api.policies.ListPolicies, pb.ListPoliciesRequest())
    return [agent_policy_json(policy) for policy in held.policies]


def policy_of(body: PolicyBody) -> pb.Policy:
    """A validated body as the engine takes it; money in micro-USD, rounded up."""
    spend = body.max_spend_usd_per_day
    return pb.Policy(
        has_allowed_tools=body.allowed_tools is not None,
        allowed_tools=body.allowed_tools,
        blocked_tools=body.blocked_tools,
        max_actions_per_hour=body.max_actions_per_hour,
        max_spend_micros_per_day=None if spend is None else micros_of(spend),
        max_calls_per_tool=body.max_calls_per_tool,
        pricing_rules=[
            pb.PricingRule(tool=rule.tool, price_micros=micros_of(rule.price_usd)) for rule in body.pricing_rules or ()
        ],
        on_anomaly=body.on_anomaly or "",
    )


def agent_policy_json(held: pb.AgentPolicy) -> dict[str, object]:
    """`{agent_id, policy}`, and `managed_by` if somebody does; a limit that is not set is absent from the policy."""
    managed = {"managed_by": held.managed_by} if held.managed_by else {}
    return {"agent_id": held.agent_id, "policy": policy_json(held.policy), **managed}


def policy_json(policy: pb.Policy) -> dict[str, object]:
    """A limit that is not set is absent."""
    return dict(_fields(policy))


def _fields(policy: pb.Policy) -> Iterator[tuple[str, object]]:
    if policy.has_allowed_tools:
        yield "allowed_tools", list(policy.allowed_tools)
    if policy.blocked_tools:
        yield "blocked_tools", list(policy.blocked_tools)
    if policy.HasField("max_actions_per_hour"):
        yield "max_actions_per_hour", policy.max_actions_per_hour
    if policy.HasField("max_spend_micros_per_day"):
        yield "max_spend_usd_per_day", usd_of(policy.max_spend_micros_per_day)
    if policy.max_calls_per_tool:
        yield "max_calls_per_tool", dict(policy.max_calls_per_tool)
    if policy.pricing_rules:
        yield "pricing_rules", [_price_json(rule) for rule in policy.pricing_rules]
    if policy.on_anomaly:
        yield "on_anomaly", policy.on_anomaly


def _price_json(rule: pb.PricingRule) -> dict[str, object]:
    return {"tool": rule.tool, "price_usd": usd_of(rule.price_micros)}


OPERATIONS = (
    Operation("GET", "/v1/policies", show_all, "List policies"),
    Operation("GET", "/v1/policies/{agent_id}", show, "Show an agent's policy"),
    Operation("POST", "/v1/policies/{agent_id}", put, "Create or replace an agent's policy", body=PolicyBody),
    Operation("DELETE", "/v1/policies/{agent_id}", delete, "Delete an agent's policy"),
)
