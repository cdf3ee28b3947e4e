"""What stands before the doors for plain calls: the front door's own checks, but of those that none is refused by."""

import asyncio
from typing import Protocol

from interlock.proxy.call import Incoming
from interlock.proxy.plain_lane import PlainAgent
from interlock.proxy.plain_requests import MAX_BODY_BYTES, PlainHead
from interlock.proxy.run_route import PATH as RUN_PATH
from interlock.proxy.run_route import RunRoute
from interlock.proxy.tools_route import ToolsRoute


class FrontDoor(Protocol):
    """The checks that stand before every route."""

    busy: set[asyncio.Task[object]]

    @property
    def draining(self) -> bool: ...
    def knows_host(self, value: str) -> bool: ...
    def request_id(self, sent: str) -> str: ...


class PlainDoor:
    """Lets in what is sure to be let in, and sees that it is answered before the process ends."""

    def __init__(self, front_door: FrontDoor, tools: ToolsRoute, runs: RunRoute, max_body_bytes: int) -> None:
        self._front_door = front_door
        self._tools = tools
        self._runs = runs
        self._max_body_bytes = min(max_body_bytes, MAX_BODY_BYTES)

    def admits(self, head: PlainHead) -> bool:
        """Whether such a call is sure to be let in; who is not is told why by aiohttp's way."""
        return (
            head.length <= self._max_body_bytes
            and not self._front_door.draining
            and self._front_door.knows_host(head.host)
            and (head.target != RUN_PATH or head.method == "POST")
        )

    def incoming(self, head: PlainHead, body: bytes) -> Incoming:
        return head.incoming(body, self._front_door.request_id(head.sent_request_id))

    def enter(self, incoming: Incoming, agent: PlainAgent) -> asyncio.Task[None]:
        """Carries the call and answers it, whatever becomes of the agent."""
        route: ToolsRoute | RunRoute = self._runs if incoming.target == RUN_PATH else self._tools
        task = asyncio.create_task(route.serve(incoming, agent, last=self._is_last))
        self._front_door.busy.add(task)
        return task

    def left(self, task: asyncio.Task[None]) -> None:
        """To be told when that is over."""
        self._front_door.busy.discard(task)

    def _is_last(self) -> bool:
        return self._front_door.draining
