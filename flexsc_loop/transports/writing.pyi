from typing_extensions import disjoint_base

from flexsc_loop.syscalls.interest import Interest
from flexsc_loop.syscalls.operation import Operation
from flexsc_loop.transports.connection import Connection

@disjoint_base
class Room(Interest): ...
@disjoint_base
class Send(Operation): ...
@disjoint_base
class Writing(Connection): ...
