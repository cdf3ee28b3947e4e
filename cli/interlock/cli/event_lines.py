"""Events for people, a line each."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from interlock.cli.output import cell

GREEN, YELLOW, RED, CYAN, DIM = "32", "33", "31", "36", "2"
COLOURS = {
    **dict.fromkeys(("EXECUTE", "SUCCEEDED", "LIFTED"), GREEN),
    "REPLAY": CYAN,
    **dict.fromkeys(("IN_FLIGHT", "NOT_SENT", "REJECTED"), YELLOW),
    **dict.fromkeys(("BLOCKED", "MISMATCH", "UNKNOWN", "AMBIGUOUS", "PULLED"), RED),
}
LONGEST_WORD = max(map(len, COLOURS))


def coloured() -> bool:
    """Whether standard output is a terminal that takes colours, and its owner does (https://no-color.org)."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def call_line(event: Mapping[str, Any], *, colour: bool) -> str:
    """When, who, what, what became of it, what it cost and why."""
    verdict = cell(event.get("verdict"))
    many = event.get("facts", {}).get("count")
    parts = [
        _painted(_time(event), DIM, colour),
        f"{cell(event['agent_id']):<16}",
        f"{cell(event.get('tool')):<20}",
        _painted(f"{verdict:<{LONGEST_WORD}}", COLOURS.get(verdict, DIM), colour),
        f"{_money(event.get('charged_usd') or 0):>8}",
        cell(event.get("call_id")),
        *([cell(event["reason"])] if event.get("reason") not in (None, "", "ok") else []),
        *([f"x{cell(many)}"] if many else []),
    ]
    return "  ".join(parts)


def event_line(event: Mapping[str, Any], *, colour: bool) -> str:
    """An event of any kind, with its number and its kind before what it says."""
    numbered = f"{cell(event['seq']):>6}  {cell(event['type']):<11}"
    return f"{_painted(numbered, DIM, colour)}  {call_line(event, colour=colour)}"


def _time(event: Mapping[str, Any]) -> str:
    """`2026-01-31 12:00:00.123Z` of RFC 3339."""
    return cell(event.get("at")).replace("T", " ")


def _money(usd: float) -> str:
    if not usd:
        return "-"
    sign, amount = "-" if usd < 0 else "", abs(usd)
    return f"{sign}${amount:.2f}" if round(amount, 2) == amount else f"{sign}${amount:.6f}".rstrip("0")


def _painted(text: str, colour: str, wanted: bool) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if wanted else text
