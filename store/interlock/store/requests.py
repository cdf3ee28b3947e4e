"""How many requests a namespace makes: the Requests port."""

from interlock.policy.account_ports import Admission
from interlock.store import keys
from interlock.store.connection import Connection


class RedisRequests:
    """Requests in Redis, counted in the slot of their namespace."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    async def admit(self, namespace: str, limit: int, attempt: str = "") -> Admission:
        at = [keys.of_namespace(namespace, "requests"), keys.of_namespace(namespace, "request", attempt)]
        at.append(keys.of_namespace(namespace, "state"))
        admitted, retry_after_ms = (await self._redis.run("admit_request", at, [limit, int(bool(attempt))]))[0]
        return Admission(admitted == b"1", int(retry_after_ms))
