#!/bin/sh
# aiosqlite: `async for` over a cursor takes up to 64 rows with it when it is left, and fetchone() goes on behind them.
#
# A cursor of sqlite3 is one sequence, whoever takes from it: what follows a loop that was left with `break` begins with
# the next row.  aiosqlite's Cursor does the same calls as coroutines, but its iterator fetches as many rows at once as
# connect()'s iter_chunk_size says, 64 unless told, and keeps those that nobody has asked for yet in itself.  So the usual
# pair of a loop for the head and fetchall(), or a second loop, for the rest loses up to 63 rows in between,
# without an error.  A result of up to 64 rows, as in a test, seems to have nothing after the first row.
#
# Seen with aiosqlite 0.22.1 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-30; a result of
# 200 rows, 1 to 200, a loop that is left after its first row, and then:
#
#   sqlite3:                      fetchone() 2; fetchall() 199 rows from 2 on; a second loop 2; of 50 rows fetchall() 49
#   aiosqlite:                    fetchone() 65; fetchall() 136 rows from 65 on; a second loop 65; of 50 rows fetchall() 0
#   aiosqlite, iter_chunk_size=1: fetchone() 2; fetchall() 199 rows from 2 on; a second loop 2; of 50 rows fetchall() 49
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiosqlite==0.22.1

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import sqlite3
import sys

import aiosqlite

ROWS = "with recursive rows(n) as (select 1 union all select n + 1 from rows where n < ?) select n from rows"


def text(row, rest, again, few):
    return f"fetchone() {row[0]}; fetchall() {len(rest)} rows from {rest[0][0]} on; a second loop {again[0]}; " \
           f"of 50 rows fetchall() {len(few)}"


def plain():
    connection = sqlite3.connect(":memory:")

    def left_after_the_first(count):
        cursor = connection.execute(ROWS, (count,))
        for row in cursor:
            assert row == (1,)
            return cursor

    return text(
        left_after_the_first(200).fetchone(), left_after_the_first(200).fetchall(), next(iter(left_after_the_first(200))),
        left_after_the_first(50).fetchall(),
    )


async def asynchronous(**options):
    async with aiosqlite.connect(":memory:", **options) as connection:

        async def left_after_the_first(count):
            cursor = await connection.execute(ROWS, (count,))
            async for row in cursor:
                assert row == (1,)
                return cursor

        return text(
            await (await left_after_the_first(200)).fetchone(), await (await left_after_the_first(200)).fetchall(),
            await anext(aiter(await left_after_the_first(200))), await (await left_after_the_first(50)).fetchall(),
        )


whole = "fetchone() 2; fetchall() 199 rows from 2 on; a second loop 2; of 50 rows fetchall() 49"
torn = "fetchone() 65; fetchall() 136 rows from 65 on; a second loop 65; of 50 rows fetchall() 0"
as_described = True
for name, found, expected in (
    ("sqlite3", plain(), whole),
    ("aiosqlite", asyncio.run(asynchronous()), torn),
    ("aiosqlite, iter_chunk_size=1", asyncio.run(asynchronous(iter_chunk_size=1)), whole),
):
    print(f"{name + ':':29} {found}")
    as_described &= found == expected
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
