"""HTTP/1.1 on bare sockets: what an agent sends and gets, with nothing decoded, followed or tried again in between."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 60
LINE_LIMIT = 1 << 20

Fields = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came. `whole` is False if the connection ended before the answer did."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes = b""
    whole: bool = False

    def header(self, name: str) -> str | None:
        """The one field of that name. Raises ValueError if it came more than once."""
        values = self.headers(name)
        if len(values) > 1:
            raise ValueError(f"{name} came {len(values)} times")
        return values[0] if values else None

    def headers(self, name: str) -> list[str]:
        return [value for field, value in self.fields if field.lower() == name.lower()]

    @property
    def decision(self) -> str | None:
        return self.header("Interlock-Decision")

    @property
    def replayed(self) -> bool:
        return self.header("Idempotent-Replayed") == "true"

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Arriving:
    """An answer on its way: its head first, then its body, piece by piece as it was sent."""

    def __init__(self, reader: asyncio.StreamReader, method: str) -> None:
        self._reader = reader
        self._method = method
        self._head = Answer(0, ())
        self._left = 0

    async def head(self) -> Answer:
        """Status and fields. Raises IncompleteReadError if the connection ends before."""
        raw = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        fields = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        self._head = Answer(int(first.split(" ")[1]), fields)
        self._left = int(self._head.header("Content-Length") or 0)
        return self._head

    async def piece(self) -> bytes:
        """What has come of the body, at least a byte of it; empty at its end. Raises IncompleteReadError, OSError."""
        if self._method == "HEAD" or self._head.status in (204, 304):
            return b""
        if self._head.header("Transfer-Encoding") == "chunked":
            return await self._chunk()
        if self._head.header("Content-Length") is None:
            return await self._reader.read(LINE_LIMIT)
        piece = await self._reader.read(self._left)
        if self._left and not piece:
            raise asyncio.IncompleteReadError(piece, self._left)
        self._left -= len(piece)
        return piece

    async def rest(self) -> Answer:
        """The answer, with all of its body that had not yet been taken."""
        head, body, whole = self._head, bytearray(), False
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while piece := await self.piece():
                body += piece
            whole = True
        return Answer(head.status, head.fields, bytes(body), whole)

    async def _chunk(self) -> bytes:
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        chunk = await self._reader.readexactly(size + 2)
        return chunk[:-2]


@contextlib.asynccontextmanager
async def sending(port: int, method: str, target: str, fields: Fields, body: bytes = b"") -> AsyncIterator[Arriving]:
    """One request on a connection of its own. Leaving hangs up."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LINE_LIMIT)
        try:
            framed = (("Host", f"127.0.0.1:{port}"), ("Content-Length", str(len(body))), *fields)
            head = "".join(f"{name}: {value}\r\n" for name, value in framed)
            writer.write(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
            yield Arriving(reader, method)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def send(port: int, method: str, target: str, fields: Fields, body: bytes = b"") -> Answer:
    """One request, and its answer to the end."""
    async with sending(port, method, target, fields, body) as arriving:
        await arriving.head()
        return await arriving.rest()
