"""ASGI middleware: only calls that are provably Interlock's reach the app."""

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from interlock.client.errors import SignatureError
from interlock.client.signatures.verification import MAX_AGE_S, Family, VerifiedCall, verify_signature

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 1024 * 1024
SCOPE_KEY = "interlock.call"
"""Where the app finds the VerifiedCall: `request.scope["interlock.call"]`."""


class SignatureMiddleware:
    """Answers 401 to calls whose signature does not hold, 413 to bodies over `max_body_bytes`; the app sees neither.

    The body is read whole before the app is called, and passed on as it was. `origin` (`https://tools.example`) is what
    the tool's registered URL begins with, where a proxy stands in between and the app sees another. Websockets cannot
    be signed, and are refused.
    """

    def __init__(
        self,
        app: App,
        secrets: str | Sequence[str],
        *,
        family: Family = Family.RFC_9421,
        max_age_s: float = MAX_AGE_S,
        max_body_bytes: int = MAX_BODY_BYTES,
        origin: str | None = None,
    ) -> None:
        self._app = app
        self._secrets = [secrets] if isinstance(secrets, str) else list(secrets)
        if not self._secrets or not all(self._secrets):
            raise ValueError("a call is verified under at least one secret, and none may be empty")
        self._family = family
        self._max_age_s = max_age_s
        self._max_body_bytes = max_body_bytes
        self._origin = origin.rstrip("/") if origin else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "unsigned"})
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive, self._max_body_bytes)
        if body is None:
            return
        if len(body) > self._max_body_bytes:
            await _refuse(send, 413, "body_too_large", f"the body is over {self._max_body_bytes} bytes")
            return
        try:
            scope[SCOPE_KEY] = verified(scope, body, self._secrets, self._family, self._max_age_s, self._origin)
        except SignatureError as error:
            await _refuse(send, 401, error.reason, error.message)
            return
        await self._app(scope, _again(body, receive), send)


def verified(
    scope: Scope, body: bytes, secrets: Sequence[str], family: Family, max_age_s: float, origin: str | None
) -> VerifiedCall:
    """The VerifiedCall of an ASGI request. Errors: SignatureError."""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    url = called_url(scope, dict(headers), origin)
    return verify_signature(secrets, headers, body, method=scope["method"], url=url, family=family, max_age_s=max_age_s)


def called_url(scope: Scope, headers: MutableMapping[str, str], origin: str | None) -> str:
    """The URL as the sidecar called it, byte for byte: the path is not decoded."""
    path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    query = scope.get("query_string", b"").decode("latin-1")
    begun = origin or f"{scope.get('scheme', 'http')}://{headers.get('host', '').lower()}"
    return f"{begun}{path.partition('?')[0]}{'?' if query else ''}{query}"


async def read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or the beginning of one that is over the limit, or None if the caller went away."""
    body = bytearray()
    while len(body) <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body once more, and then what comes after it."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def _refuse(send: Send, status: int, reason: str, detail: str) -> None:
    """A problem document (RFC 9457)."""
    told = {"type": f"https://interlock.dev/problems/{reason}", "status": status, "reason": reason, "detail": detail}
    body = json.dumps(told).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Signature"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
