"""A listener of the sidecar: an aiohttp application behind a socket that is already bound."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from interlock.proxy.answering import ExactAnswer
from interlock.proxy.problems import Problem, error_fields
from interlock.proxy.settings import KiB

BACKLOG = 1024
MAX_LINE_BYTES = 32 * KiB
CLOSING_S = 1.0
"""How long connections get to close by themselves, once nothing runs any more."""

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


async def listen(app: web.Application, listener: socket.socket) -> Callable[[], Awaitable[None]]:
    """Serves an application. Returns what ends that."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSING_S)
    await runner.setup()
    manager, loop = runner.server, asyncio.get_running_loop()
    assert manager is not None, "setup made it"  # noqa: S101 - for the type checker
    server = await loop.create_server(lambda: _connection(manager, loop), sock=listener, backlog=BACKLOG)

    async def close() -> None:
        server.close()
        await runner.cleanup()

    return close


def _connection(manager: web.Server, loop: asyncio.AbstractEventLoop) -> RequestHandler:
    return _Connection(manager, loop=loop, **OPTIONS)


class _Connection(RequestHandler):
    def data_received(self, data: bytes) -> None:
        """Breaks off a body whose framing broke: aiohttp tells nobody who reads it, and he would wait for ever."""
        super().data_received(data)
        if not self._messages or isinstance(self._messages[-1][0], RawRequestMessage):
            return
        bodies = [body for _, body in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError("the body's framing is broken"))
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
