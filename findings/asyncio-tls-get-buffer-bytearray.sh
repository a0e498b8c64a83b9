#!/bin/sh
# asyncio: a BufferedProtocol that hands out a bytearray gets zeros instead of data, over TLS only.
#
# get_buffer() has to return "an object implementing the buffer protocol", says the documentation.  Over TCP a bytearray
# works.  Over TLS the transport decrypts one record after the other into slices of that object: a slice of a memoryview is
# the same memory, one of a bytearray is a copy.  So what the second and each further record of a delivery held is
# decrypted into copies and thrown away; buffer_updated() is called with the full count, and the bytes of the bytearray
# are what they were before.  No error anywhere.  Records come several at a time as soon as the sender is faster than the
# receiver or a message has more than 16 KiB, so small tests pass.
#
# Seen with CPython 3.11.7 (also 3.13.0 and 3.15), trustme 1.2.1, on Linux x86-64, on 2026-11-28:
#
#   TCP, bytearray:  60000 bytes told, all as sent
#   TCP, memoryview: 60000 bytes told, all as sent
#   TLS, bytearray:  60000 bytes told, 43616 of them zero
#   TLS, memoryview: 60000 bytes told, all as sent
#
# (How many of them depends on how the records arrive.)  Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check trustme==1.2.1

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import ssl
import sys

import trustme

MESSAGE = b"x" * 60_000


class Receiver(asyncio.BufferedProtocol):
    def __init__(self, view):
        self.memory = bytearray(1 << 16)
        self.buffer = view(self.memory)
        self.received = bytearray()
        self.all = asyncio.get_running_loop().create_future()

    def get_buffer(self, hint):
        return self.buffer

    def buffer_updated(self, count):
        self.received += self.memory[:count]
        self.memory[:] = bytes(len(self.memory))
        if len(self.received) >= len(MESSAGE):
            self.all.set_result(None)


async def received(view, server_tls, client_tls):
    made = []

    def factory():
        made.append(Receiver(view))
        return made[0]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_tls)
    _, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=client_tls, server_hostname="example.org" if client_tls else None)
    while not made:
        await asyncio.sleep(0)
    writer.write(MESSAGE)
    await asyncio.wait_for(made[0].all, 5)
    writer.close()
    server.close()
    return bytes(made[0].received)


authority = trustme.CA()
server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
authority.issue_cert("example.org").configure_cert(server_tls)
client_tls = ssl.create_default_context()
authority.configure_trust(client_tls)

wrong = []
for name, contexts in (("TCP", (None, None)), ("TLS", (server_tls, client_tls))):
    for view in (bytearray, memoryview):
        # bytearray() of a bytearray would be a copy.
        data = asyncio.run(received(memoryview if view is memoryview else lambda memory: memory, *contexts))
        zeros = data.count(0)
        wrong.append(data != MESSAGE)
        kind = f"{name}, {view.__name__}:"
        print(f"{kind:16} {len(data)} bytes told, " + (f"{zeros} of them zero" if zeros else "all as sent"))
sys.exit(0 if wrong == [False, False, True, False] else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
