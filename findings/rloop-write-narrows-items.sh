#!/bin/sh
# rloop: write() and sendto() of a buffer whose items are larger than a byte send a byte for each.
#
# An array('I') or a memoryview of one, say: what has the buffer protocol may be written, and the other loops send its
# memory (asyncio where it is a memoryview; of anything else than bytes it raises TypeError).  rloop goes over the items
# and makes each a byte: half, a quarter or an eighth of what was written goes out, without an error unless
# a number is larger than 255 (OverflowError).  writelines() sends the memory.
#
# Seen with rloop 0.5.0, uvloop 0.23.0 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-29; the
# memory is 01000000 02000000 03000000 (1, 2 and 3, four bytes each):
#
#   asyncio: memoryview 010000000200000003000000, writelines 010000000200000003000000
#   uvloop:  memoryview 010000000200000003000000, writelines 010000000200000003000000
#   rloop:   memoryview 010203, writelines 010000000200000003000000
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rloop==0.5.0 uvloop==0.23.0

cat >"$folder/program.py" <<'PROGRAM'
import array
import asyncio
import socket
import sys

import rloop
import uvloop

NUMBERS = array.array("I", [1, 2, 3])


async def sent(write):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, *listener.getsockname())
        peer, _ = listener.accept()
    write(transport)
    await asyncio.sleep(0.1)
    return peer.recv(100).hex()


async def main():
    by_write = await sent(lambda transport: transport.write(memoryview(NUMBERS)))
    by_lines = await sent(lambda transport: transport.writelines([memoryview(NUMBERS)]))
    print(f"memoryview {by_write}, writelines {by_lines}")
    return by_write, by_lines


memory = NUMBERS.tobytes().hex()
found = {}
for name, new_loop in (
    ("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop), ("rloop", rloop.new_event_loop),
):
    print(f"{name + ':':8}", end=" ", flush=True)
    found[name] = new_loop().run_until_complete(main())
as_described = found == {"asyncio": (memory, memory), "uvloop": (memory, memory), "rloop": ("010203", memory)}
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
