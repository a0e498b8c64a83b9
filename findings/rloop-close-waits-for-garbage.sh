#!/bin/sh
# rloop: a transport that was closed keeps its socket until the garbage collector finds it, and the peer sees no end.
#
# close(), abort() and the end that follows a peer's end all lead to connection_lost(None); is_closing() is true and
# StreamWriter.wait_closed() returns.  But the descriptor is closed when the transport is freed, not before.  Who still has
# the writer, in a list of clients or on a stack, holds the connection open, though nothing reads it any longer; a
# protocol that keeps its transport and is kept by it needs a full collection.  Peers that wait for the end of a stream
# (HTTP/1.0, "Connection: close", pipes of messages without a length) wait that long, and descriptors run out under load.
#
# Seen with rloop 0.5.0, uvloop 0.23.0 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-29; ten
# connections, whose server answers, closes, awaits wait_closed(), and has the writers in a list:
#
#   asyncio: connection_lost 10 of 10, the client sees the end of 10, descriptors left 0
#   uvloop:  connection_lost 10 of 10, the client sees the end of 10, descriptors left 0
#   rloop:   connection_lost 10 of 10, the client sees the end of 0, descriptors left 10
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rloop==0.5.0 uvloop==0.23.0

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import os
import socket
import sys

import rloop
import uvloop

CONNECTIONS = 10


def descriptors():
    return len(os.listdir("/proc/self/fd"))


async def ends():
    writers, lost = [], []

    async def serve(reader, writer):
        writers.append(writer)
        writer.write(b"answer")
        writer.close()
        await writer.wait_closed()
        lost.append(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    seen, before = 0, None
    for _ in range(CONNECTIONS):
        client = socket.create_connection(server.sockets[0].getsockname())
        await asyncio.sleep(0.1)
        client.setblocking(False)
        assert client.recv(100) == b"answer"
        try:
            seen += client.recv(100) == b""
        except BlockingIOError:
            pass  # nothing, not even the end
        client.close()
        await asyncio.sleep(0.05)
        if before is None:
            before = descriptors() - (seen == 0)  # what the loop opens once is open now
    left = descriptors() - before
    print(f"connection_lost {len(lost)} of {CONNECTIONS}, the client sees the end of {seen}, descriptors left {left}")
    return len(lost), seen, left


found = {}
for name, new_loop in (
    ("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop), ("rloop", rloop.new_event_loop),
):
    print(f"{name + ':':8}", end=" ", flush=True)
    found[name] = new_loop().run_until_complete(ends())
as_described = found == {"asyncio": (10, 10, 0), "uvloop": (10, 10, 0), "rloop": (10, 0, 10)}
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
