#!/bin/sh
# aiofastnet: writelines() of a generator, or of any iterator, sends nothing, and sendfile() returns None.
#
# asyncio's documentation asks writelines() for "a list (or any iterable) of data bytes".  aiofastnet's goes over the
# iterable once to look at it and once to send it, so that of one that can be gone over once only nothing is left: no
# error, no bytes, and drain() returns.  Lists, tuples, sets and the like work, and in a test of one's own the pieces mostly
# are a list.  Its loop.sendfile() sends what it should, and returns None where asyncio, its fallback included, promises
# the number of bytes sent; code that adds them up, or goes on where a file ended early, fails or never ends.
# aiohttp gives its connections to aiofastnet where it is installed, from 3.15 on.
#
# Seen with aiofastnet 1.2.0 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-30:
#
#   asyncio:    list b'12', generator b'12', map b'12', sendfile() of 4 bytes: 4
#   aiofastnet: list b'12', generator b'', map b'', sendfile() of 4 bytes: None
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aiofastnet==1.2.0

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import socket
import sys
import tempfile

import aiofastnet


async def connected():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        peer, _ = listener.accept()
    peer.setblocking(False)
    return reader, writer, peer


async def sent(lines):
    _reader, writer, peer = await connected()
    writer.writelines(lines)
    await writer.drain()
    await asyncio.sleep(0.1)
    try:
        return peer.recv(100)
    except BlockingIOError:
        return b""


async def main():
    pieces = [b"1", b"2"]
    found = [await sent(pieces), await sent(piece for piece in pieces), await sent(map(bytes, pieces))]
    _reader, writer, peer = await connected()
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789")
        file.flush()
        count = await asyncio.get_running_loop().sendfile(writer.transport, file, 2, 4)
    await asyncio.sleep(0.1)
    assert peer.recv(100) == b"2345"
    print(f"list {found[0]}, generator {found[1]}, map {found[2]}, sendfile() of 4 bytes: {count}")
    return *found, count


print("asyncio:   ", end=" ", flush=True)
usual = asyncio.new_event_loop().run_until_complete(main())
print("aiofastnet:", end=" ", flush=True)
theirs = aiofastnet.loop_factory(asyncio.new_event_loop)().run_until_complete(main())
sys.exit(0 if (usual, theirs) == ((b"12", b"12", b"12", 4), (b"12", b"", b"", None)) else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
