from typing_extensions import disjoint_base

from flexsc_loop.syscalls.operation import Operation

@disjoint_base
class Interest: ...
@disjoint_base
class Number: ...
@disjoint_base
class Look(Operation): ...

@disjoint_base
class InterestList:
    def close(self) -> None: ...
