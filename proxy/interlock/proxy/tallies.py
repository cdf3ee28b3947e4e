"""Counters and gauges with labels, as Prometheus has them, that cost next to nothing to count in.

The library's own takes a lock and asks itself three questions first. These are counted in by one thread, the event
loop's, and only put into the library's shape when somebody looks; as `timings` are.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry


class Tally(Collector):
    """Counts by the values of some labels. A series is there once it was counted in."""

    def __init__(
        self,
        registry: CollectorRegistry,
        family: type[CounterMetricFamily | GaugeMetricFamily],
        name: str,
        documentation: str,
        *labels: str,
    ) -> None:
        self.name, self.labels = name, labels
        self._documentation = documentation
        self._family = family
        self._counts: dict[Sequence[str], int] = {}
        registry.register(self)

    def add(self, by: int, *values: str) -> None:
        """`values` are those of the labels, in their order."""
        self._counts[values] = self._counts.get(values, 0) + by

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """What the registry asks for when it is looked at."""
        family = self._family(self.name, self._documentation, labels=self.labels)
        for values, count in self._counts.items():
            family.add_metric(values, count)
        yield family


class Within:
    """A context that is counted while it is open."""

    __slots__ = ("_tally", "_values")

    def __init__(self, tally: Tally, *values: str) -> None:
        self._tally = tally
        self._values = values

    def __enter__(self) -> None:
        self._tally.add(1, *self._values)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tally.add(-1, *self._values)
