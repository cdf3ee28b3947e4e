"""Learning of changes as they are made: what tells an engine that has nothing to decide just now.

Only a hint. What is missed is found out by the next decision, which compares epochs itself.
"""

import asyncio

import structlog

from interlock.governance.errors import InterlockError
from interlock.governance.tasks import end
from interlock.policy.knowledge import Knowledge
from interlock.policy.ports import Directory

log = structlog.get_logger(__name__)

RECONNECT_S = 0.5


class Learning:
    """Listens for changes and has what is known renewed."""

    def __init__(self, directory: Directory, knowledge: Knowledge) -> None:
        self._directory = directory
        self._knowledge = knowledge
        self._listener: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._listener = asyncio.create_task(self._listen())

    async def close(self) -> None:
        await end(self._listener)
        self._listener = None

    async def _listen(self) -> None:
        while True:
            try:
                async with self._directory.changes() as names:
                    # What was changed while nobody listened.
                    await self._knowledge.relearn(None)
                    async for name in names:
                        await self._knowledge.relearn(name)
            except InterlockError as error:
                log.debug("learning.deaf", reason=error.reason)
            await asyncio.sleep(RECONNECT_S)
