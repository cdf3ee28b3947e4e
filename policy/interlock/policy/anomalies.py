"""What is out of the ordinary in an agent's behaviour, read from its audit trail after the fact.

Pure functions over frozen values: `observed` takes what happened into what is known of an agent, each detector judges
that at a given time. Times are unix ms, money is micro-USD; windows are whole UTC minutes, the running one among them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from interlock.policy.alert_settings import AnomalySettings

MINUTE_MS, DAY_MS = 60_000, 86_400_000
LONGEST_WINDOW = 60
"""Minutes that are remembered."""
MAX_TOOLS = 256
"""An agent that has used as many knows every tool: none is new to it."""
MAX_REFUSED = 64
"""So many refused tools and reasons are remembered, the latest."""
SPENDING_CALLS = 3
"""One dear call is no velocity."""
SWITCHED_OFF = frozenset({"agent_disabled", "kill_switch", "tool_disabled", "audit_backlog"})
"""Refusals that say something of who operates, and nothing of the agent."""


class AnomalyKind(StrEnum):
    """What is out of the ordinary."""

    REPEATED_REFUSAL = "repeated_refusal"
    BURST = "burst"
    NEW_TOOL = "new_tool"
    SPEND_VELOCITY = "spend_velocity"

    @property
    def risk(self) -> str:
        """What it makes of the agent's further calls."""
        return "medium" if self is AnomalyKind.NEW_TOOL else "high"


class Act(StrEnum):
    """What an event of the trail says of the agent."""

    CALLED = "called"
    REFUSED = "refused"
    ENABLED = "enabled"


@dataclass(frozen=True, slots=True)
class Deed:
    """One thing that an agent did, or that was done to it, `count` times over."""

    act: Act
    at_ms: int
    tool: str = ""
    reason: str = ""
    count: int = 1
    charged_micros: int = 0


@dataclass(frozen=True, slots=True)
class Minute:
    """What an agent did in one UTC minute: calls let through, what they cost, how many cost anything."""

    minute: int
    calls: int = 0
    spend_micros: int = 0
    spending_calls: int = 0


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something out of the ordinary; `tool` is empty if it is about none. `facts` are the numbers behind it."""

    kind: AnomalyKind
    tool: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """What is not told again for a while."""
        return f"{self.kind}|{self.tool}"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What is known of an agent. `refused` has, by tool and reason, refusals by minute; `told` when an anomaly was told
    last, by subject; `fresh` are the tools that were new to it and are not told of yet.
    """

    calls: int = 0
    tools: tuple[str, ...] = ()
    minutes: tuple[Minute, ...] = ()
    refused: Mapping[tuple[str, str], Mapping[int, int]] = field(default_factory=dict)
    told: Mapping[str, int] = field(default_factory=dict)
    fresh: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usual:
    """An agent's usual rate: calls let through in those hours of the last 168, but the running one, that had any."""

    calls: int = 0
    hours: int = 0

    def in_window(self, window_s: int) -> float:
        """Calls in a window of this length."""
        return self.calls / self.hours * window_s / 3600 if self.hours else 0.0


@dataclass(frozen=True, slots=True)
class DayBudget:
    """The day's spend and its limit."""

    spent_micros: int
    limit_micros: int


def observed(known: Behaviour, deeds: Iterable[Deed], settings: AnomalySettings) -> Behaviour:
    """What is known after these deeds, in their order.

    Being enabled again wipes the slate but for the tools: a human has seen what there was.
    """
    notes = _Notes(known)
    for deed in deeds:
        match deed.act:
            case Act.CALLED:
                notes.called(deed, settings.new_tool_after_calls)
            case Act.REFUSED:
                notes.refused(deed)
            case Act.ENABLED:
                notes = _Notes(Behaviour(calls=notes.calls, tools=tuple(notes.tools)))
    return notes.behaviour()


def anomalies(
    known: Behaviour, now_ms: int, usual: Usual | None, budget: DayBudget | None, settings: AnomalySettings
) -> list[Anomaly]:
    """What is out of the ordinary now and was not told in the last `quiet_s`. None: not known, or not limited."""
    found = [*repeated_refusals(known, now_ms, settings), *new_tools(known)]
    found += burst(known, now_ms, usual, settings) if usual is not None else ()
    found += spend_velocity(known, now_ms, budget, settings) if budget is not None else ()
    quiet_ms = settings.quiet_s * 1000
    return [one for one in found if now_ms - known.told.get(one.subject, -quiet_ms) >= quiet_ms]


def told(known: Behaviour, found: Iterable[Anomaly], now_ms: int, settings: AnomalySettings) -> Behaviour:
    """The same, once these are told."""
    quiet_ms = settings.quiet_s * 1000
    lately = {subject: at for subject, at in known.told.items() if now_ms - at < quiet_ms}
    return replace(known, told=lately | {one.subject: now_ms for one in found}, fresh=())


def repeated_refusals(known: Behaviour, now_ms: int, settings: AnomalySettings) -> Iterator[Anomaly]:
    """The same call refused again and again: one tool, one reason."""
    since = _since(now_ms, settings.refusals_window_s)
    for (tool, reason), by_minute in known.refused.items():
        count = sum(count for minute, count in by_minute.items() if minute > since)
        if count >= settings.refusals:
            facts = {"refused_for": reason, "refusals": count, "window_s": settings.refusals_window_s}
            yield Anomaly(AnomalyKind.REPEATED_REFUSAL, tool, facts)


def new_tools(known: Behaviour) -> Iterator[Anomaly]:
    """Tools never used before, of an agent with a history."""
    for tool in known.fresh:
        yield Anomaly(AnomalyKind.NEW_TOOL, tool, {"calls_before": known.calls, "tools_before": len(known.tools) - 1})


def may_burst(known: Behaviour, now_ms: int, settings: AnomalySettings) -> bool:
    """Whether the usual rate is worth asking for."""
    return _in_window(known, now_ms, settings.burst_window_s).calls >= settings.burst_min_calls


def burst(known: Behaviour, now_ms: int, usual: Usual, settings: AnomalySettings) -> Iterator[Anomaly]:
    """Far over the agent's own usual rate. An agent without one has no bursts."""
    calls = _in_window(known, now_ms, settings.burst_window_s).calls
    expected = usual.in_window(settings.burst_window_s)
    known_well = usual.hours >= settings.burst_min_hours
    if known_well and calls >= max(settings.burst_min_calls, settings.burst_factor * expected):
        facts = {"calls": calls, "usual_calls": round(expected, 1), "window_s": settings.burst_window_s}
        yield Anomaly(AnomalyKind.BURST, facts=facts)


def spend_velocity(known: Behaviour, now_ms: int, budget: DayBudget, settings: AnomalySettings) -> Iterator[Anomaly]:
    """Spend that, going on as it does, exhausts the day's budget before the UTC day ends."""
    recent = _in_window(known, now_ms, settings.spend_window_s, not_before=now_ms // DAY_MS * DAY_MS // MINUTE_MS)
    if recent.spending_calls < SPENDING_CALLS:
        return
    if recent.spend_micros * 100 < budget.limit_micros * settings.spend_min_percent:
        return
    left_s = (DAY_MS - now_ms % DAY_MS) / 1000
    projected = budget.spent_micros + recent.spend_micros / settings.spend_window_s * left_s
    if projected >= budget.limit_micros:
        facts = {
            "spent_usd": budget.spent_micros / 1_000_000,
            "limit_usd": budget.limit_micros / 1_000_000,
            "recent_usd": recent.spend_micros / 1_000_000,
            "window_s": settings.spend_window_s,
            "projected_usd": round(projected / 1_000_000, 2),
        }
        yield Anomaly(AnomalyKind.SPEND_VELOCITY, facts=facts)


def _since(now_ms: int, window_s: int) -> int:
    """The last minute before the window."""
    return now_ms // MINUTE_MS - window_s // 60


def _in_window(known: Behaviour, now_ms: int, window_s: int, *, not_before: int = 0) -> Minute:
    since = max(_since(now_ms, window_s), not_before - 1)
    within = [minute for minute in known.minutes if minute.minute > since]
    return Minute(
        since,
        sum(minute.calls for minute in within),
        sum(minute.spend_micros for minute in within),
        sum(minute.spending_calls for minute in within),
    )


class _Notes:
    """What is known of an agent, while it is being added to."""

    def __init__(self, known: Behaviour) -> None:
        self.calls = known.calls
        self.tools = dict.fromkeys(known.tools)
        self._told = known.told
        self._fresh = dict.fromkeys(known.fresh)
        self._minutes = {minute.minute: minute for minute in known.minutes}
        self._refused = {of: dict(by_minute) for of, by_minute in known.refused.items()}

    def called(self, deed: Deed, history: int) -> None:
        if deed.tool not in self.tools and len(self.tools) < MAX_TOOLS:
            if self.calls >= history:
                self._fresh[deed.tool] = None
            self.tools[deed.tool] = None
        self.calls += deed.count
        minute = deed.at_ms // MINUTE_MS
        before = self._minutes.get(minute) or Minute(minute)
        self._minutes[minute] = Minute(
            minute,
            before.calls + deed.count,
            before.spend_micros + deed.charged_micros,
            before.spending_calls + (deed.count if deed.charged_micros > 0 else 0),
        )

    def refused(self, deed: Deed) -> None:
        if deed.reason in SWITCHED_OFF:
            return
        # Taken out and put in again: the latest stand last.
        by_minute = self._refused.pop((deed.tool, deed.reason), {})
        minute = deed.at_ms // MINUTE_MS
        by_minute[minute] = by_minute.get(minute, 0) + deed.count
        self._refused[deed.tool, deed.reason] = by_minute

    def behaviour(self) -> Behaviour:
        newest = max([*self._minutes, *(max(by_minute) for by_minute in self._refused.values())], default=0)
        since = newest - LONGEST_WINDOW
        refused = {of: _after(since, by_minute) for of, by_minute in [*self._refused.items()][-MAX_REFUSED:]}
        return Behaviour(
            calls=self.calls,
            tools=tuple(self.tools),
            minutes=tuple(minute for at, minute in sorted(self._minutes.items()) if at > since),
            refused={of: by_minute for of, by_minute in refused.items() if by_minute},
            told=self._told,
            fresh=tuple(self._fresh),
        )


def _after(since: int, by_minute: Mapping[int, int]) -> dict[int, int]:
    return {minute: count for minute, count in by_minute.items() if minute > since}


def usual_of(by_hour: Mapping[int, int], running_hour: int) -> Usual:
    """The usual rate by what was let through in each hour."""
    counted: Sequence[int] = [calls for hour, calls in by_hour.items() if hour < running_hour and calls > 0]
    return Usual(sum(counted), len(counted))
