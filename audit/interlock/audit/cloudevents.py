"""Events of the trail as CloudEvents 1.0, https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md.

Extension attributes: `sequence` (of the spec's own extension, here the agent's gapless seq with leading zeros so that
text sorts as numbers do), `previoushash` and `hash`. `data` holds digests and names, never arguments or secrets.
"""

from typing import Any

from interlock.governance.times import rfc3339
from interlock.policy.model import Event

CONTENT_TYPE = "application/json"
TYPE_PREFIX = "dev.interlock.audit."
SEQUENCE_DIGITS = 16


def cloud_event(namespace: str, event: Event, previous: str) -> dict[str, Any]:
    """An event of the trail without its `hash`."""
    return {
        **identified(namespace, event.agent_id, event.seq, event.at_ms),
        "id": f"{namespace}/{event.agent_id}/{event.seq}",
        "type": TYPE_PREFIX + event.type,
        "datacontenttype": CONTENT_TYPE,
        "previoushash": previous,
        "data": _data(event),
    }


def identified(namespace: str, agent_id: str, seq: int, at_ms: int) -> dict[str, Any]:
    """The attributes that say what an event is about."""
    return {
        "specversion": "1.0",
        "source": f"/interlock/{namespace}",
        "subject": agent_id,
        "time": rfc3339(at_ms),
        "sequence": f"{seq:0{SEQUENCE_DIGITS}}",
    }


def _data(event: Event) -> dict[str, Any]:
    told = {
        "tool": event.tool,
        "call_id": event.call_id,
        "verdict": event.verdict,
        "reason": event.reason,
        "charged_micros": event.charged_micros,
        "facts": dict(event.facts),
    }
    return {name: value for name, value in told.items() if value not in ("", {})}
