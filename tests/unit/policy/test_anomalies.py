"""What is out of the ordinary, and what is not: pure functions with the time given."""

import pytest

from interlock.policy.alert_settings import AnomalySettings
from interlock.policy.anomalies import (
    MAX_TOOLS,
    Act,
    Anomaly,
    Behaviour,
    DayBudget,
    Deed,
    Usual,
    anomalies,
    observed,
    told,
    usual_of,
)

SETTINGS = AnomalySettings()
DAY_MS, MINUTE_MS = 86_400_000, 60_000
NOON = 20_000 * DAY_MS + DAY_MS // 2
USD = 1_000_000


def after(*deeds: Deed, known: Behaviour | None = None) -> Behaviour:
    return observed(known or Behaviour(), deeds, SETTINGS)


def calls(count: int, tool: str = "charge", at_ms: int = NOON, micros: int = 0) -> list[Deed]:
    return [Deed(Act.CALLED, at_ms, tool, charged_micros=micros)] * count


def refusals(count: int, reason: str = "tool_explicitly_blocked", at_ms: int = NOON) -> Deed:
    return Deed(Act.REFUSED, at_ms, "refund", reason, count)


def kinds(
    known: Behaviour, now_ms: int = NOON, usual: Usual | None = None, budget: DayBudget | None = None
) -> list[str]:
    return [anomaly.kind for anomaly in anomalies(known, now_ms, usual, budget, SETTINGS)]


@pytest.mark.parametrize(("count", "found"), [(9, []), (10, ["repeated_refusal"]), (400, ["repeated_refusal"])])
def test_the_same_call_refused_again_and_again_is_one(count: int, found: list[str]) -> None:
    assert kinds(after(refusals(count))) == found


def test_refusals_of_several_reasons_or_long_past_are_none() -> None:
    assert kinds(after(refusals(9), refusals(9, "max_calls_per_tool_exceeded"))) == []
    assert kinds(after(refusals(9), refusals(9, at_ms=NOON - 10 * MINUTE_MS))) == []
    assert kinds(after(refusals(5), refusals(5, at_ms=NOON - 9 * MINUTE_MS))) == ["repeated_refusal"]


@pytest.mark.parametrize("reason", ["agent_disabled", "kill_switch", "tool_disabled", "audit_backlog"])
def test_refusals_because_something_is_switched_off_say_nothing_of_the_agent(reason: str) -> None:
    assert kinds(after(refusals(1000, reason))) == []


def test_an_agent_that_was_enabled_again_has_a_clean_slate_but_knows_its_tools() -> None:
    known = after(*calls(200, micros=USD), refusals(50), Deed(Act.ENABLED, NOON))
    budget = DayBudget(200 * USD, 300 * USD)
    assert kinds(known, usual=Usual(10, 10), budget=budget) == []
    assert (known.calls, known.tools) == (200, ("charge",))
    assert kinds(after(refusals(10), known=known)) == ["repeated_refusal"]


def test_a_burst_is_far_over_the_agents_own_usual_rate() -> None:
    # 120 an hour are ten in five minutes.
    usual = Usual(calls=1200, hours=10)
    assert kinds(after(*calls(99)), usual=usual) == []
    assert kinds(after(*calls(100)), usual=usual) == ["burst"]
    busy = Usual(calls=24_000, hours=10)
    assert kinds(after(*calls(1999)), usual=busy) == []
    assert kinds(after(*calls(2000)), usual=busy) == ["burst"]
    assert kinds(after(*calls(2000, at_ms=NOON - 5 * MINUTE_MS)), usual=busy) == []


def test_an_agent_without_a_usual_rate_has_no_bursts() -> None:
    assert kinds(after(*calls(5000)), usual=Usual(calls=3, hours=2)) == []
    assert kinds(after(*calls(5000)), usual=Usual()) == []


def test_the_usual_rate_is_that_of_the_hours_with_calls_before_the_running_one() -> None:
    assert usual_of({7: 30, 8: 0, 9: 50, 10: 9000}, running_hour=10) == Usual(calls=80, hours=2)
    assert Usual(calls=80, hours=2).in_window(900) == 10


def test_a_tool_never_used_is_new_to_an_agent_with_a_history_only() -> None:
    brand_new = after(*calls(20, "a"), *calls(20, "b"), *calls(9, "c"))
    assert brand_new.fresh == ()
    assert anomalies(after(*calls(1, "d"), known=brand_new), NOON, None, None, SETTINGS) == []
    settled = after(*calls(1, "c"), known=brand_new)
    [found] = anomalies(after(*calls(3, "e"), known=settled), NOON, None, None, SETTINGS)
    assert (found.kind, found.tool, found.facts) == ("new_tool", "e", {"calls_before": 53, "tools_before": 3})
    assert kinds(after(*calls(1, "a"), known=settled)) == []


def test_who_uses_more_tools_than_are_remembered_is_surprised_by_none() -> None:
    known = after(*(deed for number in range(MAX_TOOLS) for deed in calls(1, f"t{number}")))
    known = told(known, (), NOON, SETTINGS)
    assert after(*calls(1, "one-more"), known=known).fresh == ()


def test_a_refused_call_of_a_new_tool_is_no_use_of_it() -> None:
    known = after(*calls(60), Deed(Act.REFUSED, NOON, "never", "tool_explicitly_blocked"))
    assert (known.fresh, known.tools) == ((), ("charge",))


@pytest.mark.parametrize(
    ("spent_usd", "recent_usd", "in_calls", "now_ms", "found"),
    [
        (3, 3, 3, NOON, ["spend_velocity"]),
        (3, 3, 2, NOON, []),  # one or two dear calls are no velocity
        (3, 0.9, 3, NOON, []),  # under a tenth of the budget in ten minutes
        (3, 3, 3, NOON + DAY_MS // 2 - 10 * MINUTE_MS, []),  # at this rate the day ends first
        (9, 3, 3, NOON + DAY_MS // 2 - 10 * MINUTE_MS, ["spend_velocity"]),
    ],
)
def test_spend_that_exhausts_the_days_budget_is_one(
    spent_usd: float, recent_usd: float, in_calls: int, now_ms: int, found: list[str]
) -> None:
    known = after(*calls(in_calls, at_ms=now_ms, micros=int(recent_usd * USD / in_calls)))
    assert kinds(known, now_ms, budget=DayBudget(int(spent_usd * USD), 10 * USD)) == found


def test_money_that_was_returned_and_that_of_yesterday_are_no_velocity() -> None:
    budget = DayBudget(0, 10 * USD)
    returned = [Deed(Act.CALLED, NOON, "charge", count=0, charged_micros=-USD)] * 5
    assert kinds(after(*calls(5, micros=USD), *returned), budget=budget) == []
    midnight = NOON + DAY_MS // 2
    yesterdays = after(*calls(9, at_ms=midnight - 1, micros=USD))
    assert kinds(yesterdays, midnight, budget=budget) == []


def test_the_same_anomaly_is_told_once_in_its_quiet_time() -> None:
    known = after(refusals(10))
    found = [Anomaly(one.kind, one.tool) for one in anomalies(known, NOON, None, None, SETTINGS)]
    quiet = told(known, found, NOON, SETTINGS)
    assert kinds(after(refusals(10), known=quiet)) == []
    later = NOON + 3600 * 1000
    assert kinds(after(refusals(10, at_ms=later), known=quiet), later) == ["repeated_refusal"]
