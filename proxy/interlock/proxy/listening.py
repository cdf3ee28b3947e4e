"""A listener of the sidecar: an aiohttp application behind a socket that is already bound."""

import asyncio
import resource
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from interlock.proxy.answering import ExactAnswer
from interlock.proxy.plain_lane import Door as PlainDoor
from interlock.proxy.plain_lane import Lane
from interlock.proxy.problems import Problem, error_fields
from interlock.proxy.request_errors import SlowRequestError
from interlock.proxy.settings import KiB

log = structlog.get_logger()

BACKLOG = 1024
ACCEPTED_AT_ONCE = 16
"""So many connections are taken before those taken are looked at: more than `most` are open by no more than this."""
RESERVED_FILES = 128
"""Files that this process needs for itself: disk, engine, Redis, the admin listener."""
MAX_LINE_BYTES = 32 * KiB
CLOSING_S = 1.0
"""How long connections get to close by themselves, once nothing runs any more."""

LOGGED_EVERY_S = 1.0

OPTIONS: dict[str, Any] = {
    "access_log": None,
    # A compressed body is the tool's to unpack.
    "auto_decompress": False,
    "max_line_size": MAX_LINE_BYTES,
    "max_field_size": MAX_LINE_BYTES,
    "lingering_time": CLOSING_S,
}


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address, not listening yet. Errors: OSError that names the address."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one listener puts up with: `most` connections, and `refused` is told of each that is one too many; no
    head of a request for `head_s`, counted from the answer before it; for `stall_s` nothing of a body that comes, or
    of an answer that goes.
    """

    most: int
    head_s: float
    stall_s: float
    refused: Callable[[], None]


def most_connections(wanted: int) -> int:
    """As many as wanted, if the process may open the files. A call needs two: the agent's connection and the tool's."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, (files - RESERVED_FILES) // 2))


async def listen(
    app: web.Application, listener: socket.socket, limits: ConnectionLimits, plain: PlainDoor | None = None
) -> Callable[[], Awaitable[None]]:
    """Serves an application, past which plain calls go to a door of their own. Returns what ends that."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSING_S)
    await runner.setup()
    manager, loop = runner.server, asyncio.get_running_loop()
    assert manager is not None, "setup made it"  # noqa: S101 - for the type checker
    server = await loop.create_server(
        _Door(manager, loop, limits, plain).admit, sock=listener, backlog=ACCEPTED_AT_ONCE
    )
    listener.listen(BACKLOG)  # asyncio takes one number for both

    async def close() -> None:
        server.close()
        await runner.cleanup()

    return close


class _Door:
    """Lets connections in, as many as there is room for."""

    def __init__(
        self,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        limits: ConnectionLimits,
        plain: PlainDoor | None,
    ) -> None:
        self._manager = manager
        self._loop = loop
        self._plain = plain
        self._limits = limits
        self._open = 0
        self._unlogged = 0
        self._logged_at = float("-inf")

    def admit(self) -> asyncio.Protocol:
        if self._open >= self._limits.most:
            self._refused()
            return _Refused()
        self._open += 1
        return _Connection(self._manager, self._loop, self._limits, self._left, self._plain)

    def _left(self) -> None:
        self._open -= 1

    def _refused(self) -> None:
        self._limits.refused()
        self._unlogged += 1
        now = self._loop.time()
        if now - self._logged_at >= LOGGED_EVERY_S:
            log.warning("connections.refused", refused=self._unlogged, open=self._open)
            self._unlogged, self._logged_at = 0, now


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Connection(RequestHandler):
    """An agent's connection. Who for `stall_s` sends nothing of a body or takes nothing of an answer is left.

    aiohttp's own keep-alive time bounds the wait for a head, also for the rest of half a head.
    """

    def __init__(
        self,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        limits: ConnectionLimits,
        left: Callable[[], None],
        plain: PlainDoor | None,
    ) -> None:
        super().__init__(manager, loop=loop, keepalive_timeout=limits.head_s, **OPTIONS)
        self._lane = Lane(plain, self, loop) if plain is not None else None
        self._stall_s = limits.stall_s
        self._left = left
        self._closing: asyncio.TimerHandle | None = None
        self._body: StreamReader | None = None
        self._heard_at = 0.0
        self._listening: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Serves until the connection is to close, and sees that it does, even if the last answer is never taken."""
        transport = self.transport
        try:
            await super().start()
        finally:
            if transport is not None and self._manager is not None:
                self._closing = self._loop.call_later(self._stall_s, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._manager is not None:
            self._left()
        if self._lane is not None:
            self._lane.leave()
        for timer in (self._closing, self._listening):
            self._stop(timer)
        super().connection_lost(exc)

    def _stop(self, timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

    async def _drain_helper(self) -> None:
        """Waits until there is room for more of an answer, or the agent is left: then the next write fails."""
        self._watch_answer(float("inf"))
        try:
            await super()._drain_helper()
        finally:
            self._stop(self._sending)

    def _watch_answer(self, unsent_before: float) -> None:
        if self.transport is None:
            return
        unsent = self.transport.get_write_buffer_size()
        if unsent < unsent_before:
            self._sending = self._loop.call_later(self._stall_s, self._watch_answer, unsent)
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._lane is None or self._force_close or self._close:
            self.hand_over(data)
        else:
            self._lane.hear(data)

    def hand_over(self, unread: bytes) -> None:
        """To aiohttp. Breaks off a body whose framing broke: it tells no reader of it, who would wait for ever."""
        self._lane = None
        super().data_received(unread)
        self._heard_at = self._loop.time()
        if self._messages:
            self._body = self._messages[-1][1]
        self._watch_body()
        if not self._messages or isinstance(self._messages[-1][0], RawRequestMessage):
            return
        bodies = [body for _, body in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError("the body's framing is broken"))
                body.feed_eof()

    # What the lane asks for

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    async def drained(self) -> None:
        if self._paused:
            await self._drain_helper()

    def hear_no_more(self) -> None:
        self._pause_transport_reading()

    def hear_again(self) -> None:
        self._resume_transport_reading()

    def answered(self) -> None:
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def end(self) -> None:
        self.force_close()

    def _process_keepalive(self) -> None:
        """The time for a head is not running while a plain call is under way."""
        if self._lane is not None and self._lane.busy:
            self.answered()
        super()._process_keepalive()

    async def shutdown(self, timeout: float | None = CLOSING_S) -> None:  # noqa: ASYNC109 - aiohttp's own parameter
        """Lets a plain call be answered first, as aiohttp does for its own."""
        if self._lane is not None and self._lane.task is not None:
            await asyncio.wait([self._lane.task], timeout=timeout)
        await super().shutdown(timeout)

    # Bodies that aiohttp reads

    def _watch_body(self) -> None:
        """Has a body that is still coming looked at when nothing came for `stall_s`."""
        if self._listening is None and self._body is not None and not self._body.is_eof():
            self._listening = self._loop.call_at(self._heard_at + self._stall_s, self._look_at_body)

    def _look_at_body(self) -> None:
        self._listening, body = None, self._body
        if self._reading_paused:  # by us: nobody reads it yet
            self._heard_at = self._loop.time()
        if body is None or body.is_eof():
            return
        if self._loop.time() - self._heard_at < self._stall_s:
            self._watch_body()
        else:
            body.set_exception(SlowRequestError())
            body.feed_eof()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what is no HTTP at all and so never comes to a route: aiohttp would repeat it and log a traceback."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        problem = Problem(status, "malformed_request", "the request is not HTTP that can be read")
        answer = ExactAnswer(status, (*problem.fields(), *error_fields()), problem.document())
        answer.force_close()
        return answer
