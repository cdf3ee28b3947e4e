"""HTTP/2 as another language's gRPC would write it: frame by frame, by hand. Both ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

Headers = list[tuple[str, str]]


def framed(message: bytes, compressed: int = 0) -> bytes:
    """A length-prefixed message."""
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


@dataclass
class Stream:
    """What came on one stream."""

    head: Headers = field(default_factory=list)
    body: bytes = b""
    trailers: Headers = field(default_factory=list)
    reset: int | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> int:
        """grpc-status, of the trailers or, where these are all there is, of the head."""
        return int(dict(self.head + self.trailers)["grpc-status"])


class Wire:
    """One connection of ours to a server. Frames are made by `h2`, and sent as the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.streams: dict[int, Stream] = {}
        self.closed = asyncio.Event()
        self.goaway: int | None = None

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def open(self, path: str, *fields: tuple[str, str], content_type: str = "application/grpc") -> int:
        """Sends the head of a request. Gives its stream."""
        number = self.h2.get_next_available_stream_id()
        self.streams[number] = Stream()
        head = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        self.h2.send_headers(number, [*head, ("te", "trailers"), ("content-type", content_type), *fields])
        self.flush()
        return number

    def data(self, stream: int, data: bytes, *, end: bool = False, padding: int | None = None) -> None:
        self.h2.send_data(stream, data, end_stream=end, pad_length=padding)
        self.flush()

    async def answer(self, stream: int) -> Stream:
        async with asyncio.timeout(20):
            await self.streams[stream].over.wait()
        return self.streams[stream]

    async def read(self) -> None:
        while data := await self._reader.read(65536):
            for event in self.h2.receive_data(data):
                self._take(event)
            self.flush()
        self.closed.set()
        for stream in self.streams.values():
            stream.over.set()

    def _take(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if isinstance(event, ResponseReceived):
            stream.head = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, TrailersReceived):
            stream.trailers = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, DataReceived):
            stream.body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        elif isinstance(event, StreamEnded):
            stream.over.set()
        elif isinstance(event, StreamReset):
            stream.reset = int(event.error_code or 0)
            stream.over.set()


@asynccontextmanager
async def wire(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    line = Wire(reader, writer)
    line.h2.initiate_connection()
    line.flush()
    reading = asyncio.create_task(line.read())
    try:
        yield line
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        writer.close()


Answering = Callable[[H2Connection, int], Awaitable[None] | None]
"""Answers one request, whole by now, on its stream."""


class WireTool:
    """A server of gRPC that answers frame by frame. `heads` are those of its requests, `bodies` what came after."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self.heads: list[Headers] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["WireTool"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        body = b""
        try:
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, RequestReceived):
                        self.heads.append([(str(name), str(value)) for name, value in event.headers])
                        body = b""
                    elif isinstance(event, DataReceived):
                        body += event.data
                    elif isinstance(event, StreamEnded):
                        self.bodies.append(body)
                        if (waiting := self._answering(connection, event.stream_id)) is not None:
                            await waiting
                writer.write(connection.data_to_send())
        except ConnectionError:
            pass
        finally:
            writer.close()


def responds(*pieces: bytes, trailers: Headers | None = None) -> Answering:
    """An ordinary answer, each piece in a DATA frame of its own."""

    def answer(connection: H2Connection, stream: int) -> None:
        connection.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        for piece in pieces:
            connection.send_data(stream, piece)
        connection.send_headers(stream, trailers or [("grpc-status", "0")], end_stream=True)

    return answer
