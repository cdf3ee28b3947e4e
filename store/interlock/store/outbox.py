"""Alerts that were raised, and their deliveries: the Outbox port."""

from collections.abc import Sequence

from interlock.policy.alert_ports import Destination, Due, Listed
from interlock.policy.alerts import Channel, Delivery, DeliveryState
from interlock.store import keys
from interlock.store.connection import Connection
from interlock.store.pipe import Argument
from interlock.store.watched import (
    alert_from_json,
    delivery_from_json,
    delivery_to_json,
    destination_from_json,
    destination_to_json,
)

REDELIVERED_AT_ONCE = 1000
LOOKED_THROUGH = 1000
"""Alerts are read so many at a time where only some of them are wanted."""


class RedisOutbox:
    """The outbox in Redis, each namespace's in its slot."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    async def destination(self, namespace: str) -> Destination:
        (kept,) = await self._redis.ask("alerting", ("GET", keys.of_namespace(namespace, "alerting")))
        return destination_from_json(kept)

    async def put_destination(self, namespace: str, destination: Destination | None, facts: str) -> None:
        at = [keys.of_namespace(namespace, "alerting"), *keys.of_change(namespace)]
        document = destination_to_json(destination) if destination is not None else ""
        await self._redis.run("put_alerting", at, [document, facts, keys.CHANGED_CHANNEL, namespace])

    async def take(self, namespaces: Sequence[str], limit: int, claim_ms: int) -> Sequence[Due]:
        if not namespaces:
            return []
        runs: list[tuple[list[str], list[Argument]]] = [
            (_at(namespace, "outbox", "alerts", "deliveries"), [limit, claim_ms]) for namespace in namespaces
        ]
        replies = await self._redis.run_all("take_deliveries", runs)
        return [
            Due(namespace, alert_from_json(alert), delivery_from_json(_channel(member), delivery))
            for namespace, taken in zip(namespaces, replies, strict=True)
            for member, alert, delivery in zip(taken[::3], taken[1::3], taken[2::3], strict=True)
        ]

    async def conclude(self, due: Due, delivery: Delivery, again_in_ms: int) -> bool:
        at = _at(due.namespace, "outbox", "dead", "alerts", "deliveries")
        alert_id = due.alert.alert_id
        member = _member(alert_id, delivery.channel)
        args: list[Argument] = [alert_id, member, delivery.state, again_in_ms, delivery_to_json(delivery)]
        return bool((await self._redis.run("conclude_delivery", at, args))[0])

    async def listed(self, namespace: str, state: DeliveryState | None, limit: int) -> Sequence[Listed]:
        found: list[Listed] = []
        first = 0
        size = limit if state is None else LOOKED_THROUGH
        while len(found) < limit:
            page = await self._page(namespace, first, size)
            found += [one for one in page if state is None or any(of.state is state for of in one.deliveries)]
            if len(page) < size:
                break
            first += size
        return found[:limit]

    async def redeliver(self, namespace: str, alert_id: str) -> int:
        at, moved = _at(namespace, "outbox", "dead", "alerts", "deliveries"), 0
        while True:
            (some,) = await self._redis.run("redeliver", at, [alert_id, REDELIVERED_AT_ONCE])
            moved += int(some)
            if alert_id or int(some) < REDELIVERED_AT_ONCE:
                return moved

    async def _page(self, namespace: str, first: int, size: int) -> list[Listed]:
        alerted, alerts, deliveries = _at(namespace, "alerted", "alerts", "deliveries")
        (members,) = await self._redis.ask("alerts", ("ZREVRANGE", alerted, first, first + size - 1))
        if not members:
            return []
        of_each = [_member(member.decode(), channel) for member in members for channel in Channel]
        documents, states = await self._redis.ask(
            "alerts", ("HMGET", alerts, *members), ("HMGET", deliveries, *of_each)
        )
        each = len(Channel)
        return [
            Listed(
                alert_from_json(document),
                tuple(
                    delivery_from_json(channel, state)
                    for channel, state in zip(Channel, states[at * each : (at + 1) * each], strict=True)
                    if state is not None
                ),
            )
            for at, document in enumerate(documents)
            if document is not None
        ]


def _at(namespace: str, *parts: str) -> list[str]:
    found = keys.of_alerts(namespace)
    return [found[part] for part in parts]


def _member(alert_id: str, channel: Channel) -> str:
    return f"{alert_id}|{channel}"


def _channel(member: bytes) -> str:
    return member.decode().rpartition("|")[2]
