"""One connection to a tool: a request is written, its answer is parsed as it comes. The parser is llhttp, by httptools.

llhttp is strict as it stands: no bare line feed, no folded field, no control character in a field, one Content-Length
that is a number, and never one beside Transfer-Encoding. What it leaves open is refused here: another transfer coding
than `chunked`, a body of an interim answer, another version than HTTP/1.0 and 1.1, heads without end.
"""

import asyncio
import select
from collections import deque
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from interlock.governance.errors import InterlockError, Kind
from interlock.proxy.settings import KiB

MAX_FIELD_BYTES = 32 * KiB
MAX_BARREN_BYTES = 64 * KiB
"""So much may come without any of a body: a head, what comes before it, a trailer."""
MAX_FIELDS = 128
MAX_HELD_BYTES = 64 * KiB
"""So much of a body may wait for whoever reads it before the tool is made to wait."""
FOREVER = float("inf")

Fields = list[tuple[str, str]]


class UpstreamError(InterlockError):
    """There is no answer, or no whole one. `sent` is False only if certainly no byte of the request left.

    `connecting` says that no connection could be made, though the tool's name led to an address.

    Reasons: `destination_refused`, `upstream_unreachable`, `upstream_timeout`, `upstream_reset`, `upstream_invalid`.
    """

    kind = Kind.UNAVAILABLE

    def __init__(self, reason: str, message: str, *, sent: bool, connecting: bool = False) -> None:
        super().__init__(reason, message)
        self.sent = sent
        self.connecting = connecting


class _InvalidAnswerError(Exception):
    """An answer that llhttp takes and we do not. From a callback it comes out of the parser as an error of its own."""


class ToolConnection(asyncio.Protocol):
    """A connection that carries one request after the other. Whoever has it asks and reads; nobody else does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._arrived = select.poll()
        self._parser = HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = FOREVER
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._error: UpstreamError | None = None
        self._asked = self._reusable = self._ends_with_connection = False
        self.idle_since = 0.0
        self._begin("")

    @property
    def usable(self) -> bool:
        """Whether the next request may go this way."""
        return self._reusable and self._transport is not None and not self._transport.is_closing()

    def is_quiet(self) -> bool:
        """Whether nothing has come that the loop has not told of yet: no end, and no answer that nobody asked for,
        which would pass for that to the next request.
        """
        return not self._arrived.poll(0)

    def _begin(self, method: str) -> None:
        self._head_only = method == "HEAD"
        self._barren_bytes = 0
        self.status = 0
        self.headers: Fields = []
        self.content_length: int | None = None
        self._chunked = self._headed = self.complete = False

    def ask(self, method: str, request: bytes) -> None:
        """Writes a request: from here on it may have been read."""
        if self._head_only:
            # llhttp could not be told that no body follows. One that may still expect it is of no use any more.
            self._parser = HttpResponseParser(self)
        self._begin(method)
        self._asked = self._reusable = True
        self._error = None
        if self._transport is None or self._transport.is_closing():
            self._fail("upstream_reset")
        else:
            self._transport.write(request)

    async def head(self, within_s: float) -> None:
        """Returns when the head is there. Errors: UpstreamError."""
        self._due = self._loop.time() + within_s
        self._watch()
        while not self._headed:
            if self._error is not None:
                raise self._error
            await self._wait()
        self._due = FOREVER

    def at_hand(self) -> bytes | None:
        """What has come of the body and is not taken; None if it has not come to its end."""
        return self._take() if self.complete else None

    async def piece(self, within_s: float) -> bytes:
        """The next of the body, all that has come of it; empty at its end. Errors: UpstreamError."""
        while not self._pieces:
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            self._read_on()
            self._due = self._loop.time() + within_s
            self._watch()
            await self._wait()
        self._due = FOREVER
        return self._take()

    def close(self) -> None:
        """Ends the connection, whatever is under way on it."""
        self._reusable = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    def rest(self) -> bool:
        """Whether the connection is free for another request, now that nobody reads the answer any more.

        One that was not read to its end is not: what is left of it must not come before the next answer.
        """
        self._asked = False
        self._read_on()
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self.complete and not self._pieces and self.usable and not unsent

    def _read_on(self) -> None:
        if self._paused and self._transport is not None:
            self._transport.resume_reading()
        self._paused = False

    def _take(self) -> bytes:
        self._held = 0
        whole = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        return whole

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _watch(self) -> None:
        """One timer serves many requests: it looks when the oldest could be due, and again if nothing is."""
        if self._timer is not None and self._timer.when() > self._due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._due == FOREVER:
            return
        if self._loop.time() < self._due:
            self._watch()
        else:
            self._due = FOREVER
            self._fail("upstream_timeout")

    def _fail(self, reason: str) -> None:
        """Breaks off. What has come of the body before can still be read; a whole answer stays one."""
        self._reusable = False
        if not self.complete and self._error is None:
            self._error = UpstreamError(reason, _MESSAGES[reason], sent=True)
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    # What asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._arrived.register(transport.get_extra_info("socket"), select.POLLIN)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # An answer without a length ends with its connection (RFC 9112 6.3), unless that was reset: then it broke off.
        if self._headed and self._ends_with_connection and exc is None and self._error is None:
            self.complete = True
        self._fail("upstream_reset")

    def data_received(self, data: bytes) -> None:
        if not self._asked or self.complete:
            self.close()  # what nobody asked for must not be taken for the next answer
            return
        self._barren_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._fail("upstream_invalid")
            return
        if self._barren_bytes > MAX_BARREN_BYTES:
            self._fail("upstream_invalid")
            return
        if self._held > MAX_HELD_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    # What the parser tells

    def on_message_begin(self) -> None:
        if self.complete:
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head; those of a trailer (RFC 9110 6.5) come after it and are left out."""
        if self._headed:
            return
        if len(name) + len(value) > MAX_FIELD_BYTES or len(self.headers) >= MAX_FIELDS:
            raise _InvalidAnswerError
        # Each byte is the character of its number: so they come out again as they came in.
        field = (name.decode("iso-8859-1"), value.decode("iso-8859-1").rstrip(" \t"))
        self.headers.append(field)
        lower = name.lower()
        if lower == b"content-length":
            self.content_length = int(field[1])
        elif lower == b"transfer-encoding":
            if self._chunked or field[1].lower() != "chunked":
                raise _InvalidAnswerError
            self._chunked = True

    def on_headers_complete(self) -> None:
        if self._headed:
            return
        parser = self._parser
        status, version = parser.get_status_code(), parser.get_http_version()
        if version not in _VERSIONS:
            raise _InvalidAnswerError
        if status in _INTERIM:
            self._skip_interim()
            return
        if not 200 <= status <= 599:
            raise _InvalidAnswerError
        self.status = status
        self._headed = True
        self.complete = self._head_only
        bare = self._head_only or status in (204, 304)
        self._ends_with_connection = not bare and not self._chunked and self.content_length is None
        # Of such an answer's end others may think otherwise, so what follows it could be anything.
        unclear = self._chunked and (version == "1.0" or self._head_only)
        self._reusable = parser.should_keep_alive() and not unclear

    def _skip_interim(self) -> None:
        """An answer before the answer (RFC 9110 15.2)."""
        if self._chunked or self.content_length:
            raise _InvalidAnswerError
        self.headers = []
        self.content_length = None

    def on_body(self, piece: bytes) -> None:
        if self.complete:
            self._reusable = False
            return
        self._barren_bytes = 0
        self._pieces.append(piece)
        self._held += len(piece)

    def on_message_complete(self) -> None:
        if self._headed:
            self.complete = True


_VERSIONS = frozenset({"1.0", "1.1"})
_INTERIM = frozenset({100, 102, 103})
_MESSAGES = {
    "upstream_timeout": "the tool did not answer in time",
    "upstream_invalid": "the tool's answer is not HTTP",
    "upstream_reset": "the tool broke off before its answer was whole",
}
