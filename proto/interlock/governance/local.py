"""The generated services without a network: servicers register with a LocalServer, stubs are made on its channel.

`GovernanceStub(server.channel())` then calls the very servicer that a gRPC server would, so a sidecar with its engine
in the same process has no second code path. Messages are passed as they are: neither side may change one it was given.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn, cast

import grpc
from grpc import aio

Metadata = Sequence[tuple[str, str | bytes]]
Handler = Callable[[Any, Any], Awaitable[Any]]


class LocalContext:
    """The part of grpc.aio.ServicerContext that servicers use."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        raise aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailing_metadata), details)


class LocalServer:
    """Takes the place of grpc.aio.Server in the generated `add_…_to_server` functions."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing to do: the same handlers come by `add_registered_method_handlers`."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        for name, handler in handlers.items():
            if handler.unary_unary is not None:
                self._handlers[f"/{service}/{name}"] = handler.unary_unary

    def channel(self) -> aio.Channel:
        """A channel for stubs; only unary methods work on it."""
        return cast("aio.Channel", _LocalChannel(self._handlers))


class _LocalChannel:
    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    def unary_unary(self, path: str, **_: object) -> Callable[..., Awaitable[Any]]:
        handler = self._handlers[path]

        async def call(request: Any, *, timeout: float | None = None, metadata: Metadata = ()) -> Any:  # noqa: ASYNC109 - the stub's own parameter
            context = LocalContext(metadata)
            if timeout is None:
                return await handler(request, context)
            try:
                async with asyncio.timeout(timeout):
                    return await handler(request, context)
            except TimeoutError:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded")

        return call

    def stream_stream(self, path: str, **_: object) -> Callable[..., Awaitable[Any]]:
        async def refuse(*_: object, **__: object) -> NoReturn:
            raise NotImplementedError(f"{path} is a stream; in one process the unary calls are as fast")

        return refuse
