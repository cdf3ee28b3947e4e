"""Budgets at 80 % and at 100 %: each told once for each agent and window. Pure functions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from interlock.policy import rules
from interlock.policy.alerts import AlertKind, Incident
from interlock.policy.model import Policy

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
LEVELS = (80, 100)
SPEND, ACTIONS, CALLS = "max_spend_usd_per_day", "max_actions_per_hour", "max_calls_per_tool"
MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit and what is used of it; `refused` says that a call was refused for it. `tool` is empty for most."""

    name: str
    limit: int
    used: int
    refused: bool = False
    tool: str = ""

    @property
    def percent(self) -> int:
        """How much is used. A budget is at its end also if less is left than the next call costs."""
        used = self.used * 100 // self.limit
        return max(used, 100) if self.refused and used >= LEVELS[0] else used


@dataclass(frozen=True, slots=True)
class Used:
    """What an agent has used: of the day, and of its last 60 minutes. `calls` are the day's, by tool."""

    spend_micros: int
    actions_in_hour: int
    calls: Mapping[str, int]


def budgets(policy: Policy, used: Used, refusals: frozenset[tuple[str, str]]) -> list[Budget]:
    """Those that the policy sets. `refusals` are tools and the reasons that they were refused for."""
    reasons = {reason for _, reason in refusals}
    limits = [
        Budget(SPEND, policy.max_spend_micros_per_day or 0, used.spend_micros, f"{SPEND}_exceeded" in reasons),
        Budget(ACTIONS, policy.max_actions_per_hour or 0, used.actions_in_hour, f"{ACTIONS}_exceeded" in reasons),
    ]
    for tool, calls in used.calls.items():
        limit = rules.calls_limit(policy, tool) or 0
        limits.append(Budget(CALLS, limit, calls, (tool, f"{CALLS}_exceeded") in refusals, tool))
    # A limit of nothing is no budget to be used up.
    return [budget for budget in limits if budget.limit > 0]


def crossed(standing: Iterable[Budget], marks: Mapping[str, int], now_ms: int) -> tuple[dict[str, int], list[Incident]]:
    """The marks that hold after this look, and what is to be told: a mark is when a level was told, by its name."""
    left = {name: at for name, at in marks.items() if _holds(name, at, now_ms)}
    told = []
    for budget in standing:
        for level in LEVELS:
            name = f"{budget.name}|{budget.tool}|{level}"
            if budget.percent >= level and name not in left:
                left[name] = now_ms
                told.append(_incident(budget, level, now_ms))
    return left, told


def _holds(name: str, at: int, now_ms: int) -> bool:
    """The hour's budget is a rolling one, all others are of a UTC day."""
    if name.startswith(ACTIONS):
        return now_ms - at < HOUR_MS
    return at // DAY_MS == now_ms // DAY_MS


def _incident(budget: Budget, level: int, now_ms: int) -> Incident:
    unit = MICROS if budget.name == SPEND else 1
    facts = {"budget": budget.name, "level_percent": level, "limit": budget.limit / unit, "used": budget.used / unit}
    return Incident(AlertKind.BUDGET, budget.tool, f"{budget.name}_{level}_percent", now_ms, facts=facts, folds=False)
