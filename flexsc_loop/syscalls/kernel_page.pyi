from typing_extensions import disjoint_base

from flexsc_loop.syscalls.operation import Operation
from flexsc_loop.syscalls.page import Page

@disjoint_base
class WakeRead(Operation): ...

@disjoint_base
class KernelPage(Page):
    def __init__(
        self, *, entries: int, completions: int, buffers: int, buffer_size: int, cpu: int | None = None
    ) -> None: ...
    @property
    def poller_cpu(self) -> int: ...
    @property
    def halved(self) -> bool: ...
