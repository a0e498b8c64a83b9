"""Random calls on a file, from several tasks at once and cancelled anywhere, against io's files and a model."""

import asyncio
import contextlib
import os
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flexsc_loop

CANCELLED = "cancelled"
BUFFERING = st.sampled_from([-1, 0, 7, 64, 5000])
MODES = st.sampled_from(["r+b", "w+b", "a+b", "rb", "wb", "ab"])
CONTENTS = st.binary(max_size=40) | st.sampled_from([b"line\n" * 9, b"ab\n" * 6000])
SIZES = st.integers(-1, 12) | st.integers(0, 20_000)
DATA = st.binary(max_size=12) | st.sampled_from([b"new\n" * 3, bytes(range(256)) * 50])
READS = st.tuples(st.sampled_from(["read", "readline"]), SIZES) | st.tuples(st.just("readlines"), st.integers(-1, 30))
WRITES = st.tuples(st.just("write"), DATA) | st.tuples(st.just("truncate"), st.none() | st.integers(0, 60))
MOVES = (
    st.tuples(st.just("seek"), st.integers(0, 60))
    | st.tuples(st.just("seek"), st.just(0), st.sampled_from([os.SEEK_CUR, os.SEEK_END]))
    | st.tuples(st.sampled_from(["tell", "flush"]))
)
CALLS = READS | WRITES | MOVES
GENTLE = settings(max_examples=60, suppress_health_check=list(HealthCheck))


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except OSError as error:
        return type(error)


async def awaited(function, *arguments):
    try:
        return await function(*arguments)
    except OSError as error:
        return type(error)


def fill(path, contents):
    with open(path, "wb") as file:
        file.write(contents)


def contents_of(path):
    with open(path, "rb") as file:
        return file.read()


def drop_from_cache(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def settled(batch):
    """Each write is followed by a seek: what io reads after an append depends on what its buffer holds."""
    to_the_end = ("seek", 0, os.SEEK_END)
    return [one for call in batch for one in ((call, to_the_end) if call[0] == "write" else (call,))]


async def compare(folder, mode, buffering, contents, batches):
    """The calls of a batch are made at once, each by a task of its own, and give what they give one after another."""
    paths = f"{folder}/ours", f"{folder}/theirs"
    for path in paths:
        fill(path, contents)
    drop_from_cache(paths[0])
    with open(paths[1], mode, buffering) as theirs:
        async with flexsc_loop.open(paths[0], mode, buffering) as ours:
            for batch in batches:
                if mode in ("wb", "ab"):  # there io gives nothing for nothing, without looking at the mode
                    batch = [call for call in batch if call != ("readline", 0)]
                if mode == "a+b":
                    batch = settled(batch)
                tasks = [asyncio.create_task(awaited(getattr(ours, name), *arguments)) for name, *arguments in batch]
                got = await asyncio.gather(*tasks)
                assert got == [outcome(getattr(theirs, name), *arguments) for name, *arguments in batch]
    assert contents_of(paths[0]) == contents_of(paths[1])


def test_as_io_does_it(new_loop, folder):
    loop = new_loop()

    @GENTLE
    @given(MODES, BUFFERING, CONTENTS, st.lists(st.lists(CALLS, min_size=1, max_size=4), max_size=8))
    def check(mode, buffering, contents, batches):
        loop.run_until_complete(compare(folder, mode, buffering, contents, batches))

    check()


ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])
NEWLINES = st.sampled_from([None, "", "\n", "\r", "\r\n"])
TEXTS = st.text("a\u00e9\r\n", max_size=12) | st.sampled_from(["line\r\n" * 9, "\u00e9\n" * 9000])
TEXT_CALLS = (
    st.tuples(st.sampled_from(["read", "readline"]), SIZES)
    | st.tuples(st.just("write"), TEXTS)
    | st.tuples(st.just("writelines"), st.lists(TEXTS, max_size=3))
    | st.tuples(st.just("flush"))
    | st.tuples(st.just("seek"), st.just(0), st.sampled_from([os.SEEK_SET, os.SEEK_END]))
)


def sought(calls, mode):
    """Writes go to the end, and reads after them begin anew: io leaves open where a write after a read goes."""
    ends = (("seek", 0, os.SEEK_END),), (("seek", 0),)
    before, after = ends if "+" in mode else ((), ())
    return [one for call in calls for one in ((*before, call, *after) if call[0].startswith("write") else (call,))]


async def compare_text(folder, mode, contents, calls, **options):
    paths = f"{folder}/ours", f"{folder}/theirs"
    for path in paths:
        fill(path, contents.encode(options["encoding"]))
    with open(paths[1], mode, **options) as theirs:
        async with flexsc_loop.open(paths[0], mode, **options) as ours:
            for name, *arguments in sought(calls, mode):
                got = await awaited(getattr(ours, name), *arguments)
                assert got == outcome(getattr(theirs, name), *arguments), (name, *arguments)
    assert contents_of(paths[0]) == contents_of(paths[1])


def test_text_as_io_does_it(new_loop, folder):
    loop = new_loop()
    modes = st.sampled_from(["r+", "w+", "a+", "r", "w", "a"])

    @GENTLE
    @given(modes, TEXTS, st.lists(TEXT_CALLS, max_size=8), ENCODINGS, NEWLINES, st.sampled_from([-1, 1, 64]))
    def check(mode, contents, calls, encoding, newline, buffering):
        options = {"encoding": encoding, "newline": newline, "buffering": buffering}
        loop.run_until_complete(compare_text(folder, mode, contents, calls, **options))

    check()


@dataclass(frozen=True)
class State:
    """What a file can be like."""

    contents: bytes
    position: int = 0

    def call(self, name, *arguments):
        """What the call gives, and the state after it."""
        return getattr(self, name)(*arguments)

    def read(self, size):
        end = len(self.contents) if size < 0 else self.position + size
        data = self.contents[self.position : end]
        return data, replace(self, position=self.position + len(data))

    def readline(self, size):
        found = self.contents.find(b"\n", self.position) + 1
        whole = (found or max(len(self.contents), self.position)) - self.position
        return self.read(whole if size < 0 else min(size, whole))

    def readlines(self, hint):
        lines, state = [], self
        while hint <= 0 or sum(map(len, lines)) <= hint:
            line, state = state.readline(-1)
            if not line:
                break
            lines.append(line)
        return lines, state

    def write(self, data):
        before = self.contents[: self.position].ljust(self.position, b"\0") if data else self.contents
        after = self.contents[self.position + len(data) :] if data else b""
        return len(data), State(before + data + after, self.position + len(data))

    def truncate(self, size):
        size = self.position if size is None else size
        return size, replace(self, contents=self.contents[:size].ljust(size, b"\0"))

    def seek(self, offset, whence=os.SEEK_SET):
        position = offset + (0, self.position, len(self.contents))[whence]
        return position, replace(self, position=position)

    def tell(self):
        return self.position, self

    def flush(self):
        return None, self


async def cancelled_after(task, turns):
    """What a task gives that may be cancelled after so many turns of the loop."""
    for _ in range(turns or 0):
        await asyncio.sleep(0)
    if turns is not None:
        task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return CANCELLED


def after(states, call, got):
    """The states that are possible after a call gave this.

    One that was cancelled was made as a whole or not at all, and a read was not made.
    """
    if got == CANCELLED:
        made = {state.call(*call)[1] for state in states} if call[0] in ("write", "truncate") else set()
        return states | made
    left = {state.call(*call)[1] for state in states if state.call(*call)[0] == got}
    assert left, (call, got, states)
    return left


async def cancel_anywhere(folder, buffering, contents, batches, closing):
    path = f"{folder}/file"
    fill(path, contents)
    drop_from_cache(path)
    file = await flexsc_loop.open(path, "r+b", buffering)
    states = {State(contents)}
    for batch in batches:
        tasks = [asyncio.create_task(getattr(file, name)(*arguments)) for (name, *arguments), _ in batch]
        got = await asyncio.gather(
            *(cancelled_after(task, turns) for task, (_, turns) in zip(tasks, batch, strict=True))
        )
        for (call, _), result in zip(batch, got, strict=True):
            states = after(states, call, result)
    if closing is not None:
        await cancelled_after(asyncio.create_task(file.close()), closing)
    await file.close()  # waits for the one that goes on
    assert contents_of(path) in {state.contents for state in states}


def test_a_cancelled_call_was_made_or_not(new_loop, folder):
    loop = new_loop()
    maybe = st.none() | st.none() | st.integers(0, 6)

    @GENTLE
    @given(BUFFERING, CONTENTS, st.lists(st.lists(st.tuples(CALLS, maybe), min_size=1, max_size=4), max_size=6), maybe)
    def check(buffering, contents, batches, closing):
        loop.run_until_complete(cancel_anywhere(folder, buffering, contents, batches, closing))

    check()


async def test_two_reads_at_once_give_consecutive_pieces(loop, folder):
    path = f"{folder}/file"
    contents = os.urandom(1 << 20)
    for buffering in (-1, 0):
        fill(path, contents)
        drop_from_cache(path)
        async with flexsc_loop.open(path, "rb", buffering) as file:
            pieces = await asyncio.gather(*(file.read(10_007) for _ in range(110)))
        assert b"".join(pieces) == contents


async def test_a_cancelled_write_that_has_begun_is_made(loop, folder):
    path = f"{folder}/file"
    async with flexsc_loop.open(path, "wb", 0) as file:
        task = asyncio.create_task(file.write(b"x" * 1_000_000))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert await file.tell() == 1_000_000
    assert os.stat(path).st_size == 1_000_000
