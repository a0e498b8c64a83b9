"""Figures of programs that measure themselves."""

from __future__ import annotations


def percentiles(ordered_ns: list[int]) -> dict[str, float]:
    """The load generator's: in microseconds; zeros when there is nothing."""
    ordered = ordered_ns or [0]
    last = len(ordered) - 1
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: ordered[round(share * last)] / 1e3 for name, share in shares.items()}
