"""Reservations that nobody will use, because the decision that made them was never heard.

Left alone they would hold their key until the lease ends, and a `hold` tool would then not know that nothing was sent.
This is a help, not a promise: it lives in memory, and where it fails the lease decides.
"""

import asyncio
import collections
import time
from dataclasses import dataclass
from itertools import count

import structlog

from interlock.governance.errors import InterlockError, UnavailableError
from interlock.governance.tasks import end
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.engine import EngineClient
from interlock.proxy.outcomes import full_jitter

log = structlog.get_logger()

WORTH_IT_S = 110.0
"""The engine knows an attempt for two minutes."""
MAX_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class _Abandonment:
    request: pb.AbandonRequest
    until: float


class Abandoning:
    """Gives attempts up at the engine, in the background and one after the other, as soon as it can be reached."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._waiting: collections.deque[_Abandonment] = collections.deque(maxlen=MAX_WAITING)
        self._task: asyncio.Task[None] | None = None

    def give_up(self, credential: str, agent_id: str, attempt_id: str) -> None:
        """Returns at once."""
        request = pb.AbandonRequest(credential=credential, agent_id=agent_id, attempt_id=attempt_id)
        self._waiting.append(_Abandonment(request, time.monotonic() + WORTH_IT_S))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="abandoning")

    async def close(self) -> None:
        await end(self._task)

    async def _run(self) -> None:
        while self._waiting:
            await self._deliver(self._waiting.popleft())

    async def _deliver(self, abandonment: _Abandonment) -> None:
        for tries in count(1):
            try:
                await self._engine.abandon(abandonment.request)
            except UnavailableError:
                if time.monotonic() > abandonment.until:
                    log.warning("attempt.not_abandoned", attempt_id=abandonment.request.attempt_id)
                    return
                await asyncio.sleep(full_jitter(tries))
            except InterlockError as error:
                log.warning("attempt.not_abandoned", attempt_id=abandonment.request.attempt_id, reason=error.reason)
                return
            else:
                log.info("attempt.abandoned", attempt_id=abandonment.request.attempt_id)
                return
