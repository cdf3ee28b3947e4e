"""The timelines of runs, and what the engine needs to keep them. Errors are those of `ports`."""

from collections.abc import Sequence
from typing import Protocol

from interlock.governance.values import dataclass

EVERYBODY = None
"""Who reads is no single agent: all of the namespace is shown."""


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """One event of a run. It belongs to the agent it names, or to the namespace if it names none.

    `ts` is when it happened, unix seconds, None for now; `data` and `extra` are texts of JSON objects, or empty.
    `posted_by` is the id of a key, empty for what Interlock writes itself. `recorded_at_ms` is the store's word.
    """

    event_id: str
    run_id: str
    type: str
    ts: int | None = None
    agent_id: str = ""
    status: str = ""
    step: str = ""
    tool: str = ""
    req_id: str = ""
    message: str = ""
    duration_ms: int | None = None
    data: str = ""
    extra: str = ""
    lease_digest: str = ""
    posted_by: str = ""
    recorded_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run: how many events it has, and the last of them."""

    run_id: str
    events: int
    last: TimelineEvent


class Timeline(Protocol):
    """What happened in the runs of each namespace. `reader` is the agent that may see no other's, or EVERYBODY."""

    async def append(self, namespace: str, event: TimelineEvent) -> None:
        """Adds an event. One `event_id` of a namespace is recorded once in 7 days, however often it is appended."""

    async def of_run(
        self, namespace: str, reader: str | None, run_id: str, *, offset: int, limit: int
    ) -> tuple[int, Sequence[TimelineEvent]]:
        """How many events a run has, and some of them: by the second they happened in, and in it as recorded."""

    async def recent(self, namespace: str, reader: str | None, *, offset: int, limit: int) -> Sequence[TimelineEvent]:
        """Events of all runs, newest first."""

    async def runs(
        self, namespace: str, reader: str | None, prefix: str, *, offset: int, limit: int
    ) -> tuple[int, Sequence[RunSummary]]:
        """How many runs there are whose id begins so, and some of them: the one last recorded in first."""
