"""The gRPC listener: takes RPCs of agents, whatever service they name, and carries them as calls."""

import asyncio
import errno
import math
import time
from functools import partial
from uuid import uuid4

import grpc
import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc

from interlock.governance.errors import (
    DeniedError,
    InterlockError,
    InternalError,
    InvalidRequestError,
    UnavailableError,
)
from interlock.proxy.call import Call, Headers, Incoming
from interlock.proxy.listening import bound
from interlock.proxy.pipeline import Pipeline
from interlock.proxy.problems import problem_of_error
from interlock.proxy.request_errors import BodyTooLargeError, SlowRequestError
from interlock.proxy.rpc.agent import Context, RpcAgent
from interlock.proxy.rpc.entrance import RpcEntrance
from interlock.proxy.rpc.metadata import fields_of
from interlock.proxy.rpc.upstream import MAX_METADATA_BYTES
from interlock.proxy.settings import KiB, SidecarSettings
from interlock.proxy.stages.intercept import OwnIdentity

log = structlog.get_logger()

MAX_STREAMS = 1_000
"""RPCs of one connection at a time; a client keeps further ones to itself."""
IDLE_MS = 300_000
MIN_PING_MS = 10_000
CLOSING_S = 1.0
LONGEST_DEADLINE_S = 1e8
"""One further away (a client may name one of 11,000 years) is none: gRPC's clock would overflow on the way out."""
LARGEST = 2**31 - 1


class RpcListener:
    """Serves agents on a port of its own."""

    def __init__(self, settings: SidecarSettings, most_connections: int) -> None:
        self._settings = settings
        self._most = most_connections
        self._server = aio.server(options=_options(settings, most_connections))
        self._health = health.aio.HealthServicer()
        self._handlers: _Handlers | None = None

    def bind(self, port: int) -> int:
        """Takes the port, and tells which one it is. Errors: OSError."""
        host = self._settings.host
        if port:
            bound(host, port).close()  # says why not; gRPC says so only in its own log
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {address}") from error

    async def start(self, pipeline: Pipeline) -> None:
        entrance = RpcEntrance(OwnIdentity.of(self._settings))
        self._handlers = _Handlers(pipeline, entrance, self._settings, self._most)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_generic_rpc_handlers((self._handlers,))
        await self._server.start()

    async def drain(self) -> None:
        """Sends clients away (GOAWAY) and returns when what runs is over, or the grace is."""
        await self._health.enter_graceful_shutdown()
        if self._handlers is not None:
            self._handlers.drain()
        await self._server.stop(self._settings.drain_grace_ms / 1000)

    async def close(self) -> None:
        await self._server.stop(None)


def _options(settings: SidecarSettings, most_connections: int) -> tuple[tuple[str, int], ...]:
    # Of a message that is not much too large we can say so in our own words; of others gRPC does.
    most_bytes = min(2 * settings.max_body_bytes + 64 * KiB, LARGEST)
    return (
        ("grpc.so_reuseport", 0),  # a second sidecar on the port is a mistake, not a helper
        ("grpc.max_receive_message_length", most_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.max_allowed_incoming_connections", most_connections),
        ("grpc.server_handshake_timeout_ms", settings.request_head_ms),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        # Who reads nothing from its connection answers no ping.
        ("grpc.keepalive_time_ms", settings.agent_stall_ms),
        ("grpc.keepalive_timeout_ms", settings.agent_stall_ms),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
    )


class _Handlers(grpc.GenericRpcHandler):
    """Every method there may be. Arity is the schema's to know, so each RPC is taken for a stream both ways."""

    def __init__(self, pipeline: Pipeline, entrance: RpcEntrance, settings: SidecarSettings, most: int) -> None:
        self._pipeline = pipeline
        self._entrance = entrance
        self._max_body_bytes = settings.max_body_bytes
        self._stall_s = settings.agent_stall_ms / 1000
        self._most = most
        self._open = 0
        self._reading: set[asyncio.Timeout] = set()
        self._draining = False

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        return grpc.stream_stream_rpc_method_handler(partial(self._handle, details.method))

    def drain(self) -> None:
        """Half a request must not hold up the end."""
        self._draining = True
        for reading in self._reading:
            reading.reschedule(asyncio.get_running_loop().time())

    async def _handle(self, method: str, _: object, context: Context) -> None:
        agent = RpcAgent(context, self._stall_s)
        self._open += 1
        try:
            incoming = await self._incoming(method, context)
            call = await self._pipeline.carry(Call(self._entrance, agent, incoming))
            await agent.finish(call)
        except InterlockError as error:
            agent.fail(problem_of_error(error))
        except Exception:
            log.exception("request.failed", method=method)
            agent.fail(problem_of_error(InternalError("internal", "internal error")))
        finally:
            self._open -= 1

    async def _incoming(self, method: str, context: Context) -> Incoming:
        """The request, read to its end before anybody judges it."""
        left_s = context.time_remaining()
        deadline = math.inf if left_s is None or left_s > LONGEST_DEADLINE_S else time.monotonic() + left_s
        if self._open > self._most:
            raise UnavailableError("busy", "too many calls are under way")
        fields = fields_of(context.invocation_metadata() or ())
        _check_no_page(fields)
        return Incoming("POST", method, fields, await self._message(context), uuid4().hex, deadline)

    async def _message(self, context: Context) -> bytes:
        """Errors: `no_message`, `client_streaming`, `body_too_large`, `request_timeout`, `draining`."""
        message = await self._read(context)
        if not isinstance(message, bytes):
            raise InvalidRequestError("no_message", "the request ended without a message")
        if len(message) > self._max_body_bytes:
            raise BodyTooLargeError(self._max_body_bytes)
        if isinstance(await self._read(context), bytes):
            raise InvalidRequestError("client_streaming", "client-streaming calls are not governed; nothing was sent")
        return message

    async def _read(self, context: Context) -> object:
        if self._draining:
            raise UnavailableError("draining", "this sidecar is shutting down")
        try:
            async with asyncio.timeout(self._stall_s) as reading:
                self._reading.add(reading)
                try:
                    return await context.read()
                finally:
                    self._reading.discard(reading)
        except TimeoutError:
            if self._draining:
                raise UnavailableError("draining", "this sidecar is shutting down") from None
            raise SlowRequestError from None


def _check_no_page(fields: Headers) -> None:
    """Errors: `origin_not_allowed`: agents are no browsers."""
    if any(name in ("origin", "sec-fetch-site") for name, _ in fields):
        raise DeniedError("origin_not_allowed", "requests from web pages are not served")
