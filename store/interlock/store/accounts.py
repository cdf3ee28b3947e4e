"""What namespaces want to be told of: the Accounts port."""

from collections.abc import Sequence

from interlock.policy.account_ports import NotificationChanges, Notifications
from interlock.store import keys
from interlock.store.connection import Connection
from interlock.store.pipe import Argument

PREFERENCES = ("email", "tool_errors", "run_failures")


class RedisAccounts:
    """Accounts in Redis, each in the slot of its namespace."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    async def notifications(self, namespace: str) -> Notifications:
        at = keys.of_namespace(namespace, "notifications")
        (kept,) = await self._redis.ask("notifications", ("HMGET", at, *PREFERENCES))
        return _notifications(kept)

    async def set_notifications(self, namespace: str, changes: NotificationChanges, *, facts: str) -> Notifications:
        at = [keys.of_namespace(namespace, part) for part in ("notifications", "state", "audit")]
        asked = (changes.email, changes.tool_errors, changes.run_failures)
        args: list[Argument] = ["*" if wanted is None else int(wanted) for wanted in asked]
        return _notifications((await self._redis.run("set_notifications", at, [*args, facts]))[0])


def _notifications(kept: Sequence[bytes | None]) -> Notifications:
    """All that was never set is wanted."""
    return Notifications(*(value != b"0" for value in kept))
