"""What namespaces want to be told of, and what they have used: the Accounts port."""

from collections.abc import Sequence

from interlock.policy.account_ports import KindCounts, MonthCounts, NotificationChanges, Notifications
from interlock.policy.model import Scope
from interlock.store import keys
from interlock.store.connection import Connection
from interlock.store.pipe import Argument
from interlock.store.replies import unix_ms

COUNTED = ("make", "requests:make", "blocked:make", "leases", "requests:ai", "blocked:ai", "polling")
PREFERENCES = ("email", "tool_errors", "run_failures")


class RedisAccounts:
    """Accounts in Redis, each in the slot of its namespace."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    async def month(self, namespace: str) -> MonthCounts:
        agents = keys.of_namespace(namespace, "agents")
        time_reply, members = await self._redis.ask("usage", ("TIME",), ("ZRANGE", agents, 0, -1))
        at_ms = unix_ms(time_reply)
        month = keys.month_of(at_ms)
        fields = (*(f"{name}:{month}" for name in COUNTED), month)
        by_agent = (f"m:{month}", f"m:{month}:b", f"m:{month}:r")
        scopes = [Scope(namespace, member.decode()) for member in members]
        own, *counted = await self._redis.ask(
            "usage",
            ("HMGET", keys.of_namespace(namespace, "usage"), *fields),
            *(("HMGET", keys.of_agent(scope, "days"), *by_agent) for scope in scopes),
        )
        made, made_asked, made_blocked, leased, leased_asked, leased_blocked, polls, reserved = _numbers(own)
        rows = [_numbers(row) for row in counted]
        through, refused, replayed = (sum(column) for column in zip(*rows, strict=True)) if rows else (0, 0, 0)
        return MonthCounts(
            month=month,
            at_ms=at_ms,
            make=KindCounts(made, made_asked, made_blocked),
            leases=KindCounts(leased, leased_asked, leased_blocked),
            calls=KindCounts(through, through + refused + replayed, refused),
            polls=polls,
            reserved=reserved,
        )

    async def notifications(self, namespace: str) -> Notifications:
        at = keys.of_namespace(namespace, "notifications")
        (kept,) = await self._redis.ask("notifications", ("HMGET", at, *PREFERENCES))
        return _notifications(kept)

    async def set_notifications(self, namespace: str, changes: NotificationChanges, *, facts: str) -> Notifications:
        at = [keys.of_namespace(namespace, part) for part in ("notifications", "state", "audit")]
        asked = (changes.email, changes.tool_errors, changes.run_failures)
        args: list[Argument] = ["*" if wanted is None else int(wanted) for wanted in asked]
        return _notifications((await self._redis.run("set_notifications", at, [*args, facts]))[0])


def _numbers(values: Sequence[bytes | None]) -> list[int]:
    return [int(value or 0) for value in values]


def _notifications(kept: Sequence[bytes | None]) -> Notifications:
    """All that was never set is wanted."""
    return Notifications(*(value != b"0" for value in kept))
