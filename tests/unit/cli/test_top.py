import io
from typing import Any

import pytest
from rich.console import Console

from interlock.cli.sorting import Sort
from interlock.cli.top import Look, View, _fitting, _short, _table, arranged, used


def agent(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "agent_id": name,
        "is_enabled": True,
        "last_seen_at": "2026-01-01T00:00:00.000Z",
        "actions_per_minute": 0.0,
        "actions_in_hour": 0,
        "max_actions_per_hour": None,
        "spend_usd_today": 0.0,
        "max_spend_usd_per_day": None,
        "blocked_today": 0,
        "running_calls": 0,
        "unknown_calls": 0,
    } | fields


BUSY = agent("busy", actions_per_minute=9.0, spend_usd_today=1.0, max_spend_usd_per_day=100)
DEAR = agent("dear", spend_usd_today=9.0, max_spend_usd_per_day=900, last_seen_at=None)
SPENT = agent("spent", spend_usd_today=2.0, max_spend_usd_per_day=2, blocked_today=4)
ODD = agent("odd", running_calls=1, unknown_calls=2)


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        (Sort.RATE, "busy"),
        (Sort.SPEND, "dear"),
        (Sort.BUDGET, "spent"),
        (Sort.BLOCKED, "spent"),
        (Sort.RUNNING, "odd"),
        (Sort.UNKNOWN, "odd"),
        (Sort.SEEN, "busy"),
        (Sort.AGENT, "busy"),
    ],
)
def test_agents_come_in_the_order_that_is_asked_for(sort: Sort, first: str) -> None:
    shown = arranged([ODD, SPENT, DEAR, BUSY], View(sort, 2))
    assert (len(shown), shown[0]["agent_id"]) == (2, first)


def test_each_order_is_known() -> None:
    for sort in Sort:
        assert arranged([BUSY, DEAR], View(sort, None))


def test_a_day_without_money_is_spent_from_the_beginning() -> None:
    assert (used(agent("a", max_spend_usd_per_day=0)), used(agent("a")), used(SPENT)) == (1, None, 1)


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0, "0.00"), (0.07, "0.07"), (999.99, "999.99"), (1234.5, "1234"), (45_678, "46k"), (2_500_000, "2.5M")],
)
def test_money_takes_few_columns(usd: float, text: str) -> None:
    assert _short(usd) == text


LARGEST = agent(
    "a" * 128,
    is_enabled=False,
    actions_per_minute=9999.9,
    actions_in_hour=99_999,
    max_actions_per_hour=99_999,
    spend_usd_today=9_999_999,
    max_spend_usd_per_day=10_000_000,
    blocked_today=99_999,
    running_calls=9999,
    unknown_calls=9999,
)


@pytest.mark.parametrize("width", [60, 80, 132, 250])
def test_every_figure_is_whole_whatever_the_width(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(_table([LARGEST, ODD], console))
    shown = console.file.getvalue()  # type: ignore[attr-defined] # a StringIO
    assert max(map(len, shown.splitlines())) <= max(width, 72)
    if width >= 80:
        for figure in ("9999.9", "99999/99999", "$10.0M/10.0M", "OFF"):
            assert figure in shown


@pytest.mark.parametrize("lines", [1, 3, 10, 50])
def test_there_are_no_more_lines_than_the_terminal_has(lines: int) -> None:
    console = Console(width=80, height=lines, file=io.StringIO(), color_system=None)
    look = Look([agent(f"a{number}") for number in range(10_000)], 0, "the API cannot be reached")
    console.print(_fitting(look, View(Sort.RATE, None), console))
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined] # a StringIO
    assert len(shown) <= max(lines, 4)
    assert "10000 agents" in shown[0]
    assert "cannot be reached" in shown[1]


def test_without_unicode_the_bar_is_ascii() -> None:
    console = Console(width=80, file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), color_system=None)
    console.print(_table([SPENT, BUSY], console))  # raises if it were not
