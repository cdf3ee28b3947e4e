"""Times at the edge: unix milliseconds inside, RFC 3339 in UTC outside."""

from datetime import UTC, datetime


def rfc3339(unix_ms: int) -> str | None:
    """`2026-01-31T12:00:00.123Z`, or None for 0, which stands for never."""
    if not unix_ms:
        return None
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
