"""What is read of many agents at once: the Overview port. Only reads, a page of agents in each write."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from interlock.policy.model import AgentStanding, Event, Scope
from interlock.policy.ports import Position
from interlock.store import keys
from interlock.store.connection import Connection
from interlock.store.documents import policy_from_json
from interlock.store.pipe import Command
from interlock.store.replies import AGENT_SWITCH, agent_switch, unix_ms
from interlock.store.trails import RedisTrails, event_of

MINUTE_MS, DAY_MS = 60_000, 86_400_000
HOUR_MINUTES = 60
PAGE = 200
"""Agents in one write: decisions travel on the same connection, and must not wait behind a long answer."""

SEARCHED = 100
"""Events of an agent that are looked through at a time for the last one before a given time."""


class RedisOverview:
    """Many agents in Redis."""

    def __init__(self, connection: Connection, trails: RedisTrails) -> None:
        self._redis = connection
        self._trails = trails

    async def standings(self, scopes: Sequence[Scope]) -> Sequence[AgentStanding]:
        found: list[AgentStanding] = []
        for page in _pages(scopes):
            (time_reply,) = await self._redis.ask("standings", ("TIME",))
            now_ms = unix_ms(time_reply)
            replies = await self._redis.ask(
                "standings", *(command for scope in page for command in _standing_reads(scope, now_ms))
            )
            rows = [replies[at : at + READS] for at in range(0, len(replies), READS)]
            totals = await self._totals(page, [row[2] for row in rows], now_ms)
            found += [
                _standing(scope, row, total, now_ms) for scope, row, total in zip(page, rows, totals, strict=True)
            ]
        return found

    async def now_ms(self) -> int:
        (time_reply,) = await self._redis.ask("follow", ("TIME",))
        return unix_ms(time_reply)

    async def seen_since(self, namespace: str, at_ms: int) -> Sequence[str]:
        command = ("ZRANGEBYSCORE", keys.of_namespace(namespace, "agents"), at_ms, "+inf")
        (members,) = await self._redis.ask("follow", command)
        return [member.decode() for member in members]

    async def ends(self, scopes: Sequence[Scope], before_ms: int) -> Mapping[Scope, Position]:
        found: dict[Scope, Position] = {}
        newest = dict.fromkeys(scopes, "+")
        count = 1
        while newest:
            for page in _pages([*newest]):
                reads = [
                    ("XREVRANGE", keys.of_agent(scope, "audit"), newest[scope], "-", "COUNT", count) for scope in page
                ]
                for scope, entries in zip(page, await self._redis.ask("follow", *reads), strict=True):
                    positions = [_position(entry_id) for entry_id, _ in entries]
                    before = next((position for position in positions if position.at_ms < before_ms), None)
                    if before is not None or len(entries) < count:
                        found[scope] = before or Position()
                        del newest[scope]
                    else:
                        newest[scope] = f"({positions[-1].seq}-0"
            count = SEARCHED
        return found

    async def news(self, after: Mapping[Scope, int], limit: int) -> Mapping[Scope, Sequence[Event]]:
        found: dict[Scope, Sequence[Event]] = {}
        for page in _pages([*after]):
            trails = [("XRANGE", keys.of_agent(of, "audit"), f"{after[of] + 1}", "+", "COUNT", limit) for of in page]
            folds = [("HGET", keys.of_agent(of, "state"), "folding") for of in page]
            replies = await self._redis.ask("follow", *trails, *folds)
            found |= _events(page, replies[: len(page)])
            await self._trails.unfold([of for of, folding in zip(page, replies[len(page) :], strict=True) if folding])
        return found

    async def last_of(self, upto: Mapping[Scope, int], limit: int) -> Mapping[Scope, Sequence[Event]]:
        found: dict[Scope, Sequence[Event]] = {}
        for page in _pages([*upto]):
            trails = [("XREVRANGE", keys.of_agent(of, "audit"), f"{upto[of]}", "-", "COUNT", limit) for of in page]
            found |= _events(page, await self._redis.ask("follow", *trails))
        return {scope: events[::-1] for scope, events in found.items()}

    async def _totals(self, page: Sequence[Scope], minutes: Sequence[Any], now_ms: int) -> list[int]:
        """Actions of the running minute and the 60 before. A total that is of an earlier minute is counted anew."""
        running = now_ms // MINUTE_MS
        totals = [int(total or 0) if int(at or 0) == running else 0 for at, total, *_ in minutes]
        stale = [
            index
            for index, (at, total, *_) in enumerate(minutes)
            if running - HOUR_MINUTES <= int(at or 0) < running and total != b"0"
        ]
        fields = [f"{minute}:a" for minute in range(running - HOUR_MINUTES, running)]
        reads = [("HMGET", keys.of_agent(page[index], "minutes"), *fields) for index in stale]
        counted = await self._redis.ask("standings", *reads) if reads else []
        for index, counts in zip(stale, counted, strict=True):
            totals[index] = sum(int(count or 0) for count in counts)
        return totals


def _standing_reads(scope: Scope, now_ms: int) -> list[Command]:
    minute, today = now_ms // MINUTE_MS, now_ms // DAY_MS
    return [
        ("HMGET", keys.of_agent(scope, "config"), "version", "policy", *AGENT_SWITCH),
        ("HGET", keys.of_agent(scope, "state"), "clock"),
        ("HMGET", keys.of_agent(scope, "minutes"), "at", "total", f"{minute}:a", f"{minute - 1}:a"),
        ("HMGET", keys.of_agent(scope, "days"), f"{today}:s", f"{today}:b"),
        ("ZCOUNT", keys.of_agent(scope, "open"), f"({now_ms}", "+inf"),
        ("ZCOUNT", keys.of_agent(scope, "open"), "-inf", now_ms),
    ]


READS = 6
"""How many `_standing_reads` there are for an agent."""


def _standing(scope: Scope, row: Sequence[Any], actions_in_hour: int, now_ms: int) -> AgentStanding:
    (version, policy, *switch), clock, (_, _, this_minute, last_minute), (spend, blocked), running, over = row
    minutes = 1 + now_ms % MINUTE_MS / MINUTE_MS
    return AgentStanding(
        agent_id=scope.agent_id,
        switch=agent_switch(switch),
        policy=policy_from_json(int(version or 0), policy),
        last_seen_ms=int(clock or 0),
        actions_in_hour=actions_in_hour,
        actions_per_minute=(int(this_minute or 0) + int(last_minute or 0)) / minutes,
        spend_today_micros=int(spend or 0),
        blocked_today=int(blocked or 0),
        running=int(running),
        unknown=int(over),
    )


def _pages(scopes: Sequence[Scope]) -> Iterator[Sequence[Scope]]:
    for first in range(0, len(scopes), PAGE):
        yield scopes[first : first + PAGE]


def _events(scopes: Sequence[Scope], replies: Sequence[Any]) -> dict[Scope, Sequence[Event]]:
    """Of those that have any."""
    return {
        scope: [event_of(scope, entry_id, fields) for entry_id, fields in entries]
        for scope, entries in zip(scopes, replies, strict=True)
        if entries
    }


def _position(entry_id: bytes) -> Position:
    """An entry's id is `<seq>-<unix ms>`."""
    seq, at_ms = entry_id.split(b"-")
    return Position(int(seq), int(at_ms))
