import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor as AnyExecutor
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

from typing_extensions import disjoint_base

from flexsc_loop.turn.crew import Job
from flexsc_loop.turn.turn import Endpoint, Turn

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

class Executor(ThreadPoolExecutor):
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        **kwargs: Any,
    ) -> None: ...
    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]: ...
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...
    def _forget(self) -> None: ...
    def __del__(self) -> None: ...

@disjoint_base
class LoopJob(Job): ...
@disjoint_base
class Jobs(Endpoint):
    def __init__(self, turn: Turn, executor: Executor) -> None: ...
    @property
    def executor(self) -> Executor: ...

class Executors:
    _jobs: Jobs | None
    def run_in_executor(
        self, executor: AnyExecutor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]: ...
