"""What agents did, day by day, and what the engine needs to tell. Errors are those of `ports`."""

from collections.abc import Sequence
from typing import Protocol

from interlock.governance.values import dataclass
from interlock.policy.model import Scope


@dataclass(frozen=True, slots=True)
class DayFigures:
    """A UTC day, counted from 1970-01-01: calls let through, refused, answered from the record, and what they cost."""

    day: int
    actions: int
    blocked: int
    replayed: int
    spend_micros: int


class DailyFigures(Protocol):
    """Counters of many agents, summed."""

    async def days(self, scopes: Sequence[Scope], first: int, last: int) -> Sequence[DayFigures]:
        """Of these days, oldest first, those that are still known: today and the 7 before."""
