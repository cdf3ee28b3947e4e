"""The workers of keyed runs: they take runs, do their actions one after another, and say what came of them.

A worker that dies is replaced: its lease on the run runs out, and another goes on after the last action that was noted.
What was done but not noted is asked for again under the same key, and answered from the record.
"""

import asyncio
import secrets
from typing import Any, Protocol

import structlog

from interlock.governance.errors import InterlockError, Kind
from interlock.governance.tasks import end
from interlock.governance.v1 import runs_pb2 as pb
from interlock.proxy.outcomes import full_jitter
from interlock.proxy.run_actions import RUN_LOST, Outcome, RunLostError
from interlock.proxy.run_board import RunBoard

log = structlog.get_logger()

PAUSE_S = 0.5
"""After a question for a run that failed."""
RENEWED_OF_LEASE = 3
"""A lease is prolonged when a third of it is over."""


class Acting(Protocol):
    """Does a run's actions, or foresees them."""

    async def act(self, run: pb.Run, index: int) -> Outcome: ...


class ActingFor(Protocol):
    """Who does the actions of a run."""

    def __call__(self, run: pb.Run) -> Acting: ...


class RunWorkers:
    """Some workers side by side, each with one run at a time."""

    def __init__(self, board: RunBoard, acting_for: ActingFor, workers: int) -> None:
        self._board = board
        self._acting_for = acting_for
        self._number = workers
        self._taking: set[asyncio.Task[pb.Run | None]] = set()
        self._working: set[asyncio.Task[None]] = set()
        self._draining = False

    def start(self) -> None:
        name = secrets.token_hex(8)
        for number in range(self._number):
            task = asyncio.create_task(self._work(f"{name}-{number}"))
            self._working.add(task)
            task.add_done_callback(self._working.discard)

    @property
    def working(self) -> set[asyncio.Task[None]]:
        return set(self._working)

    def drain(self) -> None:
        """No run is begun from now on; each worker ends after the action under way and gives its run back."""
        self._draining = True
        for task in self._taking:
            task.cancel()

    async def close(self) -> None:
        """Drops what is under way: leases run out, and others go on."""
        self._draining = True
        await end(*self._working)

    async def _work(self, worker: str) -> None:
        while not self._draining:
            try:
                run = await self._taken(worker)
                if run is not None:
                    await self._do(run)
            except InterlockError as error:
                log.debug("run_worker.pauses", reason=error.reason)
                await asyncio.sleep(PAUSE_S)
            except Exception:
                log.exception("run_worker.failed")
                await asyncio.sleep(PAUSE_S)

    async def _taken(self, worker: str) -> pb.Run | None:
        taking = asyncio.create_task(self._board.take(worker))
        self._taking.add(taking)
        try:
            await asyncio.wait([taking])
            return None if taking.cancelled() else taking.result()
        finally:
            self._taking.discard(taking)
            await end(taking)

    async def _do(self, run: pb.Run) -> None:
        """Holds the run while its actions are done; what is left of it when it is lost is another's."""
        doing = asyncio.create_task(self._through(run))
        holding = asyncio.create_task(self._hold(run))
        try:
            await asyncio.wait([doing, holding], return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                doing.result()
            else:
                log.warning("run.lost", namespace=run.namespace, run_id=run.run_id)
        except RunLostError:
            log.warning("run.lost", namespace=run.namespace, run_id=run.run_id)
        finally:
            await end(doing, holding)

    async def _hold(self, run: pb.Run) -> None:
        """Prolongs the lease until the run is lost."""
        while True:
            await asyncio.sleep(run.lease_ms / 1000 / RENEWED_OF_LEASE)
            try:
                await self._board.renew(run.grant)
            except InterlockError as error:
                if error.reason == RUN_LOST:
                    return

    async def _through(self, run: pb.Run) -> None:
        """The actions that are left, in order, up to one that fails. Errors: RunLostError."""
        acting = self._acting_for(run)
        for index in range(run.done, len(run.actions)):
            if self._draining:
                return await self._give_back(run)
            try:
                outcome = await acting.act(run, index)
            except InterlockError as error:
                if error.reason != "draining":
                    raise
                return await self._give_back(run)
            await self._told(self._board.checkpoint, run.grant, index, outcome.document)
            run.kept_bytes += len(outcome.document)
            if outcome.error_code:
                return await self._finish(run, outcome.error_code)
        return await self._finish(run, "")

    async def _finish(self, run: pb.Run, error_code: str) -> None:
        await self._told(self._board.finish, run.grant, error_code)
        log.info("run.finished", namespace=run.namespace, run_id=run.run_id, error_code=error_code)

    async def _give_back(self, run: pb.Run) -> None:
        await self._board.give_back(run.grant)
        log.info("run.given_back", namespace=run.namespace, run_id=run.run_id)

    async def _told(self, tell: "Telling", *what: object) -> None:
        """Tells the engine until it has heard it. Errors: RunLostError, and what is no outage."""
        tries = 0
        while True:
            try:
                return await tell(*what)
            except InterlockError as error:
                if error.reason == RUN_LOST:
                    raise RunLostError from error
                if error.kind is not Kind.UNAVAILABLE:
                    raise
            tries += 1
            await asyncio.sleep(full_jitter(tries))


class Telling(Protocol):
    """One of the board's methods."""

    async def __call__(self, *what: Any) -> None: ...
