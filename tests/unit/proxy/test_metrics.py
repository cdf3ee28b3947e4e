from typing import Never

import pytest
from prometheus_client.parser import text_string_to_metric_families

from interlock.proxy.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.exposition("text/plain")[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, tuple(sorted(labels.items()))))


def test_decisions_are_counted_by_verdict_reason_and_tool_without_the_agent() -> None:
    metrics = Metrics()
    metrics.decided("EXECUTE", "ok", "charge", "billing")
    metrics.decided("EXECUTE", "ok", "charge", "support")
    assert value(metrics, "interlock_decisions_total", verdict="EXECUTE", reason="ok", tool="charge", agent="") == 2


def test_agents_are_told_apart_only_where_asked_for() -> None:
    metrics = Metrics(label_agents=True)
    metrics.decided("BLOCKED", "agent_disabled", "charge", "billing")
    labels = {"verdict": "BLOCKED", "reason": "agent_disabled", "tool": "charge", "agent": "billing"}
    assert value(metrics, "interlock_decisions_total", **labels) == 1


def test_time_added_and_time_at_the_tool_are_apart() -> None:
    metrics = Metrics()
    metrics.finished("charge", 0.0003, 2.0)
    assert value(metrics, "interlock_call_added_seconds_sum", tool="charge") == pytest.approx(0.0003)
    assert value(metrics, "interlock_call_upstream_seconds_sum", tool="charge") == pytest.approx(2.0)


def test_a_call_that_was_never_sent_is_no_time_at_the_tool() -> None:
    metrics = Metrics()
    metrics.finished("charge", 0.0003, 0.0)
    assert value(metrics, "interlock_call_added_seconds_count", tool="charge") == 1
    assert value(metrics, "interlock_call_upstream_seconds_count", tool="charge") is None


@pytest.mark.parametrize("seconds", [0.0001, 60.0])
def test_buckets_reach_from_100_microseconds_to_a_minute(seconds: float) -> None:
    metrics = Metrics()
    metrics.engine_call("Authorize", seconds)
    assert value(metrics, "interlock_engine_call_seconds_bucket", method="Authorize", le=str(seconds)) == 1


def test_a_call_is_in_flight_only_while_it_runs_even_if_it_breaks() -> Never:
    metrics = Metrics()
    with pytest.raises(RuntimeError), metrics.in_flight("charge"):
        assert value(metrics, "interlock_calls_in_flight", tool="charge") == 1
        raise RuntimeError
    assert value(metrics, "interlock_calls_in_flight", tool="charge") == 0


def test_every_name_bears_the_prefix() -> None:
    metrics = Metrics()
    metrics.redis_call("authorize", 0.001)
    metrics.settle_failed("governance_unavailable")
    metrics.spool_depth(3)
    assert {name for name, _ in samples(metrics) if not name.startswith("interlock_")} == set()
    assert value(metrics, "interlock_spool_depth") == 3


def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    content_type = Metrics().exposition("application/openmetrics-text; version=1.0.0")[1]
    assert content_type.startswith("application/openmetrics-text")


def test_two_processes_worth_of_metrics_do_not_share_a_registry() -> None:
    one, other = Metrics(), Metrics()
    one.spool_depth(1)
    assert value(other, "interlock_spool_depth") == 0
