"""`/v1/alerts` and `/v1/me/alerts`: what was worth telling, where it goes, and what could not be delivered."""

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, StringConstraints, TypeAdapter

from interlock.governance.tool_urls import HTTP_SCHEMES
from interlock.governance.v1 import alerts_pb2 as pb
from interlock.proxy.api.answer import Answer
from interlock.proxy.api.audit import struct_json
from interlock.proxy.api.models import Body
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.queries import ListQuery
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit

MAX_RECIPIENTS = 10
Recipient = Annotated[
    str, StringConstraints(max_length=254, pattern=r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,189}$")
]
ALERT_ID: TypeAdapter[str] = TypeAdapter(Annotated[str, StringConstraints(pattern=r"^alert_[0-9A-Za-z]{22}$")])


class AlertingBody(Body):
    """Where alerts go: what is left out stays as it is."""

    webhook_url: Annotated[str, StringConstraints(max_length=2048)] | None = None
    """Where they are posted, http or https; empty: where the engine's settings say."""
    secret: Annotated[SecretStr, Field(min_length=8, max_length=1024)] | None = None
    """Signs them (Standard Webhooks), best as `whsec_…`; needed with another URL."""
    recipients: Annotated[list[Recipient], Field(max_length=MAX_RECIPIENTS)] | None = None
    """To whom they are mailed; an empty list: whom the engine's settings say."""


class AlertsQuery(ListQuery):
    """Which alerts."""

    state: Literal["waiting", "delivered", "dead"] | None = None
    """Only alerts with a delivery that is; left out: all."""


class Alerting(Answer):
    """Where alerts go. The secret is never shown."""

    webhook_url: str | None
    """Where they are posted; null: see `webhook_is_default`."""
    has_secret: bool
    """Whether there is a secret of the namespace's own."""
    secret_mask: str | None
    """What may be shown of it."""
    recipients: list[str]
    """To whom they are mailed; empty: see `recipients_are_default`."""
    webhook_is_default: bool
    """They are posted where the engine's settings say."""
    recipients_are_default: bool
    """They are mailed to whom the engine's settings say."""
    mail_is_sent: bool
    """Whether there is a mail server at all."""


class AlertDelivery(Answer):
    """How an alert fares on one channel."""

    channel: Literal["webhook", "mail"]
    """The way it goes."""
    state: Literal["waiting", "delivered", "dead"]
    """Whether it is tried again, arrived, or was given up."""
    tries: int
    """So often it was tried."""
    at: str | None
    """When it was tried last, RFC 3339."""
    problem: str | None
    """What the last try failed with."""


class Alert(Answer):
    """Something worth telling."""

    alert_id: str
    """Its id, and the `webhook-id` of every try."""
    kind: Literal["tool_error", "run_failed", "blocked_call", "budget", "anomaly"]
    """What it is about."""
    agent_id: str
    """Whose."""
    tool: str | None
    """The tool, if it is about one."""
    reason: str
    """What it is about, within its kind."""
    count: int
    """So many like events are told in it."""
    first_at: str | None
    """When the first of them was, RFC 3339."""
    last_at: str | None
    """When the last of them was."""
    raised_at: str | None
    """When it was raised."""
    facts: dict[str, Any]
    """Further numbers, by kind."""
    deliveries: list[AlertDelivery]
    """How it fares on each channel that it goes by."""


class Redelivered(Answer):
    """What came of asking for dead letters."""

    ok: bool
    """Always true."""
    redelivered: int
    """So many deliveries are tried again."""


async def put(visit: Visit) -> Alerting:
    body = await visit.body(AlertingBody)
    if body.webhook_url:
        visit.api.destinations.check_url(body.webhook_url, field="webhook_url", schemes=HTTP_SCHEMES)
    asked = pb.PutAlertingRequest(
        webhook_url=body.webhook_url,
        secret=body.secret.get_secret_value() if body.secret is not None else None,
        recipients=pb.Recipients(addresses=body.recipients) if body.recipients is not None else None,
    )
    return alerting_of(await visit.ask(visit.api.alerts.PutAlerting, asked))


async def show(visit: Visit) -> Alerting:
    return alerting_of(await visit.ask(visit.api.alerts.GetAlerting, pb.GetAlertingRequest()))


async def delete(visit: Visit) -> Alerting:
    return alerting_of(await visit.ask(visit.api.alerts.DeleteAlerting, pb.DeleteAlertingRequest()))


async def show_all(visit: Visit) -> list[Alert]:
    query = visit.query(AlertsQuery)
    asked = pb.ListAlertsRequest(state=query.state or "", limit=query.limit)
    return [alert_of(alert) for alert in (await visit.ask(visit.api.alerts.ListAlerts, asked)).alerts]


async def redeliver(visit: Visit) -> Redelivered:
    return await _redelivered(visit, visit.path("alert_id", ALERT_ID))


async def redeliver_all(visit: Visit) -> Redelivered:
    return await _redelivered(visit, "")


OPERATIONS = (
    Operation("GET", "/v1/me/alerts", show, "Show alerting, where alerts go", answer=Alerting, role="viewer"),
    Operation(
        "POST",
        "/v1/me/alerts",
        put,
        "Set alerting, saying where alerts go",
        answer=Alerting,
        body=AlertingBody,
        role="operator",
    ),
    Operation(
        "DELETE",
        "/v1/me/alerts",
        delete,
        "Reset alerting, to where the engine's settings say",
        answer=Alerting,
        role="operator",
    ),
    Operation(
        "GET", "/v1/alerts", show_all, "List alerts, newest first", answer=list[Alert], query=AlertsQuery, role="viewer"
    ),
    Operation(
        "POST",
        "/v1/alerts/redeliver",
        redeliver_all,
        "Redeliver all alerts, of which letters are dead",
        answer=Redelivered,
        role="operator",
    ),
    Operation(
        "POST",
        "/v1/alerts/{alert_id}/redeliver",
        redeliver,
        "Redeliver an alert, its dead letters",
        answer=Redelivered,
        role="operator",
    ),
)


async def _redelivered(visit: Visit, alert_id: str) -> Redelivered:
    asked = pb.RedeliverAlertsRequest(alert_id=alert_id)
    return Redelivered(ok=True, redelivered=(await visit.ask(visit.api.alerts.RedeliverAlerts, asked)).redelivered)


def alerting_of(told: pb.Alerting) -> Alerting:
    return Alerting(
        webhook_url=told.webhook_url or None,
        has_secret=bool(told.secret_mask),
        secret_mask=told.secret_mask or None,
        recipients=list(told.recipients),
        webhook_is_default=told.webhook_is_default,
        recipients_are_default=told.recipients_are_default,
        mail_is_sent=told.mail_is_sent,
    )


def alert_of(alert: pb.Alert) -> Alert:
    return Alert.model_validate(
        {
            "alert_id": alert.alert_id,
            "kind": alert.kind,
            "agent_id": alert.agent_id,
            "tool": alert.tool or None,
            "reason": alert.reason,
            "count": alert.count,
            "first_at": rfc3339(alert.first_at_ms),
            "last_at": rfc3339(alert.last_at_ms),
            "raised_at": rfc3339(alert.raised_at_ms),
            "facts": struct_json(alert.facts),
            "deliveries": [_delivery(delivery) for delivery in alert.deliveries],
        }
    )


def _delivery(delivery: pb.AlertDelivery) -> dict[str, object]:
    return {
        "channel": delivery.channel,
        "state": delivery.state,
        "tries": delivery.tries,
        "at": rfc3339(delivery.at_ms),
        "problem": delivery.problem or None,
    }
