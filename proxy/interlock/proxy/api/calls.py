"""`/v1/calls`: calls still open, and an operator's word on those of unknown outcome."""

from typing import Self

from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import governance_pb2 as governance
from interlock.proxy.api.answer import Answer, Time
from interlock.proxy.api.audit import Event
from interlock.proxy.api.models import IDENTIFIER, ResolveBody
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.queries import AgentQuery, CallsQuery
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit
from interlock.proxy.money import usd_of

OUTCOMES = {
    "succeeded": governance.OUTCOME_SUCCEEDED,
    "not_sent": governance.OUTCOME_NOT_SENT,
}


class Call(Answer):
    """A call's record."""

    call_id: str
    """Its id in the audit trail."""
    agent_id: str
    """Who called."""
    tool: str
    """Which tool."""
    key: str
    """The Idempotency-Key that the tool was sent."""
    state: str
    """`in_flight`, `expired`, `unknown`, `succeeded` or `open`."""
    first_seen_at: Time | None
    """When it was made first."""
    lease_until: Time | None
    """Until when the sidecar that carries it holds it."""
    charged_usd: float
    """What was charged, USD."""
    fence: int
    """Grows with each try that was let through."""
    tries: int
    """How often it was let through."""
    status: int | None
    """The status of the tool's answer."""

    @classmethod
    def of(cls, call: pb.Call) -> Self:
        return cls(**_fields(call))


class CallWithEvents(Call):
    """A call's record, and all that was recorded of it."""

    events: list[Event]
    """Its events, in the order of their `seq`."""

    @classmethod
    def found(cls, found: pb.GetCallResponse) -> Self:
        return cls(**_fields(found.call), events=[Event.of(event) for event in found.events])


async def show_all(visit: Visit) -> list[Call]:
    query = visit.query(CallsQuery)
    asked = pb.ListCallsRequest(agent_id=query.agent_id or "", state=query.state or "", limit=query.limit)
    return [Call.of(call) for call in (await visit.ask(visit.api.calls.ListCalls, asked)).calls]


async def show(visit: Visit) -> CallWithEvents:
    found = await visit.ask(visit.api.calls.GetCall, _ref(visit, visit.query(AgentQuery).agent_id))
    return CallWithEvents.found(found)


async def resolve(visit: Visit) -> Call:
    body = await visit.body(ResolveBody)
    ref = _ref(visit, body.agent_id)
    asked = pb.ResolveCallRequest(ref=ref, outcome=OUTCOMES[body.outcome], note=body.note)
    return Call.of(await visit.ask(visit.api.calls.ResolveCall, asked))


def _fields(call: pb.Call) -> dict[str, object]:
    return {
        "call_id": call.call_id,
        "agent_id": call.agent_id,
        "tool": call.tool,
        "key": call.key,
        "state": call.state,
        "first_seen_at": rfc3339(call.first_seen_ms),
        "lease_until": rfc3339(call.lease_until_ms),
        "charged_usd": usd_of(call.charged_micros),
        "fence": call.fence,
        "tries": call.tries,
        "status": call.status or None,
    }


def _ref(visit: Visit, agent_id: str | None) -> pb.CallRef:
    return pb.CallRef(call_id=visit.path("call_id", IDENTIFIER), agent_id=agent_id or "")


OPERATIONS = (
    Operation("GET", "/v1/calls", show_all, "List open calls, oldest first", list[Call], query=CallsQuery),
    Operation("GET", "/v1/calls/{call_id}", show, "Show a call, with its events", CallWithEvents, query=AgentQuery),
    Operation(
        "POST",
        "/v1/calls/{call_id}/resolve",
        resolve,
        "Resolve a call, saying what became of it",
        Call,
        body=ResolveBody,
        role="operator",
        refusals=(409,),
    ),
)
