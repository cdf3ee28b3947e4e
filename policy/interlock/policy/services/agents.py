"""The Agents and Switches services."""

from bisect import bisect_right

from interlock.governance.errors import InvalidRequestError
from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import admin_pb2_grpc
from interlock.policy import access
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Event, Identity, Role, Scope, Switch, Tool
from interlock.policy.plans import Plans
from interlock.policy.ports import Directory, Ledger, Overview
from interlock.policy.services.messages import agent_status, event_message, standing_message, switch_status
from interlock.policy.services.paging import limit_of
from interlock.policy.services.rpc import Caller, rpc
from interlock.policy.settings import Feature
from interlock.policy.switching import Switching

MAX_REASON = 512
MAX_DECISIONS = 500
DEFAULT_DECISIONS = 100
MAX_AGENTS = 1000
DEFAULT_AGENTS = 100
PAGE = 500
TOP_TOOLS = 10
SCOPES = ("global", "namespace", "agent", "tool")
NAMED = ("agent", "tool")
PERIODS = ("hour", "day", "week")
DECISIONS = ("decision", "refusals")
"""Refusals that are told together are decisions, too."""


class AgentsService(admin_pb2_grpc.AgentsServicer):
    """Agents: kill switch, log and figures."""

    def __init__(
        self,
        directory: Directory,
        ledger: Ledger,
        overview: Overview,
        knowledge: Knowledge,
        plans: Plans,
        switching: Switching,
    ) -> None:
        self._directory = directory
        self._plans = plans
        self._switching = switching
        self._ledger = ledger
        self._overview = overview
        self._knowledge = knowledge

    @rpc
    async def DisableAgent(self, request: pb.DisableAgentRequest, caller: Caller) -> pb.AgentStatus:  # noqa: N802 - the contract's name
        return await self._switch(caller, request.agent_id, Switch(True, request.reason))

    @rpc
    async def EnableAgent(self, request: pb.EnableAgentRequest, caller: Caller) -> pb.AgentStatus:  # noqa: N802 - the contract's name
        return await self._switch(caller, request.agent_id, Switch(False, request.reason))

    @rpc
    async def GetAgent(self, request: pb.AgentRef, caller: Caller) -> pb.AgentStatus:  # noqa: N802 - the contract's name
        scope = await self._readable(caller, request.agent_id)
        return agent_status(scope.agent_id, await self._directory.agent_switch(scope))

    @rpc
    async def ListAgents(self, request: pb.ListAgentsRequest, caller: Caller) -> pb.ListAgentsResponse:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        limit = limit_of(request.limit, default=DEFAULT_AGENTS, most=MAX_AGENTS)
        named = await self._listed(identity)
        first = bisect_right(named, request.after)
        page = named[first : first + limit]
        standings = await self._overview.standings([Scope(identity.namespace, agent) for agent in page])
        namespace = (await self._knowledge.up_to_date(identity.namespace)).namespace
        return pb.ListAgentsResponse(agents=[standing_message(standing, namespace) for standing in standings])

    @rpc
    async def ListDecisions(self, request: pb.ListDecisionsRequest, caller: Caller) -> pb.ListDecisionsResponse:  # noqa: N802 - the contract's name
        scope = await self._readable(caller, request.agent_id, "logs")
        limit = limit_of(request.limit, default=DEFAULT_DECISIONS, most=MAX_DECISIONS)
        decisions = await self._decisions(scope, limit)
        return pb.ListDecisionsResponse(decisions=[event_message(event) for event in decisions])

    @rpc
    async def GetAgentMetrics(self, request: pb.GetAgentMetricsRequest, caller: Caller) -> pb.AgentMetrics:  # noqa: N802 - the contract's name
        scope = await self._readable(caller, request.agent_id, "metrics")
        if request.period not in PERIODS:
            raise InvalidRequestError("invalid_request", "period is hour, day or week", field="period")
        figures = await self._ledger.figures(scope, request.period)
        return pb.AgentMetrics(
            total_actions=figures.actions,
            blocked_actions=figures.blocked,
            total_spend_micros=figures.spend_micros,
            top_tools=[pb.ToolCount(tool=tool, count=count) for tool, count in figures.by_tool[:TOP_TOOLS]],
        )

    async def _switch(self, caller: Caller, agent_id: str, switch: Switch) -> pb.AgentStatus:
        identity = await self._knowledge.authenticate(caller.credential, counted=False)
        check_reason(switch.reason)
        return agent_status(agent_id, await self._switching.agent(identity, agent_id, switch))

    async def _readable(self, caller: Caller, agent_id: str, feature: Feature | None = None) -> Scope:
        """Errors: also `feature_not_available`, if the namespace's plan lacks it; an admin is not held to a plan."""
        identity = await self._knowledge.authenticate(caller.credential)
        scope = access.readable_agent(identity, agent_id)
        if feature is not None and identity.role is not Role.ADMIN:
            self._plans.shown((await self._knowledge.up_to_date(scope.namespace)).namespace).require(feature)
        return scope

    async def _listed(self, identity: Identity) -> list[str]:
        if identity.role is Role.AGENT:
            return [identity.agent_id]
        access.require(identity, Role.VIEWER)
        return sorted(await self._directory.agents(identity.namespace))

    async def _decisions(self, scope: Scope, limit: int) -> list[Event]:
        """The newest decisions; the trail holds settlements and other events between them."""
        found: list[Event] = []
        before: int | None = None
        while len(found) < limit:
            page = await self._ledger.latest_events(scope, before_seq=before, limit=PAGE)
            found += [event for event in page if event.type in DECISIONS]
            if len(page) < PAGE:
                break
            before = page[-1].seq
        return found[:limit]


class SwitchesService(admin_pb2_grpc.SwitchesServicer):
    """The kill switches of every kind."""

    def __init__(self, knowledge: Knowledge, switching: Switching) -> None:
        self._knowledge = knowledge
        self._switching = switching

    @rpc
    async def SetSwitch(self, request: pb.SetSwitchRequest, caller: Caller) -> pb.SwitchStatus:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential, counted=False)
        _check_name(request)
        check_reason(request.reason)
        switch = Switch(request.pulled, request.reason)
        match request.scope:
            case "global":
                return switch_status("global", await self._switching.world(identity, switch))
            case "namespace":
                set_to = await self._switching.namespace(identity, switch)
                return switch_status("namespace", set_to, identity.namespace)
            case "agent":
                set_to = await self._switching.agent(identity, request.name, switch)
                return switch_status("agent", set_to, request.name)
            case _:
                return tool_switch(await self._switching.tool(identity, request.scope_id, request.name, switch))

    @rpc
    async def ListSwitches(self, request: pb.ListSwitchesRequest, caller: Caller) -> pb.ListSwitchesResponse:  # noqa: N802, ARG002 - the contract's name and shape
        identity = await self._knowledge.authenticate(caller.credential)
        access.require(identity, Role.VIEWER)
        snapshot = await self._knowledge.up_to_date(identity.namespace)
        agents = await self._switching.agents_switched_off(identity.namespace)
        disabled = sorted(key for key, tool in snapshot.tools.items() if not tool.enabled)
        return pb.ListSwitchesResponse(
            switches=[
                switch_status("global", snapshot.world_switch),
                switch_status("namespace", snapshot.namespace_switch, identity.namespace),
                *(switch_status("agent", switch, agent) for agent, switch in agents),
                *(tool_switch(snapshot.tools[key]) for key in disabled),
            ]
        )


def tool_switch(tool: Tool) -> pb.SwitchStatus:
    switch = Switch(not tool.enabled, tool.disabled_reason, tool.disabled_at_ms, tool.disabled_by)
    return switch_status("tool", switch, tool.name, tool.scope_id)


def _check_name(request: pb.SetSwitchRequest) -> None:
    if request.scope not in SCOPES:
        raise InvalidRequestError("invalid_request", "scope is global, namespace, agent or tool", field="scope")
    if bool(request.name) != (request.scope in NAMED):
        message = "a switch of an agent or a tool names it, and no other does"
        raise InvalidRequestError("invalid_request", message, field="name")
    if request.scope_id and request.scope != "tool":
        raise InvalidRequestError("invalid_request", "only a tool's switch has a scope_id", field="scope_id")


def check_reason(reason: str, field: str = "reason") -> None:
    """Errors: InvalidRequestError."""
    if len(reason) > MAX_REASON:
        raise InvalidRequestError("invalid_request", f"a {field} has at most {MAX_REASON} characters", field=field)
