"""For how long a loop is held up when its page changes hands, with many connections."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks import idle
from benchmarks.loadgen import LoadSpec, run_load
from benchmarks.process import Server

CONNECTIONS, BUSY = 1000, 64
CHANGES = 96
SECONDS_PER_CHANGE = 0.08
HELD_UP_MOST_MS = 1.0
KINDS = ("opened", "thread", "own")


@dataclass(frozen=True)
class HeldUp:
    """Medians over many changes, in milliseconds.

    calls: what a change itself takes, by kind (benchmarks/servers/hands.py).  turns: by how much the longest turn in
    the 30 ms after a change is longer than the longest in the 30 ms before.
    """

    calls: dict[str, float]
    turns: dict[str, float]

    @property
    def most(self) -> float:
        """The worst of all kinds."""
        return max(*self.calls.values(), *self.turns.values())

    def told(self, figures: dict[str, float]) -> str:
        """As a cell of a table: to a thread that was opened, to one that is there, back."""
        return ", ".join(f"{figures[kind]:.2f}" for kind in KINDS)


def measure(server: Server, cpu: int, load: LoadSpec) -> HeldUp:
    """load: an echo load on a server of `threads=auto`; it goes on for as long as is needed.  cpu: of the thread."""
    seconds = CHANGES * SECONDS_PER_CHANGE
    spec = LoadSpec(**{**load.__dict__, "connections": BUSY, "warmup": 0.5, "seconds": seconds})
    with idle.idle_connections(server.port, CONNECTIONS - BUSY), ThreadPoolExecutor(1) as pool:
        loading = pool.submit(run_load, spec)
        changes = server.change_hands(cpu, CHANGES, seconds + 30)
        loading.result()
    return HeldUp(_medians(changes, 1), {kind: after - before for kind, after, before in zip(
        KINDS, _medians(changes, 3).values(), _medians(changes, 2).values(), strict=True)})


def _medians(changes: Sequence[tuple[str, float, float, float]], field: int) -> dict[str, float]:
    return {kind: statistics.median(float(change[field]) for change in changes if change[0] == kind) for kind in KINDS}
