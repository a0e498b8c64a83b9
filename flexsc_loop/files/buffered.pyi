from typing import Any

from typing_extensions import disjoint_base

from flexsc_loop.files.file import File

@disjoint_base
class Buffered(File):
    def __init__(
        self,
        calls: Any,
        loop: Any,
        fd: int,
        name: Any,
        mode: Any,
        about: tuple[int, int, int, int | None, bool, bool],
        buffer_size: int,
        shared: bool,
        closefd: bool,
    ) -> None: ...
    @property
    def mode(self) -> str: ...
    def abandon(self) -> None: ...
    def __del__(self) -> None: ...
