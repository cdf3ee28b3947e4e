"""Delivering alerts: each is tried until it arrives or its tries are used up, and is then a dead letter.

What is tried is claimed for a while, so of several engines one tries it; one that is killed meanwhile leaves it to be
tried again under the same id.
"""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import structlog

from interlock.governance.errors import InterlockError
from interlock.governance.letters import Mail, Post, Sent
from interlock.governance.tasks import end
from interlock.governance.times import rfc3339
from interlock.policy.alert_ports import AlertRecorder, Courier, Destination, Due, Outbox
from interlock.policy.alert_settings import AlertSettings
from interlock.policy.alerts import Alert, Channel, Delivery, DeliveryState
from interlock.policy.secrets import Keyring

log = structlog.get_logger(__name__)

AT_ONCE = 32
"""So many deliveries are tried at a time."""
OF_NAMESPACE = 8
"""And so many of one namespace are taken at once: a receiver that hangs holds up no other's."""
CLAIM_MARGIN_MS = 5_000
GROWTH = 4
MAX_PROBLEM = 200
NOWHERE = Sent(problem="nobody is named any more to whom it could go", gone=True)


class Dispatcher:
    """Tries what is due."""

    def __init__(
        self, outbox: Outbox, courier: Courier, keyring: Keyring, settings: AlertSettings, recorder: AlertRecorder
    ) -> None:
        self._outbox = outbox
        self._courier = courier
        self._keyring = keyring
        self._settings = settings
        self._recorder = recorder
        self._trying: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """What is being tried is left: it is tried again when its claim is over."""
        await end(*self._trying)

    async def look(self, namespaces: Sequence[str]) -> int:
        """Begins to try what is due, as far as there is room; how much that was. Errors: UnavailableError."""
        room = min(OF_NAMESPACE, AT_ONCE - len(self._trying))
        if room <= 0:
            return 0
        taken = await self._outbox.take(namespaces, room, self._claim_ms())
        for due in taken:
            task = asyncio.create_task(self._try(due), name="alert delivery")
            self._trying.add(task)
            task.add_done_callback(self._trying.discard)
        return len(taken)

    def _claim_ms(self) -> int:
        smtp = self._settings.smtp
        longest = max(self._settings.webhook_timeout_ms, smtp.timeout_ms if smtp else 0)
        return longest + CLAIM_MARGIN_MS

    async def _try(self, due: Due) -> None:
        try:
            await self._deliver(due)
        except InterlockError as error:
            log.warning("alert.not_delivered", alert_id=due.alert.alert_id, reason=error.reason)
        except Exception:
            log.exception("alert.not_delivered", alert_id=due.alert.alert_id)

    async def _deliver(self, due: Due) -> None:
        sent = await self._send(due.alert, due.delivery.channel, await self._outbox.destination(due.namespace))
        tries = due.delivery.tries + 1
        state = state_after(sent, tries, self._settings.max_tries)
        again_in_ms = max(pause_ms(tries, self._settings), min(sent.retry_after_ms, self._settings.last_pause_ms))
        tried = Delivery(due.delivery.channel, state, tries, _now_ms(), sent.problem[:MAX_PROBLEM])
        await self._outbox.conclude(due, tried, again_in_ms)
        outcome = "failed" if state is DeliveryState.WAITING else str(state)
        self._recorder.alert_tried(due.delivery.channel, outcome)
        write = log.info if state is DeliveryState.DELIVERED else log.warning
        write(
            "alert.tried",
            alert_id=due.alert.alert_id,
            channel=str(due.delivery.channel),
            outcome=outcome,
            tries=tries,
            problem=tried.problem,
        )

    async def _send(self, alert: Alert, channel: Channel, destination: Destination) -> Sent:
        if channel is Channel.WEBHOOK:
            post = self._post(alert, destination)
            return await self._courier.post(post) if post is not None else NOWHERE
        recipients = destination.recipients or (tuple(self._settings.smtp.recipients) if self._settings.smtp else ())
        return await self._courier.mail(mail_of(alert, recipients)) if recipients and self._settings.smtp else NOWHERE

    def _post(self, alert: Alert, destination: Destination) -> Post | None:
        """Errors: InternalError `secret_unreadable`."""
        if destination.webhook_url and destination.secret is not None:
            secret = self._keyring.open(destination.secret, owner_of(alert.namespace))
            return Post(alert.alert_id, destination.webhook_url, secret, body_of(alert))
        webhook = self._settings.webhook
        if webhook is None:
            return None
        return Post(alert.alert_id, webhook.url, webhook.secret.get_secret_value(), body_of(alert))


def owner_of(namespace: str) -> str:
    """What the secret of a namespace's webhook belongs to."""
    return f"alerting:{namespace}"


def state_after(sent: Sent, tries: int, max_tries: int) -> DeliveryState:
    if not sent.problem:
        return DeliveryState.DELIVERED
    return DeliveryState.DEAD if sent.gone or tries >= max_tries else DeliveryState.WAITING


def pause_ms(tries: int, settings: AlertSettings) -> int:
    """After so many tries. Jittered, so that what failed together is not tried again together."""
    pause: int = min(settings.last_pause_ms, settings.first_pause_ms * GROWTH ** (tries - 1))
    return round(pause * random.uniform(0.8, 1.2))  # noqa: S311 - no secret hangs on it


def body_of(alert: Alert) -> bytes:
    """What is posted: https://www.standardwebhooks.com has `type`, `timestamp` and `data`."""
    return json.dumps(
        {"type": f"alert.{alert.kind}", "timestamp": rfc3339(alert.raised_at_ms), "data": _data(alert)},
        separators=(",", ":"),
    ).encode()


def mail_of(alert: Alert, recipients: tuple[str, ...]) -> Mail:
    about = f"{alert.agent_id} {alert.tool}".strip()
    times = f" (x{alert.count})" if alert.count > 1 else ""
    subject = f"[interlock] {alert.kind.replace('_', ' ')}: {about}: {alert.reason}{times}"
    data = _data(alert)
    facts = data.pop("facts")
    lines = {name: str(value) for name, value in data.items() if value is not None}
    if isinstance(facts, Mapping):
        lines |= {f"facts.{name}": str(value) for name, value in facts.items()}
    return Mail(alert.alert_id, recipients, subject, lines)


def _data(alert: Alert) -> dict[str, object]:
    return {
        "alert_id": alert.alert_id,
        "kind": str(alert.kind),
        "namespace": alert.namespace,
        "agent_id": alert.agent_id,
        "tool": alert.tool or None,
        "reason": alert.reason,
        "count": alert.count,
        "first_at": rfc3339(alert.first_at_ms),
        "last_at": rfc3339(alert.last_at_ms),
        "facts": dict(alert.facts),
    }


def _now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)
