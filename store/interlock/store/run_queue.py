"""Keyed runs that wait and that are worked on: the RunQueue port.

A namespace's queue is a Redis stream with one consumer group, in the slot of the namespace and so of its leases. Which
namespaces have a queue to look at is told by an index above them, written beside the entry: only a hint, which
`recover` makes good should it be lost.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from interlock.policy.ports import Reservation
from interlock.policy.run_ports import Assumed, Begun, Due, Entry, Foreseen, Granted, Holding, Kept, RunName
from interlock.store import keys
from interlock.store.connection import Connection
from interlock.store.pipe import Argument, Command
from interlock.store.replies import pairs, unix_ms

OUTCOME = "outcome:"


class RedisRunQueue:
    """The queue in Redis."""

    def __init__(self, connection: Connection, backlog_cap: int) -> None:
        self._redis = connection
        self._backlog_cap = backlog_cap

    async def due(self, limit: int, claim_ms: int) -> Due:
        (reply,) = await self._redis.run("take_queues", [_index()], [limit, claim_ms])
        return Due(tuple(name.decode() for name in reply[1]), int(reply[0]))

    async def schedule(self, namespace: str, due: Due, in_ms: int | None) -> None:
        when = -1 if in_ms is None else in_ms
        await self._redis.run("schedule_queue", [_index()], [namespace, due.again_ms, when])

    async def recover(self) -> None:
        (members,) = await self._redis.ask("namespaces", ("SMEMBERS", keys.of_namespace(keys.WORLD, "namespaces")))
        names = [member.decode() for member in members]
        if not names:
            return
        lengths = await self._redis.ask("queues", *(("XLEN", keys.of_namespace(name, "queue")) for name in names))
        waiting = [name for name, length in zip(names, lengths, strict=True) if length]
        if waiting:
            await self._redis.ask("queues", *(("ZADD", _index(), "NX", 0, name) for name in waiting))

    async def take(self, namespace: str, worker: str, lease_ms: int) -> Entry:
        (reply,) = await self._redis.run("take_run", [keys.of_namespace(namespace, "queue")], [worker, lease_ms])
        entry, digest, waiting = reply
        return Entry(entry.decode(), RunName(namespace, digest.decode()) if digest else None, int(waiting))

    async def begin(self, entry: Entry, token: str, worker: str, lease_ms: int) -> Begun | None:
        if entry.run is None:
            return None
        (reply,) = await self._redis.run("begin_run", _run(entry.run), [entry.id, token, worker, lease_ms])
        if reply[0] != b"BEGUN":
            return None
        _, plan, done, lost, kept_bytes = reply
        return Begun(plan, int(done), int(lost), int(kept_bytes))

    async def renew(self, holding: Holding, lease_ms: int) -> bool:
        return await self._renew(holding, lease_ms, "", b"")

    async def checkpoint(self, holding: Holding, lease_ms: int, index: int, outcome: bytes) -> bool:
        return await self._renew(holding, lease_ms, str(index), outcome)

    async def _renew(self, holding: Holding, lease_ms: int, index: str, outcome: bytes) -> bool:
        args: list[Argument] = [holding.token, lease_ms, index, outcome]
        return bool((await self._redis.run("renew_run", _run(holding.run), args))[0])

    async def give_back(self, holding: Holding) -> bool:
        _, work, queue = _run(holding.run)
        beside = announcements(holding.run.namespace)
        return bool((await self._redis.run("return_run", [work, queue], [holding.token], beside))[0])

    async def kept(self, holding: Holding) -> Kept | None:
        (fields,) = await self._redis.ask("kept", ("HGETALL", _run(holding.run)[1]))
        kept = pairs(fields)
        if kept.get("token", b"").decode() != holding.token:
            return None
        outcomes = {int(name[len(OUTCOME) :]): value for name, value in kept.items() if name.startswith(OUTCOME)}
        return Kept(kept["plan"], outcomes)

    async def finish(self, holding: Holding, *, result: bytes, result_hash: str, error_code: str) -> bool:
        status = "failed" if error_code else "completed"
        announced = (keys.LEASES_CHANNEL, holding.run.digest)
        args: list[Argument] = [holding.token, status, result, result_hash, error_code, *announced]
        beside = (keys.of_namespace(holding.run.namespace, part) for part in ("state", "failures"))
        at = [*_run(holding.run), *beside]
        return bool((await self._redis.run("finish_run", at, args))[0])

    async def granted(self, holding: Holding) -> Granted | None:
        read = ("HMGET", _run(holding.run)[1], "token", "until", "agent", "key_address")
        time_reply, (token, until, agent, address) = await self._redis.ask("granted", ("TIME",), read)
        if token is None or token.decode() != holding.token or int(until) <= unix_ms(time_reply):
            return None
        return Granted(agent.decode(), address.decode())

    async def foresee(self, reservation: Reservation, assumed: Assumed) -> Foreseen:
        scope, limits = reservation.scope, reservation.limits
        at = [keys.of_agent(scope, part) for part in ("config", f"call:{reservation.key}", "minutes", "days", "state")]
        args: list[Argument] = [
            reservation.tool,
            reservation.switch_reason,
            reservation.rule_reason,
            reservation.quota_reason,
            limits.cost_micros,
            limits.actions_per_hour,
            limits.calls_of_tool,
            limits.spend_micros_per_day,
            assumed.actions,
            assumed.tool_calls,
            assumed.spend_micros,
            self._backlog_cap,
        ]
        ((verdict, reason, charged, version),) = await self._redis.run("foresee", at, args)
        return Foreseen(verdict.decode(), reason.decode(), int(charged), int(version))

    @asynccontextmanager
    async def queued(self) -> AsyncIterator[AsyncIterator[None]]:
        async with self._redis.subscription(keys.QUEUED_CHANNEL) as messages:
            yield (None async for _ in messages)


def announcements(namespace: str) -> tuple[Command, ...]:
    """What is said beside a run that is queued: that its queue is to be looked at now."""
    return (("ZADD", _index(), 0, namespace), ("PUBLISH", keys.QUEUED_CHANNEL, namespace))


def _index() -> str:
    return keys.of_namespace(keys.WORLD, "queues")


def _run(name: RunName) -> list[str]:
    """Lease, work and queue: a run's keys in every script."""
    at = (("lease", name.digest), ("work", name.digest), ("queue",))
    return [keys.of_namespace(name.namespace, *parts) for parts in at]
