"""Posts alerts and mails them, for the engine that decides which. Implements its port."""

import asyncio
import math
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from http import HTTPStatus
from pathlib import Path

import aiosmtplib
import structlog

from interlock.governance.errors import InvalidRequestError
from interlock.governance.letters import Mail, Post, Sent
from interlock.governance.tool_urls import HTTP_SCHEMES
from interlock.proxy.destinations import Destinations
from interlock.proxy.outcomes import retry_after_s
from interlock.proxy.settings import KiB
from interlock.proxy.signing import webhook_headers
from interlock.proxy.upstream import Upstream, UpstreamAnswer, UpstreamError, UpstreamRequest

log = structlog.get_logger(__name__)

JSON = "application/json"
MAX_ANSWER_BYTES = 64 * KiB
"""More of a receiver's answer is not read: nothing in it matters but its status."""
MAX_RETRY_AFTER_S = 3600
NO_MAIL = Sent(problem="no mail server is set up", gone=True)


@dataclass(frozen=True, slots=True)
class MailServer:
    """A mail server and how it is spoken to. `password` gives the password when it is needed: it may have changed."""

    host: str
    port: int
    security: str
    sender: str
    timeout_s: float
    username: str | None = None
    password: Callable[[], str] = str
    tls_ca_file: Path | None = None


class AlertCourier:
    """Ways to whoever is to be told."""

    def __init__(
        self, upstream: Upstream, destinations: Destinations, *, post_timeout_s: float, server: MailServer | None
    ) -> None:
        self._upstream = upstream
        self._destinations = destinations
        self._post_timeout_s = post_timeout_s
        self._server = server

    async def post(self, post: Post) -> Sent:
        """One try. Anything but a 2xx is none; 410 says that no other is wanted (Standard Webhooks)."""
        try:
            self._destinations.check_url(post.url, schemes=HTTP_SCHEMES)
            async with asyncio.timeout(self._post_timeout_s), self._upstream.send(self._request(post)) as answer:
                await _read(answer)
                return _sent(answer)
        except InvalidRequestError as error:
            return Sent(problem=error.message, gone=True)
        except UpstreamError as error:
            return Sent(problem=error.reason)
        except TimeoutError:
            return Sent(problem="upstream_timeout")

    async def mail(self, mail: Mail) -> Sent:
        """One try. A server that refuses for good (5xx) is asked again all the same: it may be set up meanwhile."""
        if self._server is None:
            return NO_MAIL
        try:
            async with asyncio.timeout(self._server.timeout_s):
                refused = await _handed_over(self._server, _message(mail, self._server.sender), mail.recipients)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:  # TimeoutError is an OSError
            return Sent(problem=_problem(error))
        if refused:
            # The others have it, and would have it again with every further try.
            log.warning("alert.recipients_refused", alert_id=mail.message_id, recipients=len(refused))
        return Sent()

    def _request(self, post: Post) -> UpstreamRequest:
        signed = webhook_headers(post.webhook_id, post.body, [post.secret], int(time.time()))
        return UpstreamRequest("POST", post.url, [("Content-Type", JSON), *signed], post.body, self._post_timeout_s)


async def _read(answer: UpstreamAnswer) -> None:
    read = 0
    async for piece in answer.chunks():
        read += len(piece)
        if read > MAX_ANSWER_BYTES:
            return


def _sent(answer: UpstreamAnswer) -> Sent:
    if 200 <= answer.status < 300:
        return Sent()
    asked = retry_after_s(tuple(answer.headers), datetime.now(UTC)) or 0.0
    after_ms = math.ceil(min(asked, MAX_RETRY_AFTER_S) * 1000)
    return Sent(f"status {answer.status}", after_ms, gone=answer.status == HTTPStatus.GONE)


async def _handed_over(server: MailServer, message: EmailMessage, recipients: tuple[str, ...]) -> dict[str, object]:
    """Those of the recipients that the server refused."""
    refused, _ = await aiosmtplib.send(
        message,
        sender=server.sender,
        recipients=list(recipients),
        hostname=server.host,
        port=server.port,
        username=server.username,
        password=server.password() if server.username else None,
        local_hostname="localhost",
        use_tls=server.security == "tls",
        start_tls=server.security == "starttls",
        tls_context=_context(server) if server.security != "none" else None,
        timeout=server.timeout_s,
    )
    return dict(refused)


def _context(server: MailServer) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=server.tls_ca_file)


def _message(mail: Mail, sender: str) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = ", ".join(mail.recipients)
    message["Subject"] = mail.subject
    # RFC 5322 3.6.4: a mail that comes twice is known by it.
    message["Message-ID"] = f"<{mail.message_id}@{sender.rpartition('@')[2]}>"
    message["Date"] = datetime.now(UTC)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday is to answer it
    width = max(map(len, mail.lines), default=0)
    message.set_content("".join(f"{name:<{width}}  {value}\n" for name, value in mail.lines.items()))
    return message


def _problem(error: Exception) -> str:
    """Of what a server says, the code is enough: its text may hold anything."""
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{type(error).__name__} {error.code}"
    return type(error).__name__
