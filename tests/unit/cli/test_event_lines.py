from typing import Any

import pytest

from interlock.cli.event_lines import call_line, coloured, event_line

EVENT: dict[str, Any] = {
    "seq": 7,
    "at": "2026-01-01T00:00:00.123Z",
    "type": "decision",
    "agent_id": "shopper",
    "tool": "payments.charge",
    "call_id": "call_1",
    "verdict": "BLOCKED",
    "reason": "tool_explicitly_blocked",
    "charged_usd": 0.0,
    "facts": {},
}
HOSTILE = "\x1b[2J[red]\r\n\x07\x9b31m\u202e\u2028"


def test_a_line_says_when_who_what_and_why() -> None:
    line = call_line(EVENT, colour=False)
    assert line.split() == [
        *("2026-01-01", "00:00:00.123Z", "shopper", "payments.charge", "BLOCKED", "-", "call_1"),
        "tool_explicitly_blocked",
    ]
    assert event_line(EVENT, colour=False).split()[:2] == ["7", "decision"]


@pytest.mark.parametrize(
    ("usd", "text"), [(5.0, "$5.00"), (0.07, "$0.07"), (2.5, "$2.50"), (0.000123, "$0.000123"), (-0.5, "-$0.50")]
)
def test_money_is_exact(usd: float, text: str) -> None:
    assert text in call_line(EVENT | {"charged_usd": usd}, colour=False).split()


def test_folded_refusals_say_how_many() -> None:
    assert call_line(EVENT | {"facts": {"count": 17}}, colour=False).endswith("x17")


@pytest.mark.parametrize("field", ["agent_id", "tool", "call_id", "verdict", "reason", "type", "at"])
def test_nothing_that_others_wrote_moves_the_cursor(field: str) -> None:
    line = event_line(EVENT | {field: HOSTILE, "facts": {"count": HOSTILE}}, colour=False)
    assert line.isprintable()
    assert "[red]" in line


def test_an_event_of_a_later_version_is_shown_as_far_as_it_is_known() -> None:
    assert "new_kind" in event_line({"seq": 1, "type": "new_kind", "agent_id": "a"}, colour=False)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_are_left_out_for_who_does_not_want_them(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert coloured()
    monkeypatch.setenv(name, value)
    assert not coloured()
