"""What may stand in the segments of a path."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from interlock.proxy.api.alerts import ALERT_ID
from interlock.proxy.api.models import AGENT_ID, IDENTIFIER, NAMESPACE, SWITCH_SCOPE, TOOL_NAME
from interlock.proxy.api.timeline_models import RUN_ID


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a path that names something: what it may be, what it names, and a value that might."""

    kind: TypeAdapter[str]
    description: str
    example: str


SEGMENTS = {
    "name": Segment(TOOL_NAME, "The tool.", "payments.charge"),
    "agent_id": Segment(AGENT_ID, "The agent.", "shopper"),
    "key_id": Segment(IDENTIFIER, "The key, as `GET /v1/keys` has it.", "key_3Zs8vQ0aYw1mT5uR7bXc2d"),
    "call_id": Segment(IDENTIFIER, "The call, as `Interlock-Call-Id` has it.", "call_3Zs8vQ0aYw1mT5uR7bXc2d"),
    "namespace": Segment(NAMESPACE, "The namespace.", "team-a"),
    "run_id": Segment(RUN_ID, "The run: 1-256 bytes of printable text.", "order-17"),
    "alert_id": Segment(ALERT_ID, "The alert, as `GET /v1/alerts` has it.", "alert_3Zs8vQ0aYw1mT5uR7bXc2d"),
    "scope": Segment(SWITCH_SCOPE, "What the switch is for; `global` takes an admin.", "agent"),
}
"""By their name in `Operation.path`."""
