"""`/v1/ai/run/cancel`: a keyed run that is no longer wanted."""

from typing import Annotated

from pydantic import StringConstraints

from interlock.governance.v1 import runs_pb2 as pb
from interlock.proxy.api.leases import SettledAnswer, settled_answer
from interlock.proxy.api.locks import Key
from interlock.proxy.api.models import AgentId, Body
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.visit import Visit


class CancelRunBody(Body):
    """A keyed run to be ended."""

    key: Key
    """As it was started."""
    reason: Annotated[str, StringConstraints(max_length=512)] | None = None
    """Why."""
    agent_id: AgentId | None = None
    """Whose it is, for an operator: the agent that started it; left out, the caller's own."""


async def cancel(visit: Visit) -> SettledAnswer:
    body = await visit.body(CancelRunBody)
    asked = pb.CancelRunRequest(key=body.key, reason=body.reason or "", agent_id=body.agent_id or "")
    return settled_answer(body.key, await visit.ask(visit.api.runs.CancelRun, asked))


OPERATIONS = (
    Operation(
        "POST",
        "/v1/ai/run/cancel",
        cancel,
        "Cancel a keyed run",
        answer=SettledAnswer,
        body=CancelRunBody,
        refusals=(409,),
    ),
)
