"""`/v1/agents`: an agent's kill switch, its log and its figures."""

from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy.api.audit import facts_of
from interlock.proxy.api.models import AGENT_ID, AgentsQuery, LogsQuery, PeriodQuery, ReasonBody
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit
from interlock.proxy.money import usd_of

DECISIONS = {"EXECUTE": "executed", "REPLAY": "dedup"}
"""The contract's words for the verdicts that let a call through; every other verdict is `blocked`."""


async def show_all(visit: Visit) -> object:
    query = visit.query(AgentsQuery)
    asked = pb.ListAgentsRequest(after=query.after or "", limit=query.limit)
    return [standing_json(agent) for agent in (await visit.ask(visit.api.agents.ListAgents, asked)).agents]


async def show(visit: Visit) -> object:
    return status_json(await visit.ask(visit.api.agents.GetAgent, pb.AgentRef(agent_id=_agent_id(visit))))


async def disable(visit: Visit) -> object:
    reason = (await visit.body(ReasonBody)).reason
    asked = pb.DisableAgentRequest(agent_id=_agent_id(visit), reason=reason)
    return status_json(await visit.ask(visit.api.agents.DisableAgent, asked))


async def enable(visit: Visit) -> object:
    reason = (await visit.body(ReasonBody)).reason
    asked = pb.EnableAgentRequest(agent_id=_agent_id(visit), reason=reason)
    return status_json(await visit.ask(visit.api.agents.EnableAgent, asked))


async def logs(visit: Visit) -> object:
    asked = pb.ListDecisionsRequest(agent_id=_agent_id(visit), limit=visit.query(LogsQuery).limit)
    return [decision_json(event) for event in (await visit.ask(visit.api.agents.ListDecisions, asked)).decisions]


async def metrics(visit: Visit) -> object:
    agent_id, period = _agent_id(visit), visit.query(PeriodQuery).period
    asked = pb.GetAgentMetricsRequest(agent_id=agent_id, period=period)
    return metrics_json(agent_id, period, await visit.ask(visit.api.agents.GetAgentMetrics, asked))


def status_json(status: pb.AgentStatus) -> dict[str, object]:
    """An agent's switch as the contract shows it."""
    return {
        "agent_id": status.agent_id,
        "is_enabled": status.is_enabled,
        "disabled_reason": status.disabled_reason or None,
        "disabled_at": rfc3339(status.disabled_at_ms),
    }


def standing_json(agent: pb.AgentStanding) -> dict[str, object]:
    """How an agent stands: its switch, and what it did beside what it may. None is no limit."""
    spend_limit = usd_of(agent.max_spend_micros_per_day) if agent.HasField("max_spend_micros_per_day") else None
    return {
        **status_json(agent.status),
        "last_seen_at": rfc3339(agent.last_seen_ms),
        "actions_per_minute": round(agent.actions_per_minute, 2),
        "actions_in_hour": agent.actions_in_hour,
        "max_actions_per_hour": agent.max_actions_per_hour if agent.HasField("max_actions_per_hour") else None,
        "spend_usd_today": usd_of(agent.spend_today_micros),
        "max_spend_usd_per_day": spend_limit,
        "blocked_today": agent.blocked_today,
        "running_calls": agent.running_calls,
        "unknown_calls": agent.unknown_calls,
    }


def decision_json(event: pb.Event) -> dict[str, object]:
    """A decision as an item of the contract's log, with our `call_id` and `count` beside. `ts` is unix seconds.

    `count` is 1, or how many refusals alike were told together; these have no `call_id`.
    """
    facts = facts_of(event)
    return {
        "ts": event.at_ms // 1000,
        "agent_id": event.agent_id,
        "tool": event.tool,
        "allowed": event.verdict in DECISIONS,
        "decision": DECISIONS.get(event.verdict, "blocked"),
        "policy_reason": event.reason,
        "risk_level": facts.get("risk_level"),
        "args_hash": facts.get("args_hash"),
        "spend_usd": usd_of(event.charged_micros),
        "call_id": event.call_id or None,
        "count": facts.get("count", 1) if event.type == "refusals" else 1,
    }


def metrics_json(agent_id: str, period: str, figures: pb.AgentMetrics) -> dict[str, object]:
    """An agent's figures as the contract shows them."""
    return {
        "agent_id": agent_id,
        "period": period,
        "total_actions": figures.total_actions,
        "blocked_actions": figures.blocked_actions,
        "total_spend_usd": usd_of(figures.total_spend_micros),
        "top_tools": [{"tool": used.tool, "count": used.count} for used in figures.top_tools],
    }


def _agent_id(visit: Visit) -> str:
    return visit.path("agent_id", AGENT_ID)


OPERATIONS = (
    Operation("GET", "/v1/agents", show_all, "List agents with what they did and may do", query=AgentsQuery),
    Operation("GET", "/v1/agents/{agent_id}", show, "Show whether an agent is enabled"),
    Operation("POST", "/v1/agents/{agent_id}/disable", disable, "Pull an agent's kill switch", body=ReasonBody),
    Operation("POST", "/v1/agents/{agent_id}/enable", enable, "Lift an agent's kill switch", body=ReasonBody),
    Operation("GET", "/v1/agents/{agent_id}/logs", logs, "List an agent's decisions, newest first", query=LogsQuery),
    Operation("GET", "/v1/agents/{agent_id}/metrics", metrics, "Show an agent's figures", query=PeriodQuery),
)
