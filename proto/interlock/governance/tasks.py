"""How tasks that run in the background are ended."""

import asyncio
from typing import Any

ASKED_AGAIN_S = 1.0


async def end(*tasks: "asyncio.Task[Any] | None") -> None:
    """Cancels tasks, and returns when they are over, whatever they ended with. None is passed over.

    Asked until they are: a library may swallow a cancellation, as redis-py does in hanging up.
    """
    left = {task for task in tasks if task is not None}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=ASKED_AGAIN_S)
