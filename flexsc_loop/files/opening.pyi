import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from os import PathLike
from types import GenericAlias, TracebackType
from typing import Any, Generic, Literal, TypeAlias, TypeVar, overload

from typing_extensions import disjoint_base

from flexsc_loop.files.action import Action
from flexsc_loop.files.binary import BinaryFile
from flexsc_loop.files.text import TextFile

_PathOrFd: TypeAlias = int | str | bytes | PathLike[str] | PathLike[bytes]
_Opener: TypeAlias = Callable[[Any, int], int]
_TextMode: TypeAlias = Literal[
    "r", "w", "a", "x", "r+", "w+", "a+", "x+", "rt", "wt", "at", "xt", "r+t", "w+t", "a+t", "x+t",
    "rt+", "wt+", "at+", "xt+", "tr", "tw", "ta", "tx", "+r", "+w", "+a", "+x",
]  # fmt: skip
_BinaryMode: TypeAlias = Literal[
    "rb", "wb", "ab", "xb", "br", "bw", "ba", "bx", "r+b", "w+b", "a+b", "x+b", "rb+", "wb+", "ab+",
    "xb+", "+rb", "+wb", "+ab", "+xb", "+br", "+bw", "+ba", "+bx", "b+r", "b+w", "b+a", "b+x",
]  # fmt: skip
_File = TypeVar("_File")

@disjoint_base
class Opening(Action, Generic[_File]):
    def __init__(self, making: Coroutine[Any, Any, _File]) -> None: ...
    def __await__(self) -> Generator[Any, Any, _File]: ...
    def __aenter__(self) -> Awaitable[_File]: ...
    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Awaitable[None]: ...
    @classmethod
    def __class_getitem__(cls, item: Any) -> GenericAlias: ...

@overload
def open(
    file: _PathOrFd,
    mode: _TextMode = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: _Opener | None = None,
) -> Opening[TextFile]: ...
@overload
def open(
    file: _PathOrFd,
    mode: _BinaryMode,
    buffering: int = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: _Opener | None = None,
) -> Opening[BinaryFile]: ...
@overload
def open(
    file: _PathOrFd,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: _Opener | None = None,
) -> Opening[Any]: ...
def open_made(
    make: Callable[[], int],
    names: list[str] | None,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> Coroutine[Any, Any, Any]: ...
def calls_of(loop: asyncio.AbstractEventLoop) -> Any: ...
