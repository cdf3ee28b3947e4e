"""What namespaces use of what their plans limit: the Quotas port."""

from interlock.policy.model import Scope
from interlock.policy.ports import RunReservation
from interlock.store import keys
from interlock.store.connection import Connection
from interlock.store.replies import unix_ms

USED_TTL_MS = 130_000
"""A run that is used up is known a little longer than its attempt, which asks for none again."""


class RedisQuotas:
    """Quotas in Redis. What a plan limits is counted in the namespace's slot, all else by its agents."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    async def reserve_run(self, scope: Scope, attempt_id: str, limit: int) -> RunReservation:
        at = [*_run_keys(scope, attempt_id), keys.of_namespace(scope.namespace, "state")]
        granted, used, at_ms = (await self._redis.run("reserve_run", at, [limit]))[0]
        return RunReservation(granted == b"1", int(used), int(at_ms))

    async def release_run(self, scope: Scope, attempt_id: str) -> None:
        await self._redis.run("release_run", _run_keys(scope, attempt_id), [])

    async def use_run(self, scope: Scope, attempt_id: str) -> None:
        _, run = _run_keys(scope, attempt_id)
        await self._redis.ask("use_run", ("SET", run, "used", "XX", "PX", USED_TTL_MS))

    async def used_runs(self, namespace: str) -> int:
        (time_reply,) = await self._redis.ask("used_runs", ("TIME",))
        month = keys.month_of(unix_ms(time_reply))
        (used,) = await self._redis.ask("used_runs", ("HGET", keys.of_namespace(namespace, "usage"), month))
        return int(used or 0)


def _run_keys(scope: Scope, attempt_id: str) -> list[str]:
    return [
        keys.of_namespace(scope.namespace, "usage"),
        keys.of_namespace(scope.namespace, "run", scope.agent_id, attempt_id),
    ]
