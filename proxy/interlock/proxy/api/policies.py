"""`/v1/policies`: what each agent may do."""

from collections.abc import Iterator
from typing import Self

from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy.api.answer import ABSENT, Answer, Deleted
from interlock.proxy.api.errors import InvalidField, InvalidFieldsError
from interlock.proxy.api.models import AGENT_ID, OverridesBody, PolicyBody, TemplateBody
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.visit import Visit
from interlock.proxy.money import micros_of, usd_of

ENGINES_NAMES = {"max_spend_usd_per_day": "max_spend_micros_per_day"}
"""Fields of a policy that the engine knows by another name."""


class Price(Answer):
    """What a call costs."""

    tool: str
    """A tool's name, or a `*` glob."""
    price_usd: float
    """USD a call."""


class Policy(Answer):
    """What an agent may do. A limit that is not set is absent."""

    allowed_tools: list[str] = ABSENT
    """Names or `*` globs; absent: all that is not blocked, empty: nothing."""
    allow_read_only: bool = ABSENT
    """Tools that are declared `read_only` are allowed, too; alone, they and no other."""
    blocked_tools: list[str] = ABSENT
    """Names or `*` globs; block beats allow."""
    max_actions_per_hour: int = ABSENT
    """In any rolling hour."""
    max_spend_usd_per_day: float = ABSENT
    """In a UTC day, USD."""
    max_calls_per_tool: dict[str, int] = ABSENT
    """In a UTC day, by name or `*` glob."""
    pricing_rules: list[Price] = ABSENT
    """What calls cost; of those that match, the highest price holds."""
    on_anomaly: str = ABSENT
    """What an anomaly does: `alert` or `disable`."""

    @classmethod
    def of(cls, policy: pb.Policy) -> Self:
        return cls(**dict(_fields(policy)))


class AgentPolicy(Answer):
    """An agent's policy."""

    agent_id: str
    """The agent."""
    policy: Policy
    """What it may do."""
    managed_by: str = ABSENT
    """The owner of the manifest that it comes from; absent if there is none."""

    @classmethod
    def of(cls, held: pb.AgentPolicy) -> Self:
        managed = {"managed_by": held.managed_by} if held.managed_by else {}
        return cls(agent_id=held.agent_id, policy=Policy.of(held.policy), **managed)


async def put(visit: Visit) -> AgentPolicy:
    agent_id = visit.path("agent_id", AGENT_ID)
    body = await visit.body(PolicyBody)
    _check_agent(agent_id, body.agent_id)
    asked = pb.PutPolicyRequest(agent_id=agent_id, policy=policy_of(body))
    return AgentPolicy.of(await visit.ask(visit.api.policies.PutPolicy, asked))


async def put_from_template(visit: Visit) -> AgentPolicy:
    agent_id = visit.path("agent_id", AGENT_ID)
    body = await visit.body(TemplateBody)
    _check_agent(agent_id, body.agent_id)
    overrides = body.overrides or OverridesBody()
    given = [name for name, value in overrides if value is not None]
    asked = pb.PutPolicyFromTemplateRequest(
        agent_id=agent_id,
        template=body.template,
        overrides=policy_of(overrides),
        overridden=[ENGINES_NAMES.get(name, name) for name in given],
    )
    return AgentPolicy.of(await visit.ask(visit.api.policies.PutPolicyFromTemplate, asked))


async def show(visit: Visit) -> AgentPolicy:
    asked = pb.AgentRef(agent_id=visit.path("agent_id", AGENT_ID))
    return AgentPolicy.of(await visit.ask(visit.api.policies.GetPolicy, asked))


async def delete(visit: Visit) -> Deleted:
    await visit.ask(visit.api.policies.DeletePolicy, pb.AgentRef(agent_id=visit.path("agent_id", AGENT_ID)))
    return Deleted.now()


async def show_all(visit: Visit) -> list[AgentPolicy]:
    held = await visit.ask(visit.api.policies.ListPolicies, pb.ListPoliciesRequest())
    return [AgentPolicy.of(policy) for policy in held.policies]


def _check_agent(agent_id: str, named: str | None) -> None:
    if named not in {None, agent_id}:
        place, message = ("body", "agent_id"), "Input should be the path's agent_id"
        raise InvalidFieldsError([InvalidField("agent_id_mismatch", place, message, named)])


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
        allow_read_only=bool(body.allow_read_only),
    )


def _fields(policy: pb.Policy) -> Iterator[tuple[str, object]]:
    if policy.has_allowed_tools:
        yield "allowed_tools", list(policy.allowed_tools)
    if policy.allow_read_only:
        yield "allow_read_only", True
    if policy.blocked_tools:
        yield "blocked_tools", list(policy.blocked_tools)
    if policy.HasField("max_actions_per_hour"):
        yield "max_actions_per_hour", policy.max_actions_per_hour
    if policy.HasField("max_spend_micros_per_day"):
        yield "max_spend_usd_per_day", usd_of(policy.max_spend_micros_per_day)
    if policy.max_calls_per_tool:
        yield "max_calls_per_tool", dict(policy.max_calls_per_tool)
    if policy.pricing_rules:
        yield "pricing_rules", [_price(rule) for rule in policy.pricing_rules]
    if policy.on_anomaly:
        yield "on_anomaly", policy.on_anomaly


def _price(rule: pb.PricingRule) -> Price:
    return Price(tool=rule.tool, price_usd=usd_of(rule.price_micros))


OPERATIONS = (
    Operation("GET", "/v1/policies", show_all, "List policies", list[AgentPolicy], role="viewer"),
    Operation("GET", "/v1/policies/{agent_id}", show, "Show an agent's policy", AgentPolicy),
    Operation(
        "POST",
        "/v1/policies/{agent_id}",
        put,
        "Create or replace an agent's policy",
        AgentPolicy,
        body=PolicyBody,
        role="operator",
        refusals=(409,),
    ),
    Operation(
        "DELETE",
        "/v1/policies/{agent_id}",
        delete,
        "Delete an agent's policy",
        Deleted,
        role="operator",
        refusals=(409,),
    ),
    Operation(
        "POST",
        "/v1/policies/{agent_id}/from-template",
        put_from_template,
        "Make an agent's policy of a template",
        AgentPolicy,
        body=TemplateBody,
        role="operator",
        refusals=(409,),
    ),
)
