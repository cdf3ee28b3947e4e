"""What is told together, which budgets are told when, and when a delivery is tried again."""

import pytest

from interlock.governance.letters import Sent
from interlock.policy.account_ports import Notifications
from interlock.policy.alert_settings import AlertSettings, SmtpSettings
from interlock.policy.alerts import AlertKind, DeliveryState, Fold, Incident, fold, is_wanted, next_end_ms
from interlock.policy.budget_alerts import Used, budgets, crossed
from interlock.policy.delivering import pause_ms, state_after
from interlock.policy.model import Policy

DAY_MS, HOUR_MS = 86_400_000, 3_600_000
NOON = 20_000 * DAY_MS + DAY_MS // 2
USD = 1_000_000
MINUTE_MS = 60_000


def blocked(count: int = 1, at_ms: int = NOON, tool: str = "refund") -> Incident:
    return Incident(AlertKind.BLOCKED_CALL, tool, "tool_explicitly_blocked", at_ms, count)


def test_a_loop_of_blocked_calls_is_told_at_most_once_a_minute_and_none_of_them_is_lost() -> None:
    folds: dict[str, Fold] = {}
    told: list[tuple[int, int]] = []
    for second in range(200):
        now = NOON + second * 1000
        folds, alerts = fold(folds, [blocked(3, now)] if second < 150 else [], now, MINUTE_MS)
        told += [(second, alert.count) for alert in alerts]
    assert [second for second, _ in told] == [0, 60, 120, 180]
    assert sum(count for _, count in told) == 450
    assert folds != {}
    ends = next_end_ms(folds)
    assert ends is not None
    assert fold(folds, [], ends, MINUTE_MS) == ({}, [])


def test_other_tools_and_kinds_are_told_for_themselves() -> None:
    failed = Incident(AlertKind.TOOL_ERROR, "refund", "upstream_timeout", NOON)
    _, told = fold({}, [blocked(), failed, blocked(tool="other"), blocked()], NOON, MINUTE_MS)
    assert [(one.kind, one.tool, one.count) for one in told] == [
        ("blocked_call", "refund", 2),
        ("tool_error", "refund", 1),
        ("blocked_call", "other", 1),
    ]


def test_budgets_are_never_folded() -> None:
    policy, used = Policy(max_spend_micros_per_day=10 * USD), Used(10 * USD, 0, {})
    _, incidents = crossed(budgets(policy, used, frozenset()), {}, NOON)
    folds, told = fold({}, incidents, NOON, MINUTE_MS)
    assert (folds, len(told)) == ({}, 2)


def levels(policy: Policy, used: Used, marks: dict[str, int], now_ms: int = NOON, *reasons: str) -> list[str]:
    """What is told; the marks are changed as they then are."""
    standing = budgets(policy, used, frozenset(("charge", reason) for reason in reasons))
    left, told = crossed(standing, marks, now_ms)
    marks.clear()
    marks.update(left)
    return [incident.reason for incident in told]


def test_a_budget_is_told_at_80_and_100_percent_once_each_in_a_day() -> None:
    policy, marks = Policy(max_spend_micros_per_day=10 * USD), dict[str, int]()
    told = [levels(policy, Used(spent * USD, 0, {}), marks) for spent in (0, 7, 8, 9, 8, 10, 10, 7, 10)]
    assert told == [
        [], [], ["max_spend_usd_per_day_80_percent"], [], [], ["max_spend_usd_per_day_100_percent"], [], [], [],
    ]  # fmt: skip
    assert levels(policy, Used(9 * USD, 0, {}), marks, NOON + DAY_MS) == ["max_spend_usd_per_day_80_percent"]


def test_a_budget_whose_rest_is_too_little_for_a_call_is_at_its_end() -> None:
    policy = Policy(max_spend_micros_per_day=10 * USD)
    refused = "max_spend_usd_per_day_exceeded"
    assert len(levels(policy, Used(9 * USD, 0, {}), {}, NOON, refused)) == 2
    # A single call that costs more than a day is no sign that the budget is used.
    assert levels(policy, Used(0, 0, {}), {}, NOON, refused) == []


def test_actions_are_of_a_rolling_hour_and_calls_of_each_tool_and_day() -> None:
    policy, marks = Policy(max_actions_per_hour=10, max_calls_per_tool={"*": 5}), dict[str, int]()
    used = Used(0, 8, {"a": 4, "b": 5})
    assert len(levels(policy, used, marks)) == 4
    assert levels(policy, used, marks, NOON + HOUR_MS - 1) == []
    assert levels(policy, used, marks, NOON + HOUR_MS) == ["max_actions_per_hour_80_percent"]


def test_no_limit_and_a_limit_of_nothing_are_no_budgets() -> None:
    assert budgets(Policy(), Used(10, 10, {"a": 1}), frozenset()) == []
    nothing = Policy(max_actions_per_hour=0, max_spend_micros_per_day=0, max_calls_per_tool={"*": 0})
    assert budgets(nothing, Used(0, 0, {"a": 0}), frozenset()) == []


@pytest.mark.parametrize("kind", AlertKind)
def test_only_tool_errors_and_failed_runs_can_be_switched_off(kind: AlertKind) -> None:
    off = Notifications(email=False, tool_errors=False, run_failures=False)
    assert is_wanted(kind, Notifications())
    assert is_wanted(kind, off) == (kind not in (AlertKind.TOOL_ERROR, AlertKind.RUN_FAILED))


def test_pauses_grow_fourfold_up_to_six_hours_and_then_it_is_a_dead_letter() -> None:
    settings = AlertSettings()
    pauses = [pause_ms(tries, settings) for tries in range(1, settings.max_tries)]
    for pause, meant in zip(pauses, (5, 20, 80, 320, 1280, 5120, 20_480), strict=True):
        assert meant * 800 <= pause <= meant * 1200
    assert pause_ms(20, settings) <= 21_600_000 * 1.2
    failed = Sent(problem="status 500")
    assert state_after(failed, 7, 8) is DeliveryState.WAITING
    assert state_after(failed, 8, 8) is DeliveryState.DEAD
    assert state_after(Sent(problem="status 410", gone=True), 1, 8) is DeliveryState.DEAD
    assert state_after(Sent(), 8, 8) is DeliveryState.DELIVERED


@pytest.mark.parametrize(
    "wrong",
    [
        {"username": "me"},
        {"password": "secret"},
        {"username": "me", "password": "secret", "security": "none"},
        {"recipients": ["Someone <a@b.c>"]},
        {"recipients": ["a@b.c\r\nBcc: d@e.f"]},
        {"recipients": ["nobody"]},
    ],
)
def test_a_mail_server_that_is_half_told_or_told_dangerously_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        SmtpSettings.model_validate({"host": "mail", "sender": "interlock@example.com", **wrong})
