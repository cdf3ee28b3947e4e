"""What agents did, day by day: the DailyFigures port."""

from collections.abc import Sequence

from interlock.policy.figures_ports import DayFigures
from interlock.policy.model import Scope
from interlock.store import keys
from interlock.store.connection import Connection
from interlock.store.replies import unix_ms

DAY_MS = 86_400_000
KEPT_DAYS = 8
COUNTED = ("a", "b", "d", "s")
"""Actions, refusals, replays and spend, as `include/windows.lua` names them."""
PAGE = 200
"""Agents in one write: decisions travel on the same connection, and must not wait behind a long answer."""


class RedisFigures:
    """Counters in Redis, each in the slot of its agent."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection

    async def days(self, scopes: Sequence[Scope], first: int, last: int) -> Sequence[DayFigures]:
        (time_reply,) = await self._redis.ask("figures", ("TIME",))
        today = unix_ms(time_reply) // DAY_MS
        days = range(max(first, today - KEPT_DAYS + 1), min(last, today) + 1)
        fields = [f"{day}:{what}" for day in days for what in COUNTED]
        if not fields:
            return []
        totals = [0] * len(fields)
        for at in range(0, len(scopes), PAGE):
            reads = [("HMGET", keys.of_agent(scope, "days"), *fields) for scope in scopes[at : at + PAGE]]
            for counts in await self._redis.ask("figures", *reads):
                totals = [total + int(count or 0) for total, count in zip(totals, counts, strict=True)]
        width = len(COUNTED)
        return [DayFigures(day, *totals[at * width : (at + 1) * width]) for at, day in enumerate(days)]
