import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest

from interlock.proxy.tallies import Tally, Within

SERIES = st.lists(st.tuples(st.sampled_from(("ok", "blocked")), st.sampled_from(("charge", 'a"b\\c\n', ""))))


def exposed(registry: CollectorRegistry) -> list[bytes]:
    return [line for line in generate_latest(registry).splitlines() if b"_created" not in line]


@given(SERIES)
def test_a_counter_tells_what_the_librarys_own_would(counted: list[tuple[str, str]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = Tally(ours, CounterMetricFamily, "interlock_x_total", "Count of x.", "reason", "tool")
    counter = Counter("interlock_x_total", "Count of x.", ["reason", "tool"], registry=theirs)
    for reason, tool in counted:
        tally.add(1, reason, tool)
        counter.labels(reason, tool).inc()
    assert exposed(ours) == exposed(theirs)


@given(SERIES)
def test_a_gauge_tells_what_the_librarys_own_would(opened: list[tuple[str, str]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = Tally(ours, GaugeMetricFamily, "interlock_x", "What is open of x.", "reason", "tool")
    gauge = Gauge("interlock_x", "What is open of x.", ["reason", "tool"], registry=theirs)
    for reason, tool in opened:
        tally.add(1, reason, tool)
        gauge.labels(reason, tool).inc()
    for reason, tool in opened[::2]:
        tally.add(-1, reason, tool)
        gauge.labels(reason, tool).dec()
    assert exposed(ours) == exposed(theirs)


def test_what_breaks_off_is_counted_out_again() -> None:
    registry = CollectorRegistry()
    tally = Tally(registry, GaugeMetricFamily, "interlock_x", "What is open of x.", "tool")
    with pytest.raises(RuntimeError), Within(tally, "charge"):
        assert b'interlock_x{tool="charge"} 1.0' in exposed(registry)
        raise RuntimeError
    assert b'interlock_x{tool="charge"} 0.0' in exposed(registry)
