"""Receivers of alerts: a webhook that verifies what comes with the standardwebhooks library, and a mail server."""

import asyncio
import json
from email import message_from_bytes
from email.message import Message
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from standardwebhooks import Webhook

from tests.interlock_dev import free_port

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class AlertReceiver:
    """Takes alerts, and answers as it is told to."""

    def __init__(self, secret: str = SECRET) -> None:
        self.port = free_port()
        self.status = 204
        self.headers: dict[str, str] = {}
        self.hangs = False
        self.alerts: list[dict[str, Any]] = []
        self.tried: list[str] = []
        self._webhook = Webhook(secret)
        self._arrived = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/alerts"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/alerts", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def until(self, count: int, kind: str = "", within_s: float = 20) -> list[dict[str, Any]]:
        """Waits for so many alerts of a kind that were taken."""
        async with asyncio.timeout(within_s), self._arrived:
            await self._arrived.wait_for(lambda: len(self.of(kind)) >= count)
        return self.of(kind)

    async def until_tried(self, count: int, within_s: float = 20) -> list[str]:
        """Waits for so many tries, whatever was answered; their webhook-ids."""
        async with asyncio.timeout(within_s), self._arrived:
            await self._arrived.wait_for(lambda: len(self.tried) >= count)
        return self.tried

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [alert for alert in self.alerts if kind in ("", alert["kind"])]

    async def _take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        # Raises, and so answers 500, if the signature is not ours.
        told = self._webhook.verify(raw, {name.lower(): value for name, value in request.headers.items()})
        assert told == json.loads(raw)
        assert told["data"]["alert_id"] == request.headers["webhook-id"]
        assert told["type"] == f"alert.{told['data']['kind']}"
        async with self._arrived:
            self.tried.append(request.headers["webhook-id"])
            if 200 <= self.status < 300 and not self.hangs:
                self.alerts.append(told["data"])
            self._arrived.notify_all()
        if self.hangs:
            await asyncio.sleep(60)
        return web.Response(status=self.status, headers=self.headers)


class MailServer:
    """Takes mail, if need be only after STARTTLS and a login."""

    def __init__(self, *, login: tuple[str, str] | None = None, **tls: Any) -> None:
        self.mails: list[Message] = []
        self.recipients: list[list[str]] = []
        self.logins: list[str] = []
        self.refuses = ""
        self._login = login
        needs = {"auth_required": True, "authenticator": self._authenticated} if login else {}
        self._controller = Controller(self, hostname="127.0.0.1", port=free_port(), **needs, **tls)

    @property
    def port(self) -> int:
        return int(self._controller.port)

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._controller.stop()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name and shape
        if self.refuses:
            return self.refuses
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content))
        self.recipients.append(envelope.rcpt_tos)
        return "250 OK"

    def _authenticated(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        name, password = data.login.decode(), data.password.decode()
        self.logins.append(name)
        return AuthResult(success=(name, password) == self._login, handled=False)
