"""Both clients at a scripted server, and what it was asked."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from interlock.client import AsyncInterlock, Interlock, RetryPolicy
from tests.tool import Tool

KEY = "once_live_test"
AT_ONCE = RetryPolicy(base_s=0.001)
BOTH = ["sync", "async"]


async def ask(flavour: str, server: Tool, question: Callable[[Any], Any], **settings: Any) -> Any:
    """What a client of this flavour makes of the server's answer to the question."""
    settings = {"retries": AT_ONCE, "timeout_s": 5.0, **settings}
    url = server.url.removesuffix("/tool")
    if flavour == "async":
        async with AsyncInterlock(KEY, url, **settings) as client:
            return await question(client)
    return await asyncio.to_thread(_ask, url, question, settings)


def _ask(url: str, question: Callable[[Any], Any], settings: dict[str, Any]) -> Any:
    with Interlock(KEY, url, **settings) as client:
        return question(client)


def sent(server: Tool) -> list[Any]:
    """The JSON bodies that the server was sent, in order."""
    return [json.loads(request.body) for request in server.received]
