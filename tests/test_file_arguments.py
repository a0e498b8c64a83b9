"""Arguments of the methods of files, good and bad: the result, the error, the position and the file are those of io."""

import array
import asyncio
import functools
import os

import pytest

import flexsc_loop

CONTENTS = b"first\nsecond\r\nthird"
BINARY = ["rb", "wb", "ab", "r+b", "w+b", "a+b"]
TEXT = ["r", "w", "a", "r+", "w+", "a+"]
FAR = [1 << 31, 1 << 62, (1 << 63) - 1, 1 << 63, -(1 << 63), -(1 << 63) - 1, 1 << 70]


class Number:
    """What can be used as an integer."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Text(str):
    """What MarkupSafe and the like make of text."""


class Bytes(bytes):
    """The same of bytes."""


def letters():
    """An iterator that fails after a while."""
    yield "a"
    yield "b"
    raise KeyError("no more")


def pieces():
    """The same of bytes."""
    yield b"a"
    yield b"bb" * 10_000
    raise KeyError("no more")


TWO, MINUS = Number(2), Number(-1)
SIZES = [-1, None, 0, 1, 5, 100_000, -5, "x", 1.0, b"x", TWO, MINUS, True, *FAR[2:]]
#: Made anew for each call, since a call may fill or use up what it is given.
ROOM = [
    lambda: bytearray(5), lambda: bytearray(100), lambda: b"12345", lambda: memoryview(b"abc"), lambda: "text", int,
    lambda: array.array("i", [0] * 3), lambda: memoryview(bytearray(10))[::2], lambda: array.array("i"),
    lambda: memoryview(bytearray(12)).cast("B", [3, 4]), lambda: memoryview(bytearray(12)).cast("i"),
]  # fmt: skip
DATA = [
    b"data\n", bytearray(b"array"), memoryview(b"view"), array.array("i", [1, 2]), Bytes(b"more"), b"", bytes(10_000),
    memoryview(array.array("i", [1, 2, 3, 4]))[::2], memoryview(bytearray(12)).cast("B", [3, 4]), 5, None, [1, 2], 1.5,
]  # fmt: skip
TEXTS = ["text\n", Text("sub\r\n"), "", "\u00e9" * 10_000, "\ud800", b"bytes", 5, None]
LINES = [
    lambda: [b"a", b"b"], lambda: [b"a", "b"], pieces, lambda: [5], lambda: b"abc", list, lambda: None,
    lambda: [bytearray(b"a"), memoryview(b"bc")], lambda: [bytes(5000)] * 5, lambda: iter([b"x"] * 20_000),
]  # fmt: skip
TEXT_LINES = [
    lambda: ["a", "b"], lambda: ["a", b"b"], letters, lambda: [Text("sub"), "x"], lambda: "abc", list,
    lambda: 5, lambda: ["a", "\ud800"], lambda: ["\u00e9"] * 20_000 + ["\ud800"], lambda: (["line\n"] * 4),
]  # fmt: skip


def same(value):
    """A function that gives it."""
    return lambda: value


def binary_calls():
    for size in SIZES:
        yield from ((name, same(size)) for name in ("read", "readline", "readlines", "read1"))
    yield from ((name, room) for room in ROOM for name in ("readinto", "readinto1"))
    yield from (("write", same(data)) for data in DATA)
    yield from (("writelines", lines) for lines in LINES)


def text_calls():
    yield from ((name, same(size)) for size in SIZES for name in ("read", "readline"))
    yield from (("write", same(text)) for text in TEXTS)
    yield from (("writelines", lines) for lines in TEXT_LINES)


def moves(text):
    """Positions and sizes.  What io's text files take beside integers is left out."""
    for offset in [0, 1, 5, 100, -1, TWO, True, *FAR, *([] if text else ["x", 1.0, None])]:
        for whence in [(), (0,), (1,), (2,), (3,), (5,), (-1,), (1 << 31,), ("x",), (1.0,), (None,), (TWO,)]:
            yield ("seek", same(offset), *map(same, whence))
    for size in [0, 3, 100, -1, "x", 1.5, True, TWO, *FAR[1:]]:
        yield "truncate", same(size)


def cases(modes, calls):
    for mode in modes:
        for call in calls:
            yield mode, call[0], call[1:]


def known_to_differ(mode, buffering, name, argument):
    """What is wrong in two ways, of which io names the other one; and what is left open."""
    if name == "readinto1" and buffering == 4:
        return True  # how much is read when some is there
    if "r" not in mode and "+" not in mode:
        return name.startswith("read")
    if name.startswith("write") and mode in ("rb", "r"):
        return buffering == 0 or name == "writelines"
    return mode.startswith("a") and name == "seek" and argument is TWO


def outcome(call, *arguments):
    try:
        got = call(*arguments)
    except Exception as error:
        return type(error)
    return got


async def awaited(call, *arguments):
    try:
        got = await call(*arguments)
    except Exception as error:
        return type(error)
    return got


def shown(value):
    """The contents of a buffer."""
    return bytes(value) if isinstance(value, bytearray | memoryview | array.array) else None


def plainly(mode, encoding, buffering, path, name, arguments):
    """What io gives, what the buffer holds, where the file stands, and what is in it."""
    path.write_bytes(CONTENTS)
    with open(path, mode, buffering, encoding) as file:
        given = [make() for make in arguments]
        got = outcome(getattr(file, name), *given)
        there = file.seekable() and file.tell()  # False after a seek that the kernel has refused
    return got, [shown(one) for one in given], there, path.read_bytes()


async def here(mode, encoding, buffering, path, name, arguments):
    path.write_bytes(CONTENTS)
    async with flexsc_loop.open(path, mode, buffering, encoding) as file:
        given = [make() for make in arguments]
        got = await awaited(getattr(file, name), *given)
        there = await file.tell()
    return got, [shown(one) for one in given], there, path.read_bytes()


def large(name, arguments):
    """A size that would be given to the file system."""
    return name == "truncate" and isinstance(arguments[0](), int) and arguments[0]() > 1 << 40


async def compare(path, modes, bufferings, encoding, calls):
    calls = list(calls)
    for buffering in bufferings:
        for mode, name, arguments in cases(modes, calls):
            if (buffering == 0 and name in ("read1", "readinto1")) or large(name, arguments):
                continue
            if known_to_differ(mode, buffering, name, arguments[0]()):
                continue
            wanted = plainly(mode, encoding, buffering, path, name, arguments)
            got = await here(mode, encoding, buffering, path, name, arguments)
            if wanted[2] is False:
                wanted, got = wanted[:2] + wanted[3:], got[:2] + got[3:]
            given = [make() for make in arguments]
            assert got == wanted, (mode, buffering, name, given)


@pytest.mark.parametrize("buffering", [-1, 0, 4])
async def test_binary(loop, tmp_path, buffering):
    await compare(tmp_path / "file", BINARY, [buffering], None, binary_calls())


@pytest.mark.parametrize("buffering", [-1, 0])
async def test_positions_of_binary_files(loop, tmp_path, buffering):
    await compare(tmp_path / "file", ["rb", "ab"], [buffering], None, moves(False))


@pytest.mark.parametrize("buffering", [-1, 1])
async def test_text(loop, tmp_path, buffering):
    await compare(tmp_path / "file", TEXT, [buffering], "utf-8", text_calls())


async def test_positions_of_text_files(loop, tmp_path):
    await compare(tmp_path / "file", ["r", "a"], [-1], "utf-8", moves(True))


@pytest.mark.parametrize("size", [None, 0, "x", 1.0, 1 << 63])
async def test_peek(loop, tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(CONTENTS)
    with open(path, "rb") as theirs:
        async with flexsc_loop.open(path, "rb") as ours:
            assert await awaited(ours.peek, size) == outcome(theirs.peek, size)


async def test_lines_of_several_tasks_do_not_mix(loop, tmp_path):
    """A writelines() has the turn until it has written all, as long as that may take."""
    path = tmp_path / "file"
    for mode, line in (("wb", b"%d\n"), ("w", "%d\n")):
        for buffering in (-1, 0) if mode == "wb" else (-1, 1):
            async with flexsc_loop.open(path, mode, buffering) as file:
                await asyncio.gather(*(file.writelines([line % number] * 6000) for number in range(4)))
            lines = path.read_bytes().split()
            assert [lines[at] for at in range(0, 24_000, 6000)] == [b"0", b"1", b"2", b"3"]
            assert all(len(set(lines[at : at + 6000])) == 1 for at in range(0, 24_000, 6000))


async def test_lines_are_not_gathered_first(loop, tmp_path):
    """An iterator that gives much is written while it goes on."""
    path = tmp_path / "file"
    seen = []

    def lines():
        for _ in range(100):
            yield b"x" * 100_000
            seen.append(os.stat(path).st_size)

    async with flexsc_loop.open(path, "wb") as file:
        await file.writelines(lines())
    assert seen[50] > 0 and path.stat().st_size == 10_000_000


OFFSETS = [0, 3, 29, 100, -1, 1 << 63, "x", 1.0, None, TWO]
LENGTHS = [0, 5, 100, -1, "x", 1.5, None, 1 << 63, TWO]


def positional_calls():
    """A method, its namesake of `os`, and their arguments after the descriptor.

    -1 as an offset is to preadv(2) and pwritev(2) the position; here it is none.
    """
    for offset in OFFSETS:
        good = type(offset) is int and -1 < offset < 1 << 63
        for size in LENGTHS if good else [5]:  # io and os differ from each other in which of two wrongs they name
            yield "pread", os.pread, same(size), same(offset)
            yield "advise", os.posix_fadvise, same(offset), same(size), same(os.POSIX_FADV_WILLNEED)
            yield "allocate", os.posix_fallocate, same(offset), same(size)
        for data in [b"abc", bytearray(b"xy"), memoryview(b"abcd")[::2], array.array("i", [1]), "x", 5, None, b""]:
            if good or type(data) is bytes:
                yield "pwrite", os.pwrite, same(data), same(offset)
                if offset != -1:
                    yield "pwritev", os.pwritev, same([b"1", data]), same(offset)
        for room in ROOM if good else [lambda: bytearray(5)]:
            if offset != -1:
                yield "preadv", os.preadv, lambda room=room: [bytearray(2), room()], same(offset)


async def test_calls_at_an_offset(loop, tmp_path):
    path = tmp_path / "file"
    for name, function, *make in positional_calls():
        ends = []
        for ours in (False, True):
            path.write_bytes(CONTENTS * 2)
            arguments = [one() for one in make]
            if ours:
                async with flexsc_loop.open(path, "r+b", 0) as file:
                    got = await awaited(lambda *given: getattr(file, name)(*given), *arguments)  # noqa: B023
            else:
                fd = os.open(path, os.O_RDWR)
                try:
                    got = outcome(function, fd, *arguments)
                finally:
                    os.close(fd)
            seen = [shown(one) for one in arguments[0]] if name == "preadv" else None
            ends.append((got, seen, path.read_bytes()))
        assert ends[0] == ends[1], (name, arguments)


@pytest.mark.parametrize(
    ("given", "error"),
    [((-1, 0, 0), ValueError), ((1, -1, 0), OSError), ((1, 0, -1), OSError), ((1.0, 0, 0), TypeError),
     ((1, "x", 0), TypeError), ((1, 0, None), TypeError), ((1 << 63, 0, 0), OverflowError)],
)  # fmt: skip
async def test_a_range_that_is_none(loop, tmp_path, given, error):
    (tmp_path / "file").write_bytes(CONTENTS)
    async with flexsc_loop.open(tmp_path / "file", "rb") as file:
        async with flexsc_loop.open(tmp_path / "other", "w+b") as other:
            with pytest.raises(error):
                await file.copy_range(other, *given)
            assert await file.copy_range(other, TWO, MINUS.value + 1, 1) == 2
    assert (tmp_path / "other").read_bytes() == b"\0fi"


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [("mkdir", ("made", 1.5), {}), ("mkdir", ("made", Number(0o700)), {}), ("mkdir", ("made", 1 << 40), {}),
     ("mkdir", ("made",), {"dir_fd": 1.0}), ("unlink", ("missing",), {"dir_fd": -1}), ("stat", (1.0,), {}),
     ("stat", (9_999,), {}), ("stat", ("missing",), {"dir_fd": 1 << 40}), ("rmdir", ("missing",), {"dir_fd": "x"}),
     ("rename", (1, "other"), {}), ("link", ("missing", "a\0b"), {}), ("symlink", ("missing", None), {})],
)  # fmt: skip
async def test_arguments_of_functions(loop, tmp_path, monkeypatch, name, arguments, options):
    monkeypatch.chdir(tmp_path)
    plain = outcome(functools.partial(getattr(os, name), **options), *arguments)
    for path in tmp_path.iterdir():
        path.rmdir()
    ours = await awaited(functools.partial(getattr(flexsc_loop.files, name), **options), *arguments)
    assert ours == plain


async def test_a_descriptor_that_cannot_be(loop):
    """os.stat(-1) itself asks for a path at no address."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        await flexsc_loop.files.stat(-1)
