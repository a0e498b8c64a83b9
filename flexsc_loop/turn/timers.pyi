from asyncio import events
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

from typing_extensions import disjoint_base

from flexsc_loop.turn.handles import Callbacks

_Ts = TypeVarTuple("_Ts")

@disjoint_base
class Timers(Callbacks):
    def call_later(
        self, delay: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> events.TimerHandle: ...
    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> events.TimerHandle: ...
    def time(self) -> float: ...
    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None: ...
