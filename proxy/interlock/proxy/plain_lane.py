"""The lane for plain calls: read in one go, carried in one task, answered in one write, past aiohttp's machinery.

A connection is in the lane as long as every request on it is plain (`plain_requests`). With the first that is not, the
connection and all that is unread on it go to aiohttp, for good. Limits on connections and heads, stalls and the end of
the process are the connection's own (`listening`) and hold in the lane as well.
"""

import asyncio
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time
from typing import Protocol

from interlock.proxy.call import Call, Forwarded, Incoming
from interlock.proxy.outcomes import has_no_body
from interlock.proxy.plain_requests import PlainHead, plain_head
from interlock.proxy.problems import standing_fields

HELD_S = 0.05
"""So long a head waits here for its body, which many clients send in a packet of its own; then aiohttp waits on."""


class Connection(Protocol):
    """An agent's connection, as far as the lane needs it."""

    @property
    def open(self) -> bool:
        """Whether what is written may still arrive."""

    def write(self, data: bytes) -> None: ...
    async def drained(self) -> None:
        """Returns when there is room for more of an answer. Errors: ConnectionError (the agent left, or was left)."""

    def hear_no_more(self) -> None:
        """Nothing further is read, until `hear_again`."""

    def hear_again(self) -> None: ...
    def answered(self) -> None:
        """The wait for the next head begins."""

    def end(self) -> None:
        """Closes, once what was written has left."""

    def hand_over(self, unread: bytes) -> None:
        """All from here on is aiohttp's."""


class Door(Protocol):
    """Where plain calls go."""

    def admits(self, head: PlainHead) -> bool:
        """Whether such a call is sure to be let in: to refuse is not the lane's business."""

    def incoming(self, head: PlainHead, body: bytes) -> Incoming: ...
    def enter(self, incoming: Incoming, agent: "PlainAgent") -> asyncio.Task[None]:
        """Carries the call and answers it, whatever becomes of the agent."""

    def left(self, task: asyncio.Task[None]) -> None:
        """To be told when that is over."""


class Lane:
    """One connection in the lane. `busy` while a call is under way or half here."""

    __slots__ = ("_connection", "_door", "_head", "_held", "_later", "_loop", "_timer", "closed", "task")

    def __init__(self, door: Door, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._door = door
        self._connection = connection
        self._loop = loop
        self._head: PlainHead | None = None
        self._held = b""
        self._later = b""
        self._timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.closed = False
        """Whether the connection has left the lane."""

    @property
    def busy(self) -> bool:
        return self.task is not None or self._head is not None

    def hear(self, data: bytes) -> None:
        if self.task is not None:  # one call after the other
            self._later += data
            self._connection.hear_no_more()
            return
        head = self._head
        if head is None:
            head = plain_head(data)
        else:
            data, self._held = self._held + data, b""
        if head is None or not self._door.admits(head):
            self._hand_over(data)
            return
        missing = head.body_at + head.length - len(data)
        if missing > 0:
            self._hold(head, data)
        elif missing < 0:
            self._hand_over(data)
        else:
            self._enter(head, data)

    def leave(self) -> None:
        """The connection is gone."""
        self.closed = True
        self._stop_holding()

    def _hold(self, head: PlainHead, data: bytes) -> None:
        self._head, self._held = head, data
        if self._timer is None:
            self._timer = self._loop.call_later(HELD_S, self._wait_no_longer)

    def _wait_no_longer(self) -> None:
        self._hand_over(self._held)

    def _stop_holding(self) -> None:
        self._head, self._held = None, b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hand_over(self, unread: bytes) -> None:
        self.leave()
        self._connection.hand_over(unread)

    def _enter(self, head: PlainHead, data: bytes) -> None:
        self._stop_holding()
        incoming = self._door.incoming(head, data[head.body_at :])
        self.task = self._door.enter(incoming, PlainAgent(self._connection, incoming))
        self.task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        """The call is answered: the next may come, or is here already."""
        self.task = None
        self._door.left(task)
        if self.closed or not self._connection.open:
            return
        if task.cancelled():
            self._connection.end()
            return
        self._connection.answered()
        if self._later:
            later, self._later = self._later, b""
            self._connection.hear_again()
            self.hear(later)


class PlainAgent:
    """The agent behind one plain request."""

    takes_pieces = True

    def __init__(self, connection: Connection, incoming: Incoming) -> None:
        self._connection = connection
        self._incoming = incoming
        self._chunked = False
        self.begun = False

    @property
    def gone(self) -> bool:
        return not self._connection.open

    async def begin(self, call: Call, head: Forwarded) -> None:
        self.begun = True
        fields = (*head.headers, *standing_fields(call))
        self._chunked = not any(name.lower() == "content-length" for name, _ in fields)
        if self._chunked:
            fields = (*fields, ("Transfer-Encoding", "chunked"))
        await self._write(self._head(head.status, fields))

    async def pass_on(self, piece: bytes) -> None:
        if piece:
            await self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    async def finish(self, call: Call) -> None:
        """The rest of an answer that has begun. One that broke off is ended short of its end, as the agent can tell."""
        if not call.forwarded.answered:
            self._connection.end()
            return
        await self.pass_on(call.forwarded.last)
        if self._chunked:
            await self._write(b"0\r\n\r\n")

    async def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes, *, last: bool) -> None:
        """All of an answer. `last` on this connection, if nothing more is served on it."""
        bare = has_no_body(self._incoming.method, status)
        keeps_length = bare and status != HTTPStatus.NO_CONTENT  # RFC 9110 8.6
        fields = [field for field in headers if keeps_length or field[0].lower() != "content-length"]
        if not bare:
            fields.append(("Content-Length", str(len(body))))
        if last:
            fields.append(("Connection", "close"))
        await self._write(self._head(status, fields) + (b"" if bare else body))
        if last:
            self._connection.end()

    def _head(self, status: int, fields: Iterable[tuple[str, str]]) -> bytes:
        lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
        dated = False
        for name, value in fields:
            lines.append(f"{name}: {value}")
            dated = dated or name.lower() == "date"
        lines.append(f"X-Request-Id: {self._incoming.request_id}")
        if not dated:  # RFC 9110 6.6.1: who passes an answer on dates it, if its origin did not
            lines.append(f"Date: {_date(int(time()))}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("iso-8859-1")

    async def _write(self, data: bytes) -> None:
        """Writes, unless the agent has left, or was left as it took nothing: that is no reason to stop its call."""
        if not self._connection.open:
            return
        self._connection.write(data)
        try:
            await self._connection.drained()
        except ConnectionError:
            return


@lru_cache
def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


@lru_cache(2)
def _date(now: int) -> str:
    return formatdate(now, usegmt=True)
