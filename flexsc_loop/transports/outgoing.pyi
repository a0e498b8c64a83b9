from typing_extensions import disjoint_base

from flexsc_loop.syscalls.operation import Operation
from flexsc_loop.transports.protocols import ProtocolEndpoint

@disjoint_base
class Writable(Operation): ...
@disjoint_base
class SendTo(Operation): ...

@disjoint_base
class Outgoing(ProtocolEndpoint):
    def try_again(self) -> None: ...
