"""The generated services without a network: servicers register with a LocalServer, stubs are made on its channel.

`GovernanceStub(server.channel())` then calls the very servicer that a gRPC server would, so a sidecar with its engine
in the same process has no second code path. Messages are passed as they are: neither side may change one it was given.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn, Self, cast

import grpc
from grpc import aio

from interlock.governance.timers import Timers

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


class _LocalWriter(LocalContext):
    """The context of a server-streaming RPC."""

    def __init__(self, metadata: Metadata, write: Callable[[Any], Awaitable[None]]) -> None:
        super().__init__(metadata)
        self.write = write


class LocalServer:
    """Takes the place of grpc.aio.Server in the generated `add_…_to_server` functions."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._streams: dict[str, Callable[[Any, Any], Any]] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing to do: the same handlers come by `add_registered_method_handlers`."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        for name, handler in handlers.items():
            if handler.unary_unary is not None:
                self._handlers[f"/{service}/{name}"] = handler.unary_unary
            elif handler.unary_stream is not None:
                self._streams[f"/{service}/{name}"] = handler.unary_stream

    def channel(self) -> aio.Channel:
        """A channel for stubs; what a client streams does not work on it."""
        return cast("aio.Channel", _LocalChannel(self._handlers, self._streams))


class _LocalChannel:
    def __init__(self, handlers: Mapping[str, Handler], streams: Mapping[str, Callable[[Any, Any], Any]]) -> None:
        self._handlers = handlers
        self._streams = streams
        self._timers = Timers()

    def unary_unary(self, path: str, **_: object) -> Callable[..., Awaitable[Any]]:
        handler = self._handlers[path]

        async def call(request: Any, *, timeout: float | None = None, metadata: Metadata = ()) -> Any:  # noqa: ASYNC109 - the stub's own parameter
            context = LocalContext(metadata)
            if timeout is None:
                return await handler(request, context)
            deadline = _Deadline(timeout, self._timers)
            try:
                return await handler(request, context)
            except asyncio.CancelledError:
                if not deadline.ended_it():
                    raise
            finally:
                deadline.cancel()
            return await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded")

        return call

    def unary_stream(self, path: str, **_: object) -> Callable[..., "LocalStream"]:
        handler = self._streams[path]

        def call(request: Any, *, timeout: float | None = None, metadata: Metadata = ()) -> LocalStream:
            return LocalStream(handler, request, timeout, metadata)

        return call

    def stream_stream(self, path: str, **_: object) -> Callable[..., Awaitable[Any]]:
        async def refuse(*_: object, **__: object) -> NoReturn:
            raise NotImplementedError(f"{path} is a stream; in one process the unary calls are as fast")

        return refuse


class _Deadline:
    """Cancels the task that made it after a while: `asyncio.timeout`, less what two of them cost in every call."""

    __slots__ = ("_cancelling", "_passed", "_task", "_timer")

    def __init__(self, timeout_s: float, timers: Timers) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        self._task = task
        self._cancelling = task.cancelling()
        self._passed = False
        self._timer = timers.call_later(timeout_s, self._pass)

    def ended_it(self) -> bool:
        """Whether a cancellation that arrived is this deadline's, and nobody else's as well."""
        return self._passed and self._task.cancelling() - 1 <= self._cancelling

    def cancel(self) -> None:
        """What runs on is cancelled by this no more."""
        self._timer.cancel()
        if self._passed:
            self._task.uncancel()

    def _pass(self) -> None:
        self._passed = True
        self._task.cancel()


class LocalStream:
    """The part of grpc.aio.UnaryStreamCall that callers use. The servicer runs from now on, one message ahead at most.

    What it wrote before it failed is read before the failure is raised. Cancelled, by `cancel` or with the task that
    reads, it cancels the servicer, and whoever reads on gets CancelledError.
    """

    def __init__(
        self, handler: Callable[[Any, Any], Any], request: Any, timeout_s: float | None, metadata: Metadata
    ) -> None:
        self._messages: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)
        context = _LocalWriter(metadata, self._messages.put)
        self._serving = asyncio.ensure_future(_served(handler, request, context, timeout_s))
        # Nobody may ever ask how it ended.
        self._serving.add_done_callback(lambda serving: serving.cancelled() or serving.exception())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is aio.EOF:
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF. Errors: AioRpcError as the servicer ended."""
        reading = asyncio.ensure_future(self._messages.get())
        try:
            await asyncio.wait([reading, self._serving], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            if not reading.done():
                reading.cancel()
        if not reading.cancelled() and reading.done():
            return reading.result()
        if not self._messages.empty():
            return self._messages.get_nowait()
        await self._serving
        return aio.EOF

    def cancel(self) -> bool:
        """False if it was over."""
        return self._serving.cancel()

    def done(self) -> bool:
        return self._serving.done()


async def _served(
    handler: Callable[[Any, Any], Any], request: Any, context: _LocalWriter, within_s: float | None
) -> None:
    """Runs a servicer's method in either of its forms: a generator of messages, or a coroutine that writes them."""
    try:
        async with asyncio.timeout(within_s):
            serving = handler(request, context)
            if inspect.isasyncgen(serving):
                async for message in serving:
                    await context.write(message)
            else:
                await serving
    except TimeoutError:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded")
