"""What the REST API accepts in queries. Unknown parameters are refused."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from interlock.proxy.api.models import MAX_SEQ, AgentId, Query, ScopeId


class ScopeQuery(Query):
    """Which of the tools of a name."""

    scope_id: ScopeId | None = None
    """`agent:ID` for an agent's own; left out, the global one, and for a list all."""


class NamespacesQuery(Query):
    """Which namespaces."""

    with_deleted: bool = False
    """Also those that were ended."""


class ForceQuery(Query):
    """Whether to spare what is in use."""

    force: bool = False
    """End it also if it has tools or keys."""


class LogsQuery(Query):
    """How much of a log."""

    limit: Annotated[int, Field(ge=1, le=500)] = 100
    """So many at most."""


class PeriodQuery(Query):
    """The time that figures are of."""

    period: Literal["hour", "day", "week"] = "day"
    """Up to now."""


class AgentQuery(Query):
    """Whose."""

    agent_id: AgentId | None = None
    """The agent; left out, whichever."""


class ListQuery(Query):
    """How much of a list."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """So many at most: fewer are the last ones."""


class AgentsQuery(ListQuery):
    """Which agents."""

    after: AgentId | None = None
    """Those that come after this one: the last of the page before."""


class CallsQuery(ListQuery):
    """Which calls."""

    agent_id: AgentId | None = None
    """Of this agent; left out, of all."""
    state: Literal["in_flight", "expired", "unknown", "succeeded", "open"] | None = None
    """In this state; left out, in any that is open."""


class EventsQuery(ListQuery):
    """Which events."""

    agent_id: AgentId
    """Whose trail."""
    after_seq: Annotated[int, Field(ge=0, le=MAX_SEQ)] = 0
    """Those after this one: the `seq` of the last of the page before."""


class ChangesQuery(ListQuery):
    """Which changes."""

    scope: Literal["namespace", "global"] = "namespace"
    """Of the namespace, or for an admin of what is above all."""
    after_seq: Annotated[int, Field(ge=0, le=MAX_SEQ)] = 0
    """Those after this one: the `seq` of the last of the page before."""


class FollowQuery(Query):
    """What to follow, and from where."""

    agent_id: AgentId | None = None
    """Whose events; left out, every agent's, those included that are yet to come."""
    cursor: Annotated[str, StringConstraints(pattern=r"^[a-z][0-9]{1,16}$")] | None = None
    """Go on from the last line of type `cursor`."""
    last: Annotated[int, Field(ge=0, le=100)] = 0
    """Begin with so many of the latest events."""
    until_now: bool = False
    """End when all of now is told."""


class UsageQuery(Query):
    """Of what."""

    kind: Literal["make", "ai"] = "make"
    """`make`: check-locks; `ai`: leases and runs."""
