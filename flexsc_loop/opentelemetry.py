"""Metrics of loops for OpenTelemetry: `flexsc_loop.opentelemetry.instrument(loop)`.

Needs opentelemetry-api, and an SDK that somebody has set up: `pip install "flexsc_loop[opentelemetry]"`.  There are no
conventions for asyncio: `asyncio.eventloop.*` is named like those for Node.js (`nodejs.eventloop.*`), `flexsc.*` is
what only this loop has.  Nothing is counted for it: what loops count anyway is read whenever metrics are collected.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flexsc_loop.insight import names
from flexsc_loop.insight.layout import LoopStats
from flexsc_loop.insight.reader import own_loops, read
from flexsc_loop.insight.told import Ledger, Told

try:
    from opentelemetry import metrics
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
except ImportError as error:
    raise ImportError(
        "flexsc_loop.opentelemetry needs opentelemetry-api: pip install 'flexsc_loop[opentelemetry]'") from error

if TYPE_CHECKING:
    from flexsc_loop.loop import Loop

QUANTILES = (("min", 0.0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))


class Instrumentation:
    """The instruments of one meter provider, and the loops that they tell of.  Made by `instrument`."""

    def __init__(self, provider: MeterProvider) -> None:
        self._loops: weakref.WeakSet[Loop] = weakref.WeakSet()
        self._ledger = Ledger(self._loops.__contains__)
        # What has been told of each loop, for what is told of the time since: by the name of the instrument.
        self._told: weakref.WeakKeyDictionary[Loop, dict[str, LoopStats]] = weakref.WeakKeyDictionary()
        meter = provider.get_meter("flexsc_loop")
        for metric in names.COUNTERS:
            meter.create_observable_counter(metric.name, [self._counts(metric)], metric.unit, metric.text)
        for metric in names.GAUGES:
            meter.create_observable_up_down_counter(metric.name, [self._counts(metric)], metric.unit, metric.text)
        name, text = names.UTILIZATION
        meter.create_observable_gauge(name, [self._since(name, _utilization)], "1", text)
        for (prefix, text), which in ((names.DELAY, "lag_after"), (names.TURN, "turn_after")):
            for quantile, share in QUANTILES:
                name = f"{prefix}.{quantile}"
                meter.create_observable_gauge(
                    name, [self._since(name, _quantile(which, share))], "s", f"{text}: {quantile}")

    def add(self, loop: Loop) -> None:
        """Tell of this loop, too, until it is closed; of what it has counted, also then."""
        self._loops.add(loop)
        self._told[loop] = {}

    def uninstrument(self, loop: Loop) -> None:
        """Tell of it no longer.  Without effect if it is not told of."""
        self._loops.discard(loop)

    def _open(self) -> list[Loop]:
        return [loop for loop in own_loops() if loop in self._loops]

    def _counts(self, metric: names.Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterator[Observation]:
            for told in self._ledger.all():
                attributes = _attributes(told)
                for at, name in enumerate(metric.counts):
                    more = {metric.label: metric.labels[at]} if metric.labels else {}
                    if name in told.counts:
                        yield Observation(told.counts[name], {**attributes, **more})

        return observe

    def _since(
        self, name: str, value: Callable[[LoopStats, LoopStats | None], float]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """What is told of the time since the last collection."""

        def observe(_options: CallbackOptions) -> Iterator[Observation]:
            for loop in self._open():
                told, stats = self._told[loop], read(loop)
                yield Observation(value(stats, told.get(name)), _attributes(stats))
                told[name] = stats

        return observe


def _attributes(told: LoopStats | Told) -> dict[str, Any]:
    return {"flexsc.loop": told.number, "flexsc.pages": told.pages}


def _utilization(stats: LoopStats, before: LoopStats | None) -> float:
    def passed(name: str) -> float:
        return stats.spent[name] - (0 if before is None else before.spent[name])

    # A part of a turn that went on is known for calls, and no longer for busy, when it has ended.
    busy, asleep = max(0.0, passed("busy") + passed("in_calls")), max(0.0, passed("asleep"))
    return busy / max(busy + asleep, 1e-9)


def _quantile(which: str, share: float) -> Callable[[LoopStats, LoopStats | None], float]:
    def value(stats: LoopStats, before: LoopStats | None) -> float:
        histogram = getattr(stats, which)(before) if before is not None else getattr(stats, which.partition("_")[0])
        found: float = histogram.quantile(share)
        return found

    return value


_instrumented: weakref.WeakKeyDictionary[MeterProvider, Instrumentation] = weakref.WeakKeyDictionary()


def instrument(loop: Loop, meter_provider: MeterProvider | None = None) -> Instrumentation:
    """Have metrics of `loop` collected until it is closed; of several, call it for each.

    meter_provider: whose; None: the one that the program has set.  Raises TypeError for a loop of another kind.
    """
    if not hasattr(loop, "_stats_page"):
        raise TypeError(f"a loop of flexsc_loop is wanted, not {loop!r}")
    provider = meter_provider if meter_provider is not None else metrics.get_meter_provider()
    if provider not in _instrumented:
        _instrumented[provider] = Instrumentation(provider)
    _instrumented[provider].add(loop)
    return _instrumented[provider]
