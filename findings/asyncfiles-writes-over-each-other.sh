#!/bin/sh
# py-asyncfiles: writes to one file object that overlap all succeed, but one's bytes are left, and a hole of zeros after them.
#
# A write takes the object's position when it begins and adds its length when it is done.  So writes of several tasks to
# one log file, or of one asyncio.gather(), go to the same place: each returns the number of its bytes, nothing fails, and
# the file has those of the last.  The position has moved by the sum of all, so that what is written next leaves a hole,
# and tell() looks right.  Reads that overlap get the same piece, and the next ones are skipped.  Python's files,
# aiofiles and aiofile make one such call after the other.  With the io_uring backend it is so most of the time, with
# libuv, which is used below, always.  A file that was opened with "a+" takes its size once: what was appended cannot be
# read back through the same object, whoever waits for whom.
#
# Seen with py-asyncfiles 1.7.0, aiofile 3.12.0 (PyPI), CPython 3.11.7, Linux 6.18, x86-64, on 2026-11-29:
#
#   five writes of ten bytes at once, then "end":
#     aiofile:       told [10, 10, 10, 10, 10], AAAAAAAAAABBBBBBBBBBCCCCCCCCCCDDDDDDDDDDEEEEEEEEEEend
#     py-asyncfiles: told [10, 10, 10, 10, 10], EEEEEEEEEE (40 zeros) end
#   three reads of five bytes at once, then one: py-asyncfiles ABCDE ABCDE ABCDE PQRST
#   "a+", 10 bytes there, 2 appended, seek(0), read(): py-asyncfiles 10 bytes, the file has 12
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiofile==3.12.0 py-asyncfiles==1.7.0

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import functools
import string
import sys
from pathlib import Path

import aiofile
import asyncfiles

path = Path(sys.argv[1], "file")
by_libuv = functools.partial(asyncfiles.open, backend="libuv")


async def written(opened):
    async with opened as file:
        told = await asyncio.gather(*(file.write(letter.encode() * 10) for letter in "ABCDE"))
        await file.write(b"end")
    return told, path.read_bytes().replace(bytes(40), b" (40 zeros) ").decode()


async def main():
    print('five writes of ten bytes at once, then "end":')
    told, of_aiofile = await written(aiofile.async_open(path, "wb"))
    print(f"  aiofile:       told {told}, {of_aiofile}")
    told, of_asyncfiles = await written(by_libuv(path, "wb"))
    print(f"  py-asyncfiles: told {told}, {of_asyncfiles}")

    path.write_text(string.ascii_uppercase)
    async with by_libuv(path, "r") as file:
        pieces = [*await asyncio.gather(*(file.read(5) for _ in range(3))), await file.read(5)]
    print("three reads of five bytes at once, then one: py-asyncfiles", *pieces)

    path.write_bytes(b"0123456789")
    async with by_libuv(path, "a+b") as file:
        await file.write(b"xx")
        file.seek(0)
        back = len(await file.read())
    there = path.stat().st_size
    print(f'"a+", 10 bytes there, 2 appended, seek(0), read(): py-asyncfiles {back} bytes, the file has {there}')
    return (
        (told, of_aiofile) == ([10] * 5, "".join(letter * 10 for letter in "ABCDE") + "end")
        and of_asyncfiles == "EEEEEEEEEE (40 zeros) end"
        and pieces == ["ABCDE", "ABCDE", "ABCDE", "PQRST"]
        and (back, there) == (10, 12)
    )


sys.exit(0 if asyncio.run(main()) else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
