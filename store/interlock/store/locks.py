"""Locks and leases: the Locks port, each method one script on the namespace's slot."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from interlock.policy.lock_ports import (
    AcquiredWord,
    After,
    Completion,
    Dequeued,
    Held,
    Lease,
    LeaseStatus,
    LeaseWord,
    LockWord,
    Named,
    Queued,
    Shown,
    Wanted,
)
from interlock.policy.model import Scope
from interlock.store import keys
from interlock.store.connection import Connection
from interlock.store.pipe import Argument, Command
from interlock.store.run_queue import announcements

MAX_QUEUED = 10_000
"""So many runs of a namespace may wait or be worked on."""
TOLD = 9
"""So many values tell of a lease: include/lease.lua."""


class RedisLocks:
    """Locks and leases in Redis."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    async def check(self, wanted: Wanted) -> LockWord:
        args = [*_wanted_args(wanted), wanted.named.key, wanted.named.owner.agent_id, wanted.metadata]
        reply, *after = await self._redis.run(
            "check_lock", [_lock(wanted.named), *_counted(wanted.named)], args, _reads_after(wanted.named.owner)
        )
        word, ttl, first_seen, used, month = reply
        return LockWord(word.decode(), int(ttl), int(first_seen), int(used), month.decode(), _after(after))

    async def withdraw_lock(self, wanted: Wanted, month: str) -> None:
        at = [_lock(wanted.named), keys.of_namespace(wanted.named.owner.namespace, "usage")]
        await self._redis.run("withdraw_lock", at, [wanted.token, month])

    async def acquire(self, wanted: Wanted) -> AcquiredWord:
        named = wanted.named
        kind = "lease" if wanted.run is None else "run"
        args = [*_wanted_args(wanted), named.key, named.digest, named.owner.agent_id, kind, wanted.metadata]
        # Of a lease nobody else hears; that a run is queued is said right behind it.
        beside = [] if wanted.run is None else announcements(named.owner.namespace)
        at = [_lease(named), *_counted(named), *_queue(named)]
        reads = _reads_after(named.owner)
        reply, *replies = await self._redis.run("acquire_lease", at, [*args, *_run_args(wanted.run)], [*reads, *beside])
        after = replies[: len(reads)]
        lease_id, charged, used, month, took_over = reply[TOLD:]
        return AcquiredWord(
            word=reply[0].decode(),
            lease=_told(reply),
            lease_id=lease_id.decode(),
            charged=int(charged),
            used=int(used),
            month=month.decode(),
            took_over=took_over == b"1",
            after=_after(after),
        )

    async def cancel_run(self, named: Named, reason: str) -> tuple[LeaseWord, Dequeued]:
        at = [_lease(named), *_queue(named), keys.of_namespace(named.owner.namespace, "state")]
        (reply,) = await self._redis.run("cancel_run", at, [reason, *_announced(named)])
        return LeaseWord(reply[0].decode(), _told(reply)), _dequeued(reply[TOLD:])

    async def withdraw_lease(self, wanted: Wanted, month: str) -> Dequeued | None:
        namespace = wanted.named.owner.namespace
        counted = (keys.of_namespace(namespace, part) for part in ("usage", "state"))
        at = [_lease(wanted.named), *counted, *_queue(wanted.named)]
        args: list[Argument] = [wanted.token, month, int(wanted.limit >= 0), *_announced(wanted.named)]
        ((withdrawn, *was),) = await self._redis.run("withdraw_lease", at, args)
        return _dequeued(was) if withdrawn else None

    async def extend(self, held: Held, switch_reason: str, ttl_ms: int, most_ms: int) -> LeaseWord:
        args: list[Argument] = [held.epoch, switch_reason, *_shown_by(held), ttl_ms, most_ms]
        return await self._act("extend_lease", held, args)

    async def complete(self, held: Held, completion: Completion) -> LeaseWord:
        result = (int(completion.result is not None), completion.result or b"")
        args: list[Argument] = [held.epoch, *_shown_by(held), *result, completion.result_hash, completion.proof]
        return await self._act("complete_lease", held, [*args, *_announced(held.named)])

    async def fail(self, held: Held, error_code: str, error_hash: str) -> LeaseWord:
        args: list[Argument] = [held.epoch, *_shown_by(held), error_code, error_hash, *_announced(held.named)]
        return await self._act("fail_lease", held, args, "failures")

    async def cancel(self, held: Held, reason: str) -> LeaseWord:
        args: list[Argument] = [held.epoch, *_shown_by(held), reason, *_announced(held.named)]
        return await self._act("cancel_lease", held, args)

    async def show(self, named: Named, *, with_result: bool) -> Shown:
        reply, world, namespace = await self._redis.run(
            "show_lease", [_lease(named)], [int(with_result)], keys.epoch_reads(named.owner.namespace)
        )
        result = reply[TOLD] if len(reply) > TOLD else None
        return Shown(_told(reply), result, int(world or 0), int(namespace or 0))

    async def running(self, scope: Scope, call_id: str) -> int:
        (reply,) = await self._redis.run("show_lease", [keys.of_namespace(scope.namespace, "lease", call_id)], [0])
        return int(reply[4])

    @asynccontextmanager
    async def settled(self) -> AsyncIterator[AsyncIterator[str]]:
        async with self._redis.subscription(keys.LEASES_CHANNEL) as messages:
            yield (message.decode() async for message in messages)

    async def _act(self, script: str, held: Held, args: Sequence[Argument], *parts: str) -> LeaseWord:
        namespace = held.named.owner.namespace
        at = [_lease(held.named), *(keys.of_namespace(namespace, part) for part in ("state", "epoch", *parts))]
        (reply,) = await self._redis.run(script, at, args)
        return LeaseWord(reply[0].decode(), _told(reply))


def _lock(named: Named) -> str:
    return keys.of_namespace(named.owner.namespace, "lock", named.digest)


def _lease(named: Named) -> str:
    return keys.of_namespace(named.owner.namespace, "lease", named.digest)


def _queue(named: Named) -> list[str]:
    namespace = named.owner.namespace
    return [keys.of_namespace(namespace, "work", named.digest), keys.of_namespace(namespace, "queue")]


def _run_args(run: Queued | None) -> list[Argument]:
    told = (b"", "", "") if run is None else (run.plan, run.agent_id, run.key_address)
    return [*told, MAX_QUEUED]


def _counted(named: Named) -> list[str]:
    return [keys.of_namespace(named.owner.namespace, part) for part in ("usage", "state", "epoch")]


def _wanted_args(wanted: Wanted) -> list[Argument]:
    grounds = wanted.grounds
    return [grounds.epoch, grounds.switch_reason, wanted.token, wanted.attempt_id, wanted.ttl_ms, wanted.limit]


def _shown_by(held: Held) -> tuple[str, str]:
    return held.lease_id, "" if held.version is None else str(held.version)


def _announced(named: Named) -> tuple[str, str]:
    """Where a settled lease is made known, and as which."""
    return keys.LEASES_CHANNEL, named.digest


def _reads_after(owner: Scope) -> list[Command]:
    """What stands in other slots than a grant, read right behind it."""
    reads: list[Command] = [("GET", keys.of_namespace(keys.WORLD, "epoch"))]
    return [*reads, ("HGET", keys.of_agent(owner, "config"), "off")] if owner.agent_id else reads


def _after(replies: Sequence[Any]) -> After:
    world, *off = replies
    return After(int(world or 0), off == [b"1"])


def _dequeued(reply: Sequence[Any]) -> Dequeued:
    entry, plan, done, begun = reply
    return Dequeued(entry.decode(), plan, int(done), begun == 1)


def _told(reply: Sequence[bytes]) -> Lease | None:
    status, version, ttl, left, first_seen, done, result_hash, error_code = reply[1:TOLD]
    if not status:
        return None
    return Lease(
        status=LeaseStatus(status.decode()),
        version=int(version),
        ttl_ms=int(ttl),
        left_ms=int(left),
        first_seen_at_ms=int(first_seen),
        done_at_ms=int(done),
        result_hash=result_hash.decode(),
        error_code=error_code.decode(),
    )
