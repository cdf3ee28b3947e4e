"""`/v1/calls`: calls still open, and an operator's word on those of unknown outcome."""

from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import governance_pb2 as governance
from interlock.proxy.api.audit import event_json
from interlock.proxy.api.models import IDENTIFIER, AgentQuery, CallsQuery, ResolveBody
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit
from interlock.proxy.money import usd_of

OUTCOMES = {
    "succeeded": governance.OUTCOME_SUCCEEDED,
    "not_sent": governance.OUTCOME_NOT_SENT,
}


async def show_all(visit: Visit) -> object:
    query = visit.query(CallsQuery)
    asked = pb.ListCallsRequest(agent_id=query.agent_id or "", state=query.state or "", limit=query.limit)
    return [call_json(call) for call in (await visit.ask(visit.api.calls.ListCalls, asked)).calls]


async def show(visit: Visit) -> object:
    found = await visit.ask(visit.api.calls.GetCall, _ref(visit, visit.query(AgentQuery).agent_id))
    return {**call_json(found.call), "events": [event_json(event) for event in found.events]}


async def resolve(visit: Visit) -> object:
    body = await visit.body(ResolveBody)
    ref = _ref(visit, body.agent_id)
    asked = pb.ResolveCallRequest(ref=ref, outcome=OUTCOMES[body.outcome], note=body.note)
    return call_json(await visit.ask(visit.api.calls.ResolveCall, asked))


def call_json(call: pb.Call) -> dict[str, object]:
    """A call's record. `key` is the Idempotency-Key that the tool was sent."""
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
    Operation("GET", "/v1/calls", show_all, "List open calls, oldest first", query=CallsQuery),
    Operation("GET", "/v1/calls/{call_id}", show, "Show a call with its events", query=AgentQuery),
    Operation("POST", "/v1/calls/{call_id}/resolve", resolve, "Say what became of a call", body=ResolveBody),
)
