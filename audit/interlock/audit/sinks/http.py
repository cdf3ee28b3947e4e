"""Events by HTTP, in the batched format of CloudEvents' HTTP binding (`application/cloudevents-batch+json`).

A 2xx acknowledges a batch. 400, 413 and 422 refuse it for good: it is then sent in smaller pieces, down to the event
that is meant. Everything else, redirects too, means: later.
"""

import asyncio
import base64
import hashlib
import hmac
import math
import ssl
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime

import httpx

from interlock.audit.ports import SinkRefusedError, SinkUnavailableError
from interlock.audit.settings import WHSEC, HttpSettings

CONTENT_TYPE = "application/cloudevents-batch+json"
REFUSALS = frozenset({400, 413, 422})
MAX_ANSWER_BYTES = 65_536
"""More of an answer is not read; nobody needs it."""
MAX_RETRY_AFTER_S = 300.0


class HttpSink:
    """One receiver."""

    name = "http"

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._client: httpx.AsyncClient | None = None

    @property
    def batch_max_events(self) -> int:
        return self._settings.batch_max_events

    async def deliver(self, lines: Sequence[bytes]) -> None:
        body = b"[" + b",".join(lines) + b"]"
        try:
            async with asyncio.timeout(self._settings.timeout_ms / 1000):
                status, headers = await self._post(body)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # TimeoutError is an OSError
            raise SinkUnavailableError(f"{self._settings.shown_url}: {type(error).__name__}") from error
        if status in REFUSALS:
            raise SinkRefusedError(f"{self._settings.shown_url} answered {status}")
        if not 200 <= status < 300:
            raise SinkUnavailableError(
                f"{self._settings.shown_url} answered {status}", retry_after_s(headers, time.time())
            )

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str]]:
        if self._client is None:
            self._client = _client(self._settings)
        headers = {"Content-Type": CONTENT_TYPE, **_proofs(self._settings, body)}
        async with self._client.stream("POST", self._settings.url, content=body, headers=headers) as answer:
            read = 0
            async for piece in answer.aiter_raw():
                read += len(piece)
                if read > MAX_ANSWER_BYTES:
                    break
            return answer.status_code, answer.headers


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """`Retry-After` in seconds (RFC 9110, section 10.2.3), no more than five minutes; None if it says nothing."""
    value = headers.get("Retry-After", "").strip()
    try:
        wait = float(value) if value.isascii() and value.isdecimal() else parsedate_to_datetime(value).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(wait) else None


def _client(settings: HttpSettings) -> httpx.AsyncClient:
    verify: ssl.SSLContext | bool = True
    if settings.tls_ca_file is not None:
        verify = ssl.create_default_context(cafile=settings.tls_ca_file)
    # What a batch may take is timed as a whole.
    return httpx.AsyncClient(timeout=None, follow_redirects=False, verify=verify)  # noqa: S113 - see above


def _proofs(settings: HttpSettings, body: bytes) -> dict[str, str]:
    """What shows the receiver that a batch is ours."""
    headers = {}
    if settings.bearer_token is not None:
        headers["Authorization"] = f"Bearer {settings.bearer_token.get_secret_value()}"
    if settings.hmac_secret is not None:
        headers |= webhook_headers(settings.hmac_secret.get_secret_value(), body, int(time.time()))
    return headers


def webhook_headers(secret: str, body: bytes, now: int) -> dict[str, str]:
    """Standard Webhooks, https://www.standardwebhooks.com: the id names the batch, the same whenever it is sent."""
    key = base64.b64decode(secret.removeprefix(WHSEC)) if secret.startswith(WHSEC) else secret.encode()
    batch_id = f"batch_{hashlib.sha256(body).hexdigest()[:32]}"
    digest = hmac.digest(key, b"%s.%d.%s" % (batch_id.encode(), now, body), "sha256")
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": batch_id, "webhook-timestamp": str(now), "webhook-signature": signature}
