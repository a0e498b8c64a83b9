import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

from typing_extensions import disjoint_base

from flexsc_loop.syscalls.interest import InterestList
from flexsc_loop.syscalls.page import Page
from flexsc_loop.turn.timers import Timers

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

@disjoint_base
class Endpoint:
    def __call__(self) -> None: ...

@disjoint_base
class Turn(Timers):
    _stopping: bool
    _task_factory: Any
    @property
    def page(self) -> Page: ...
    @property
    def interests(self) -> InterestList: ...
    @property
    def turns(self) -> int: ...
    @property
    def owned(self) -> dict[int, Any]: ...
    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> events.Handle: ...
    def create_future(self) -> asyncio.Future[Any]: ...
    def create_task(
        self,
        coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T],
        *,
        name: object = None,
        context: Context | None = None,
        **kwargs: Any,
    ) -> asyncio.Task[_T]: ...
    def _use_page(self, page: Page, writes: str) -> None: ...
    def _watch_calls(self) -> None: ...
    def _send_before_call(self) -> None: ...
    def _forget_everything(self) -> None: ...
    def _waiting_handles(self) -> tuple[list[Any], list[Any]]: ...
    def _run_once(self) -> None: ...
    def _run_turns(self) -> None: ...
