"""Replies of Redis, read: RESP2 knows bytes, integers and flat lists."""

from collections.abc import Sequence
from typing import Any

from interlock.policy.model import Switch

AGENT_SWITCH = ("off", "off_reason", "off_at", "off_by")
"""The fields of an agent's `config` that are its kill switch."""


def pairs(flat: Sequence[bytes]) -> dict[str, bytes]:
    """A hash: names and values in turn."""
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def text_of(flat: Sequence[bytes]) -> dict[str, str]:
    """A hash's or a stream entry's fields as text."""
    return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}


def unix_ms(reply: Any) -> int:
    """What TIME says (seconds, microseconds)."""
    seconds, micros = reply
    return int(seconds) * 1000 + int(micros) // 1000


def agent_switch(fields: Sequence[bytes | None]) -> Switch:
    """The values of `AGENT_SWITCH`."""
    off, reason, since, by = fields
    return Switch(off == b"1", (reason or b"").decode(), int(since or 0), (by or b"").decode())
