import pytest

from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy.api.agents import AgentMetrics, AgentStatus, Decision


@pytest.mark.parametrize(
    ("verdict", "allowed", "decision"),
    [
        ("EXECUTE", True, "executed"),
        ("REPLAY", True, "dedup"),
        ("BLOCKED", False, "blocked"),
        ("IN_FLIGHT", False, "blocked"),
        ("MISMATCH", False, "blocked"),
        ("UNKNOWN", False, "blocked"),
    ],
)
def test_a_verdict_is_logged_in_the_contracts_words(verdict: str, allowed: bool, decision: str) -> None:
    item = Decision.of(pb.Event(verdict=verdict)).model_dump()
    assert (item["allowed"], item["decision"]) == (allowed, decision)


def test_an_item_of_the_log_has_the_contracts_fields() -> None:
    event = pb.Event(
        at_ms=1_767_225_600_999,
        agent_id="billing",
        tool="charge",
        call_id="call_1",
        verdict="EXECUTE",
        reason="ok",
        charged_micros=70_000,
    )
    event.facts.update({"risk_level": "high", "args_hash": "ab12"})
    assert Decision.of(event).model_dump() == {
        "ts": 1_767_225_600,
        "agent_id": "billing",
        "tool": "charge",
        "allowed": True,
        "decision": "executed",
        "policy_reason": "ok",
        "risk_level": "high",
        "args_hash": "ab12",
        "spend_usd": 0.07,
        "call_id": "call_1",
        "count": 1,
    }


def test_an_enabled_agent_has_no_reason_and_no_time() -> None:
    assert AgentStatus.of(pb.AgentStatus(agent_id="billing", is_enabled=True)).model_dump() == {
        "agent_id": "billing",
        "is_enabled": True,
        "disabled_reason": None,
        "disabled_at": None,
    }


def test_a_disabled_agent_shows_why_and_since_when() -> None:
    status = pb.AgentStatus(agent_id="billing", disabled_reason="loop", disabled_at_ms=1_767_225_600_000)
    assert AgentStatus.of(status).disabled_at == "2026-01-01T00:00:00.000Z"
    assert AgentStatus.of(status).disabled_reason == "loop"


def test_figures_are_in_dollars() -> None:
    figures = pb.AgentMetrics(
        total_actions=3, blocked_actions=1, total_spend_micros=300_000, top_tools=[pb.ToolCount(tool="charge", count=3)]
    )
    assert AgentMetrics.of("billing", "day", figures).model_dump() == {
        "agent_id": "billing",
        "period": "day",
        "total_actions": 3,
        "blocked_actions": 1,
        "total_spend_usd": 0.3,
        "top_tools": [{"tool": "charge", "count": 3}],
    }
