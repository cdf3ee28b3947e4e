"""JSON into results: what does not fit is told by its place."""

import pytest

from interlock.client.errors import InvalidAnswerError
from interlock.client.governance import AgentMetrics, Policy, PolicyRules, PricingRule, ToolCount
from interlock.client.leases import LeaseAnswer
from interlock.client.reading import read, read_list


def test_fields_that_a_newer_server_adds_are_passed_over() -> None:
    assert read(LeaseAnswer, {"status": "polling", "key": "k", "new": 1}) == LeaseAnswer("polling", "k")


def test_what_stands_inside_is_read_as_well() -> None:
    told = {"agent_id": "a", "policy": {"pricing_rules": [{"tool": "t", "price_usd": 1}], "allowed_tools": []}}
    assert read(Policy, told).policy == PolicyRules(
        allowed_tools=(), pricing_rules=(PricingRule("t", 1.0),), raw=told["policy"]
    )
    figures = {"agent_id": "a", "period": "day", "total_actions": 1, "blocked_actions": 0, "total_spend_usd": 0}
    counted = read(AgentMetrics, {**figures, "top_tools": [{"tool": "t", "count": 1}]})
    assert counted.top_tools == (ToolCount("t", 1),)
    assert type(counted.total_spend_usd) is float


@pytest.mark.parametrize("limit", [5, {"a.*": 5}])
def test_a_field_may_have_one_of_several_types(limit: object) -> None:
    assert read(PolicyRules, {"max_calls_per_tool": limit}).max_calls_per_tool == limit


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ([], "LeaseAnswer is list, not dict"),
        ({"status": "polling"}, r"lacks LeaseAnswer\.key"),
        ({"status": 1, "key": "k"}, r"LeaseAnswer\.status is int, not str"),
        ({"status": "s", "key": "k", "version": "1"}, r"LeaseAnswer\.version is str, not int"),
        ({"status": "s", "key": "k", "version": True}, r"LeaseAnswer\.version is bool, not int"),
        ({"status": "s", "key": "k", "ttl": 1.5}, r"LeaseAnswer\.ttl is float, not int"),
    ],
)
def test_what_does_not_fit_is_named(told: object, complaint: str) -> None:
    with pytest.raises(InvalidAnswerError, match=complaint):
        read(LeaseAnswer, told)


def test_a_list_is_read_item_by_item() -> None:
    with pytest.raises(InvalidAnswerError, match=r"ToolCount\[1\]\.count is str"):
        read_list(ToolCount, [{"tool": "a", "count": 1}, {"tool": "b", "count": "1"}])
