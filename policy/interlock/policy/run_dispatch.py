"""Hands queued runs to the workers that wait for one, and takes what they say of them.

One task looks at the queues for all workers of this engine, and only while one waits: when a run is queued, when a look
is due, and now and then at all of them. Engines share the queues, so each is looked at by one of them at a time.
"""

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass as mutable
from dataclasses import field

import structlog

from interlock.governance.errors import InterlockError
from interlock.governance.ids import new_id
from interlock.governance.tasks import end
from interlock.governance.values import dataclass
from interlock.policy.run_grants import lost
from interlock.policy.run_plan import WORKER_LOST, RunPlan, plan_from_json, result_of
from interlock.policy.run_ports import Begun, Due, Entry, Holding, RunQueue
from interlock.policy.run_timeline import RunTimeline

log = structlog.get_logger(__name__)

MAX_WAIT_MS = 20_000
QUEUES_A_LOOK = 16
CLAIM_MS = 1_000
LOOK_S = 0.5
"""How often queues are looked at in which runs are worked on: a worker may be lost."""
RECOVER_S = 30.0
RECONNECT_S = 0.5


@dataclass(frozen=True, slots=True)
class Assignment:
    """A run that a worker now holds. `done` actions are over, and what came of them has `kept_bytes`."""

    holding: Holding
    plan: RunPlan
    done: int
    kept_bytes: int


@mutable(slots=True, eq=False)
class _Waiter:
    worker: str
    run: "asyncio.Future[Assignment | None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class RunDispatch:
    """Every worker that asks this engine for runs."""

    def __init__(self, queue: RunQueue, timeline: RunTimeline, *, lease_ms: int, max_workers_lost: int) -> None:
        self._queue = queue
        self._timeline = timeline
        self.lease_ms = lease_ms
        self._max_lost = max_workers_lost
        self._waiting: deque[_Waiter] = deque()
        self._called = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._recovered_at = -RECOVER_S
        self._draining = False

    async def take(self, worker: str, wait_ms: int) -> Assignment | None:
        """A run, or None when `wait_ms` (at most `MAX_WAIT_MS`) passed before there was one."""
        if self._draining:
            return None
        if not self._tasks:
            self._tasks = (asyncio.create_task(self._serve()), asyncio.create_task(self._listen()))
        waiter = _Waiter(worker)
        self._waiting.append(waiter)
        self._called.set()
        try:
            async with asyncio.timeout(min(wait_ms, MAX_WAIT_MS) / 1000):
                return await waiter.run
        except TimeoutError:
            return None
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiter)

    async def renew(self, holding: Holding) -> None:
        """Errors: `run_lost`; so of all that follow."""
        if not await self._queue.renew(holding, self.lease_ms):
            raise lost()

    async def checkpoint(self, holding: Holding, index: int, outcome: bytes) -> None:
        if not await self._queue.checkpoint(holding, self.lease_ms, index, outcome):
            raise lost()

    async def give_back(self, holding: Holding) -> None:
        if not await self._queue.give_back(holding):
            raise lost()

    async def finish(self, holding: Holding, error_code: str) -> None:
        kept = await self._queue.kept(holding)
        if kept is None:
            raise lost()
        plan = plan_from_json(kept.plan)
        result, result_hash = result_of(plan, kept.outcomes, error_code)
        if not await self._queue.finish(holding, result=result, result_hash=result_hash, error_code=error_code):
            raise lost()
        await self._timeline.ended(holding, plan, len(kept.outcomes), error_code)

    def drain(self) -> None:
        """Nobody is given a run any more."""
        self._draining = True
        for waiter in self._waiting:
            if not waiter.run.done():
                waiter.run.set_result(None)

    async def close(self) -> None:
        await end(*self._tasks)

    async def _serve(self) -> None:
        while True:
            self._called.clear()
            try:
                looked = await self._look() if self._waiting else False
            except InterlockError as error:
                log.debug("runs.unreachable", reason=error.reason)
                await asyncio.sleep(RECONNECT_S)
                continue
            if not looked:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S if self._waiting else None):
                        await self._called.wait()

    async def _look(self) -> bool:
        """Looks at queues that are due; False if none was."""
        if time.monotonic() - self._recovered_at >= RECOVER_S:
            await self._queue.recover()
            self._recovered_at = time.monotonic()
        due = await self._queue.due(QUEUES_A_LOOK, CLAIM_MS)
        for namespace in due.namespaces:
            await self._look_at(namespace, due)
        return bool(due.namespaces)

    async def _look_at(self, namespace: str, due: Due) -> None:
        """Hands out what a queue has, until it has no more or nobody waits."""
        while self._waiting:
            waiter = self._waiting[0]
            entry = await self._queue.take(namespace, waiter.worker, self.lease_ms)
            if entry.run is None:
                await self._queue.schedule(namespace, due, round(LOOK_S * 1000) if entry.waiting else None)
                return
            assignment = await self._begun(entry, waiter.worker)
            if assignment is not None:
                await self._hand(assignment, waiter)
        await self._queue.schedule(namespace, due, 0)

    async def _hand(self, assignment: Assignment, waiter: _Waiter) -> None:
        if waiter.run.done():
            # It asked no longer when this came.
            await self._queue.give_back(assignment.holding)
            return
        self._waiting.remove(waiter)
        waiter.run.set_result(assignment)

    async def _begun(self, entry: Entry, worker: str) -> Assignment | None:
        """The run of an entry, held by a worker; None if it is over, or now is: too many workers were lost on it."""
        token = new_id("work")
        begun = await self._queue.begin(entry, token, worker, self.lease_ms)
        if begun is None or entry.run is None:
            return None
        holding = Holding(entry.run, token)
        if begun.lost >= self._max_lost:
            log.warning("run.workers_lost", namespace=entry.run.namespace, lost=begun.lost)
            with contextlib.suppress(InterlockError):
                await self.finish(holding, WORKER_LOST)
            return None
        assignment = _assignment(holding, begun)
        await self._timeline.begun(entry, holding, assignment.plan, begun.done, begun.lost)
        return assignment

    async def _listen(self) -> None:
        while True:
            try:
                async with self._queue.queued() as queued:
                    async for _ in queued:
                        self._called.set()
            except InterlockError as error:
                log.debug("runs.deaf", reason=error.reason)
            await asyncio.sleep(RECONNECT_S)


def _assignment(holding: Holding, begun: Begun) -> Assignment:
    return Assignment(holding, plan_from_json(begun.plan), begun.done, begun.kept_bytes)
