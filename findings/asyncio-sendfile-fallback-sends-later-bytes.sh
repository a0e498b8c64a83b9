#!/bin/sh
# asyncio, Python 3.12 and later: loop.sendfile() of what is no plain file sends a slow client wrong bytes, without an error.
#
# Where the kernel's sendfile cannot be used (a BytesIO, a member of an archive, whatever has no descriptor) loop.sendfile()
# reads pieces of 16 KiB into one bytearray, again and again, and writes a view of it to the transport.  Since Python 3.12 a
# transport keeps what the socket has no room for as it was given, without a copy; and it asks for a pause only above 64 KiB.
# So as soon as the client is slower than the file, up to four views of the same 16 KiB wait in the transport, and what is
# sent for all of them is what was read last.  The count is right, the length is right, sendfile() returns it, no exception
# is raised: the client has a file of the right size with other pieces of itself in it.  (All that may be seen is a record of
# a stream's protocol that did not expect to be resumed.)
# Python 3.11 copies what waits, and is right.  Written out with write() and drain(), the same pieces arrive as they are.
#
# Seen with CPython 3.13.0, and likewise with 3.12.1, 3.14.10 and 3.15.2, Linux 6.18, x86-64, on 2026-11-29; how many words are wrong varies:
#
#   by write():     2097152 bytes told, 2097152 received, 0 of 524288 words wrong
#   by sendfile():  2097152 bytes told, 2097152 received, 513024 of 524288 words wrong
#
# Needs a Python from 3.12 on, in the PATH or of pyenv; nothing to install.  Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import io
import socket
import sys
import threading
import time

WORDS = 1 << 19
FILE = b"".join(number.to_bytes(4, "big") for number in range(WORDS))


def small(sock, option):
    """So that the client is soon behind."""
    sock.setsockopt(socket.SOL_SOCKET, option, 8192)


def slow_client(port, received):
    with socket.socket() as sock:
        small(sock, socket.SO_RCVBUF)
        sock.connect(("127.0.0.1", port))
        while data := sock.recv(4096):
            received += data
            time.sleep(0.0001)


async def by_write(writer):
    file = io.BytesIO(FILE)
    while data := file.read(16384):
        writer.write(data)
        await writer.drain()
    return len(FILE)


async def by_sendfile(writer):
    return await asyncio.get_running_loop().sendfile(writer.transport, io.BytesIO(FILE))


async def wrong_words(send):
    told, received = asyncio.get_running_loop().create_future(), bytearray()

    async def serve(reader, writer):
        small(writer.get_extra_info("socket"), socket.SO_SNDBUF)
        told.set_result(await send(writer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = asyncio.create_task(asyncio.to_thread(slow_client, server.sockets[0].getsockname()[1], received))
    await told
    await client
    wrong = sum(received[at : at + 4] != FILE[at : at + 4] for at in range(0, len(FILE), 4))
    print(f"{send.__name__.replace('_', ' ') + '():':15} {told.result()} bytes told, {len(received)} received,",
          f"{wrong} of {WORDS} words wrong")
    server.close()
    return wrong, told.result() == len(received) == len(FILE)


async def main():
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    return await wrong_words(by_write), await wrong_words(by_sendfile)


print("CPython", sys.version.split()[0])
written, sent = asyncio.run(main())
sys.exit(0 if written == (0, True) and sent[0] > 1000 and sent[1] else "it has changed")
PROGRAM

for python in python3.15 python3.14 python3.13 python3.12 "$HOME"/.pyenv/versions/3.1[2-9]*/bin/python; do
    if "$python" -c "" 2>/dev/null; then
        "$python" "$folder/program.py"
        exit
    fi
done
echo "no Python from 3.12 on, neither in the PATH nor of pyenv" >&2
exit 2
