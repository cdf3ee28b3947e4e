"""Times as they are told: RFC 3339 in UTC, to the millisecond."""

from datetime import UTC, datetime


def rfc3339(unix_ms: int) -> str:
    """`2026-01-31T12:00:00.123Z`."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
