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
        *,
        can_read: bool,
        can_write: bool,
        appending: bool,
        created: bool,
        truncated: bool,
        closefd: bool,
        positional: bool,
        seekable: bool,
        position: int,
        size: int,
        buffer_size: int,
    ) -> None: ...
    @property
    def mode(self) -> str: ...
    def abandon(self) -> None: ...
    def __del__(self) -> None: ...
