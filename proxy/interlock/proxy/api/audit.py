"""`/v1/audit`: an agent's events in the order of their gapless `seq`, and where trails begin and end."""

from typing import Any, Self

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy.api.answer import Answer, Time
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.queries import AgentQuery, EventsQuery
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit
from interlock.proxy.money import usd_of


class Event(Answer):
    """An event of the audit trail as it was recorded."""

    seq: int
    """Its place in the trail of its agent: 1, 2, 3 and no gap."""
    at: Time | None
    """When it was recorded."""
    type: str
    """What happened: `decision`, `settlement`, `refusals`, …"""
    agent_id: str
    """Whose trail; empty for what is above the agents."""
    tool: str | None
    """The tool that was called."""
    call_id: str | None
    """The call."""
    verdict: str | None
    """What was decided: `EXECUTE`, `REPLAY`, `BLOCKED`, …"""
    reason: str | None
    """Why."""
    charged_usd: float
    """What was charged, USD; negative where money was returned."""
    facts: dict[str, Any]
    """What the writer of the event knew beside."""

    @classmethod
    def of(cls, event: pb.Event) -> Self:
        return cls(
            seq=event.seq,
            at=rfc3339(event.at_ms),
            type=event.type,
            agent_id=event.agent_id,
            tool=event.tool or None,
            call_id=event.call_id or None,
            verdict=event.verdict or None,
            reason=event.reason or None,
            charged_usd=usd_of(event.charged_micros),
            facts=facts_of(event),
        )


class Trail(Answer):
    """Where an agent's trail begins and ends."""

    namespace: str
    """The agent's namespace."""
    agent_id: str
    """The agent."""
    first_seq: int
    """The first event that is still kept here."""
    last_seq: int
    """The latest event."""
    hash_before: str
    """The chain's hash of the event before the first one."""

    @classmethod
    def of(cls, trail: pb.Trail) -> Self:
        return cls(
            namespace=trail.namespace,
            agent_id=trail.agent_id,
            first_seq=trail.first_seq,
            last_seq=trail.last_seq,
            hash_before=trail.hash_before,
        )


async def show_all(visit: Visit) -> list[Event]:
    query = visit.query(EventsQuery)
    asked = pb.ListEventsRequest(agent_id=query.agent_id, after_seq=query.after_seq, limit=query.limit)
    return [Event.of(event) for event in (await visit.ask(visit.api.audit.ListEvents, asked)).events]


async def trails(visit: Visit) -> list[Trail]:
    asked = pb.ListTrailsRequest(agent_id=visit.query(AgentQuery).agent_id or "")
    return [Trail.of(trail) for trail in (await visit.ask(visit.api.audit.ListTrails, asked)).trails]


def facts_of(event: pb.Event) -> dict[str, object]:
    """What the writer of an event knew beside. Protobuf's Struct has doubles only: whole ones are integers again."""
    return struct_json(event.facts)


def struct_json(struct: Struct) -> dict[str, object]:
    """A Struct, with whole numbers as integers."""
    facts = MessageToDict(struct).items()
    return {name: int(fact) if isinstance(fact, float) and fact.is_integer() else fact for name, fact in facts}


OPERATIONS = (
    Operation("GET", "/v1/audit", show_all, "List events, an agent's in their order", list[Event], query=EventsQuery),
    Operation(
        "GET", "/v1/audit/trails", trails, "List trails, where they begin and end", list[Trail], query=AgentQuery
    ),
)
