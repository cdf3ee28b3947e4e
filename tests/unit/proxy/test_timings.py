from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from interlock.proxy.timings import Timings

BOUNDS = (0.0001, 0.25, 1.0, 60.0)


@given(st.lists(st.floats(0, 100) | st.sampled_from(BOUNDS)))
def test_a_histogram_tells_what_the_librarys_own_would(seconds: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    timing = Timings(ours, "interlock_x_seconds", "Time of x.", "method", BOUNDS).of("a")
    series = Histogram("interlock_x_seconds", "Time of x.", ["method"], buckets=BOUNDS, registry=theirs).labels("a")
    for taken in seconds:
        timing.observe(taken)
        series.observe(taken)
    expected = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == expected


def test_a_series_is_one_however_often_it_is_asked_for() -> None:
    timings = Timings(CollectorRegistry(), "interlock_x_seconds", "Time of x.", "method", BOUNDS)
    assert timings.of("a") is timings.of("a")
    assert timings.of("a") is not timings.of("b")
