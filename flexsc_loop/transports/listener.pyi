from collections.abc import Callable
from socket import socket
from typing import Any

from typing_extensions import disjoint_base

from flexsc_loop.syscalls.operation import Operation
from flexsc_loop.transports.tls import Settings
from flexsc_loop.turn.turn import Endpoint, Turn

@disjoint_base
class Accept(Operation): ...

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
    ) -> None: ...
    def go_on(self) -> None: ...
    def close(self) -> None: ...
