"""Tokens of tools that want OAuth 2.0 client credentials (RFC 6749 4.4): fetched once for all calls, kept in memory
alone, renewed before they end, and given up when a tool refuses them.

A token endpoint that fails is left alone for a while, and longer each time; a token that still holds is used meanwhile.
"""

import asyncio
import json
import random
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated
from urllib.parse import quote_plus, urlencode, urlsplit

import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError

from interlock.governance.tasks import end
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.metrics import Metrics
from interlock.proxy.outcomes import retry_after_s
from interlock.proxy.settings import KiB
from interlock.proxy.upstream import Upstream, UpstreamError, UpstreamRequest

log = structlog.get_logger()

UNAVAILABLE = "credential_unavailable"
REFUSED = "credential_refused"

DEFAULT_SCHEME = "Bearer"
MAX_ANSWER_BYTES = 64 * KiB
MAX_CLIENTS = 1024
UNSTATED_LIFE_S = 300.0
"""For a token whose endpoint does not say how long it holds: RFC 6749 5.1 only recommends that it does."""
MAX_LIFE_S = 24 * 3600.0
RENEWED_S = 60.0
"""So long before its end a token is renewed, but at most a fifth of its life."""
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0
PROBATION_S = 10.0
"""A token that replaced a refused one is not given up for so long: a tool that refuses every token costs no more."""
# RFC 6749 5.2, and what of 4.1.2.1 endpoints answer here. No other word of theirs enters the log.
_ERRORS = frozenset(
    (
        *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client"),
        *("unsupported_grant_type", "invalid_scope", "invalid_target", "access_denied"),
        *("server_error", "temporarily_unavailable"),
    )
)


@dataclass(slots=True, eq=False)
class Token:
    """A token as its tool is shown it. Times are monotonic seconds."""

    value: str = field(repr=False)
    renew_at: float
    until: float
    obtained_at: float
    replaces_refused: bool = False
    accepted: bool = False


class NoTokenError(Exception):
    """There is no token. `reason` is `credential_unavailable`, or `credential_refused`, which the next try would meet
    again; `retry_after_s` says when it is worth one.
    """

    def __init__(self, reason: str, retry_after_s: float | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


def _whole_seconds(value: object) -> object:
    """Some endpoints write the number as a text."""
    return float(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


class _Answer(BaseModel):
    """What is read of an endpoint's answer (RFC 6749 5.1)."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    access_token: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,16384}$")] = Field(repr=False)
    token_type: str | None = None
    expires_in: Annotated[FiniteFloat | None, BeforeValidator(_whole_seconds)] = None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a fetch brought no token. `cause` is for the log, and holds nothing that an endpoint wrote."""

    reason: str
    cause: str
    status: int = 0
    pause_s: float = 0.0


class _Client:
    """One client at one endpoint: its token, the fetch under way, and how it went before."""

    __slots__ = ("failed", "failures", "fetching", "rests_until", "token")

    def __init__(self) -> None:
        self.token: Token | None = None
        self.fetching: asyncio.Task[Token | None] | None = None
        self.failed = UNAVAILABLE
        self.failures = 0
        self.rests_until = 0.0

    def failed_with(self, failure: _Failure, now: float) -> None:
        self.failures += 1
        self.failed = failure.reason
        pause_s = FIRST_PAUSE_S * 2.0 ** min(self.failures - 1, 10)
        pause_s = min(LAST_PAUSE_S, max(pause_s, failure.pause_s))
        self.rests_until = now + pause_s * random.uniform(0.8, 1.0)  # noqa: S311 - no secret hangs on it

    def took(self, token: Token) -> None:
        self.token, self.failures, self.rests_until = token, 0, 0.0


class Tokens:
    """The tokens of all tools of a sidecar. To be closed in the loop it is used in."""

    def __init__(
        self, upstream: Upstream, metrics: Metrics, *, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._upstream = upstream
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._clock = clock
        # By all that a token depends on: a changed secret or scope is another client.
        self._clients: OrderedDict[bytes, _Client] = OrderedDict()
        self._fetches: set[asyncio.Task[Token | None]] = set()

    async def token(self, wanted: pb.OAuth2ClientCredentials, tool: str) -> Token:
        """A token that holds. Who asks while it is being fetched waits for the same. Errors: NoTokenError."""
        client, now = self._client(wanted), self._clock()
        held = client.token
        if held is not None and now < held.renew_at:
            return held
        fetching = self._fetching(client, wanted, tool)
        if held is not None and now < held.until:
            return held  # it is renewed meanwhile
        fetched = await asyncio.shield(fetching) if fetching is not None else None
        if fetched is None:
            rests_s = max(0.0, client.rests_until - self._clock())
            raise NoTokenError(client.failed, rests_s if client.failed == UNAVAILABLE else None)
        return fetched

    async def instead_of(self, refused: Token, wanted: pb.OAuth2ClientCredentials, tool: str) -> Token | None:
        """A newer token than this one, which the tool did not accept; None if there is none to be had now."""
        client = self._client(wanted)
        if client.token is not None and client.token is not refused:
            return client.token  # another call has seen to it
        young = self._clock() - refused.obtained_at < PROBATION_S
        if refused.replaces_refused and not refused.accepted and young:
            return None
        fetching = self._fetching(client, wanted, tool, replaces_refused=True)
        return await asyncio.shield(fetching) if fetching is not None else None

    async def close(self) -> None:
        await end(*self._fetches)

    def _client(self, wanted: pb.OAuth2ClientCredentials) -> _Client:
        key = wanted.SerializeToString(deterministic=True)
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = _Client()
        self._clients.move_to_end(key)
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)
        return client

    def _fetching(
        self, client: _Client, wanted: pb.OAuth2ClientCredentials, tool: str, *, replaces_refused: bool = False
    ) -> "asyncio.Task[Token | None] | None":
        """The fetch under way, if need be a new one, in a task of its own: who waits for it may leave. None while the
        endpoint is left alone.
        """
        if client.fetching is None and self._clock() >= client.rests_until:
            fetch = self._fetch(client, wanted, tool, replaces_refused)
            client.fetching = asyncio.create_task(fetch, name="token-fetch")
            self._fetches.add(client.fetching)
            client.fetching.add_done_callback(self._fetches.discard)
        return client.fetching

    async def _fetch(
        self, client: _Client, wanted: pb.OAuth2ClientCredentials, tool: str, replaces_refused: bool
    ) -> Token | None:
        began = self._clock()
        try:
            answer = await self._ask(wanted)
        finally:
            client.fetching = None
        if isinstance(answer, _Failure):
            client.failed_with(answer, self._clock())
            self._tell(wanted, tool, answer)
            return None
        self._metrics.token_fetched(tool, "ok")
        token = _token(answer, began, replaces_refused=replaces_refused)
        client.took(token)
        return token

    def _tell(self, wanted: pb.OAuth2ClientCredentials, tool: str, failure: _Failure) -> None:
        self._metrics.token_fetched(tool, "refused" if failure.reason == REFUSED else "unavailable")
        log.warning(
            "credential.fetch_failed",
            tool=tool,
            host=urlsplit(wanted.token_url).hostname,
            reason=failure.reason,
            cause=failure.cause,
            status=failure.status or None,
        )

    async def _ask(self, wanted: pb.OAuth2ClientCredentials) -> "_Answer | _Failure":
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._upstream.send(_request(wanted, self._timeout_s)) as answer,
            ):
                body = bytearray()
                async for piece in answer.chunks():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        return _Failure(UNAVAILABLE, "answer_too_large", answer.status)
                return _judged(wanted, answer.status, tuple(answer.headers), bytes(body))
        except TimeoutError:
            return _Failure(UNAVAILABLE, "timeout")
        except UpstreamError as error:
            return _Failure(UNAVAILABLE, error.reason)


def scheme_of(wanted: pb.OAuth2ClientCredentials) -> str:
    """What stands before the token in its header; empty for nothing."""
    return wanted.scheme if wanted.HasField("scheme") else DEFAULT_SCHEME


def _token(answer: _Answer, began: float, *, replaces_refused: bool) -> Token:
    """A token with its times, counted from before it was asked for. Renewals are spread: sidecars start together."""
    stated = answer.expires_in
    life_s = UNSTATED_LIFE_S if stated is None else min(max(stated, 0.0), MAX_LIFE_S)
    early_s = min(RENEWED_S, life_s / 5) * random.uniform(1.0, 1.5)  # noqa: S311 - no secret hangs on it
    return Token(
        value=answer.access_token,
        renew_at=began + life_s - early_s,
        until=began + life_s - min(5.0, life_s / 10),
        obtained_at=began,
        replaces_refused=replaces_refused,
    )


def _request(wanted: pb.OAuth2ClientCredentials, timeout_s: float) -> UpstreamRequest:
    """RFC 6749 4.4.2; the client shows its secret as 2.3.1 has it."""
    form = {"grant_type": "client_credentials", **dict(sorted(wanted.params.items()))}
    form |= {name: value for name in ("scope", "audience") if (value := getattr(wanted, name))}
    headers = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),
        ("User-Agent", "interlock"),
    ]
    if wanted.client_auth == pb.CLIENT_AUTH_POST:
        form |= {"client_id": wanted.client_id, "client_secret": wanted.client_secret}
    else:
        pair = f"{quote_plus(wanted.client_id)}:{quote_plus(wanted.client_secret)}"
        headers.append(("Authorization", f"Basic {b64encode(pair.encode()).decode()}"))
    return UpstreamRequest("POST", wanted.token_url, headers, urlencode(form).encode(), timeout_s)


def _judged(
    wanted: pb.OAuth2ClientCredentials, status: int, headers: tuple[tuple[str, str], ...], body: bytes
) -> _Answer | _Failure:
    if status != HTTPStatus.OK:
        return _failure(status, headers, body)
    try:
        answer = _Answer.model_validate_json(body)
    except ValidationError:
        return _Failure(UNAVAILABLE, "answer_malformed", status)
    kind = (answer.token_type or "bearer").lower()
    if scheme_of(wanted).lower() == "bearer" and not kind.startswith("bearer"):  # RFC 6749 7.1
        return _Failure(REFUSED, "token_type_not_bearer", status)
    return answer


def _failure(status: int, headers: tuple[tuple[str, str], ...], body: bytes) -> _Failure:
    if 300 <= status < 400:
        return _Failure(UNAVAILABLE, "redirect", status)
    if status in (400, 401, 403):
        return _Failure(REFUSED, _error_code(body), status)
    return _Failure(UNAVAILABLE, "error_status", status, pause_s=retry_after_s(headers, datetime.now(UTC)) or 0.0)


def _error_code(body: bytes) -> str:
    """The endpoint's `error` (RFC 6749 5.2), if it is one that is known."""
    try:
        code = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "refused"
    return code if isinstance(code, str) and code in _ERRORS else "refused"
