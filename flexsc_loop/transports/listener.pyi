import contextvars
from collections.abc import Callable, Coroutine, Generator
from socket import socket
from typing import Any, NoReturn

from typing_extensions import disjoint_base

from flexsc_loop.syscalls.operation import Operation
from flexsc_loop.transports.tls import Settings
from flexsc_loop.turn.turn import Endpoint, Turn

@disjoint_base
class Accept(Operation): ...

@disjoint_base
class Acceptance(Coroutine[Any, None, None]):
    @property
    def __qualname__(self) -> str: ...
    def __await__(self) -> Generator[Any, Any]: ...
    def __next__(self) -> Any: ...
    def send(self, value: None) -> Any: ...
    def throw(self, error: BaseException, *more: Any) -> NoReturn: ...  # type: ignore[override]
    def close(self) -> None: ...

@disjoint_base
class Listener(Endpoint):
    def __init__(
        self,
        turn: Turn,
        sock: socket,
        factory: Callable[[], Any],
        tls: Settings | None,
        server: Any,
        shared: bool = False,
        context: contextvars.Context | None = None,
    ) -> None: ...
    def go_on(self) -> None: ...
    def close(self) -> None: ...
