"""What an operator does: policies, tools, kill switches; what agents did."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from interlock.client.reading import read, read_list
from interlock.client.request import Answer, AsyncGroup, Group, Request, operation

JsonObject = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class PricingRule:
    tool: str
    price_usd: float


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """What an agent may do; None is no limit. `allowed_tools` absent allows all that is not blocked, empty nothing."""

    allowed_tools: tuple[str, ...] | None = None
    blocked_tools: tuple[str, ...] | None = None
    max_actions_per_hour: int | None = None
    max_spend_usd_per_day: float | None = None
    max_calls_per_tool: dict[str, int] | int | None = None
    pricing_rules: tuple[PricingRule, ...] | None = None
    on_anomaly: str | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    """The policy as it was told, with fields that this client does not know."""


@dataclass(frozen=True, slots=True)
class Policy:
    agent_id: str
    policy: PolicyRules


@dataclass(frozen=True, slots=True)
class Tool:
    """A registered tool. Its secret is never told: `has_secret` and `secret_id` are."""

    name: str
    url: str
    scope_id: str = "global"
    enabled: bool = True
    timeout_ms: int | None = None
    max_retries: int | None = None
    description: str | None = None
    has_secret: bool = False
    secret_id: str | None = None
    secret_mask: str | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    """The tool as it was told, with all of its fields."""


@dataclass(frozen=True, slots=True)
class Deleted:
    deleted: bool


@dataclass(frozen=True, slots=True)
class AgentStatus:
    agent_id: str
    is_enabled: bool
    disabled_reason: str | None = None
    disabled_at: str | None = None


@dataclass(frozen=True, slots=True)
class LogItem:
    """One decision. `ts` is unix seconds."""

    ts: float
    agent_id: str
    tool: str
    allowed: bool
    decision: str
    policy_reason: str | None = None
    risk_level: str | None = None
    args_hash: str | None = None
    spend_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class ToolCount:
    tool: str
    count: int


@dataclass(frozen=True, slots=True)
class AgentMetrics:
    agent_id: str
    period: str
    total_actions: int
    blocked_actions: int
    total_spend_usd: float
    top_tools: tuple[ToolCount, ...] = ()


class GovernanceOperations:
    """Each sets what is named to what is given, so that a second try changes nothing."""

    @operation
    def put_policy(self, agent_id: str, policy: JsonObject) -> Request[Policy]:
        """Creates or replaces an agent's policy; it holds for the very next decision."""
        return Request("POST", ("policies", agent_id), _policy, body={**policy, "agent_id": agent_id})

    @operation
    def policy_from_template(
        self, agent_id: str, template: str, overrides: JsonObject | None = None
    ) -> Request[Policy]:
        """The same from `strict`, `moderate`, `permissive`, `read_only` or `support_bot`."""
        body = {"template": template, "overrides": dict(overrides or {})}
        return Request("POST", ("policies", agent_id, "from-template"), _policy, body=body)

    @operation
    def policy(self, agent_id: str) -> Request[Policy]:
        """Errors: NotFoundError if it has none of its own."""
        return Request("GET", ("policies", agent_id), _policy)

    @operation
    def policies(self) -> Request[tuple[Policy, ...]]:
        return Request("GET", ("policies",), lambda answer: read_list(Policy, answer.json))

    @operation
    def put_tool(
        self, /, name: str, url: str, *, secret: str | None = None, scope_id: str | None = None, **fields: object
    ) -> Request[Tool]:
        """Registers a tool, or replaces it. `fields` are those of docs/http.md; `scope_id` may be `agent:ID`."""
        auth = None if secret is None else {"type": "hmac_sha256", "secret": secret}
        body = {"name": name, "url": url, "auth": auth, "scope_id": scope_id, **fields}
        return Request("POST", ("tools",), _tool, body=body)

    @operation
    def tool(self, name: str, *, scope_id: str = "global") -> Request[Tool]:
        """Errors: NotFoundError."""
        return Request("GET", ("tools", name), _tool, params={"scope_id": scope_id})

    @operation
    def tools(self, *, scope_id: str = "global") -> Request[tuple[Tool, ...]]:
        return Request("GET", ("tools",), lambda answer: read_list(Tool, answer.json), params={"scope_id": scope_id})

    @operation
    def toggle_tool(self, name: str, *, enabled: bool, scope_id: str = "global") -> Request[Tool]:
        """A tool's kill switch. Errors: NotFoundError."""
        path = ("tools", name, "toggle")
        return Request("POST", path, _tool, params={"scope_id": scope_id}, body={"enabled": enabled})

    @operation
    def delete_tool(self, name: str, *, scope_id: str = "global") -> Request[Deleted]:
        """Errors: NotFoundError."""
        return Request(
            "DELETE", ("tools", name), lambda answer: read(Deleted, answer.json), params={"scope_id": scope_id}
        )

    @operation
    def disable_agent(self, agent_id: str, reason: str | None = None) -> Request[AgentStatus]:
        """Pulls an agent's kill switch; it holds for the very next decision of every sidecar."""
        return Request("POST", ("agents", agent_id, "disable"), _agent, body={"reason": reason})

    @operation
    def enable_agent(self, agent_id: str, reason: str | None = None) -> Request[AgentStatus]:
        return Request("POST", ("agents", agent_id, "enable"), _agent, body={"reason": reason})

    @operation
    def agent(self, agent_id: str) -> Request[AgentStatus]:
        return Request("GET", ("agents", agent_id), _agent)

    @operation
    def logs(self, agent_id: str, *, limit: int = 100) -> Request[tuple[LogItem, ...]]:
        """An agent's decisions, newest first; `limit` is 1-500."""
        path = ("agents", agent_id, "logs")
        return Request("GET", path, lambda answer: read_list(LogItem, answer.json), params={"limit": limit})

    @operation
    def metrics(self, agent_id: str, period: Literal["hour", "day", "week"] = "day") -> Request[AgentMetrics]:
        """An agent's figures."""
        path = ("agents", agent_id, "metrics")
        return Request("GET", path, lambda answer: read(AgentMetrics, answer.json), params={"period": period})


def _policy(answer: Answer) -> Policy:
    return read(Policy, answer.json)


def _tool(answer: Answer) -> Tool:
    return read(Tool, answer.json)


def _agent(answer: Answer) -> AgentStatus:
    return read(AgentStatus, answer.json)


class Governance(GovernanceOperations, Group):
    """`Interlock.governance`."""


class AsyncGovernance(GovernanceOperations, AsyncGroup):
    """`AsyncInterlock.governance`."""
