"""A real tool back end over HTTP. A test scripts what it does, and sees what it was sent, byte for byte."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Self

from aiohttp import web

Script = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came: `target` with its query, as it was written; fields in their order."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The one field of that name. Raises ValueError if it came more than once."""
        values = [value for field, value in self.headers if field.lower() == name.lower()]
        if len(values) > 1:
            raise ValueError(f"{name} came {len(values)} times")
        return values[0] if values else None


class Tool:
    """The back end. Unless told otherwise it answers 200 `{"calls": N}` to its Nth request."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._arrived = asyncio.Condition()
        self._script: Script = self._count
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/tool"

    def does(self, script: Script, *then: Script) -> Self:
        """Answers by `script`; with several, each request takes the next one, and the last one stays."""
        turns = iter((script, *then))
        current = script

        async def next_turn(request: web.Request) -> web.StreamResponse:
            nonlocal current
            current = next(turns, current)
            return await current(request)

        self._script = next_turn if then else script
        return self

    async def until_received(self, count: int) -> list[Received]:
        """Waits for that many requests, the earlier ones counted in."""
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def start(self) -> None:
        """Listens; started again, on the port it had."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, auto_decompress=False, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Refuses connections from now on, and drops those it has."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers)
        received = Received(request.method, request.raw_path, headers, await request.read())
        async with self._arrived:
            self.received.append(received)
            self._arrived.notify_all()
        return await self._script(request)

    async def _count(self, _: web.Request) -> web.Response:
        return web.json_response({"calls": len(self.received)})


def answers(status: int = 200, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> Script:
    """Answers at once. Without a Content-Type of its own the body is JSON."""

    async def script(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Content-Type": "application/json", **(headers or {})})

    return script


def waits_for(event: asyncio.Event, then: Script) -> Script:
    """Does nothing until `event` is set."""

    async def script(request: web.Request) -> web.StreamResponse:
        await event.wait()
        return await then(request)

    return script


def never_answers() -> Script:
    return waits_for(asyncio.Event(), answers())


def streams(
    pieces: AsyncIterable[bytes], headers: Mapping[str, str] | None = None, *, then: Script | None = None
) -> Script:
    """Sends each piece as it comes, chunked; at the end of them leaves in order, or does `then` (see `resets`)."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        async for piece in pieces:
            await response.write(piece)
        if then is not None:
            await then(request)
        await response.write_eof()
        return response

    return script


def resets() -> Script:
    """Breaks the connection with a TCP reset."""

    async def script(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
        raise asyncio.CancelledError

    return script
