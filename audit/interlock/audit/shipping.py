"""One sink's way: which agents it is behind with, how far each has got, and the batch that is under way."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from interlock.audit.chain import seal
from interlock.audit.heads import SigningKey
from interlock.audit.ports import Recorder, Sink, SinkRefusedError, SinkUnavailableError
from interlock.audit.settings import AuditSettings
from interlock.governance.errors import UnavailableError
from interlock.policy.leading import Lease
from interlock.policy.model import GENESIS, ChainPoint, Event, Progress, Scope, TrailState
from interlock.policy.ports import Trails

log = structlog.get_logger(__name__)

AGENTS_AT_ONCE = 64
REFUSED_PAUSE_S = 60.0
"""An agent of which the sink will not take an event waits so long, and is tried again: evidence is never skipped."""
REDIS_PAUSE_S = 0.25
BREATH = 16
"""After so many events others in this process get their turn: sealing is work."""
BACKOFF = wait_random_exponential(multiplier=0.25, max=30)


@dataclass(frozen=True, slots=True)
class Place:
    """How far the sink has got with an agent, and when its chain is to be signed next (monotonic; 0 if it is)."""

    noted: ChainPoint
    noted_at_ms: int = 0
    head_seq: int = 0
    sign_at: float = 0.0
    begun_behind: tuple[ChainPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One line, and how far the sink has got once it has it."""

    line: bytes
    progress: Progress
    folded: int = 0
    is_head: bool = False


class Shipping:
    """Delivers trails to one sink, at least once and in order, for as long as the lease holds."""

    def __init__(
        self, sink: Sink, trails: Trails, key: SigningKey, settings: AuditSettings, recorder: Recorder
    ) -> None:
        self._sink = sink
        self._trails = trails
        self._key = key
        self._settings = settings
        self._recorder = recorder
        self._behind: dict[Scope, float] = {}
        self._parked: dict[Scope, float] = {}
        self._places: dict[Scope, Place] = {}
        self._under_way: dict[Scope, float] = {}
        self._woken = asyncio.Event()

    @property
    def sink(self) -> str:
        return self._sink.name

    def wake(self, scopes: Iterable[Scope]) -> None:
        """These agents' trails may have grown."""
        now = time.time()
        for scope in scopes:
            self._behind.setdefault(scope, now)
        self._woken.set()

    def waiting(self) -> Sequence[Scope]:
        """Agents whose events the sink does not have yet."""
        return list({**self._under_way, **self._parked, **self._behind})

    def oldest_s(self) -> float:
        """For how long the oldest of them has waited."""
        since = [*self._under_way.values(), *self._parked.values(), *self._behind.values()]
        return max(0.0, time.time() - min(since)) if since else 0.0

    async def run(self, lease: Lease) -> None:
        """Delivers until it is cancelled. Raises LeaseLostError."""
        self._forget()
        try:
            while True:
                agents = self._next()
                if not agents:
                    await self._until_woken()
                    continue
                try:
                    await self._step(agents, lease)
                except UnavailableError:
                    # What was noted may be otherwise than is remembered: ask again.
                    self._forget()
                    await asyncio.sleep(REDIS_PAUSE_S)
                finally:
                    for scope, since in self._under_way.items():
                        self._behind.setdefault(scope, since)
                    self._under_way.clear()
        finally:
            await self._sink.close()

    def _forget(self) -> None:
        self._places.clear()

    def _next(self) -> list[Scope]:
        """Agents to look at: those behind, those that rested long enough, and those whose chain is to be signed."""
        now = time.monotonic()
        for scope, since in list(self._parked.items()):
            if time.time() - since >= REFUSED_PAUSE_S:
                del self._parked[scope]
                self._behind.setdefault(scope, since)
        agents = [scope for scope in self._behind if scope not in self._parked][:AGENTS_AT_ONCE]
        for scope in agents:
            self._under_way[scope] = self._behind.pop(scope)
        due = (scope for scope, place in self._places.items() if 0 < place.sign_at <= now)
        unsigned = [scope for scope in due if scope not in self._under_way and scope not in self._parked]
        return [*agents, *unsigned[:AGENTS_AT_ONCE]]

    async def _until_woken(self) -> None:
        """Waits for news, or until a chain is to be signed."""
        self._woken.clear()
        signings = [place.sign_at for place in self._places.values() if place.sign_at]
        pause_s = min([1.0, *(max(0.0, at - time.monotonic()) for at in signings)])
        try:
            async with asyncio.timeout(pause_s):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _step(self, agents: Sequence[Scope], lease: Lease) -> None:
        await self._find_places([scope for scope in agents if scope not in self._places])
        page = max(8, self._sink.batch_max_events // len(agents))
        pages = await self._trails.read([(scope, self._places[scope].noted.seq) for scope in agents], page)
        entries: list[Entry] = []
        for scope, events in zip(agents, pages, strict=True):
            entries += await self._entries(scope, events)
        for start in range(0, len(entries), self._sink.batch_max_events):
            await self._ship(entries[start : start + self._sink.batch_max_events], lease)
        full = [scope for scope, events in zip(agents, pages, strict=True) if len(events) == page]
        for scope in agents:
            if scope in full and scope not in self._parked:
                self._behind.setdefault(scope, self._under_way.get(scope, time.time()))
            self._under_way.pop(scope, None)
            self._rest(scope)

    def _rest(self, scope: Scope) -> None:
        """Who is up to date and signed is not remembered: there may be very many of them."""
        place = self._places.get(scope)
        if place is not None and not place.sign_at and scope not in self._behind:
            del self._places[scope]

    async def _find_places(self, scopes: Sequence[Scope]) -> None:
        for state in await self._trails.states(scopes) if scopes else []:
            self._places[state.scope] = self._place_of(state)

    def _place_of(self, state: TrailState) -> Place:
        point = state.sinks.get(self.sink)
        head_seq = state.heads.get(self.sink, 0)
        if point is None:
            return Place(ChainPoint(0, GENESIS), begun_behind=state.points)
        sign_at = 0.0 if head_seq >= point.seq else time.monotonic() + self._settings.head_every_s
        return Place(point, head_seq=head_seq, sign_at=sign_at)

    async def _entries(self, scope: Scope, events: Sequence[Event]) -> list[Entry]:
        """What is to be delivered of an agent: its events as links of its chain, and its head if that is due."""
        place = self._places[scope]
        point, at_ms = _beginning(place, events), place.noted_at_ms
        entries = []
        for number, event in enumerate(events):
            if event.seq != point.seq + 1:
                log.error("audit.events_missing", namespace=scope.namespace, agent_id=scope.agent_id, after=point.seq)
            sealed = seal(scope.namespace, event, point.hash)
            point, at_ms = sealed.point, event.at_ms
            folded = event.facts.get("count", 0) if event.type == "refusals" else 0
            progress = Progress(scope, self.sink, point, at_ms)
            entries.append(Entry(sealed.line, progress, folded if isinstance(folded, int) else 0))
            if number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
        if self._is_to_be_signed(place, point):
            if not events:
                at_ms = await self._time_of(scope, point)
            signed = Progress(scope, self.sink, point, at_ms, head_seq=point.seq)
            entries.append(Entry(self._key.head(scope, point, at_ms), signed, is_head=True))
        return entries

    def _is_to_be_signed(self, place: Place, point: ChainPoint) -> bool:
        if point.seq <= place.head_seq:
            return False
        due = 0 < place.sign_at <= time.monotonic()
        return due or point.seq - place.head_seq >= self._settings.head_every_events

    async def _time_of(self, scope: Scope, point: ChainPoint) -> int:
        """When the event of a point happened: a head bears its time, so that it is the same whenever it is made."""
        place = self._places[scope]
        if place.noted_at_ms:
            return place.noted_at_ms
        (events,) = await self._trails.read([(scope, point.seq - 1)], 1)
        return events[0].at_ms if events and events[0].seq == point.seq else 0

    async def _ship(self, entries: Sequence[Entry], lease: Lease) -> None:
        """Delivers entries and notes it. Of what the sink refuses, the event that is meant is found by halving."""
        # Without those whose place turned out to be another, or whose event was refused: they are looked at anew.
        left = [entry for entry in entries if entry.progress.scope in self._places]
        if not left:
            return
        try:
            await self._deliver([entry.line for entry in left], lease)
        except SinkRefusedError as error:
            if len(left) == 1:
                self._park(left[0], error)
                return
            middle = len(left) // 2
            await self._ship(left[:middle], lease)
            await self._ship(left[middle:], lease)
            return
        await self._note(left, lease)

    def _park(self, entry: Entry, error: SinkRefusedError) -> None:
        scope, seq = entry.progress.scope, entry.progress.point.seq
        log.error("audit.refused", sink=self.sink, agent_id=scope.agent_id, seq=seq, error=error.message)
        self._recorder.audit_refused(self.sink)
        self._parked[scope] = time.time()
        self._places.pop(scope, None)

    async def _deliver(self, lines: Sequence[bytes], lease: Lease) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(SinkUnavailableError), wait=_pause_s, before_sleep=self._failed, reraise=True
        )
        async for attempt in retrying:
            with attempt:
                lease.check()
                await self._sink.deliver(lines)

    def _failed(self, state: RetryCallState) -> None:
        self._recorder.audit_failed(self.sink)
        error = state.outcome.exception() if state.outcome else None
        log.warning("audit.sink_unavailable", sink=self.sink, tries=state.attempt_number, error=str(error))

    async def _note(self, entries: Sequence[Entry], lease: Lease) -> None:
        """Only now, that the sink has them. What a newer exporter has noted meanwhile is learned."""
        lasts: dict[Scope, Progress] = {}
        for entry in entries:
            was = lasts.get(entry.progress.scope)
            head_seq = entry.progress.head_seq or (was.head_seq if was else None)
            lasts[entry.progress.scope] = replace(entry.progress, head_seq=head_seq)
        befores = [self._places[scope].noted.seq for scope in lasts]
        noted = await self._trails.note(list(lasts.values()), befores, self._settings.sinks, lease.fence)
        for progress, held in zip(lasts.values(), noted, strict=True):
            if held:
                self._places[progress.scope] = self._moved(self._places[progress.scope], progress)
            else:
                log.warning("audit.place_moved", sink=self.sink, agent_id=progress.scope.agent_id)
                self._places.pop(progress.scope, None)
                self.wake([progress.scope])
        events = sum(not entry.is_head for entry in entries)
        self._recorder.audit_exported(self.sink, events, sum(entry.folded for entry in entries))

    def _moved(self, place: Place, progress: Progress) -> Place:
        head_seq = max(place.head_seq, progress.head_seq or 0)
        sign_at = place.sign_at or time.monotonic() + self._settings.head_every_s
        if head_seq >= progress.point.seq:
            sign_at = 0.0
        elif progress.head_seq:
            sign_at = time.monotonic() + self._settings.head_every_s
        return Place(progress.point, progress.at_ms, head_seq, sign_at)


def _beginning(place: Place, events: Sequence[Event]) -> ChainPoint:
    """The point that the first of these events comes behind."""
    if place.noted.seq or not events:
        return place.noted
    # The sink has nothing yet. The chain is taken up where the trail begins, if its hash there is known.
    first = events[0].seq
    known = [point for point in place.begun_behind if point.seq == first - 1]
    return known[0] if known else ChainPoint(first - 1, GENESIS)


def _pause_s(state: RetryCallState) -> float:
    """Ever longer, and never shorter than the sink has asked for."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_s if isinstance(error, SinkUnavailableError) else None
    return max(BACKOFF(state), asked or 0.0)
