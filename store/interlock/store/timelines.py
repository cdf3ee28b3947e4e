"""The timelines of runs: the Timeline port.

What an agent has in a run stands in two strands: its calls' own lines in the agent's slot, where the scripts write them
that decide and settle, and what was posted in its name in the slot of the namespace. They are put together here.
"""

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from interlock.policy.model import Scope
from interlock.policy.timeline_ports import RunSummary, TimelineEvent
from interlock.store import keys
from interlock.store.call_lines import event_of_call
from interlock.store.connection import Connection
from interlock.store.pipe import Command

PAGE = 100
"""Lines of a strand, or runs, in one reply: decisions travel on the same connection, and must not wait behind it."""
PREFIX_LENGTH = 27
"""A line begins with `<unix ms>-<line> `, 13 and 12 digits: by this, those of one second are ordered."""
PLACE = ("event_id", "run_id", "recorded_at_ms")
"""What an event has from where it stands, and not from its text."""

Line: TypeAlias = tuple[int, bytes, str]
"""Second, text, run: in the order in which events stand in a timeline."""


class RedisTimeline:
    """Timelines in Redis."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    async def append(self, namespace: str, event: TimelineEvent) -> None:
        scope = Scope(namespace, event.agent_id)
        strand = keys.strands(scope, event.run_id)[0]
        told, state = (keys.of_namespace(namespace, *part) for part in (("told", event.event_id), ("state",)))
        at = [strand, told, state, *keys.run_index(namespace, event.agent_id, event.run_id)]
        ts = "" if event.ts is None else event.ts
        await self._redis.run("append_event", at, [_text_of(event), ts, event.run_id, event.agent_id])

    async def of_run(
        self, namespace: str, reader: str | None, run_id: str, *, offset: int, limit: int
    ) -> tuple[int, Sequence[TimelineEvent]]:
        (strands,) = await self._strands(namespace, reader, [run_id])
        counts = await self._redis.ask("timeline", *(("ZCARD", strand) for strand in strands))
        filled = [(strand, count) for strand, count in zip(strands, counts, strict=True) if count]
        end = offset + limit
        if len(filled) == 1:
            lines = await self._lines(filled[0][0], run_id, offset, end)
        else:
            each = [await self._lines(strand, run_id, 0, min(end, count)) for strand, count in filled]
            lines = list(heapq.merge(*each))[offset:end]
        return sum(counts), [_event(line) for line in lines]

    async def recent(self, namespace: str, reader: str | None, *, offset: int, limit: int) -> Sequence[TimelineEvent]:
        index, wanted = _index(namespace, reader), offset + limit
        newest: list[Line] = []
        first = 0
        while True:
            (flat,) = await self._redis.ask("timeline", ("ZREVRANGE", index, first, first + PAGE - 1, "WITHSCORES"))
            runs = [(member.decode(), int(at)) for member, at in zip(flat[::2], flat[1::2], strict=True)]
            # Nothing in a run is newer than what was last recorded of it, and so it is with those after it.
            if not runs or (len(newest) == wanted and newest[-1][0] > runs[0][1] // 1000):
                return [_event(line) for line in newest[offset:]]
            newest = await self._with_newer(namespace, reader, [run_id for run_id, _ in runs], newest, wanted)
            first += PAGE

    async def runs(
        self, namespace: str, reader: str | None, prefix: str, *, offset: int, limit: int
    ) -> tuple[int, Sequence[RunSummary]]:
        (members,) = await self._redis.ask("timeline", ("ZREVRANGE", _index(namespace, reader), 0, -1))
        named = [run_id for run_id in (member.decode() for member in members) if run_id.startswith(prefix)]
        page = named[offset : offset + limit]
        strands = await self._strands(namespace, reader, page)
        summaries = [
            await self._summary(run_id, of_run) for run_id, of_run in zip(page, strands, strict=True) if of_run
        ]
        return len(named), [summary for summary in summaries if summary is not None]

    async def _summary(self, run_id: str, strands: Sequence[str]) -> RunSummary | None:
        """None for a run whose time was over just now."""
        reads: list[Command] = [("ZCARD", strand) for strand in strands]
        reads += [("ZREVRANGE", strand, 0, 0, "WITHSCORES") for strand in strands]
        replies = await self._redis.ask("timeline", *reads)
        counts, lasts = replies[: len(strands)], replies[len(strands) :]
        lines = [line for last in lasts for line in _lines(last, run_id)]
        return RunSummary(run_id, sum(counts), _event(max(lines))) if lines else None

    async def _strands(self, namespace: str, reader: str | None, run_ids: Sequence[str]) -> list[list[str]]:
        """The keys of each run's strands that the reader may see."""
        if not run_ids:
            return []
        if reader is not None:
            return [keys.strands(Scope(namespace, reader), run_id) for run_id in run_ids]
        reads = [("SMEMBERS", keys.of_namespace(namespace, "agents", keys.of_run(run_id))) for run_id in run_ids]
        found = await self._redis.ask("timeline", *reads)
        return [
            [strand for agent in agents or [b""] for strand in keys.strands(Scope(namespace, agent.decode()), run_id)]
            for run_id, agents in zip(run_ids, found, strict=True)
        ]

    async def _lines(self, strand: str, run_id: str, first: int, end: int) -> list[Line]:
        found: list[Line] = []
        for at in range(first, end, PAGE):
            (flat,) = await self._redis.ask("timeline", ("ZRANGE", strand, at, min(end, at + PAGE) - 1, "WITHSCORES"))
            found += _lines(flat, run_id)
            if len(flat) < 2 * PAGE:
                break
        return found

    async def _with_newer(
        self, namespace: str, reader: str | None, run_ids: Sequence[str], newest: list[Line], wanted: int
    ) -> list[Line]:
        """The newest lines, those of these runs among them. A strand is read on while it has any to give."""
        each = zip(run_ids, await self._strands(namespace, reader, run_ids), strict=True)
        left = [(run_id, strand) for run_id, strands in each for strand in strands]
        first = 0
        while left:
            more = []
            for run_id, strand in left:
                read = ("ZREVRANGE", strand, first, first + PAGE - 1, "WITHSCORES")
                lines = _lines((await self._redis.ask("timeline", read))[0], run_id)
                newest = _newest([*newest, *lines], wanted)
                if len(lines) == PAGE and lines[-1] >= newest[-1]:
                    more.append((run_id, strand))
            left, first = more, first + PAGE
        return newest


def _index(namespace: str, reader: str | None) -> str:
    return keys.of_namespace(namespace, "runs") if reader is None else keys.of_namespace(namespace, "runs", reader)


def _newest(lines: Iterable[Line], wanted: int) -> list[Line]:
    return heapq.nlargest(wanted, lines)


def _lines(flat: Sequence[bytes], run_id: str) -> list[Line]:
    """What ZRANGE says with scores: members and scores in turn."""
    return [(int(second), member, run_id) for member, second in zip(flat[::2], flat[1::2], strict=True)]


def _event(line: Line) -> TimelineEvent:
    second, member, run_id = line
    at_ms, _, number = member[: PREFIX_LENGTH - 1].decode().partition("-")
    kept: dict[str, Any] = json.loads(member[PREFIX_LENGTH:])
    if "event_id" not in kept:
        return event_of_call(kept, run_id, second, int(at_ms), int(number))
    return TimelineEvent(run_id=run_id, recorded_at_ms=int(at_ms), **({"ts": int(at_ms) // 1000} | kept))


def _text_of(event: TimelineEvent) -> str:
    """An event as it is kept: what it says, and not where it stands."""
    kept: Mapping[str, object] = asdict(event)
    said = {name: value for name, value in kept.items() if value not in ("", None) and name not in PLACE[1:]}
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False)
