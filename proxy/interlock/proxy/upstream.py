"""The way out: one request to a tool, sent exactly as given and at most once.

All that knows the HTTP client is in this file. No redirect is followed, nothing is decompressed, remembered or sent
again; the pieces of an answer are passed on as they arrive.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from types import SimpleNamespace
from typing import cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError
from yarl import URL

from interlock.governance.errors import InterlockError, InvalidRequestError, Kind
from interlock.proxy.destinations import DestinationRefusedError, Destinations
from interlock.proxy.settings import KiB

_MAX_FIELD_BYTES = 32 * KiB
# Shorter than the 5 s after which Node and uvicorn hang up: a request must not cross with the end of its connection.
_KEEP_ALIVE_S = 4.0
_NOT_ADDED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_FAILURES = (aiohttp.ClientError, HttpProcessingError, OSError)  # a time-out is an OSError


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What to send; Host and Content-Length are added. `timeout_s` bounds the wait for the head, then each piece.

    `why_not` is asked when the connection stands and the first byte is about to leave: if it gives a reason, none does.
    """

    method: str
    url: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    timeout_s: float
    why_not: Callable[[], str] = str


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


class UpstreamAnswer:
    """The head of a tool's answer, and its body yet to be read. `content_length` is as stated, also if none follows."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = [(_text(name), _text(value)) for name, value in response.raw_headers]
        self.content_length = response.content_length

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in the pieces it comes in. Errors: UpstreamError."""
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except _FAILURES as error:
            raise _failure(error, sent=True) from error


class Upstream:
    """The connections to all tools. To be started and closed in the loop it is used in."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._session: aiohttp.ClientSession

    async def start(self) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_before_first_byte)
        trace.on_dns_resolvehost_start.append(_before_resolving)
        trace.on_dns_resolvehost_end.append(_after_resolving)
        connector = aiohttp.TCPConnector(
            resolver=self._destinations.resolver(), limit=0, keepalive_timeout=_KEEP_ALIVE_S
        )
        ours = partial(_Connection, loop=asyncio.get_running_loop())
        connector._factory = cast("partial[ResponseHandler]", ours)  # noqa: SLF001 - as below
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_ADDED,
            auto_decompress=False,
            max_line_size=_MAX_FIELD_BYTES,
            max_field_size=_MAX_FIELD_BYTES,
            trace_configs=[trace],
        )
        # Else aiohttp sends a GET, PUT or DELETE once more when a kept connection turns out to be dead.
        self._session._retry_connection = False  # noqa: SLF001 - it has no public switch; a test holds it

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def send(self, request: UpstreamRequest) -> AsyncIterator[UpstreamAnswer]:
        """Sends a request and gives its answer once the head is there. Errors: UpstreamError.

        Leaving, or being cancelled, before the body is read to its end closes the connection.
        """
        progress = SimpleNamespace(sent=False, resolving=False, why_not=request.why_not)
        try:
            response = await self._request(request, progress)
        except InvalidRequestError as error:
            raise UpstreamError(error.reason, error.message, sent=False) from error
        except _HeldBackError as error:
            raise UpstreamError(str(error), "the call was stopped before it was sent", sent=False) from error
        except _FAILURES as error:
            raise _failure(error, sent=progress.sent, resolving=progress.resolving) from error
        except ValueError as error:  # refused while the head was being put together
            raise UpstreamError("upstream_invalid", "the request cannot be put into HTTP", sent=False) from error
        try:
            if not 200 <= response.status <= 599:  # RFC 9110 15; the client itself has skipped 100 and 103
                raise UpstreamError("upstream_invalid", "the tool's answer has no final status", sent=True)
            yield UpstreamAnswer(response)
        finally:
            response.close()

    async def _request(self, request: UpstreamRequest, progress: SimpleNamespace) -> aiohttp.ClientResponse:
        self._destinations.check_url(request.url)  # addresses never come to the resolver
        async with asyncio.timeout(request.timeout_s):
            return await self._session.request(
                request.method,
                URL(request.url, encoded=True),
                headers=request.headers,
                data=BytesIO(request.body) if request.body else None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_read=request.timeout_s),
                trace_request_ctx=progress,
            )


class _Connection(ResponseHandler):
    """An answer without a length ends with its connection (RFC 9112 6.3), unless that was reset: then it broke off.
    aiohttp takes the one for the other.
    """

    def connection_lost(self, exc: BaseException | None) -> None:
        body = self._payload
        if exc is not None and body is not None and not body.is_eof():
            body.set_exception(aiohttp.ClientConnectionResetError(str(exc)))
        super().connection_lost(exc)


class _HeldBackError(Exception):
    """The reason why a request may not go out any more."""


async def _before_first_byte(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    """Awaited by the client before it writes, whatever the event's name says; a test holds it to that."""
    if why_not := context.trace_request_ctx.why_not():
        raise _HeldBackError(why_not)
    context.trace_request_ctx.sent = True


async def _before_resolving(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceDnsResolveHostStartParams
) -> None:
    context.trace_request_ctx.resolving = True


async def _after_resolving(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceDnsResolveHostEndParams
) -> None:
    """Not told where it fails."""
    context.trace_request_ctx.resolving = False


def _failure(error: Exception, *, sent: bool, resolving: bool = False) -> UpstreamError:
    """What a failure of the client means. As long as nothing is sent, all but a refusal comes to the same."""
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, DestinationRefusedError):
        return UpstreamError("destination_refused", str(error.os_error), sent=False)
    if not sent:
        return UpstreamError("upstream_unreachable", "the tool cannot be reached", sent=False, connecting=not resolving)
    if isinstance(error, TimeoutError):
        return UpstreamError("upstream_timeout", "the tool did not answer in time", sent=True)
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return UpstreamError("upstream_invalid", "the tool's answer is not HTTP", sent=True)
    return UpstreamError("upstream_reset", "the tool broke off before its answer was whole", sent=True)


def _text(raw: bytes) -> str:
    """A header field's bytes, each as the character of its number: so they come out again as they came in."""
    return raw.decode("iso-8859-1")
