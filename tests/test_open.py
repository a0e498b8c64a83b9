"""flexsc_loop.open against the built-in open(): arguments, results, errors."""

import asyncio
import codecs
import io
import itertools
import os
import pickle
import sys
import textwrap
import tracemalloc
import warnings
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support import name_of, run_python

import flexsc_loop

# What is wrong and not allowed either: older versions of io say the one, newer ones the other.
BOTH_WRONG = [("read", "x"), ("write",)]
MODES = ["r", "w", "a", "x", "r+", "w+", "a+", "x+"]


def outcome(action, *arguments, **more):
    """What `action` gives, or the exception that it raises."""
    try:
        return action(*arguments, **more)
    except Exception as error:
        return type(error), str(error)


async def awaited(action, *arguments, **more):
    try:
        return await action(*arguments, **more)
    except Exception as error:
        return type(error), str(error)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


ARGUMENTS = [
    {"mode": ""}, {"mode": "rw"}, {"mode": "rr"}, {"mode": "U"}, {"mode": "+"}, {"mode": "b"}, {"mode": "rbt"},
    {"mode": 5}, {"mode": "rb", "encoding": "utf-8"}, {"mode": "rb", "errors": "strict"},
    {"mode": "rb", "newline": ""}, {"buffering": 0}, {"newline": "x"}, {"encoding": "no such"}, {"encoding": 5},
    {"closefd": False}, {"file": -1}, {"file": 3.5}, {"file": "nul\0here"}, {"file": b"missing"},
    {"encoding": "hex"}, {"opener": lambda *_: -1}, {"mode": "rb", "opener": lambda *_: -7}, {"file": 999},
    {"file": "/"}, {"file": "/", "mode": "rb"}, {"file": "/", "mode": "wb"}, {"file": "/missing/missing"},
    {"mode": "x"}, {"buffering": 1}, {"buffering": 5}, {"mode": "rb", "buffering": 0}, {"mode": "rb", "buffering": 3},
    {"file": "/dev/null"}, {"file": "/dev/null", "mode": "w+b"}, {"encoding": "latin-1", "newline": "\r"},
    {"mode": "rb", "opener": lambda path, flags: os.open(path, flags)}, {"errors": "replace", "encoding": "ascii"},
]


@pytest.mark.parametrize("given", ARGUMENTS, ids=name_of)
async def test_arguments(loop, path, given):
    path.write_bytes(b"contents\n")
    given = {"file": path, **given}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what io leaves open when it fails
        theirs = outcome(open, **given)
        ours = await awaited(flexsc_loop.open, **given)
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple), ours
        assert ours[0] is theirs[0]
        assert ours[1].removeprefix("open() argument ").replace("'", "") == theirs[1].removeprefix(
            "open() argument "
        ).replace("'", "")
        return
    with theirs:
        async with ours:
            for name in ("name", "encoding", "errors", "line_buffering", "newlines", "closed"):
                assert getattr(ours, name, None) == getattr(theirs, name, None), name
            for name in ("readable", "writable", "seekable", "isatty"):
                assert getattr(ours, name)() == getattr(theirs, name)()
                assert await getattr(ours, name)() == getattr(theirs, name)()
            if "file" not in given or given["file"] == path:
                assert await ours.read() == theirs.read()
    assert ours.closed


@pytest.mark.parametrize(("binary", "buffering"), [(True, -1), (True, 0), (False, -1)])  # text is always buffered
@pytest.mark.parametrize("mode", MODES)
async def test_modes(loop, tmp_path, mode, binary, buffering):
    """The same calls give the same results, the same errors and the same files."""
    ours_path, theirs_path = tmp_path / "ours", tmp_path / "theirs"
    if "x" not in mode:
        for path in (ours_path, theirs_path):
            path.write_bytes(b"first\nsecond\nthird")
    kind = mode + "b" * binary
    data = b"data\n" if binary else "data\n"
    calls = [
        ("tell",), ("read", 3), ("tell",), ("readline",), ("write", data), ("tell",), ("seek", 2), ("read",),
        ("truncate",), ("truncate", 4), ("tell",), ("write", data * 3), ("seek", 0, 2), ("tell",), ("seek", 0),
        ("read",), ("readlines",), ("flush",), ("seek", -1), ("seek", 0, 7), ("writelines", [data, data]), ("write",),
        ("seek", 0), ("read", 0), ("read", "x"), ("readline", 2), ("tell",),
    ]
    calls += [("seek", 0), ("read", None)] if "r" in mode or "+" in mode else []
    calls += [("write", 5), ("write", "" if binary else b"")] if mode != "r" else []
    encoding = None if binary else "utf-8"
    with open(theirs_path, kind, buffering, encoding=encoding) as theirs:
        async with flexsc_loop.open(ours_path, kind, buffering, encoding=encoding) as ours:
            assert ours.mode == (theirs.mode if not binary else getattr(theirs, "raw", theirs).mode)
            for name, *arguments in calls:
                wanted = outcome(getattr(theirs, name), *arguments)
                got = await awaited(getattr(ours, name), *arguments)
                if isinstance(wanted, tuple) and isinstance(got, tuple):
                    wanted, got = wanted[0], got[0]
                if sys.version_info < (3, 13) and (name, *arguments) in BOTH_WRONG and got is TypeError:
                    continue
                assert got == wanted, (name, arguments)
    assert ours_path.read_bytes() == theirs_path.read_bytes()


@pytest.mark.parametrize("kind", ["rb", "r"])
async def test_what_can_be_done_with_a_closed_file(loop, path, kind):
    path.write_bytes(b"contents")
    file = await flexsc_loop.open(path, kind)
    await file.close()
    await file.close()
    assert file.closed
    assert file.name == str(path)
    for name, *arguments in (
        ("read",), ("readline",), ("readlines",), ("write", "x"), ("seek", 0), ("tell",), ("flush",), ("__aenter__",),
        ("__anext__",),
    ):
        with pytest.raises(ValueError, match=r"I/O operation on closed file\."):
            await getattr(file, name)(*arguments)
    for name in ("fileno", "readable", "writable", "seekable", "isatty"):
        with pytest.raises(ValueError, match=r"I/O operation on closed file\."):
            getattr(file, name)()


async def test_messages_of_calls_that_the_mode_forbids(loop, path):
    path.write_bytes(b"contents")
    for kind, buffering in (("rb", -1), ("rb", 0), ("wb", -1), ("wb", 0), ("r", -1), ("w", -1)):
        with open(path, kind, buffering) as theirs:
            async with flexsc_loop.open(path, kind, buffering) as ours:
                calls = [("write", b"" if "b" in kind else "")] if "r" in kind else [("read",), ("readline",)]
                for name, *arguments in calls:
                    wanted = outcome(getattr(theirs, name), *arguments)
                    assert await awaited(getattr(ours, name), *arguments) == wanted
                    assert wanted[0] is io.UnsupportedOperation


async def test_await_and_async_with(loop, path):
    async with flexsc_loop.open(path, "w") as file:
        assert await file.write("some\nlines\n") == 11
    assert file.closed
    file = await flexsc_loop.open(str(path).encode())
    async with file as same:
        assert same is file
        assert [line async for line in file] == ["some\n", "lines\n"]
    file = await asyncio.create_task(flexsc_loop.open(Path(path)))
    assert await asyncio.create_task(file.read(4)) == "some"
    assert await asyncio.wait_for(file.read(), 5) == "\nlines\n"
    await file.close()


async def test_a_call_that_is_never_awaited_is_not_made(loop, path):
    path.write_bytes(b"contents")
    async with flexsc_loop.open(path, "rb") as file:
        with pytest.warns(RuntimeWarning, match="never awaited"):
            file.read(3)
        assert await file.tell() == 0
        call = file.read(3)
        assert await call == b"con"
        with pytest.raises(RuntimeError, match="awaited twice"):
            await call


async def test_an_opening_is_awaited_once(loop, path):
    path.write_bytes(b"contents")
    with pytest.warns(RuntimeWarning, match="never awaited"):
        flexsc_loop.open(path, "rb")
    opening = flexsc_loop.open(path, "rb")
    async with await opening as file:
        assert await file.read() == b"contents"
    with pytest.raises(RuntimeError, match="awaited twice"):
        await opening
    unused = flexsc_loop.open(path)
    with pytest.raises(RuntimeError, match="not entered"):
        unused.__aexit__(None, None, None)
    unused.close()
    async with AsyncExitStack() as stack:
        files = [await stack.enter_async_context(flexsc_loop.open(path, kind)) for kind in ("rb", "r")]
        assert [await file.read() for file in files] == [b"contents", "contents"]
    assert all(file.closed for file in files)


async def test_what_begins_to_open_and_fails_leaves_no_descriptor(loop, path):
    """The leaks fixture looks."""
    path.write_bytes(b"contents")
    for given in ({"encoding": "no such"}, {"newline": "x"}, {"mode": "w", "encoding": "no such"}):
        with pytest.raises((LookupError, ValueError)):
            await flexsc_loop.open(path, **given)


async def test_a_number_of_another_kind(loop, path):
    """What is like an integer is a descriptor, as for the built-in open()."""
    class Number:
        def __init__(self, value):
            self.value = value

        def __index__(self):
            return self.value

    path.write_bytes(b"contents")
    fd = os.open(path, os.O_RDONLY)
    async with flexsc_loop.open(Number(fd), "rb", Number(100)) as file:
        assert file.fileno() == fd
        assert await file.read() == b"contents"


def test_an_interpreter_ends_without_a_close(way, path):
    """What stands in the buffer is written then, and a warning says what was forgotten."""
    code = way.prelude() + textwrap.dedent(
        f"""
        import flexsc_loop

        async def main():
            global file
            file = await flexsc_loop.open({str(path)!r}, "w")
            await file.write("kept")

        run(main())
        """
    )
    end = run_python(code, env={"PYTHONWARNINGS": "default"})
    assert path.read_text() == "kept"
    assert end.code == 0 and "unclosed file" in end.err, end.err


def test_another_loop(new_loop, path):
    first, second = new_loop(), new_loop()
    path.write_bytes(b"contents")
    file = first.run_until_complete(flexsc_loop.open(path, "rb"))

    async def read():
        return await file.read(1)

    with pytest.raises(RuntimeError, match="another event loop"):
        second.run_until_complete(read())
    assert first.run_until_complete(read()) == b"c"
    first.run_until_complete(file.close())


@pytest.mark.parametrize("kind", ["wb", "w"])
async def test_an_unclosed_file_is_written_and_warned_about(loop, path, kind):
    file = await flexsc_loop.open(path, kind)
    await file.write(b"kept" if kind == "wb" else "kept")
    assert path.read_bytes() == b""
    with pytest.warns(ResourceWarning, match="unclosed file"):
        del file
    assert path.read_bytes() == b"kept"


async def test_a_file_at_rest_is_small(loop, path):
    path.write_bytes(b"contents")
    async with flexsc_loop.open(path, "rb") as file:
        assert file.__sizeof__() <= 400
    name = str(path)
    tracemalloc.start()
    try:
        files = [await flexsc_loop.open(name, "rb") for _ in range(100)]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for file in files:
        await file.close()
    assert held <= 100 * 400


async def test_a_descriptor_keeps_its_position(loop, path):
    """Others may use it, too: what is written and read moves the kernel's position, as with open()."""
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR)
    try:
        os.lseek(fd, 3, os.SEEK_SET)
        async with flexsc_loop.open(fd, "r+b", closefd=False) as file:
            assert await file.read(2) == b"34"
            assert await file.tell() == 5
            await file.write(b"xx")
            await file.flush()
            assert os.lseek(fd, 0, os.SEEK_CUR) == 7
            os.write(fd, b"yy")
            assert await file.tell() == 9
            assert await file.read() == b"9"
        assert path.read_bytes() == b"01234xxyy9"
    finally:
        os.close(fd)


def test_every_argument_of_the_builtin():
    import inspect

    theirs = inspect.signature(open).parameters
    ours = inspect.signature(flexsc_loop.open).parameters
    assert list(ours) == list(theirs)
    assert [ours[name].default for name in ours] == [theirs[name].default for name in theirs]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(["a", "a+"], ["ab", "r+b"])))
async def test_appending_goes_to_the_end_whatever_the_position(loop, path, first, second):
    path.write_bytes(b"before")
    async with flexsc_loop.open(path, first + "b") as file, flexsc_loop.open(path, second) as other:
        assert await file.tell() == 6
        await other.seek(0, os.SEEK_END)
        await other.write(b"other")
        await other.flush()
        await file.seek(0)
        await file.write(b"end")
        await file.flush()
        assert await file.tell() == 14
    assert path.read_bytes() == b"beforeotherend"


async def test_nothing_appended_leaves_the_position(loop, path):
    """As io's files do it: the position goes to the end with what is written there."""
    path.write_bytes(b"before")
    async with flexsc_loop.open(path, "ab", 0) as file:
        assert await file.seek(1) == 1
        assert await file.write(b"") == 0
        assert await file.tell() == 1
        assert await file.write(b"x") == 1
        assert await file.tell() == 7


@pytest.mark.parametrize(("kind", "buffering"), [("rb", -1), ("rb", 0), ("r", -1)])
async def test_what_looks_harmless_is_refused_as_io_does(loop, path, kind, buffering):
    path.write_bytes(b"contents")
    file = await flexsc_loop.open(path, kind, buffering)
    theirs = open(path, kind, buffering)
    for name, argument in (("seek", 0.0), ("seek", "0"), ("writelines", []), ("writelines", 5)):
        if (kind, name) == ("r", "seek"):
            continue  # io's text files take a float, and give it back
        wanted = outcome(getattr(theirs, name), argument)
        got = await awaited(getattr(file, name), argument)
        if isinstance(wanted, tuple):
            assert got[0] is wanted[0], (name, argument)
        else:
            assert got == wanted
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(file)
    theirs.close()
    await file.close()
    with pytest.raises(ValueError, match="closed file"):
        await file.writelines([])


async def test_an_encoding_that_can_only_be_read(loop, path):
    class Decoder(codecs.BufferedIncrementalDecoder):
        def _buffer_decode(self, data, errors, final):
            return codecs.ascii_decode(data, errors)

    def search(name):
        if name == "only_read":
            return codecs.CodecInfo(None, codecs.ascii_decode, name=name, incrementaldecoder=Decoder)
        return None

    codecs.register(search)
    try:
        path.write_bytes(b"contents")
        async with flexsc_loop.open(path, encoding="only_read") as file:
            assert await file.read() == "contents"
    finally:
        codecs.unregister(search)
