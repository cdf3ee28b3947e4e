"""The way in: reads a request whole, and writes an answer exactly as given. All of aiohttp's server that calls see."""

import socket
import struct
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11

from interlock.governance.errors import InvalidRequestError
from interlock.proxy.call import Headers, Incoming
from interlock.proxy.outcomes import has_no_body
from interlock.proxy.request_errors import BodyTooLargeError

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing then resets."""
CONTINUE = "100-continue"
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)


async def incoming_of(request: web.Request, max_body_bytes: int) -> Incoming:
    """The request, read whole. Errors: those of `read_body`."""
    return Incoming(
        method=request.method,
        target=request.raw_path,
        headers=tuple(request.headers.items()),
        body=await read_body(request, max_body_bytes),
        request_id=request[REQUEST_ID],
    )


async def read_body(request: web.Request, max_body_bytes: int) -> bytes:
    """The body, whole. Errors: `body_too_large` as soon as it is known, `invalid_body` if it breaks off,
    and what the connection makes of a body that stops coming.
    """
    if (request.content_length or 0) > max_body_bytes:
        raise BodyTooLargeError(max_body_bytes)
    body = bytearray()
    try:
        await _let_come(request)
        async for piece in request.content.iter_any():
            body += piece
            if len(body) > max_body_bytes:
                raise BodyTooLargeError(max_body_bytes)
    except (web.RequestPayloadError, ConnectionError) as error:
        raise InvalidRequestError("invalid_body", "the body broke off, or its framing is broken") from error
    return bytes(body)


async def _let_come(request: web.Request) -> None:
    """Tells a client that waits for it to send its body (RFC 9110 10.1.1)."""
    if request.version >= HttpVersion11 and request.headers.get(hdrs.EXPECT, "").lower() == CONTINUE:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer, which has not begun


class ExactAnswer(web.StreamResponse):
    """An answer whose fields are those given: aiohttp's own would give a tool's answer a Server and a Content-Type.

    With a `body` it leaves at once; without, piece by piece.
    """

    def __init__(self, status: int, headers: Headers, body: bytes | None = None) -> None:
        super().__init__(status=status)
        for name, value in headers:
            self.headers.add(name, value)
        self._whole = body

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Writes the head, with all of the body if that is known."""
        if self.prepared:
            return self._payload_writer
        self._req = request
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        writer = self._payload_writer = request.writer
        chunked = self._frame(request)
        bare = has_no_body(request.method, self.status)
        await writer.write(self._head(request) + (b"" if bare else self._whole or b""))
        if chunked:
            writer.enable_chunking()
        return writer

    def _frame(self, request: web.BaseRequest) -> bool:
        """Settles how the body ends (RFC 9112 6.3): by its length, by a last chunk (True), or with the connection."""
        headers = self.headers
        if has_no_body(request.method, self.status):
            if self.status == HTTPStatus.NO_CONTENT:
                headers.popall(hdrs.CONTENT_LENGTH, None)
        elif self._whole is not None:
            headers[hdrs.CONTENT_LENGTH] = str(len(self._whole))
        elif hdrs.CONTENT_LENGTH not in headers:
            if request.version >= HttpVersion11:
                headers[hdrs.TRANSFER_ENCODING] = "chunked"
                return True
            self._keep_alive = False
        return False

    def _head(self, request: web.BaseRequest) -> bytes:
        if not self._keep_alive:
            self.headers[hdrs.CONNECTION] = "close"
        elif request.version < HttpVersion11:
            self.headers[hdrs.CONNECTION] = "keep-alive"
        # RFC 9110 6.6.1: who passes an answer on dates it, if its origin did not.
        self.headers.setdefault(hdrs.DATE, formatdate(usegmt=True))
        lines = [f"HTTP/1.{request.version.minor} {self.status} {self.reason}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("iso-8859-1")

    def break_off(self) -> None:
        """Ends the answer short of its end, so that the agent can tell: the connection closes without a last byte."""
        request, self._eof_sent, self._keep_alive = self._req, True, False
        by_connection = hdrs.CONTENT_LENGTH not in self.headers and hdrs.TRANSFER_ENCODING not in self.headers
        if by_connection and request is not None and request.transport is not None:
            # Where closing is the end, only a reset tells that it is not.
            request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            request.transport.abort()
