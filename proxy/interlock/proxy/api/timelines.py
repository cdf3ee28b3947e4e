"""`/v1/events` and `/v1/runs`: what happened in runs."""

import json
from decimal import Decimal
from typing import Any

from pydantic import ConfigDict

from interlock.governance.errors import InvalidRequestError
from interlock.governance.v1 import timeline_pb2 as pb
from interlock.proxy.api.answer import Answer
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.timeline_models import RUN_ID, EventBody, RecentEventsQuery, RunEventsQuery, RunsQuery
from interlock.proxy.api.visit import Visit

PAGE = 200
"""Events in one answer of the engine."""


class RunEvent(Answer):
    """An event of a run, with the further fields that were posted."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, extra="allow")

    event_id: str
    """Names it."""
    run_id: str
    """The run."""
    ts: int
    """When it happened, unix seconds."""
    type: str
    """`run_started`, `tool_call`, `tool_result`, `run_finished`, or whatever was posted."""
    status: str | None
    """How it went."""
    duration_ms: int | None
    """How long it took, ms."""
    step: str | None
    """A step of the run."""
    tool: str | None
    """A tool's name."""
    req_id: str | None
    """A request or call that it is about; of a call, its id."""
    agent_id: str | None
    """The agent it belongs to; null for the namespace's own."""
    message: str | None
    """For people; of a call that went wrong, the reason."""
    data: dict[str, Any] | None
    """Whatever else there is to say."""
    lease_digest: str | None
    """Of the lease_id that was posted, the first 16 hex digits of its SHA-256."""
    posted_by: str | None
    """The key that posted it; null if Interlock wrote it."""


class Posted(Answer):
    """That an event is on record."""

    ok: bool
    """True."""
    event_id: str
    """Names the event."""
    run_id: str
    """The run."""


class Run(Answer):
    """A run at a glance."""

    run_id: str
    """Its id."""
    last_ts: int
    """When its last event happened, unix seconds."""
    last_type: str
    """What that was."""
    last_status: str | None
    """How that went."""
    events_count: int
    """How many events it has."""


class Runs(Answer):
    """Runs, the one that something was last recorded of first."""

    total: int
    """How many there are in all."""
    items: list[Run]
    """Some of them."""


class RunEvents(Answer):
    """The events of a run."""

    run_id: str
    """The run."""
    total: int
    """How many there are in all."""
    events: list[RunEvent]
    """Some of them, by the second they happened in, and in it as they were recorded."""


async def post(visit: Visit) -> Posted:
    body = await visit.body(EventBody)
    given = {name: getattr(body, name) for name in ("run_id", "type", "ts", "status", "duration_ms", "step")}
    given |= {name: getattr(body, name) for name in ("tool", "req_id", "agent_id", "message")}
    event = pb.TimelineEvent(**given, data=_text(body.data), extra=_text(body.model_extra))
    asked = pb.PostEventRequest(event=event, lease_id=body.lease_id or "")
    posted = await visit.ask(visit.api.timelines.PostEvent, asked)
    return Posted(ok=True, event_id=posted.event_id, run_id=body.run_id)


async def recent(visit: Visit) -> list[RunEvent]:
    query = visit.query(RecentEventsQuery)
    found: list[RunEvent] = []
    while (left := query.limit - len(found)) > 0:
        asked = pb.ListRecentEventsRequest(limit=min(PAGE, left), offset=query.offset + len(found))
        page = (await visit.ask(visit.api.timelines.ListRecentEvents, asked)).events
        found += [event_of(event) for event in page]
        if len(page) < PAGE:
            break
    return found


async def of_run(visit: Visit) -> RunEvents:
    run_id, query = visit.path("run_id", RUN_ID), visit.query(RunEventsQuery)
    found: list[RunEvent] = []
    while True:
        limit = min(PAGE, query.limit - len(found))
        asked = pb.ListRunEventsRequest(run_id=run_id, limit=limit, offset=query.offset + len(found))
        page = await visit.ask(visit.api.timelines.ListRunEvents, asked)
        found += [event_of(event) for event in page.events]
        if len(page.events) < PAGE or len(found) == query.limit:
            return RunEvents(run_id=run_id, total=page.total, events=found)


async def show_all(visit: Visit) -> Runs:
    query = visit.query(RunsQuery)
    asked = pb.ListRunsRequest(limit=query.limit, offset=query.offset, prefix=query.q)
    answer = await visit.ask(visit.api.timelines.ListRuns, asked)
    return Runs(total=answer.total, items=[run_of(run) for run in answer.runs])


OPERATIONS = (
    Operation(
        "GET",
        "/v1/events",
        recent,
        "List run events, of all runs and newest first",
        list[RunEvent],
        query=RecentEventsQuery,
    ),
    Operation("POST", "/v1/events", post, "Add an event to a run", answer=Posted, body=EventBody),
    Operation("GET", "/v1/runs", show_all, "List runs, the latest first", answer=Runs, query=RunsQuery),
    Operation(
        "GET",
        "/v1/runs/{run_id}",
        of_run,
        "Show a run, with its events in order",
        answer=RunEvents,
        query=RunEventsQuery,
    ),
)


def event_of(event: pb.TimelineEvent) -> RunEvent:
    extra = json.loads(event.extra) if event.extra else {}
    own = {
        "event_id": event.event_id,
        "run_id": event.run_id,
        "ts": event.ts,
        "type": event.type,
        "status": event.status or None,
        "duration_ms": event.duration_ms if event.HasField("duration_ms") else None,
        "step": event.step or None,
        "tool": event.tool or None,
        "req_id": event.req_id or None,
        "agent_id": event.agent_id or None,
        "message": event.message or None,
        "data": json.loads(event.data) if event.data else None,
        "lease_digest": event.lease_digest or None,
        "posted_by": event.posted_by or None,
    }
    return RunEvent.model_validate(extra | own)


def run_of(run: pb.RunSummary) -> Run:
    return Run(
        run_id=run.run_id,
        last_ts=run.last.ts,
        last_type=run.last.type,
        last_status=run.last.status or None,
        events_count=run.events,
    )


def _text(value: dict[str, Any] | None) -> str:
    """JSON as the engine keeps it, empty for nothing."""
    return json.dumps(value, default=_number, ensure_ascii=False, separators=(",", ":")) if value else ""


def _number(value: object) -> float:
    """What `money.exact` made of a fraction. Errors: InvalidRequestError."""
    number = float(value) if isinstance(value, Decimal) else float("nan")
    if number in (float("inf"), float("-inf")):
        raise InvalidRequestError("invalid_json", "a number is too large")
    return number
