#!/bin/sh
# aiofile, py-asyncfiles: read() of everything asks for as many bytes as stat(2) tells, once; what is there is not read.
#
# Both read a whole file through a position of their own, whose end is the size from fstat.  Files under /proc have a size
# of nought and contents all the same: read() gives an empty result and no error.  open().read() and aiofiles give what
# is there.  aiofile makes one call of it, too, and a call of Linux moves 2147479552 bytes at most (read(2), NOTES): of a
# file that is larger read() gives so many without a word, and those who hash or copy it have another file.  It is neither end of file nor an error that could
# be seen, since the length is what nobody looks at after read().
#
# Seen with aiofile 3.12.0, caio 0.12.10, py-asyncfiles 1.7.0, aiofiles 25.1.0 (PyPI), CPython 3.11.7, Linux 6.18, x86-64, on 2026-11-29:
#
#   /proc/self/status: aiofile 0 bytes, py-asyncfiles 0 bytes, aiofiles all
#   a file of 2147483648 bytes: aiofile 2147479552 bytes (4096 less), py-asyncfiles all
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    aiofile==3.12.0 aiofiles==25.1.0 caio==0.12.10 py-asyncfiles==1.7.0

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import sys
from pathlib import Path

import aiofile
import aiofiles
import asyncfiles

LARGE = 1 << 31


async def length(opened):
    async with opened as file:
        return len(await file.read())


async def main():
    status = Path("/proc/self/status")
    plain = len(status.read_bytes())
    found = [await length(each) for each in (
        aiofile.async_open(status, "rb"), asyncfiles.open(status, "rb"), aiofiles.open(status, "rb"))]
    print(f"/proc/self/status: aiofile {found[0]} bytes, py-asyncfiles {found[1]} bytes, "
          f"aiofiles {'all' if found[2] > plain // 2 else 'not all'}")

    large = Path(sys.argv[1], "large")
    with large.open("wb") as file:
        file.truncate(LARGE)
    of_large = [await length(each) for each in (aiofile.async_open(large, "rb"), asyncfiles.open(large, "rb"))]
    print(f"a file of {LARGE} bytes: aiofile {of_large[0]} bytes ({LARGE - of_large[0]} less), "
          f"py-asyncfiles {'all' if of_large[1] == LARGE else of_large[1]}")
    return found[:2] == [0, 0] and found[2] > plain // 2 and of_large == [LARGE - 4096, LARGE]


sys.exit(0 if asyncio.run(main()) else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
