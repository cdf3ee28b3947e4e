"""Following the audit trail: events as they are recorded, of one agent or of all that a namespace has.

A follower looks: it reads, of many agents in one write, what came after the last event it knows of each. So a decision
costs the same whether somebody follows it or not, nothing that is published can be lost, and where a follower stands is
nothing but a seq for each agent. It reads no further until its reader has taken what it has read, so a slow reader
costs one page. Nobody looks while nobody follows, and all followers of an engine share one pace.
"""

import asyncio
import contextlib
import heapq
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from interlock.governance.errors import ExhaustedError, InvalidRequestError
from interlock.policy.model import Event, Scope
from interlock.policy.ports import Directory, Overview, Position

LOOK_S = 0.2
"""How long after a look at all agents the next one begins."""
AGENTS_PER_S = 5_000
"""So many agents are looked at by all followers of this engine together; a small part of what Redis can answer."""
AGENTS_AT_ONCE = 200
MAX_FOLLOWERS, MAX_OF_ONE_KEY = 64, 16
"""At this engine: one key shall not keep all others from following."""
EVENTS_AT_ONCE = 100
EVENTS_OF_AGENT = 20
"""So many events of one agent are read in one look at many: a page is at most 4000 events."""
LOOKS_AT_WHO_IS_BEHIND = 10
CURSOR_S = 2.0
CHECK_S = 1.0
DRAIN_S = 2.0
"""A reader that takes nothing for this long does not hold up an engine that drains."""
CLOCKS_DIFFER_MS = 1_000
"""A cursor stays this far behind: the nodes of a cluster have clocks of their own."""
INDEX_OVERLAP_MS, INDEX_MS = 10_000, 60_000
"""The newest of the index of agents is read at every look, with some overlap, and now and then all of it."""

Item = TypeVar("Item")

_CURSOR = re.compile(r"t([0-9]{1,16})|s([0-9]{1,16})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is followed: an agent of the namespace, or (empty) all; from where; whether only up to now; and by whom."""

    namespace: str
    agent_id: str
    cursor: str
    last: int
    until_now: bool
    key_id: str


@dataclass(frozen=True, slots=True)
class Followed:
    """Events, each agent's in its order. With a cursor, all before it has been told."""

    events: Sequence[Event] = ()
    cursor: str = ""


Check = Callable[[], Awaitable[object]]
"""Raises when the follower may no longer follow."""


class Following:
    """All who follow at this engine."""

    def __init__(self, overview: Overview, directory: Directory) -> None:
        self._overview = overview
        self._directory = directory
        self._pace = Pace(AGENTS_PER_S)
        self._draining = asyncio.Event()
        self._deadlines: dict[asyncio.Timeout, str] = {}

    def drain(self) -> None:
        """Ends every follower where it stands, and refuses none: a new one is told what is there and ends."""
        self._draining.set()
        for deadline in self._deadlines:
            deadline.reschedule(asyncio.get_running_loop().time() + DRAIN_S)

    async def follow(self, subject: Subject, check: Check, tell: Callable[[Followed], Awaitable[None]]) -> None:
        """Tells what is recorded until it is cancelled or this engine drains, or all of now is told.

        Errors: `invalid_cursor`, `too_many_followers`, whatever `check` raises, UnavailableError.
        """
        own = sum(key_id == subject.key_id for key_id in self._deadlines.values())
        if own >= MAX_OF_ONE_KEY or len(self._deadlines) >= MAX_FOLLOWERS:
            raise ExhaustedError(
                "too_many_followers", f"{len(self._deadlines)} follow at this engine, {own} with this key"
            )
        follower = _Follower(subject, self._overview, self._directory, self._pace, self._draining)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as deadline, contextlib.aclosing(follower.run(check)) as told:
                self._deadlines[deadline] = subject.key_id
                try:
                    async for followed in told:
                        await tell(followed)
                finally:
                    del self._deadlines[deadline]


class Pace:
    """Lets through so many a second, in the order in which they ask."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._free_at = 0.0

    async def take(self, count: int) -> None:
        """Returns when `count` may be looked at."""
        now = asyncio.get_running_loop().time()
        begins, self._free_at = max(now, self._free_at), max(now, self._free_at) + count / self._per_s
        await asyncio.sleep(begins - now)


class _Follower:
    def __init__(
        self, subject: Subject, overview: Overview, directory: Directory, pace: Pace, draining: asyncio.Event
    ) -> None:
        self._subject = subject
        self._overview = overview
        self._directory = directory
        self._pace = pace
        self._draining = draining
        self._seqs: dict[Scope, int] = {}
        self._looked_at = self._indexed_at = 0
        self._behind: list[Scope] = []

    async def run(self, check: Check) -> AsyncGenerator[Followed, None]:
        """The first thing told is nothing: that the question is good."""
        since_ms = await self._begin()
        yield Followed()
        if self._subject.last and not self._subject.cursor:
            for events in _pages(await self._latest(self._subject.last, since_ms), EVENTS_AT_ONCE):
                yield Followed(events)
        clock = asyncio.get_running_loop().time
        told_at, checked_at = float("-inf"), clock()
        while True:
            now_ms = await self._overview.now_ms()
            await self._meet(since_ms, now_ms)
            async for events in self._look():
                yield Followed(events)
                if clock() - checked_at >= CHECK_S:
                    await check()
                    checked_at = clock()
            over = self._subject.until_now or self._draining.is_set()
            if not self._behind and (over or clock() - told_at >= CURSOR_S):
                yield Followed(cursor=self._cursor(max(since_ms, now_ms - CLOCKS_DIFFER_MS)))
                told_at = clock()
            if over and not (self._subject.until_now and self._behind):
                return
            await self._rest()
            if clock() - checked_at >= CHECK_S:
                await check()
                checked_at = clock()

    async def _begin(self) -> int:
        """Where to begin: the time, of which the seqs are then found, or the one agent's seq itself."""
        found = _CURSOR.fullmatch(self._subject.cursor)
        if self._subject.cursor and (found is None or (found[2] and not self._subject.agent_id)):
            raise InvalidRequestError("invalid_cursor", "the cursor is not one of this question's", field="cursor")
        if found and found[2]:
            self._seqs = {self._scope(self._subject.agent_id): int(found[2])}
        return int(found[1]) if found and found[1] else await self._overview.now_ms()

    def _cursor(self, at_ms: int) -> str:
        """One agent's seq is exact; of many it is a time, before which all is told."""
        if self._subject.agent_id:
            return f"s{self._seqs.get(self._scope(self._subject.agent_id), 0)}"
        return f"t{at_ms}"

    async def _meet(self, since_ms: int, now_ms: int) -> Mapping[Scope, Position]:
        """Finds where the agents that are new to this follower stood when it began."""
        strangers = [scope for scope in map(self._scope, await self._agents(now_ms)) if scope not in self._seqs]
        ends: dict[Scope, Position] = {}
        for page in _pages(strangers, AGENTS_AT_ONCE):
            await self._pace.take(len(page))
            ends |= await self._overview.ends(page, since_ms)
        self._seqs |= {scope: end.seq for scope, end in ends.items()}
        return ends

    async def _agents(self, now_ms: int) -> Iterable[str]:
        if self._subject.agent_id:
            return [self._subject.agent_id]
        looked_at, self._looked_at = self._looked_at, now_ms
        if now_ms - self._indexed_at >= INDEX_MS:
            self._indexed_at = now_ms
            return await self._directory.agents(self._subject.namespace)
        return await self._overview.seen_since(self._subject.namespace, looked_at - INDEX_OVERLAP_MS)

    async def _latest(self, count: int, since_ms: int) -> list[Event]:
        """The last events before the beginning. They are of those agents whose own last events are the latest."""
        ends = await self._meet(since_ms, since_ms)
        latest = heapq.nlargest(count, (scope for scope in ends if ends[scope].seq), key=lambda of: ends[of].at_ms)
        found: list[Event] = []
        for page in _pages(latest, EVENTS_OF_AGENT):
            last = await self._overview.last_of({scope: ends[scope].seq for scope in page}, count)
            found = [*heapq.merge(found, *last.values(), key=lambda event: event.at_ms)][-count:]
        return found

    async def _look(self) -> AsyncIterator[Sequence[Event]]:
        """What is new of every agent. Who had more than is read at once is looked at again, some times."""
        self._behind = [*self._seqs]
        for _ in range(LOOKS_AT_WHO_IS_BEHIND):
            lookers, self._behind = self._behind, []
            for page in _pages(lookers, AGENTS_AT_ONCE):
                if self._draining.is_set():
                    self._behind += page
                    continue
                await self._pace.take(len(page))
                limit = EVENTS_OF_AGENT if len(page) > 1 else EVENTS_AT_ONCE
                news = await self._overview.news({scope: self._seqs[scope] for scope in page}, limit)
                for events in _pages(self._in_time(news, limit), EVENTS_AT_ONCE):
                    yield events
            if not self._behind:
                return

    def _in_time(self, news: Mapping[Scope, Sequence[Event]], limit: int) -> Sequence[Event]:
        """All of them, and notes where each agent now stands."""
        for scope, events in news.items():
            self._seqs[scope] = events[-1].seq
            if len(events) == limit:
                self._behind.append(scope)
        return [*heapq.merge(*news.values(), key=lambda event: event.at_ms)]

    async def _rest(self) -> None:
        if self._behind:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._draining.wait()

    def _scope(self, agent_id: str) -> Scope:
        return Scope(self._subject.namespace, agent_id)


def _pages(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
