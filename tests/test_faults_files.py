"""Calls on files that fail, are short or late: what a file holds, and what each call gives, is what io's files have.

Needs a build with faults on demand: `tests/faulty.sh` (`make stress`).
"""

import asyncio
import contextlib
import errno
import os

import faults_support
import pytest
from faults_support import ENOMEM, every_seed, run
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as by_seed
from hypothesis import strategies as st
from support import payload
from test_file_model import BUFFERING, CALLS, CONTENTS, MODES, cancel_anywhere, compare, drop_from_cache, fill

import flexsc_loop
from flexsc_loop import files

pytestmark = [pytest.mark.ours, pytest.mark.timeout(60)]
faulty, quiet = faults_support.faulty, faults_support.quiet

FEW = settings(max_examples=8, database=None, suppress_health_check=list(HealthCheck))
MAYBE = st.none() | st.none() | st.integers(0, 6)


# ---- faults that a program does not notice


@every_seed
def test_as_io_does_it(faulty, quiet, seed, folder):
    loop = faulty(quiet, seed)

    @by_seed(seed)
    @FEW
    @given(MODES, BUFFERING, CONTENTS, st.lists(st.lists(CALLS, min_size=1, max_size=4), max_size=8))
    def check(mode, buffering, contents, batches):
        run(loop, compare(folder, mode, buffering, contents, batches))

    check()


@every_seed
def test_a_cancelled_call_was_made_or_not(faulty, quiet, seed, folder):
    loop = faulty(quiet, seed)

    @by_seed(seed)
    @FEW
    @given(BUFFERING, CONTENTS, st.lists(st.lists(st.tuples(CALLS, MAYBE), min_size=1, max_size=4), max_size=6), MAYBE)
    def check(buffering, contents, batches, closing):
        run(loop, cancel_anywhere(folder, buffering, contents, batches, closing))

    check()


async def whole_files(folder, number):
    """Written, read, copied and read again, by one call each."""
    path, copied = f"{folder}/{number}", f"{folder}/{number}.copy"
    data = payload((0, 5000, 1_500_000)[number % 3], number)
    assert await files.write_bytes(path, data) == len(data)
    drop_from_cache(path)
    assert await files.read_bytes(path) == data
    assert await files.copyfile(path, copied) == copied
    assert await files.read_bytes(copied) == data
    assert (await files.stat(copied)).st_size == len(data)
    await files.replace(copied, path)
    assert not await files.exists(copied)
    await files.unlink(path)


async def trees(folder, number):
    place = f"{folder}/tree{number}/a/b"
    await files.makedirs(place)
    await files.write_text(f"{place}/text", "zwölf\n" * 1000)
    await files.link(f"{place}/text", f"{place}/linked")
    await files.symlink("text", f"{place}/other")
    assert await files.read_text(f"{place}/other") == "zwölf\n" * 1000
    assert sorted(await files.listdir(place)) == ["linked", "other", "text"]
    await files.rename(f"{place}/text", f"{place}/renamed")
    with pytest.raises(FileNotFoundError):
        await files.stat(f"{place}/other")
    await files.rmtree(f"{folder}/tree{number}")


async def lines(folder, number):
    path = f"{folder}/lines{number}"
    async with flexsc_loop.open(path, "w+") as file:
        for line in range(3000):
            await file.write(f"{line}\n")
        await file.seek(0)
        assert [int(line) async for line in file] == list(range(3000))
        assert await file.truncate(2) == 2
    assert await files.read_text(path) == "0\n"


async def vectors(folder, number):
    """Many small pieces at once, at the file's own position."""
    path, pieces = f"{folder}/vectors{number}", [payload(1 + size % 700, size) for size in range(300)]
    async with flexsc_loop.open(path, "w+b", 0) as file:
        await file.writelines(pieces)
        await file.seek(0)
        assert await file.read() == b"".join(pieces)


@every_seed
def test_programs(faulty, quiet, seed, folder):
    loop = faulty(quiet, seed)

    async def main():
        programs = (whole_files, trees, lines, vectors)
        await asyncio.gather(*(program(folder, number) for program in programs for number in range(3)))

    run(loop, main())


# ---- faults that it is told of


async def until_done(call, *arguments):
    """Make a call again for as long as there is no memory for it."""
    while True:
        try:
            return await call(*arguments)
        except OSError as error:
            assert error.errno == errno.ENOMEM


@every_seed
def test_without_memory(faulty, seed, folder):
    """A write that finds neither room in the buffer nor memory to empty it takes nothing; nothing is written twice."""
    loop = faulty(ENOMEM, seed)
    path, sent = f"{folder}/file", [payload(70 * size, size) for size in range(40)]

    async def main():
        file = await until_done(flexsc_loop.open, path, "wb", 3000)
        for data in sent:
            await until_done(file.write, data)
        await until_done(file.flush)
        await until_done(file.close)
        drop_from_cache(path)
        got = bytearray()
        async with await until_done(flexsc_loop.open, path, "rb", 0) as file:
            while data := await until_done(file.read, 7000):
                got += data
        assert got == b"".join(sent)

    run(loop, main())


@every_seed
def test_whole_files_without_memory(faulty, seed, folder):
    """Each call gives all or an error; an error leaves no descriptor behind, which a fixture looks for."""
    loop = faulty(ENOMEM, seed)
    data = payload(300_000)
    fill(f"{folder}/there", data)

    async def main():
        for number in range(30):
            drop_from_cache(f"{folder}/there")
            with contextlib.suppress(OSError):
                assert await files.read_bytes(f"{folder}/there") == data
            with contextlib.suppress(OSError):
                assert await files.write_bytes(f"{folder}/{number}", data) == len(data)
                assert os.stat(f"{folder}/{number}").st_size == len(data)
            with contextlib.suppress(OSError):
                await files.stat(f"{folder}/there")
                await files.mkdir(f"{folder}/made{number}")
                assert os.path.isdir(f"{folder}/made{number}")

    run(loop, main())


def test_faults_have_come():
    """Of each kind, in each way to run in which the tests above have asked for them."""
    assert not faults_support.never_came(__name__)
