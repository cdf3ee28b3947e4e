"""A real gRPC tool: a grpcio server without a schema. A test scripts what it does, and sees what it was sent."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
from grpc import aio

Context = aio.ServicerContext[bytes, bytes]
Script = Callable[["Received", Context], Awaitable[None]]
"""Answers one RPC: writes messages, sets a status."""
Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Received:
    """One RPC as it came. `left_s` is what its deadline left, None without one."""

    method: str
    metadata: tuple[tuple[str, str | bytes], ...]
    message: bytes
    left_s: float | None

    def value(self, key: str) -> str | bytes | None:
        """The one value of that key. Raises ValueError if it came more than once."""
        values = [value for name, value in self.metadata if name == key]
        if len(values) > 1:
            raise ValueError(f"{key} came {len(values)} times")
        return values[0] if values else None


class RpcTool(grpc.GenericRpcHandler):
    """The back end. Unless told otherwise it answers its Nth request with the message `calls: N`."""

    def __init__(self, *options: tuple[str, Any]) -> None:
        self.received: list[Received] = []
        self.ended: list[Received] = []
        """Those whose agent has their status, or has left."""
        self._options = options
        self._credentials: grpc.ServerCredentials | None = None
        self._arrived = asyncio.Condition()
        self._script: Script = self._count
        self._server: aio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def does(self, script: Script, *then: Script) -> Self:
        """Answers by `script`; with several, each request takes the next one, and the last one stays."""
        turns = iter((script, *then))
        current = script

        async def next_turn(received: Received, context: Context) -> None:
            nonlocal current
            current = next(turns, current)
            await current(received, context)

        self._script = next_turn if then else script
        return self

    async def until_received(self, count: int) -> list[Received]:
        """Waits for that many requests, the earlier ones counted in."""
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def until_ended(self, count: int) -> None:
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: len(self.ended) >= count)

    async def start(self, credentials: grpc.ServerCredentials | None = None) -> None:
        """Listens; started again, on the port it had."""
        self._server = aio.server(handlers=[self], options=(("grpc.so_reuseport", 0), *self._options))
        address = f"127.0.0.1:{self.port}"
        add = self._server.add_insecure_port
        if credentials is not None:
            add = functools.partial(self._server.add_secure_port, server_credentials=credentials)
        self.port = add(address)
        await self._server.start()

    async def stop(self) -> None:
        """Drops its connections, and refuses further ones."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_stream_rpc_method_handler(functools.partial(self._receive, details.method))  # type: ignore[arg-type] # stubs know servicers of threads only

    async def _receive(self, method: str, message: bytes, context: Context) -> None:
        received = Received(method, tuple(context.invocation_metadata() or ()), message, context.time_remaining())
        async with self._arrived:
            self.received.append(received)
            self._arrived.notify_all()
        try:
            await self._script(received, context)
        finally:
            self.ended.append(received)
            asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self._arrived:
            self._arrived.notify_all()

    async def _count(self, _: Received, context: Context) -> None:
        await context.write(f"calls: {len(self.received)}".encode())


def says(
    *messages: bytes,
    code: grpc.StatusCode = grpc.StatusCode.OK,
    details: str = "",
    initial: Metadata = (),
    trailing: Metadata = (),
) -> Script:
    """Answers at once."""

    async def script(_: Received, context: Context) -> None:
        if initial:
            await context.send_initial_metadata(tuple(initial))
        for message in messages:
            await context.write(message)
        context.set_code(code)
        context.set_details(details)
        context.set_trailing_metadata(tuple(trailing))

    return script


async def never(_: Received, __: Context) -> None:
    """Answers nothing."""
    await asyncio.Event().wait()


def waits_for(gate: asyncio.Event, then: Script) -> Script:
    async def script(received: Received, context: Context) -> None:
        await gate.wait()
        await then(received, context)

    return script
