#!/bin/sh
# aiocsv: after a row whose wait was cancelled, the next one raises CancelledError in a task that nobody has cancelled.
#
# A log that grows, a pipe or a socket is read with a time limit: wait_for(anext(rows), ...), and once more when it
# has run out.  aiocsv's parser is what `await` drives instead of a coroutine, and has no throw(): the cancelling ends the
# await without reaching the read() that it is at.  That one is resumed with the next row, finds its future cancelled, and
# says so then.  A task which lets that pass is "cancelled" without a word, and no row is read, though the data is there.
# The row after is "RuntimeError: cannot reuse already awaited coroutine".  The same source by itself takes a
# limit that has run out, and goes on.
#
# Seen with aiocsv 1.4.1 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-30; a socket, "a,b" is
# read, the next wait runs out, then "c,d" and "e,f" arrive, which two further tasks shall read:
#
#   read():  a,b / TimeoutError / c,d / e,f
#   aiocsv:  a,b / TimeoutError / the task is cancelled / RuntimeError
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiocsv==1.4.1

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import socket
import sys

import aiocsv


class Source:
    """What aiocsv asks for: read(size), a coroutine that returns text."""

    def __init__(self, reader):
        self.reader = reader

    async def read(self, size):
        return (await self.reader.read(size)).decode()


async def outcome(coroutine):
    """What a task of its own makes of it."""
    task = asyncio.create_task(coroutine)
    await asyncio.wait([task], timeout=5)
    if task.cancelled():
        return "the task is cancelled"
    return type(task.exception()).__name__ if task.exception() else task.result().strip()


async def main(kind):
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=here)
    source = Source(reader)
    if kind == "aiocsv":
        rows = aiocsv.AsyncReader(source)

        async def row():
            return ",".join(await anext(rows))
    else:

        async def row():
            return await source.read(4)

    there.sendall(b"a,b\n")
    found = [await outcome(row()), await outcome(asyncio.wait_for(row(), 0.1))]
    there.sendall(b"c,d\ne,f\n")
    found += [await outcome(row()), await outcome(row())]
    writer.close()
    return " / ".join(found)


as_described = True
for kind, expected in (
    ("read()", "a,b / TimeoutError / c,d / e,f"),
    ("aiocsv", "a,b / TimeoutError / the task is cancelled / RuntimeError"),
):
    found = asyncio.run(main(kind))
    print(f"{kind + ':':8} {found}")
    as_described &= found == expected
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
