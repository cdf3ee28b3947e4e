"""Histograms of seconds, as Prometheus has them, that cost next to nothing to fill.

The library's own walks its buckets in Python under two locks, six times a call. These are filled by one thread, the
event loop's, and only put into the library's shape when somebody looks.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString


class Timing:
    """One series."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def told(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, as the exposition has them, and the sum."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True)), self._sum


class _Series(dict[str, Timing]):
    """Those of one histogram by their label."""

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__()
        self._bounds = bounds

    def __missing__(self, value: str) -> Timing:
        timing = self[value] = Timing(self._bounds)
        return timing


class Timings(Collector):
    """A histogram with one label. `of` is its series of that label; a series is there once it was asked for."""

    def __init__(
        self, registry: CollectorRegistry, name: str, documentation: str, label: str, bounds: Sequence[float]
    ) -> None:
        self.name, self.label = name, label
        self._documentation = documentation
        self._series = _Series(bounds)
        self.of: Callable[[str], Timing] = self._series.__getitem__
        registry.register(self)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What the registry asks for when it is looked at."""
        family = HistogramMetricFamily(self.name, self._documentation, labels=[self.label])
        for value, timing in self._series.items():
            buckets, total = timing.told()
            family.add_metric([value], buckets, total)
        yield family
