"""The Alerts service."""

import json
import re
from dataclasses import replace

import structlog
from google.protobuf.struct_pb2 import Struct

from interlock.governance.errors import InvalidRequestError, NotFoundError
from interlock.governance.tool_urls import HTTP_SCHEMES, problem_of_address, problem_of_url
from interlock.governance.v1 import alerts_pb2 as pb
from interlock.governance.v1 import alerts_pb2_grpc
from interlock.policy import access
from interlock.policy.alert_ports import Destination, Listed, Outbox
from interlock.policy.alert_settings import MAX_RECIPIENTS, MAX_SECRET, MIN_SECRET, RECIPIENT, AlertSettings
from interlock.policy.alerts import Delivery, DeliveryState
from interlock.policy.delivering import owner_of
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Identity, Role
from interlock.policy.secrets import Keyring, mask_of
from interlock.policy.services.paging import limit_of
from interlock.policy.services.rpc import Caller, rpc

log = structlog.get_logger(__name__)

MAX_URL = 2048
MAX_LISTED, DEFAULT_LISTED = 1000, 100
ALERT_ID = re.compile(r"alert_[0-9A-Za-z]{22}", re.ASCII)
_RECIPIENT = re.compile(RECIPIENT, re.ASCII)


class AlertsService(alerts_pb2_grpc.AlertsServicer):
    """Alerts, where they go, and dead letters."""

    def __init__(
        self, outbox: Outbox, knowledge: Knowledge, keyring: Keyring, settings: AlertSettings, *, allow_loopback: bool
    ) -> None:
        self._outbox = outbox
        self._knowledge = knowledge
        self._keyring = keyring
        self._settings = settings
        self._allow_loopback = allow_loopback

    @rpc
    async def PutAlerting(self, request: pb.PutAlertingRequest, caller: Caller) -> pb.Alerting:  # noqa: N802 - the contract's name
        identity = await self._operator(caller)
        before = await self._outbox.destination(identity.namespace)
        after = self._changed(identity.namespace, before, request)
        await self._put(identity, after if after != Destination() else None)
        return self._shown(after)

    @rpc
    async def GetAlerting(self, request: pb.GetAlertingRequest, caller: Caller) -> pb.Alerting:  # noqa: N802, ARG002 - the contract's name and shape
        identity = await self._viewer(caller)
        return self._shown(await self._outbox.destination(identity.namespace))

    @rpc
    async def DeleteAlerting(self, request: pb.DeleteAlertingRequest, caller: Caller) -> pb.Alerting:  # noqa: N802, ARG002 - the contract's name and shape
        await self._put(await self._operator(caller), None)
        return self._shown(Destination())

    @rpc
    async def ListAlerts(self, request: pb.ListAlertsRequest, caller: Caller) -> pb.ListAlertsResponse:  # noqa: N802 - the contract's name
        identity = await self._viewer(caller)
        limit = limit_of(request.limit, default=DEFAULT_LISTED, most=MAX_LISTED)
        listed = await self._outbox.listed(identity.namespace, _state_of(request.state), limit)
        return pb.ListAlertsResponse(alerts=[alert_message(one) for one in listed])

    @rpc
    async def RedeliverAlerts(self, request: pb.RedeliverAlertsRequest, caller: Caller) -> pb.RedeliverAlertsResponse:  # noqa: N802 - the contract's name
        identity = await self._operator(caller)
        if request.alert_id and not ALERT_ID.fullmatch(request.alert_id):
            raise InvalidRequestError("invalid_request", "an alert's id is alert_…", field="alert_id")
        moved = await self._outbox.redeliver(identity.namespace, request.alert_id)
        if request.alert_id and not moved:
            raise NotFoundError("alert_not_dead", "there is no dead letter of that alert")
        log.info("alerts.redelivered", namespace=identity.namespace, key_id=identity.key_id, deliveries=moved)
        return pb.RedeliverAlertsResponse(redelivered=moved)

    async def _operator(self, caller: Caller) -> Identity:
        identity = await self._knowledge.authenticate(caller.credential)
        access.require(identity, Role.OPERATOR)
        return identity

    async def _viewer(self, caller: Caller) -> Identity:
        identity = await self._knowledge.authenticate(caller.credential)
        access.require(identity, Role.VIEWER)
        return identity

    async def _put(self, identity: Identity, destination: Destination | None) -> None:
        named = destination or Destination()
        facts = {
            "key_id": identity.key_id,
            # Of a URL, what stands in its query may be a secret.
            "webhook_url": named.webhook_url.partition("?")[0],
            "recipients": len(named.recipients),
        }
        await self._outbox.put_destination(identity.namespace, destination, json.dumps(facts))
        log.info("alerting.set", namespace=identity.namespace, **facts)

    def _changed(self, namespace: str, before: Destination, request: pb.PutAlertingRequest) -> Destination:
        """Errors: InvalidRequestError `invalid_alerting`."""
        after = before
        if request.HasField("webhook_url"):
            after = self._at(before, request.webhook_url, has_secret=request.HasField("secret"))
        if request.HasField("secret"):
            after = self._signed(namespace, after, request.secret)
        if request.HasField("recipients"):
            after = replace(after, recipients=_recipients(request.recipients))
        if after.webhook_url and after.secret is None:
            raise _invalid("secret", "a webhook needs a secret that signs what is posted to it")
        return after

    def _at(self, before: Destination, url: str, *, has_secret: bool) -> Destination:
        if not url:
            return Destination(recipients=before.recipients)
        if len(url) > MAX_URL or (problem := problem_of_url(url, self._problem_of_address, HTTP_SCHEMES)):
            message = "it is too long" if len(url) > MAX_URL else problem
            raise _invalid("webhook_url", f"this URL is refused: {message}")
        if url != before.webhook_url and not has_secret:
            # Who may change where alerts go must not be able to have them signed with what another knows.
            raise _invalid("secret", "another URL needs its secret with it")
        return replace(before, webhook_url=url)

    def _signed(self, namespace: str, after: Destination, secret: str) -> Destination:
        if not after.webhook_url:
            raise _invalid("webhook_url", "a secret belongs to a webhook")
        if not MIN_SECRET <= len(secret) <= MAX_SECRET:
            raise _invalid("secret", f"a secret has {MIN_SECRET}-{MAX_SECRET} characters")
        return replace(after, secret=self._keyring.seal(secret, owner_of(namespace)), secret_mask=mask_of(secret))

    def _problem_of_address(self, address: object, port: int) -> str | None:  # noqa: ARG002 - what ports are ours is known to who connects
        return problem_of_address(address, allow_loopback=self._allow_loopback)  # type: ignore[arg-type] # an address, as `problem_of_url` gives it

    def _shown(self, own: Destination) -> pb.Alerting:
        default = self._settings.webhook
        smtp = self._settings.smtp
        by_default = not own.webhook_url and default is not None
        return pb.Alerting(
            webhook_url=own.webhook_url,
            secret_mask=own.secret_mask,
            recipients=own.recipients,
            webhook_is_default=by_default,
            recipients_are_default=not own.recipients and smtp is not None and bool(smtp.recipients),
            mail_is_sent=smtp is not None,
        )


def alert_message(listed: Listed) -> pb.Alert:
    alert = listed.alert
    facts = Struct()
    facts.update(alert.facts)  # type: ignore[arg-type] # they are JSON, as a Struct takes it
    return pb.Alert(
        alert_id=alert.alert_id,
        kind=alert.kind,
        agent_id=alert.agent_id,
        tool=alert.tool,
        reason=alert.reason,
        count=alert.count,
        first_at_ms=alert.first_at_ms,
        last_at_ms=alert.last_at_ms,
        raised_at_ms=alert.raised_at_ms,
        facts=facts,
        deliveries=[_delivery_message(delivery) for delivery in listed.deliveries],
    )


def _delivery_message(delivery: Delivery) -> pb.AlertDelivery:
    return pb.AlertDelivery(
        channel=delivery.channel,
        state=delivery.state,
        tries=delivery.tries,
        at_ms=delivery.at_ms,
        problem=delivery.problem,
    )


def _recipients(given: pb.Recipients) -> tuple[str, ...]:
    addresses = tuple(dict.fromkeys(given.addresses))
    if len(addresses) > MAX_RECIPIENTS:
        raise _invalid("recipients", f"there are at most {MAX_RECIPIENTS} recipients")
    for address in addresses:
        if not _RECIPIENT.fullmatch(address):
            raise _invalid("recipients", "a recipient is a bare address: name@host")
    return addresses


def _state_of(name: str) -> DeliveryState | None:
    try:
        return DeliveryState(name) if name else None
    except ValueError as error:
        raise InvalidRequestError("invalid_request", "state is waiting, delivered or dead", field="state") from error


def _invalid(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_alerting", message, field=field)
