"""The way out: one request to a tool, sent exactly as given and at most once.

No redirect is followed, nothing is decompressed, remembered or sent again; the pieces of an answer are passed on as
they arrive. Why this is not a library's: docs/decisions/0004-own-http-on-the-hot-path.md.
"""

import asyncio
import re
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache, partial
from ipaddress import ip_address
from types import TracebackType
from typing import NamedTuple

from aiohappyeyeballs import AddrInfoType, start_connection
from yarl import URL

from interlock.governance.errors import InvalidRequestError
from interlock.governance.values import dataclass
from interlock.proxy.destinations import DestinationRefusedError, Destinations
from interlock.proxy.request_target import split_url
from interlock.proxy.tool_connection import Fields, ToolConnection, UpstreamError

# Shorter than the 5 s after which Node and uvicorn hang up: a request must not cross with the end of its connection.
KEEP_ALIVE_S = 4.0
FIRST_ADDRESS_S = 0.25
"""A head start of a name's first address over its next (RFC 8305, 5)."""
MAX_PLACES = 4096
# Methods that mean something with a body, so that one without says so (RFC 9110 8.6).
_SAY_EMPTY = frozenset({"POST", "PUT", "PATCH"})
# What `Destinations` lets through. Of an origin known to be good, only this is left to look at.
_TARGET = re.compile(r"[!\"$-~]*")

__all__ = ["Upstream", "UpstreamAnswer", "UpstreamError", "UpstreamRequest"]


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What to send; Host and Content-Length are added. `timeout_s` bounds the wait for the head, then each piece.

    `why_not` is asked when the connection stands and the first byte is about to leave: if it gives a reason, none does.
    """

    method: str
    url: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    timeout_s: float
    why_not: Callable[[], str] = str


class Place(NamedTuple):
    """Where connections lead: all to one place may be used for one another. `authority` is what Host says."""

    tls: bool
    host: str
    port: int
    authority: str


class UpstreamAnswer:
    """The head of a tool's answer, and its body yet to be read. `content_length` is as stated, also if none follows."""

    __slots__ = ("_connection", "_timeout_s", "content_length", "headers", "status")

    def __init__(self, connection: ToolConnection, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self.status = connection.status
        self.headers: Fields = connection.headers
        self.content_length = connection.content_length

    def at_hand(self) -> bytes | None:
        """The whole body, if all of it has come already: nothing is then left to read."""
        return self._connection.at_hand()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in the pieces it comes in. Errors: UpstreamError."""
        while piece := await self._connection.piece(self._timeout_s):
            yield piece


class Upstream:
    """The connections to all tools. To be started and closed in the loop it is used in."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._places: OrderedDict[str, Place] = OrderedDict()
        self._idle: dict[Place, list[ToolConnection]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._closed = False

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._resolver = self._destinations.resolver()

    async def close(self) -> None:
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()
        await self._resolver.close()

    def send(self, request: UpstreamRequest) -> "Sending":
        """A context that sends a request and gives its answer once the head is there. Errors: UpstreamError.

        Leaving, or being cancelled, before the body is read to its end closes the connection.
        """
        return Sending(self, request)

    async def connection(self, place: Place, timeout_s: float) -> ToolConnection:
        """One that is free, the last used first, or a new one. Errors: UpstreamError, not sent."""
        idle = self._idle.get(place)
        while idle:
            connection = idle.pop()
            fresh = self._loop.time() - connection.idle_since < KEEP_ALIVE_S
            if fresh and connection.usable and connection.is_quiet():
                return connection
            connection.close()
        return await self._connected(place, timeout_s)

    def keep(self, place: Place, connection: ToolConnection) -> None:
        """Takes back a connection that carried a request."""
        if self._closed or not connection.rest():
            connection.close()
            return
        connection.idle_since = self._loop.time()
        self._idle.setdefault(place, []).append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(KEEP_ALIVE_S, self._sweep_idle)

    def place_of(self, url: str) -> tuple[Place, str]:
        """Where a URL leads, and the request target there. Errors: InvalidRequestError `destination_refused`."""
        origin, target = split_url(url)
        place = self._places.get(origin)
        if place is None or not _TARGET.fullmatch(target):
            self._destinations.check_url(url)
            place = self._places[origin] = _place(origin)
            if len(self._places) > MAX_PLACES:
                self._places.popitem(last=False)
        return place, target

    def _sweep_idle(self) -> None:
        """Closes what nobody has used for long."""
        self._sweep = None
        kept_since = self._loop.time() - KEEP_ALIVE_S
        for place, connections in [*self._idle.items()]:
            fresh = [connection for connection in connections if connection.idle_since > kept_since]
            for connection in connections[: len(connections) - len(fresh)]:  # in the order they were given back
                connection.close()
            if fresh:
                self._idle[place] = fresh
            else:
                del self._idle[place]
        if self._idle:
            self._sweep = self._loop.call_later(KEEP_ALIVE_S, self._sweep_idle)

    async def _connected(self, place: Place, timeout_s: float) -> ToolConnection:
        connecting = False
        try:
            async with asyncio.timeout(timeout_s):
                addresses = await self._addresses(place)
                connecting = True
                return await self._connect(place, addresses)
        except DestinationRefusedError as error:
            raise UpstreamError("destination_refused", str(error), sent=False) from error
        except OSError as error:  # a time-out is one, and what TLS finds wrong is
            raise _unreachable(connecting=connecting) from error

    async def _addresses(self, place: Place) -> list[str]:
        """The addresses that a name leads to; what is an address itself, `check_url` has judged."""
        try:
            ip_address(place.host)
        except ValueError:
            return [found["host"] for found in await self._resolver.resolve(place.host, place.port)]
        return [place.host]

    async def _connect(self, place: Place, addresses: Sequence[str]) -> ToolConnection:
        infos = [_address_info(address, place.port) for address in addresses]
        sock = await start_connection(infos, happy_eyeballs_delay=FIRST_ADDRESS_S, interleave=1)
        try:
            _, connection = await self._loop.create_connection(
                partial(ToolConnection, self._loop),
                sock=sock,
                ssl=_tls() if place.tls else None,
                server_hostname=place.host.rstrip(".") if place.tls else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection


class Sending:
    """One request under way."""

    __slots__ = ("_connection", "_place", "_request", "_upstream")

    def __init__(self, upstream: Upstream, request: UpstreamRequest) -> None:
        self._upstream = upstream
        self._request = request
        self._connection: ToolConnection | None = None

    async def __aenter__(self) -> UpstreamAnswer:
        request, began = self._request, time.monotonic()
        try:
            self._place, target = self._upstream.place_of(request.url)
            raw = _raw(request, self._place.authority, target)
        except InvalidRequestError as error:
            raise UpstreamError(error.reason, error.message, sent=False) from error
        except ValueError as error:  # refused while the head was being put together
            raise UpstreamError("upstream_invalid", "the request cannot be put into HTTP", sent=False) from error
        connection = await self._upstream.connection(self._place, request.timeout_s)
        try:
            _check_still_wanted(request)
            connection.ask(request.method, raw)
            await connection.head(request.timeout_s - (time.monotonic() - began))
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return UpstreamAnswer(connection, request.timeout_s)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._upstream.keep(self._place, self._connection)


def _check_still_wanted(request: UpstreamRequest) -> None:
    if why_not := request.why_not():
        raise UpstreamError(why_not, "the call was stopped before it was sent", sent=False)


def _raw(request: UpstreamRequest, authority: str, target: str) -> bytes:
    """The request as it goes on the wire. Errors: ValueError for what would break out of its line."""
    lines = [f"{request.method} {target} HTTP/1.1", f"Host: {authority}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    if request.body or request.method in _SAY_EMPTY:
        lines.append(f"Content-Length: {len(request.body)}")
    head = "\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count("\r") != breaks or head.count("\n") != breaks or "\0" in head:
        raise ValueError("a line break or NUL in a field")
    return b"%b\r\n\r\n%b" % (head.encode(), request.body)


def _place(origin: str) -> Place:
    """Of an origin that `Destinations` lets through."""
    parts = URL(origin, encoded=True)
    return Place(parts.scheme == "https", parts.raw_host or "", parts.port or 0, parts.host_port_subcomponent or "")


def _address_info(address: str, port: int) -> AddrInfoType:
    """As getaddrinfo(3) would tell it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)


@cache
def _tls() -> ssl.SSLContext:
    """Verifies certificates and names against the system's authorities."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _unreachable(*, connecting: bool) -> UpstreamError:
    return UpstreamError("upstream_unreachable", "the tool cannot be reached", sent=False, connecting=connecting)
