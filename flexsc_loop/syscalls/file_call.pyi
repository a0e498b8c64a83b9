from typing_extensions import disjoint_base

from flexsc_loop.syscalls.operation import Operation

@disjoint_base
class Follower: ...

@disjoint_base
class FileCall(Operation): ...
