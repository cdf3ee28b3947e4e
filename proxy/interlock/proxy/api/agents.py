"""`/v1/agents`: an agent's kill switch, its log and its figures."""

from typing import Literal, Self

from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy.api.answer import Answer, Time
from interlock.proxy.api.audit import facts_of
from interlock.proxy.api.models import AGENT_ID, ReasonBody
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.queries import AgentsQuery, LogsQuery, PeriodQuery
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit
from interlock.proxy.money import usd_of

DECISIONS = {"EXECUTE": "executed", "REPLAY": "dedup"}
"""The contract's words for the verdicts that let a call through; every other verdict is `blocked`."""


class AgentStatus(Answer):
    """An agent's kill switch."""

    agent_id: str
    """The agent."""
    is_enabled: bool
    """False: its kill switch is pulled, and nothing of it goes through."""
    disabled_reason: str | None
    """Why, if somebody said."""
    disabled_at: Time | None
    """When."""

    @classmethod
    def of(cls, status: pb.AgentStatus) -> Self:
        return cls(**_switch(status))


class AgentStanding(AgentStatus):
    """How an agent stands: its switch, and what it did beside what it may. Null is no limit."""

    last_seen_at: Time | None
    """When it was judged last."""
    actions_per_minute: float
    """Its rate now."""
    actions_in_hour: int
    """Actions that count against `max_actions_per_hour`."""
    max_actions_per_hour: int | None
    """Its limit."""
    spend_usd_today: float
    """What it spent in this UTC day, USD."""
    max_spend_usd_per_day: float | None
    """Its limit, USD."""
    blocked_today: int
    """Calls refused in this UTC day."""
    running_calls: int
    """Calls under way."""
    unknown_calls: int
    """Calls of unknown outcome, which wait for somebody's word."""

    @classmethod
    def standing(cls, agent: pb.AgentStanding) -> Self:
        spend_limit = usd_of(agent.max_spend_micros_per_day) if agent.HasField("max_spend_micros_per_day") else None
        return cls(
            **_switch(agent.status),
            last_seen_at=rfc3339(agent.last_seen_ms),
            actions_per_minute=round(agent.actions_per_minute, 2),
            actions_in_hour=agent.actions_in_hour,
            max_actions_per_hour=agent.max_actions_per_hour if agent.HasField("max_actions_per_hour") else None,
            spend_usd_today=usd_of(agent.spend_today_micros),
            max_spend_usd_per_day=spend_limit,
            blocked_today=agent.blocked_today,
            running_calls=agent.running_calls,
            unknown_calls=agent.unknown_calls,
        )


class Decision(Answer):
    """What was decided about a call."""

    ts: int
    """When, unix seconds."""
    agent_id: str
    """Who called."""
    tool: str
    """Which tool."""
    allowed: bool
    """Whether it was let through, or answered from the record."""
    decision: Literal["executed", "dedup", "blocked"]
    """What became of it."""
    policy_reason: str
    """Why: `ok`, or the reason of the refusal."""
    risk_level: str | None
    """The risk that was seen in it."""
    args_hash: str | None
    """A hash of its arguments, which are not kept."""
    spend_usd: float
    """What was charged, USD."""
    call_id: str | None
    """Its id in the audit trail; null where refusals alike were told together."""
    count: int
    """1, or how many refusals alike were told together."""

    @classmethod
    def of(cls, event: pb.Event) -> Self:
        facts = facts_of(event)
        return cls(
            ts=event.at_ms // 1000,
            agent_id=event.agent_id,
            tool=event.tool,
            allowed=event.verdict in DECISIONS,
            decision=DECISIONS.get(event.verdict, "blocked"),
            policy_reason=event.reason,
            risk_level=facts.get("risk_level"),
            args_hash=facts.get("args_hash"),
            spend_usd=usd_of(event.charged_micros),
            call_id=event.call_id or None,
            count=facts.get("count", 1) if event.type == "refusals" else 1,
        )


class ToolCount(Answer):
    """How often a tool was called."""

    tool: str
    """The tool."""
    count: int
    """How often."""


class AgentMetrics(Answer):
    """An agent's figures."""

    agent_id: str
    """The agent."""
    period: Literal["hour", "day", "week"]
    """The time that they are of."""
    total_actions: int
    """Calls that were let through."""
    blocked_actions: int
    """Calls that were refused."""
    total_spend_usd: float
    """What was spent, USD."""
    top_tools: list[ToolCount]
    """What was called most."""

    @classmethod
    def of(cls, agent_id: str, period: str, figures: pb.AgentMetrics) -> Self:
        return cls(
            agent_id=agent_id,
            period=period,
            total_actions=figures.total_actions,
            blocked_actions=figures.blocked_actions,
            total_spend_usd=usd_of(figures.total_spend_micros),
            top_tools=[ToolCount(tool=used.tool, count=used.count) for used in figures.top_tools],
        )


async def show_all(visit: Visit) -> list[AgentStanding]:
    query = visit.query(AgentsQuery)
    asked = pb.ListAgentsRequest(after=query.after or "", limit=query.limit)
    return [AgentStanding.standing(agent) for agent in (await visit.ask(visit.api.agents.ListAgents, asked)).agents]


async def show(visit: Visit) -> AgentStatus:
    return AgentStatus.of(await visit.ask(visit.api.agents.GetAgent, pb.AgentRef(agent_id=_agent_id(visit))))


async def disable(visit: Visit) -> AgentStatus:
    reason = (await visit.body(ReasonBody)).reason or ""
    asked = pb.DisableAgentRequest(agent_id=_agent_id(visit), reason=reason)
    return AgentStatus.of(await visit.ask(visit.api.agents.DisableAgent, asked))


async def enable(visit: Visit) -> AgentStatus:
    reason = (await visit.body(ReasonBody)).reason or ""
    asked = pb.EnableAgentRequest(agent_id=_agent_id(visit), reason=reason)
    return AgentStatus.of(await visit.ask(visit.api.agents.EnableAgent, asked))


async def logs(visit: Visit) -> list[Decision]:
    asked = pb.ListDecisionsRequest(agent_id=_agent_id(visit), limit=visit.query(LogsQuery).limit)
    return [Decision.of(event) for event in (await visit.ask(visit.api.agents.ListDecisions, asked)).decisions]


async def metrics(visit: Visit) -> AgentMetrics:
    agent_id, period = _agent_id(visit), visit.query(PeriodQuery).period
    asked = pb.GetAgentMetricsRequest(agent_id=agent_id, period=period)
    return AgentMetrics.of(agent_id, period, await visit.ask(visit.api.agents.GetAgentMetrics, asked))


def _switch(status: pb.AgentStatus) -> dict[str, object]:
    return {
        "agent_id": status.agent_id,
        "is_enabled": status.is_enabled,
        "disabled_reason": status.disabled_reason or None,
        "disabled_at": rfc3339(status.disabled_at_ms),
    }


def _agent_id(visit: Visit) -> str:
    return visit.path("agent_id", AGENT_ID)


OPERATIONS = (
    Operation(
        "GET",
        "/v1/agents",
        show_all,
        "List agents, with what they did and may do",
        list[AgentStanding],
        query=AgentsQuery,
    ),
    Operation("GET", "/v1/agents/{agent_id}", show, "Show an agent, and whether it is enabled", AgentStatus),
    Operation(
        "POST",
        "/v1/agents/{agent_id}/disable",
        disable,
        "Disable an agent",
        AgentStatus,
        body=ReasonBody,
        role="operator",
    ),
    Operation(
        "POST", "/v1/agents/{agent_id}/enable", enable, "Enable an agent", AgentStatus, body=ReasonBody, role="operator"
    ),
    Operation(
        "GET",
        "/v1/agents/{agent_id}/logs",
        logs,
        "List an agent's decisions, newest first",
        list[Decision],
        query=LogsQuery,
    ),
    Operation(
        "GET", "/v1/agents/{agent_id}/metrics", metrics, "Show an agent's figures", AgentMetrics, query=PeriodQuery
    ),
)
