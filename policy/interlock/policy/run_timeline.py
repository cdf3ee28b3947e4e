"""What the engine writes into the timeline of a keyed run: that it was begun, gone on with, and how it ended."""

import hashlib

import structlog

from interlock.governance.errors import InterlockError
from interlock.policy.lock_ports import Dequeued, Named
from interlock.policy.run_plan import RunPlan, plan_from_json
from interlock.policy.run_ports import Entry, Holding
from interlock.policy.timeline_ports import Timeline, TimelineEvent

log = structlog.get_logger(__name__)


class RunTimeline:
    """Tells of keyed runs. That something cannot be told just now does not hold up the run."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    async def begun(self, entry: Entry, holding: Holding, plan: RunPlan, done: int, workers_lost: int) -> None:
        """A run that is begun, once however often a worker takes it, or gone on with by another worker."""
        if done or workers_lost:
            why = "worker_lost" if workers_lost else ""
            event = _event(_told_of(holding), "run_resumed", plan, "in_progress", done, why)
        else:
            event_id = f"run_{holding.run.digest[:16]}_{entry.id}"
            event = _event(event_id, "run_started", plan, "in_progress", done)
        await self._tell(holding.run.namespace, event)

    async def ended(self, holding: Holding, plan: RunPlan, done: int, error_code: str) -> None:
        status = "failed" if error_code else "completed"
        event = _event(f"{_told_of(holding)}_end", "run_finished", plan, status, done, error_code)
        await self._tell(holding.run.namespace, event)

    async def cut_short(self, named: Named, run: Dequeued, why: str) -> None:
        """A run that was cancelled, if a worker had begun it."""
        if not run.begun:
            return
        plan = plan_from_json(run.plan)
        event_id = f"run_{named.digest[:16]}_{run.entry}_cut"
        await self._tell(named.owner.namespace, _event(event_id, "run_finished", plan, "cancelled", run.done, why))

    async def _tell(self, namespace: str, event: TimelineEvent) -> None:
        try:
            await self._timeline.append(namespace, event)
        except InterlockError as error:
            log.warning("run.not_told", run_id=event.run_id, type=event.type, reason=error.reason)


def _told_of(holding: Holding) -> str:
    """Names a worker's hold of a run to who reads timelines. The token itself is what it holds the run by."""
    return f"work_{hashlib.sha256(holding.token.encode()).hexdigest()[:32]}"


def _event(event_id: str, kind: str, plan: RunPlan, status: str, done: int, message: str = "") -> TimelineEvent:
    return TimelineEvent(
        event_id=event_id,
        run_id=plan.run_id,
        type=kind,
        agent_id=plan.agent_id,
        status=status,
        step=f"{done} of {len(plan.actions)} actions",
        message=message,
    )
