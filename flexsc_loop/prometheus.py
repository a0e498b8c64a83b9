"""Metrics of this process's loops for Prometheus: `flexsc_loop.prometheus.register()`, once.

Needs prometheus_client: `pip install "flexsc_loop[prometheus]"`.  Nothing is counted for it: what loops count anyway is
read whenever somebody collects, from any thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flexsc_loop.insight import names
from flexsc_loop.insight.reader import read
from flexsc_loop.insight.told import BOUNDS, Ledger, Told, told_of

try:
    from prometheus_client import REGISTRY
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
except ImportError as error:
    raise ImportError(
        "flexsc_loop.prometheus needs prometheus_client: pip install 'flexsc_loop[prometheus]'"
    ) from error

if TYPE_CHECKING:
    from flexsc_loop.loop import Loop

_UNITS = {"s": "_seconds", "By": "_bytes"}


def metric_name(metric: names.Metric) -> str:
    """As Prometheus wants it: base units at the end; `_total` is added to counters by the client."""
    return metric.name.replace(".", "_") + _UNITS.get(metric.unit, "")


class LoopCollector:
    """What a registry asks for metrics.

    loop: the one whose metrics are wanted; None: all of this process, each with its number as the label `loop` and its
    kind of page as `pages`.  A loop that is closed has no gauges any more; its counters stay, and the next loop of this
    number adds to them.
    """

    def __init__(self, loop: Loop | None = None) -> None:
        self._loop = loop
        self._ledger = Ledger(lambda _loop: True) if loop is None else None

    def describe(self) -> list[Any]:
        """Nothing is read when the collector is registered."""
        return []

    def collect(self) -> Iterator[Any]:
        """The metrics as they are now."""
        found = self._told()
        for kind, metrics in ((CounterMetricFamily, names.COUNTERS), (GaugeMetricFamily, names.GAUGES)):
            for metric in metrics:
                yield _family(kind, metric, found)
        for (name, text), which in ((names.TURN, "turn"), (names.DELAY, "lag")):
            family = HistogramMetricFamily(f"{name.replace('.', '_')}_seconds", text, labels=("loop", "pages"))
            for told in found:
                buckets = getattr(told, which)
                steps = zip((*map(repr, BOUNDS), "+Inf"), (*buckets.below, buckets.count), strict=True)
                family.add_metric(_labels(told), list(steps), buckets.total)
            yield family

    def _told(self) -> list[Told]:
        if self._ledger is not None:
            return self._ledger.all()
        assert self._loop is not None
        return [told_of(self._loop, read(self._loop))]


def _labels(told: Told) -> list[str]:
    return [str(told.number), told.pages]


def _family(kind: Any, metric: names.Metric, found: list[Told]) -> Any:
    more = (metric.label.rpartition(".")[2],) if metric.labels else ()
    family = kind(metric_name(metric), metric.text, labels=("loop", "pages", *more))
    for told in found:
        for at, name in enumerate(metric.counts):
            if name in told.counts:
                family.add_metric([*_labels(told), *metric.labels[at : at + 1]], told.counts[name])
    return family


def register(registry: Any = REGISTRY, loop: Loop | None = None) -> LoopCollector:
    """Have `registry` collect from this process's loops, or from one; returns what to `unregister()` again."""
    collector = LoopCollector(loop)
    registry.register(collector)
    return collector
