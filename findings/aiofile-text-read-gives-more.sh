#!/bin/sh
# aiofile: read(n) of a text file gives more than n characters, up to twice as many less one, unless all are ASCII.
#
# It reads n bytes, looks how many characters that was, and reads n bytes more while there are fewer than n; what is too
# much then stays in the result (the lines that would cut it look at a variable that is always 0).  A protocol of fixed
# fields, or a parser that has asked for one record, gets a part of the next with it, and misses that part afterwards: the
# position is behind it.  Tests with ASCII pass.  Where aiofiles, anyio and open() give n, only the number given tells.
#
# Seen with aiofile 3.12.0, aiofiles 25.1.0 (PyPI), CPython 3.11.7, Linux 6.18, x86-64, on 2026-11-29; records of ten
# letters each, read one after the other:
#
#   aiofiles: Straßenbau, Großmutter, Kürbiskern, Erdbeerrot
#   aiofile:  StraßenbauGroßmutt, erKürbiskernErdbeer, rot
#   aiofile, all ASCII: Strassenba, Grossmutte, Kuerbisker, Erdbeerrot
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiofile==3.12.0 aiofiles==25.1.0

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import sys
from pathlib import Path

import aiofile
import aiofiles

path = Path(sys.argv[1], "records")


async def records(opened):
    found = []
    async with opened as file:
        while record := await file.read(10):
            found.append(record)
    return found


async def main():
    words = ["Straßenbau", "Großmutter", "Kürbiskern", "Erdbeerrot"]
    path.write_text("".join(words), encoding="utf-8")
    by_aiofiles = await records(aiofiles.open(path, encoding="utf-8"))
    by_aiofile = await records(aiofile.async_open(path, encoding="utf-8"))
    print("aiofiles:", ", ".join(by_aiofiles))
    print("aiofile: ", ", ".join(by_aiofile))
    ascii_words = ["Strassenba", "Grossmutte", "Kuerbisker", "Erdbeerrot"]
    path.write_text("".join(ascii_words))
    of_ascii = await records(aiofile.async_open(path, encoding="utf-8"))
    print("aiofile, all ASCII:", ", ".join(of_ascii))
    return (
        by_aiofiles == words and of_ascii == ascii_words
        and max(map(len, by_aiofile)) > 10 and "".join(by_aiofile) == "".join(words)
    )


sys.exit(0 if asyncio.run(main()) else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
