"""Metrics of this process's loops for Prometheus: `flexsc_loop.prometheus.register()`, once.

Needs prometheus_client: `pip install "flexsc_loop[prometheus]"`.  Nothing is counted for it: what loops count anyway is
read whenever somebody collects, from any thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flexsc_loop.insight import names
from flexsc_loop.insight.layout import Histogram, LoopStats
from flexsc_loop.insight.reader import counts_of, own_loops, read, rising

try:
    from prometheus_client import REGISTRY
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
except ImportError as error:
    raise ImportError(
        "flexsc_loop.prometheus needs prometheus_client: pip install 'flexsc_loop[prometheus]'"
    ) from error

if TYPE_CHECKING:
    from flexsc_loop.loop import Loop

#: Upper bounds of the histograms' buckets, in seconds.
BUCKETS = (
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)
_UNITS = {"s": "_seconds", "By": "_bytes"}


def metric_name(metric: names.Metric) -> str:
    """As Prometheus wants it: base units at the end; `_total` is added to counters by the client."""
    return metric.name.replace(".", "_") + _UNITS.get(metric.unit, "")


class LoopCollector:
    """What a registry asks for metrics.

    loop: the one whose metrics are wanted; None: all open ones of this process, each with its number as the label
    `loop` and its kind of page as `pages`.
    """

    def __init__(self, loop: Loop | None = None) -> None:
        self._loop = loop

    def describe(self) -> list[Any]:
        """Nothing is read when the collector is registered."""
        return []

    def collect(self) -> Iterator[Any]:
        """The metrics as they are now."""
        loops = [self._loop] if self._loop is not None else own_loops()
        found = [read(loop) for loop in loops]
        counts = [(_labels(stats), counts_of(loop, stats)) for loop, stats in zip(loops, found, strict=True)]
        for kind, metrics in ((CounterMetricFamily, names.COUNTERS), (GaugeMetricFamily, names.GAUGES)):
            for metric in metrics:
                yield _family(kind, metric, counts)
        for (name, text), which in ((names.TURN, "turn"), (names.DELAY, "lag")):
            family = HistogramMetricFamily(f"{name.replace('.', '_')}_seconds", text, labels=("loop", "pages"))
            for loop, stats in zip(loops, found, strict=True):
                family.add_metric(_labels(stats), *_buckets(loop, stats, which))
            yield family


def _labels(stats: LoopStats) -> list[str]:
    return [str(stats.number), stats.pages]


def _family(kind: Any, metric: names.Metric, found: list[tuple[list[str], dict[str, int | float]]]) -> Any:
    more = (metric.label.rpartition(".")[2],) if metric.labels else ()
    family = kind(metric_name(metric), metric.text, labels=("loop", "pages", *more))
    for labels, counts in found:
        for at, name in enumerate(metric.counts):
            family.add_metric([*labels, *metric.labels[at : at + 1]], counts[name])
    return family


def _buckets(loop: Loop, stats: LoopStats, which: str) -> tuple[list[tuple[str, float]], float]:
    histogram: Histogram = getattr(stats, which)
    below = zip(BUCKETS, histogram.below(BUCKETS), strict=True)
    found = [(repr(bound), rising(loop, f"{which} {bound}", float(count))) for bound, count in below]
    return [*found, ("+Inf", float(histogram.count))], rising(loop, which, getattr(stats, f"{which}_total"))


def register(registry: Any = REGISTRY, loop: Loop | None = None) -> LoopCollector:
    """Have `registry` collect from this process's loops, or from one; returns what to `unregister()` again."""
    collector = LoopCollector(loop)
    registry.register(collector)
    return collector
