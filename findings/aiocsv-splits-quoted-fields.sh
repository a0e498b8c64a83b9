#!/bin/sh
# aiocsv: skipinitialspace tears the quoted fields that it is there for, and the last row is lost if "\r" ends the lines.
#
# It takes the dialects of the csv module.  skipinitialspace there skips the blanks after a delimiter before it looks for a
# quote, so that `ada, "Smith, Ada"` has two fields; aiocsv takes the blanks away when a field is complete, when it has
# seen no quote at its beginning: three fields, with quotes in them, and no error, by strict neither.  Blanks within the
# quotes, which csv keeps, go.  Of a file whose lines end with "\r", which csv and aiocsv both read, the last row is not
# given.
#
# Seen with aiocsv 1.4.1 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-30:
#
#   'ada, "Smith, Ada"\r\n', skipinitialspace: csv [['ada', 'Smith, Ada']], aiocsv [['ada', '"Smith', 'Ada"']]
#   'ada,"  Ada"\r\n', skipinitialspace:       csv [['ada', '  Ada']], aiocsv [['ada', 'Ada']]
#   'a,b\rc,d\r':                              csv [['a', 'b'], ['c', 'd']], aiocsv [['a', 'b']]
#   'a,b\r\nc,d\r\n':                          csv [['a', 'b'], ['c', 'd']], aiocsv [['a', 'b'], ['c', 'd']]
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiocsv==1.4.1

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import csv
import io
import sys

import aiocsv


class Source:
    """A file of aiocsv: read(size) is a coroutine."""

    def __init__(self, text):
        self.file = io.StringIO(text, newline="")

    async def read(self, size):
        return self.file.read(size)


async def asynchronous(text, **options):
    return [row async for row in aiocsv.AsyncReader(Source(text), **options)]


SKIP = {"skipinitialspace": True, "strict": True}
as_described = True
for text, options, by_csv, by_aiocsv in (
    ('ada, "Smith, Ada"\r\n', SKIP, [["ada", "Smith, Ada"]], [["ada", '"Smith', 'Ada"']]),
    ('ada,"  Ada"\r\n', SKIP, [["ada", "  Ada"]], [["ada", "Ada"]]),
    ("a,b\rc,d\r", {}, [["a", "b"], ["c", "d"]], [["a", "b"]]),
    ("a,b\r\nc,d\r\n", {}, [["a", "b"], ["c", "d"]], [["a", "b"], ["c", "d"]]),
):
    found = list(csv.reader(io.StringIO(text, newline=""), **options)), asyncio.run(asynchronous(text, **options))
    print(f"{repr(text) + (', skipinitialspace' if options else '') + ':':42} csv {found[0]}, aiocsv {found[1]}")
    as_described &= found == (by_csv, by_aiocsv)
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
