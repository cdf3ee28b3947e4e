"""The way out for gRPC: one RPC to a tool, sent as given and at most once.

All that knows gRPC's client is in this file. A connection leads to an address that was judged, never to a name that
gRPC would resolve for itself, and gRPC repeats nothing on its own.
"""

import asyncio
import math
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from urllib.parse import quote

import grpc
from aiohttp.abc import AbstractResolver
from grpc import ChannelConnectivity as State
from grpc import aio

from interlock.governance.errors import InvalidRequestError
from interlock.governance.tool_urls import GRPC_SCHEMES, Place, place_of
from interlock.proxy.call import Headers
from interlock.proxy.destinations import DestinationRefusedError, Destinations
from interlock.proxy.rpc.metadata import fields_of, metadata_of
from interlock.proxy.rpc.status import Code, Ending
from interlock.proxy.settings import KiB, MiB
from interlock.proxy.upstream import UpstreamError

MAX_MESSAGE_BYTES = 16 * MiB
"""A larger message of a tool is not read: messages, unlike bodies, are held whole."""
MAX_METADATA_BYTES = 64 * KiB
MAX_CALLS = 100
"""At a time on one connection: so many streams every server is advised to allow (RFC 9113 6.5.2)."""
IDLE_S = 60.0
MAX_LINES = 4096
"""Places that are known at a time, beside those to which connections stand."""

# What gRPC says of its own accord, in a status that could as well be the tool's. Tests hold these words. A tool that
# uses them for itself deceives nobody but itself. That there was no room, which means that nothing was sent, has to
# name our own connection: a tool may pass on what gRPC said to it of another.
_BROKEN = "Stream removed ("
_TOO_LARGE = "essage larger than max"
_NO_ROOM = "no quota to send RPC"

OPTIONS = (
    # Neither repeated nor, where a server refused the stream, sent again: each try is signed and fenced for itself.
    ("grpc.enable_retries", 0),
    # Rather than have it wait in the queue, past the lease, until the tool's server allows one more stream.
    ("grpc.http.max_concurrent_streams_reject_on_client", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # also the time that an attempt to connect may take
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
)


@dataclass(frozen=True, slots=True)
class RpcRequest:
    """What to send. `timeout_s` bounds the wait for the connection, then for each message; `deadline` is monotonic and
    is told to the tool.

    `why_not` is asked when the connection stands and the call is about to leave: if it gives a reason, it does not.
    """

    url: str
    method: str
    fields: Headers
    message: bytes
    timeout_s: float
    deadline: float
    why_not: Callable[[], str] = str


class NoRoomError(UpstreamError):
    """The tool's server allows no more streams on this connection; another one may have room. Nothing was sent."""

    def __init__(self) -> None:
        super().__init__("upstream_unreachable", "the tool's server takes no more calls", sent=False)


class Rpc:
    """An RPC under way. `ending` is set once `read` came to the end."""

    def __init__(self, call: aio.UnaryStreamCall[bytes, bytes], connection: "_Connection", request: RpcRequest) -> None:
        self._call = call
        self._connection = connection
        self._request = request
        self.ending = Ending(Code.UNKNOWN)

    async def fields(self) -> Headers:
        """The tool's initial metadata; at once if a message or the end is there."""
        return fields_of(await self._call.initial_metadata())

    async def read(self) -> bytes | None:
        """The next message, or None at the end. Errors: UpstreamError."""
        try:
            async with asyncio.timeout(self._request.timeout_s):
                message = await self._call.read()
            if isinstance(message, bytes):
                return message
        except TimeoutError:
            # A connection that hangs looks like a call that takes long.
            self._connection.retire()
            raise _timed_out() from None
        except aio.AioRpcError as error:
            if failure := self._failure(error.code(), error.details() or ""):
                raise failure from error
        self.ending = Ending(
            await self._call.code(), await self._call.details() or "", fields_of(await self._call.trailing_metadata())
        )
        return None

    def _failure(self, code: grpc.StatusCode, details: str) -> UpstreamError | None:
        """What broke, if it is not the tool that has spoken."""
        if code is Code.RESOURCE_EXHAUSTED and self._connection.says_no_room(details):
            self._connection.is_full()
            return NoRoomError()
        if code is Code.RESOURCE_EXHAUSTED and _TOO_LARGE in details:
            return UpstreamError("upstream_invalid", "a message of the tool is too large", sent=True)
        if code is Code.DEADLINE_EXCEEDED and time.monotonic() >= self._request.deadline:
            return _timed_out()
        if details.startswith(_BROKEN) or (code is Code.UNAVAILABLE and not self._connection.stands):
            return UpstreamError("upstream_reset", "the tool broke off before its answer was whole", sent=True)
        return None


class RpcUpstream:
    """The connections to all gRPC tools. To be used in one loop."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._resolver = destinations.resolver()
        self._lines: dict[Place, _Line] = {}

    async def close(self) -> None:
        lines, self._lines = self._lines, {}
        for line in lines.values():
            await line.close()
        await self._resolver.close()

    @asynccontextmanager
    async def send(self, request: RpcRequest) -> AsyncIterator[Rpc]:
        """Sends a request. Leaving before the end, or being cancelled, cancels the RPC at the tool.

        Errors: UpstreamError.
        """
        connection = await self._connection_to(request)
        with connection.used():
            if why_not := request.why_not():
                raise UpstreamError(why_not, "the call was stopped before it was sent", sent=False)
            call = connection.begin(request)
            try:
                yield Rpc(call, connection, request)
            finally:
                call.cancel()

    async def _connection_to(self, request: RpcRequest) -> "_Connection":
        try:
            self._destinations.check_url(request.url, schemes=GRPC_SCHEMES)
            place = place_of(request.url)
            line = self._line(place)
            async with asyncio.timeout(min(request.timeout_s, request.deadline - time.monotonic())):
                return await line.connection()
        except InvalidRequestError as error:
            raise UpstreamError(error.reason, error.message, sent=False) from error
        except TimeoutError as error:
            raise _unreachable() from error

    def _line(self, place: Place) -> "_Line":
        if place not in self._lines and len(self._lines) >= MAX_LINES:
            self._lines = {place: line for place, line in self._lines.items() if line.is_used}
        return self._lines.setdefault(place, _Line(place, self._resolver))


class _Line:
    """The connections to one place."""

    def __init__(self, place: Place, resolver: AbstractResolver) -> None:
        self._place = place
        self._resolver = resolver
        self._connections: list[_Connection] = []
        self._dialling = asyncio.Lock()
        self._most = MAX_CALLS

    @property
    def is_used(self) -> bool:
        return self._dialling.locked() or any(connection.is_good() for connection in self._connections)

    async def connection(self) -> "_Connection":
        """One with room for one more call. One at a time is made, as that may be enough for all who wait for it."""
        if (known := self._with_room()) is not None:
            return known
        async with self._dialling:
            if (known := self._with_room()) is None:
                known = await self._dial()
                self._connections.append(known)
        return known

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()

    def _with_room(self) -> "_Connection | None":
        self._connections = [connection for connection in self._connections if connection.is_good()]
        self._most = min((connection.most for connection in self._connections), default=MAX_CALLS)
        return next((connection for connection in self._connections if connection.has_room), None)

    async def _dial(self) -> "_Connection":
        try:
            found = await self._resolver.resolve(self._place.host, self._place.port)
        except DestinationRefusedError as error:
            raise UpstreamError("destination_refused", str(error), sent=False) from error
        except OSError as error:
            raise UpstreamError("upstream_unreachable", "the tool's name has no address", sent=False) from error
        for address in found:
            connection = _Connection(self._place, address["host"], self._most)
            try:
                await connection.stand()
            except ConnectionError:
                await connection.close()
            except BaseException:  # given up: the caller's time is over
                await connection.close()
                raise
            else:
                return connection
        raise _unreachable()


class _Connection:
    """One connection to one address. Lost, it is not made again here: the name may lead elsewhere by then."""

    def __init__(self, place: Place, address: str, most: int) -> None:
        self.most = most
        target = _target(place, address)
        self._channel = _channel(place, target)
        self._name = quote(target, safe=":.")
        self._calls = 0
        self._retired = False
        self._closing: asyncio.TimerHandle | None = None
        self._closed: asyncio.Task[None] | None = None

    @property
    def stands(self) -> bool:
        return self._channel.get_state() is State.READY

    @property
    def has_room(self) -> bool:
        return self._calls < self.most

    async def stand(self) -> None:
        """Returns once it stands. Errors: ConnectionError."""
        while (state := self._channel.get_state(try_to_connect=True)) is not State.READY:
            if state in (State.TRANSIENT_FAILURE, State.SHUTDOWN):
                raise ConnectionError
            await self._channel.wait_for_state_change(state)

    def is_good(self) -> bool:
        """Whether it may be given another call; if not, it ends with those it has."""
        if not self.stands:
            self.retire()
        return not self._retired

    def says_no_room(self, details: str) -> bool:
        return details.startswith(f"{self._name}: ") and details.endswith(_NO_ROOM)

    def is_full(self) -> None:
        """Seen by a call that it had no room for."""
        self.most = max(1, min(self.most, self._calls - 1))

    def begin(self, request: RpcRequest) -> aio.UnaryStreamCall[bytes, bytes]:
        """Errors: UpstreamError, if it cannot be put into gRPC."""
        rpc: aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(request.method)
        left_s = None if request.deadline == math.inf else max(0.0, request.deadline - time.monotonic())
        try:
            return rpc(request.message, timeout=left_s, metadata=metadata_of(request.fields))
        except (ValueError, TypeError, InvalidRequestError) as error:
            raise UpstreamError("upstream_invalid", "the request cannot be put into gRPC", sent=False) from error

    @contextmanager
    def used(self) -> Iterator[None]:
        """Counts a call on it."""
        self._calls += 1
        if self._closing is not None:
            self._closing.cancel()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._close_in(0 if self._retired else IDLE_S)

    def retire(self) -> None:
        """Takes no more calls."""
        self._retired = True
        if not self._calls:
            self._close_in(0)

    def _close_in(self, seconds: float) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._closing = asyncio.get_running_loop().call_later(seconds, self._start_closing)

    def _start_closing(self) -> None:
        self._retired = True
        self._closed = self._closed or asyncio.create_task(self._channel.close(), name="rpc-connection-closing")

    async def close(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._start_closing()
        if self._closed is not None:
            await self._closed


def _target(place: Place, address: str) -> str:
    """What gRPC calls that address."""
    if isinstance(ip_address(address), IPv6Address):
        return f"ipv6:[{address}]:{place.port}"
    return f"ipv4:{address}:{place.port}"


def _channel(place: Place, target: str) -> aio.Channel:
    """A channel to that address alone, which tells the tool's server the name it was registered by."""
    bracketed = f"[{place.host}]" if ":" in place.host else place.host
    options = (*OPTIONS, ("grpc.default_authority", f"{bracketed}:{place.port}"))
    if place.scheme == "grpc":
        return aio.insecure_channel(target, options=options)
    named = ("grpc.ssl_target_name_override", place.host)
    return aio.secure_channel(target, _tls(), options=(*options, named))


@cache
def _tls() -> grpc.ChannelCredentials:
    """The authorities that Python trusts, by SSL_CERT_FILE or the system's; where there are none, those of gRPC."""
    file = ssl.get_default_verify_paths().cafile
    return grpc.ssl_channel_credentials(Path(file).read_bytes() if file else None)


def _unreachable() -> UpstreamError:
    return UpstreamError("upstream_unreachable", "the tool cannot be reached", sent=False, connecting=True)


def _timed_out() -> UpstreamError:
    return UpstreamError("upstream_timeout", "the tool did not answer in time", sent=True)
