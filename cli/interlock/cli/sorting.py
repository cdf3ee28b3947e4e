"""The orders in which `interlock top` shows agents."""

from enum import StrEnum


class Sort(StrEnum):
    """By what agents are sorted, the greatest first; `agent` by name."""

    RATE = "rate"
    SPEND = "spend"
    BUDGET = "budget"
    BLOCKED = "blocked"
    RUNNING = "running"
    UNKNOWN = "unknown"
    SEEN = "seen"
    AGENT = "agent"
