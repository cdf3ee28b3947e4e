"""The audit trails: reading them, and what their exporter notes beside them. The Trails port."""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import structlog

from interlock.governance.errors import UnavailableError
from interlock.governance.tasks import end
from interlock.policy.model import NO_EXPORT, ChainPoint, Event, Progress, Scope, TrailState
from interlock.store import keys
from interlock.store.connection import Connection
from interlock.store.pipe import Command
from interlock.store.replies import text_of

log = structlog.get_logger(__name__)

T = TypeVar("T")

HOUR_MS = 3_600_000
HINT_S = 0.2
"""Trails that grew are told of together, this often."""
MAX_HINTS = 100_000
"""More are not remembered; an exporter finds them when it looks through all trails."""


class RedisTrails:
    """The trails in Redis.

    A decision must cost the exporter's sake nothing, so what grew is gathered here and told of now and then.
    """

    def __init__(self, connection: Connection, backlog_cap: int = NO_EXPORT) -> None:
        self._redis = connection
        self.backlog_cap = backlog_cap
        self._grown: set[Scope] = set()
        self._telling: asyncio.Task[None] | None = None

    async def close(self) -> None:
        await end(self._telling)
        self._telling = None
        with contextlib.suppress(UnavailableError):
            await self._tell()

    def grew(self, scope: Scope) -> None:
        """An event was appended, here: hints for the exporter leave together."""
        if self.backlog_cap == NO_EXPORT or len(self._grown) >= MAX_HINTS:
            return
        self._grown.add(scope)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell_soon())

    async def ranged(self, scope: Scope, asked: tuple[str, str, str], limit: int) -> Sequence[Event]:
        """What XRANGE or XREVRANGE says of a trail, folded refusals told before."""
        command, first, last = asked
        beside = [(command, keys.of_agent(scope, "audit"), first, last, "COUNT", limit)]
        appended, entries = await self._redis.run("unfold", keys.trail(scope), [1], beside)
        if appended:
            self.grew(scope)
        return [event_of(scope, entry, fields) for entry, fields in entries]

    async def unfold(self, scopes: Sequence[Scope]) -> None:
        """Has refusals recorded that were counted in a minute which is over; they are among the next news."""
        if not scopes:
            return
        recorded = await self._redis.run_all("unfold", [(keys.trail(scope), [0]) for scope in scopes])
        for scope, grew in zip(scopes, recorded, strict=True):
            if grew:
                self.grew(scope)

    async def namespaces(self) -> Sequence[str]:
        (members,) = await self._redis.ask("namespaces", ("SMEMBERS", keys.of_namespace(keys.WORLD, "namespaces")))
        return sorted(member.decode() for member in members)

    async def agents(self, namespace: str) -> Sequence[Scope]:
        (members,) = await self._redis.ask("agents", ("ZRANGE", keys.of_namespace(namespace, "agents"), 0, -1))
        return [Scope(namespace, member.decode()) for member in members]

    async def take_grown(self, limit: int) -> Sequence[Scope]:
        namespaces = await self.namespaces()
        if not namespaces:
            return []
        takes = [("ZPOPMIN", keys.of_namespace(namespace, "unexported"), limit) for namespace in namespaces]
        taken = await self._redis.ask("take_grown", *takes)
        pairs = zip(namespaces, taken, strict=True)
        return [Scope(namespace, agent.decode()) for namespace, members in pairs for agent in members[::2]]

    async def states(self, scopes: Sequence[Scope]) -> Sequence[TrailState]:
        commands: list[Command] = []
        for scope in scopes:
            commands.append(("HMGET", keys.of_agent(scope, "state"), "seq", "folding"))
            commands.append(("HGETALL", keys.of_agent(scope, "export")))
        replies = await self._redis.ask("trail_states", *commands) if commands else []
        return [_state(*of) for of in zip(scopes, replies[::2], replies[1::2], strict=True)]

    async def read(self, after: Sequence[tuple[Scope, int]], limit: int) -> Sequence[Sequence[Event]]:
        reads = [("XRANGE", keys.of_agent(scope, "audit"), f"{seq + 1}", "+", "COUNT", limit) for scope, seq in after]
        unfolds = [(keys.trail(scope), [0]) for scope, _ in after]
        replies = await self._redis.run_all("unfold", unfolds, reads) if reads else []
        pages = zip(after, replies[len(unfolds) :], strict=True)
        return [[event_of(scope, entry, fields) for entry, fields in entries] for (scope, _), entries in pages]

    async def note(
        self, progress: Sequence[Progress], befores: Sequence[int], sinks: Sequence[str], fence: int
    ) -> Sequence[bool]:
        named = ",".join(sinks)
        notes = [
            (_export_keys(made.scope), [*_noted(made), before, fence, named])
            for made, before in zip(progress, befores, strict=True)
        ]
        return [bool(noted) for noted in await self._redis.run_all("export", notes)] if notes else []

    async def lead(self, holder: str, ttl_ms: int) -> int | None:
        (fence,) = await self._redis.run("lead", [keys.of_namespace(keys.WORLD, "exporter")], [holder, ttl_ms])
        return int(fence) or None

    async def stop_leading(self, holder: str) -> None:
        await self._redis.run("unlead", [keys.of_namespace(keys.WORLD, "exporter")], [holder])

    async def _tell_soon(self) -> None:
        while self._grown:
            await asyncio.sleep(HINT_S)
            try:
                await self._tell()
            except UnavailableError:
                log.debug("trails.hint_failed")

    async def _tell(self) -> None:
        if not self._grown:
            return
        grown, self._grown = self._grown, set()
        try:
            (time_reply,) = await self._redis.ask("tell_grown", ("TIME",))
            now_ms = int(time_reply[0]) * 1000
            by_namespace: dict[str, list[str | int]] = {}
            for scope in grown:
                by_namespace.setdefault(scope.namespace, []).extend((now_ms, scope.agent_id))
            adds = [
                ("ZADD", keys.of_namespace(namespace, "unexported"), "NX", *members)
                for namespace, members in by_namespace.items()
            ]
            await self._redis.ask("tell_grown", *adds)
        except UnavailableError:
            self._grown |= grown
            raise


def event_of(scope: Scope, entry_id: bytes, fields: Sequence[bytes]) -> Event:
    seq, at_ms = entry_id.decode().split("-")
    entry = text_of(fields)
    return Event(
        seq=int(seq),
        at_ms=int(at_ms),
        type=entry["type"],
        agent_id=scope.agent_id,
        tool=entry["tool"],
        call_id=entry["call"],
        verdict=entry["verdict"],
        reason=entry["reason"],
        charged_micros=int(entry["charged"]),
        facts=json.loads(entry["facts"]),
    )


def _export_keys(scope: Scope) -> list[str]:
    return [keys.of_agent(scope, part) for part in ("state", "audit", "export")]


def _noted(made: Progress) -> list[str | int]:
    head = "" if made.head_seq is None else made.head_seq
    return [made.sink, made.point.seq, made.point.hash, made.at_ms // HOUR_MS, head]


def _state(scope: Scope, state: Sequence[bytes | None], export: Any) -> TrailState:
    seq, folding = state
    noted = text_of(export)
    points = {
        name: _point(value) for name, value in noted.items() if name.startswith(("sink:", "hour:")) or name == "base"
    }
    return TrailState(
        scope=scope,
        last_seq=int(seq or 0),
        folding=folding is not None,
        sinks=_of_sinks("sink:", points),
        heads={name: int(seq) for name, seq in _of_sinks("head:", noted).items()},
        points=tuple(points.values()),
    )


def _of_sinks(prefix: str, noted: Mapping[str, T]) -> dict[str, T]:
    return {name.removeprefix(prefix): value for name, value in noted.items() if name.startswith(prefix)}


def _point(text: str) -> ChainPoint:
    seq, _, digest = text.partition(":")
    return ChainPoint(int(seq), digest)
