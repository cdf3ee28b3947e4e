"""An agent's end of gRPC: unary and streaming calls of raw bytes, and what comes back."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

Metadata = Sequence[tuple[str, str | bytes]]
PAY = "/pay.v1.Payments/Charge"


@dataclass(frozen=True, slots=True)
class Told:
    """A whole answer."""

    code: grpc.StatusCode
    details: str
    messages: list[bytes]
    initial: list[tuple[str, str | bytes]]
    trailing: list[tuple[str, str | bytes]]
    info: error_details_pb2.ErrorInfo = field(default_factory=error_details_pb2.ErrorInfo)
    retry_s: int | None = None

    @property
    def reason(self) -> str:
        return self.info.reason

    def trailer(self, key: str) -> str | bytes | None:
        return next((value for name, value in self.trailing if name == key), None)

    @property
    def decision(self) -> str | bytes | None:
        return self.trailer("interlock-decision")


class RpcAgent:
    def __init__(self, channel: aio.Channel, metadata: Metadata = ()) -> None:
        self.channel = channel
        self.metadata = metadata

    async def call(
        self, message: bytes = b"\x08\x05", method: str = PAY, metadata: Metadata = (), within_s: float | None = 20
    ) -> Told:
        """A call of whatever arity, read to its end."""
        call = self.channel.unary_stream(method)(message, metadata=(*self.metadata, *metadata), timeout=within_s)
        return await told(call)


async def told(call: aio.UnaryStreamCall[bytes, bytes] | aio.StreamStreamCall[bytes, bytes]) -> Told:
    messages: list[bytes] = []
    try:
        while isinstance(message := await call.read(), bytes):
            messages.append(message)
    except aio.AioRpcError:
        pass
    initial, trailing = [*await call.initial_metadata()], [*await call.trailing_metadata()]
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    retry_s = None
    for key, value in trailing:
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(bytes(value)).details:  # type: ignore[arg-type] # bytes, as its name ends in -bin
                detail.Unpack(info)
                if detail.Unpack(retry):
                    retry_s = retry.retry_delay.seconds
    return Told(await call.code(), await call.details() or "", messages, initial, trailing, info, retry_s)  # type: ignore[arg-type]


@asynccontextmanager
async def agent_at(port: int, *metadata: tuple[str, str | bytes], credentials: None = None) -> AsyncIterator[RpcAgent]:
    options = (
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_retries", 0),
    )
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield RpcAgent(channel, metadata or (("authorization", "Bearer once_live_key"),))
