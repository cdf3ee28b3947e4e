"""What happened in the course of a run: events, told by Interlock and by those who take part."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from interlock.client.reading import read, read_list
from interlock.client.request import AsyncGroup, Group, Request, operation
from interlock.client.retrying import Repeat

JsonObject = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `ts` is unix seconds."""

    run_id: str
    type: str
    ts: float | None = None
    status: str | None = None
    duration_ms: float | None = None
    step: str | None = None
    tool: str | None = None
    agent_id: str | None = None
    message: str | None = None
    data: dict[str, Any] | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    """The event as it was told, with all of its fields."""


@dataclass(frozen=True, slots=True)
class Posted:
    event_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    run_id: str
    last_ts: float
    last_type: str
    last_status: str | None = None
    events_count: int = 0


@dataclass(frozen=True, slots=True)
class Runs:
    """A page of runs, the latest first; `total` counts all."""

    total: int
    items: tuple[RunSummary, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """A page of a run's events, in order; `total` counts all."""

    run_id: str
    total: int
    events: tuple[Event, ...]


class TimelineOperations:
    """Reading what happened, and adding to it."""

    @operation
    def post_event(self, /, run_id: str, type: str, **fields: object) -> Request[Posted]:  # noqa: A002 - the field's name
        """Adds an event. `fields` are `ts`, `status`, `duration_ms`, `step`, `tool`, `message`, `data`, or your own.

        An event whose answer is lost is not sent again: it would stand there twice.
        """
        body = {"run_id": run_id, "type": type, **fields}
        return Request("POST", ("events",), lambda answer: read(Posted, answer.json), body=body, repeat=Repeat.HARMFUL)

    @operation
    def events(self, *, limit: int = 50, offset: int = 0) -> Request[tuple[Event, ...]]:
        """The namespace's latest."""
        params = {"limit": limit, "offset": offset}
        return Request("GET", ("events",), lambda answer: read_list(Event, answer.json), params=params)

    @operation
    def runs(self, *, prefix: str | None = None, limit: int = 50, offset: int = 0) -> Request[Runs]:
        """Runs whose id begins with `prefix`."""
        params = {"limit": limit, "offset": offset, "q": prefix}
        return Request("GET", ("runs",), lambda answer: read(Runs, answer.json), params=params)

    @operation
    def timeline(self, run_id: str, *, limit: int = 200, offset: int = 0) -> Request[Timeline]:
        """One run's events; `limit` is at most 2000."""
        params = {"limit": limit, "offset": offset}
        return Request("GET", ("runs", run_id), lambda answer: read(Timeline, answer.json), params=params)


class Timelines(TimelineOperations, Group):
    """`Interlock.timelines`."""


class AsyncTimelines(TimelineOperations, AsyncGroup):
    """`AsyncInterlock.timelines`."""
