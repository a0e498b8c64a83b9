from collections.abc import Callable
from contextvars import Context
from types import FrameType
from typing import Any

from typing_extensions import disjoint_base

from flexsc_loop.loop import Loop
from flexsc_loop.syscalls.interest import Interest
from flexsc_loop.syscalls.operation import Operation
from flexsc_loop.turn.turn import Endpoint

@disjoint_base
class GreenThread(Endpoint):
    daemon: bool
    is_main: bool
    name: str
    locals: dict[Any, Any]
    error: BaseException | None
    finished: bool
    home: int
    result: Any
    started: bool
    def __init__(
        self,
        loop: Loop,
        function: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        name: str | None = None,
        daemon: bool = False,
        context: Context | None = None,
    ) -> None: ...
    @property
    def frame(self) -> FrameType | None: ...
    @property
    def loop(self) -> Loop: ...
    @property
    def waits(self) -> int: ...
    def abandon(self) -> None: ...
    def go_on(self, parks: int) -> None: ...
    def start(self) -> None: ...
    def throw(self, error: BaseException) -> None: ...
    def wait(self, timeout: float | None = None) -> None: ...
    def when_over(self, callback: Callable[[GreenThread], object]) -> None: ...
    def _main(self) -> None: ...

@disjoint_base
class Call(Operation):
    def time_out(self) -> None: ...

@disjoint_base
class Ready(Interest):
    def time_out(self) -> None: ...

def current_thread() -> GreenThread | None: ...
def forget_all() -> None: ...
def sleep(seconds: float) -> None: ...
def wait_readable(fd: int, timeout: float | None = None) -> bool: ...
def wait_writable(fd: int, timeout: float | None = None) -> bool: ...
