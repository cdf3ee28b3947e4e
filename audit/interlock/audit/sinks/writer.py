"""A thread that may hang: what is written blocks nobody but itself, and no process waits for it when it ends."""

import asyncio
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")
Job = Callable[[], None]


class Writer:
    """Runs functions one after the other. A ThreadPoolExecutor would be waited for at the end of the process."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._name = name
        self._thread: threading.Thread | None = None

    async def do(self, function: Callable[[], T]) -> T:
        """What a function returns or raises. Cancelled, the caller goes on and the function ends when it can."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            try:
                value = function()
            except Exception as error:  # noqa: BLE001 - it is the caller's, to whom it goes
                _tell(loop, future, partial(future.set_exception, error))
            else:
                _tell(loop, future, partial(future.set_result, value))

        self._jobs.put(job)
        return await future

    def _work(self) -> None:
        while True:
            self._jobs.get()()


def _tell(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[T]", tell: Job) -> None:
    """Nobody may be there any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: None if future.done() else tell())
