"""Alerts: what is worth telling somebody, and how the same thing said often is told together.

Pure functions over frozen values; times are unix ms, and `now_ms` is given.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from interlock.policy.account_ports import Notifications


class AlertKind(StrEnum):
    """What an alert is about."""

    TOOL_ERROR = "tool_error"
    RUN_FAILED = "run_failed"
    BLOCKED_CALL = "blocked_call"
    BUDGET = "budget"
    ANOMALY = "anomaly"


class Channel(StrEnum):
    """A way to somebody."""

    WEBHOOK = "webhook"
    MAIL = "mail"


class DeliveryState(StrEnum):
    """How far a delivery has come."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `count` like events between `first_at_ms` and `last_at_ms` are told in it; `facts` are its kind's."""

    alert_id: str
    kind: AlertKind
    namespace: str
    agent_id: str
    tool: str
    reason: str
    count: int
    first_at_ms: int
    last_at_ms: int
    raised_at_ms: int
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How an alert fares on one channel. `problem` is what the last try failed with."""

    channel: Channel
    state: DeliveryState = DeliveryState.WAITING
    tries: int = 0
    at_ms: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Incident:
    """Something to tell, `count` times over. What does not fold is told by itself.

    `agent_id` is needed only where it was not found in an agent's own trail.
    """

    kind: AlertKind
    tool: str
    reason: str
    at_ms: int
    count: int = 1
    first_at_ms: int = 0
    facts: Mapping[str, object] = field(default_factory=dict)
    folds: bool = True
    agent_id: str = ""


@dataclass(frozen=True, slots=True)
class Fold:
    """Incidents of a kind and tool after one that was told: they wait until `until_ms`, and are told together."""

    until_ms: int
    waiting: Incident | None = None


def is_wanted(kind: AlertKind, wanted: Notifications) -> bool:
    """Whether a namespace wants to be told. Blocked calls, budgets and anomalies are always told."""
    switched = {AlertKind.TOOL_ERROR: wanted.tool_errors, AlertKind.RUN_FAILED: wanted.run_failures}
    return switched.get(kind, True)


def fold(
    folds: Mapping[str, Fold], incidents: Iterable[Incident], now_ms: int, fold_ms: int
) -> tuple[dict[str, Fold], list[Incident]]:
    """The folds after these incidents, and what is to be told now.

    The first of a kind and tool is told at once, with those that came together with it; what follows within `fold_ms`
    waits for the end of that time.
    """
    open_folds, told = dict(folds), []
    for name, one in _together(incidents).items():
        if not one.folds:
            told.append(one)
        elif name in open_folds:
            open_folds[name] = replace(open_folds[name], waiting=_joined(open_folds[name].waiting, one))
        else:
            open_folds[name] = Fold(now_ms + fold_ms)
            told.append(one)
    return _ended(open_folds, told, now_ms, fold_ms), told


def next_end_ms(folds: Mapping[str, Fold]) -> int | None:
    """When a fold ends next, or None."""
    return min((fold.until_ms for fold in folds.values()), default=None)


def _ended(folds: Mapping[str, Fold], told: list[Incident], now_ms: int, fold_ms: int) -> dict[str, Fold]:
    """Tells what waited long enough, and begins its time anew: at most one alert in each."""
    left = {}
    for name, one in folds.items():
        if one.until_ms > now_ms:
            left[name] = one
        elif one.waiting is not None:
            told.append(one.waiting)
            left[name] = Fold(now_ms + fold_ms)
    return left


def _together(incidents: Iterable[Incident]) -> dict[str, Incident]:
    found: dict[str, Incident] = {}
    for number, incident in enumerate(incidents):
        name = f"{incident.kind}|{incident.tool}|{incident.agent_id}" if incident.folds else str(number)
        found[name] = _joined(found.get(name), incident)
    return found


def _joined(first: Incident | None, then: Incident) -> Incident:
    if first is None:
        return then if then.first_at_ms else replace(then, first_at_ms=then.at_ms)
    return replace(first, count=first.count + then.count, at_ms=max(first.at_ms, then.at_ms))
