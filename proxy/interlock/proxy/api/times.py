"""Times at the edge: unix milliseconds inside, RFC 3339 in UTC outside."""

from interlock.governance import times


def rfc3339(unix_ms: int) -> str | None:
    """The time as text, or None for 0, which stands for never."""
    return times.rfc3339(unix_ms) if unix_ms else None
