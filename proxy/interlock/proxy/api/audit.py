"""`/v1/audit`: an agent's events in the order of their gapless `seq`, and where trails begin and end."""

from google.protobuf.json_format import MessageToDict

from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy.api.models import AgentQuery, EventsQuery
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit
from interlock.proxy.money import usd_of


async def show_all(visit: Visit) -> object:
    query = visit.query(EventsQuery)
    asked = pb.ListEventsRequest(agent_id=query.agent_id, after_seq=query.after_seq, limit=query.limit)
    return [event_json(event) for event in (await visit.ask(visit.api.audit.ListEvents, asked)).events]


async def trails(visit: Visit) -> object:
    asked = pb.ListTrailsRequest(agent_id=visit.query(AgentQuery).agent_id or "")
    return [trail_json(trail) for trail in (await visit.ask(visit.api.audit.ListTrails, asked)).trails]


def trail_json(trail: pb.Trail) -> dict[str, object]:
    """Where a trail begins and ends. `hash_before` is that of the event before the first one."""
    return {
        "namespace": trail.namespace,
        "agent_id": trail.agent_id,
        "first_seq": trail.first_seq,
        "last_seq": trail.last_seq,
        "hash_before": trail.hash_before,
    }


def event_json(event: pb.Event) -> dict[str, object]:
    """An event as it was recorded. `charged_usd` is negative where money was returned."""
    return {
        "seq": event.seq,
        "at": rfc3339(event.at_ms),
        "type": event.type,
        "agent_id": event.agent_id,
        "tool": event.tool or None,
        "call_id": event.call_id or None,
        "verdict": event.verdict or None,
        "reason": event.reason or None,
        "charged_usd": usd_of(event.charged_micros),
        "facts": facts_of(event),
    }


def facts_of(event: pb.Event) -> dict[str, object]:
    """What the writer of an event knew beside. Protobuf's Struct has doubles only: whole ones are integers again."""
    facts = MessageToDict(event.facts).items()
    return {name: int(fact) if isinstance(fact, float) and fact.is_integer() else fact for name, fact in facts}


OPERATIONS = (
    Operation("GET", "/v1/audit", show_all, "List an agent's events in order", query=EventsQuery),
    Operation("GET", "/v1/audit/trails", trails, "Show where trails begin and end", query=AgentQuery),
)
