"""Large bodies are read off the event loop, one after another, and nobody's keep out those of others.

To parse or to hash a megabyte of hostile JSON takes a second: on the loop it would stop every call of the sidecar, and
on asyncio's own threads the names that are resolved and the settlements that are written there.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from interlock.governance.errors import UnavailableError
from interlock.proxy.settings import KiB

Reading = TypeVar("Reading")

MAX_INLINE_BYTES = 32 * KiB
OF_ONE_KNOWN, OF_ALL_KNOWN = 16, 64
OF_ONE_STRANGER, OF_ALL_STRANGERS = 4, 8
"""How many bodies may be here at a time. A stranger has as many credentials as he likes to invent."""


class LargeBodies:
    """Those that wait for the thread. A caller has one body there at a time, so callers take turns."""

    def __init__(self, thread: Executor, *, of_one: int, of_all: int) -> None:
        self._thread = thread
        self._of_one = of_one
        self._of_all = of_all
        self._here: dict[str, int] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    async def read(self, body: bytes, credential: str, work: Callable[[], Reading]) -> Reading:
        """What `work` makes of the body: at once, if that is short. Errors: `busy`, and what `work` raises."""
        if len(body) <= MAX_INLINE_BYTES:
            return work()
        async with self._turn(credential):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @asynccontextmanager
    async def _turn(self, credential: str) -> AsyncIterator[None]:
        here = self._here.get(credential, 0)
        if here >= self._of_one or sum(self._here.values()) >= self._of_all:
            raise UnavailableError("busy", "too many large bodies are being read here; try again")
        self._here[credential] = here + 1
        try:
            async with self._turns.setdefault(credential, asyncio.Lock()):
                yield
        finally:
            self._here[credential] -= 1
            if not self._here[credential]:
                del self._here[credential], self._turns[credential]


class BodyReader:
    """The one thread, and the two kinds of those who wait for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large-bodies")
        self.of_known = LargeBodies(self._thread, of_one=OF_ONE_KNOWN, of_all=OF_ALL_KNOWN)
        """Of callers whose key the engine has believed."""
        self.of_strangers = LargeBodies(self._thread, of_one=OF_ONE_STRANGER, of_all=OF_ALL_STRANGERS)

    async def close(self) -> None:
        """Waits for nobody: a body that is being read is read to its end, and no longer asked for."""
        self._thread.shutdown(wait=False, cancel_futures=True)
