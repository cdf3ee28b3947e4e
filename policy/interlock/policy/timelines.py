"""What may be posted to a timeline, and in whose name: pure checks."""

import hashlib
import json
import re

from interlock.governance.errors import InvalidRequestError
from interlock.governance.values import replace
from interlock.policy import access
from interlock.policy.fields import check_fields
from interlock.policy.model import Identity, Role
from interlock.policy.timeline_ports import EVERYBODY, TimelineEvent

MAX_EVENT_BYTES = 8192
MAX_RUN_ID_BYTES = 256
MAX_TS = 253_402_300_799
"""The end of the year 9999, unix seconds."""
MAX_DURATION_MS = 2**53
EVENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
LONGEST = {"type": 64, "status": 64, "step": 256, "tool": 128, "req_id": 256, "message": 2048}
LEASE_DIGEST_LENGTH = 16
UNKNOWN_TOOL = "tool_not_found"


def reader_of(identity: Identity) -> str | None:
    """Whose events an identity sees: an agent key's own, or everybody's for a viewer."""
    if identity.role is Role.AGENT:
        return identity.agent_id
    access.require(identity, Role.VIEWER)
    return EVERYBODY


def owner_of(identity: Identity, named: str) -> str:
    """The agent an event is posted in the name of: an agent key's own; an operator names any, or none.

    Errors: DeniedError, InvalidRequestError.
    """
    if identity.role is Role.AGENT or named:
        return access.acting_agent(identity, named).agent_id
    access.require(identity, Role.OPERATOR)
    return ""


def posted(event: TimelineEvent, identity: Identity, lease_id: str) -> TimelineEvent:
    """The event as it is kept. A lease's id is a capability: who reads a timeline must not get it.

    Errors: DeniedError, InvalidRequestError with the field's name.
    """
    kept = replace(
        event,
        agent_id=owner_of(identity, event.agent_id),
        posted_by=identity.key_id,
        lease_digest=hashlib.sha256(lease_id.encode()).hexdigest()[:LEASE_DIGEST_LENGTH] if lease_id else "",
        recorded_at_ms=0,
    )
    check(kept)
    return kept


def check(event: TimelineEvent) -> None:
    """Errors: InvalidRequestError with the field's name."""
    check_run_id(event.run_id)
    ts, duration_ms = event.ts or 0, event.duration_ms or 0
    problems = {
        "event_id": not EVENT_ID.fullmatch(event.event_id),
        "type": not event.type,
        "ts": not 0 <= ts <= MAX_TS,
        "duration_ms": not 0 <= duration_ms <= MAX_DURATION_MS,
        "data": not _is_object(event.data),
        "extra": not _is_object(event.extra),
    }
    problems |= {name: True for name, most in LONGEST.items() if len(getattr(event, name)) > most}
    check_fields(problems)
    texts = (event.message, event.data, event.extra, *(getattr(event, name) for name in LONGEST))
    if sum(len(text.encode()) for text in texts) > MAX_EVENT_BYTES:
        raise InvalidRequestError("invalid_request", f"an event has at most {MAX_EVENT_BYTES} bytes", field="data")


def check_run_id(run_id: str) -> None:
    """Errors: InvalidRequestError."""
    if not run_id.strip() or not run_id.isprintable() or len(run_id.encode()) > MAX_RUN_ID_BYTES:
        message = f"a run_id is 1-{MAX_RUN_ID_BYTES} bytes of printable text"
        raise InvalidRequestError("invalid_request", message, field="run_id")


def _is_object(text: str) -> bool:
    """Whether a text is empty or a JSON object."""
    try:
        return not text or isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def of_unknown_tool(run_id: str, agent_id: str, tool: str, attempt_id: str, *, begun: bool) -> list[TimelineEvent]:
    """What a call of a tool that nobody registered leaves in its run, which may have `begun` before it."""
    ended = TimelineEvent("", run_id, "", agent_id=agent_id, status="blocked", tool=tool, message=UNKNOWN_TOOL)
    told = json.dumps({"decision": "blocked", "policy_reason": UNKNOWN_TOOL})
    events = [
        replace(ended, type="run_started", status="in_progress", message=""),
        replace(ended, type="tool_call"),
        replace(ended, type="tool_result", data=told),
        replace(ended, type="run_finished"),
    ]
    return [replace(event, event_id=f"{attempt_id}-{event.type}") for event in events[begun:]]
