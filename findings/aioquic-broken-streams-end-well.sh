#!/bin/sh
# aioquic: a stream that was reset, or whose connection failed or timed out, ends for its reader like one that is whole.
#
# QUIC tells them apart: a stream's end is FIN, its failing is RESET_STREAM with a code, a connection's is
# CONNECTION_CLOSE with an error, or the idle timeout.  aioquic has events for each, and its asyncio layer gives a
# StreamReader; but that one has the end of file for all of them.  read() returns what has come, without an exception, and
# at_eof() is true: the upload of a client that was killed is stored as a whole one.  Over TCP the same StreamReader
# raises ConnectionResetError for a connection that was reset, so that code which was moved from there no longer sees it.
#
# Seen with aioquic 1.7.2, trustme 1.2.1 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-30; the
# client sends 5 bytes, the idle timeout is 2 s:
#
#   TCP,  write_eof():                          5 bytes, end
#   TCP,  reset:                                ConnectionResetError
#   QUIC, write_eof():                          5 bytes, end
#   QUIC, the client resets the stream:         5 bytes, end
#   QUIC, the client closes with an error code: 5 bytes, end
#   QUIC, the client is killed:                 5 bytes, end
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check aioquic==1.7.2 trustme==1.2.1

cat >"$folder/client.py" <<'PROGRAM'
import asyncio
import os
import signal
import socket
import struct
import sys

from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration

port, authority, what = int(sys.argv[1]), sys.argv[2], sys.argv[3]


async def quic():
    configuration = QuicConfiguration(is_client=True, server_name="localhost", idle_timeout=2)
    configuration.load_verify_locations(authority)
    async with connect("127.0.0.1", port, configuration=configuration) as client:
        _reader, writer = await client.create_stream()
        writer.write(b"12345")
        await asyncio.sleep(0.3)
        if what == "write_eof()":
            writer.write_eof()
        elif what == "the client resets the stream":
            client._quic.reset_stream(writer.get_extra_info("stream_id"), error_code=1)
            client.transmit()
        elif what == "the client closes with an error code":
            client.close(error_code=1, reason_phrase="cannot go on")
        else:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.3)
        os._exit(0)  # the server's idle timeout ends what is still open


def tcp():
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(b"12345")
    if what == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


if what in sys.argv[4:]:
    asyncio.run(quic())
else:
    tcp()
PROGRAM

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import os
import socket
import sys
from pathlib import Path

import trustme
from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration

os.chdir(sys.argv[1])
QUIC = "write_eof()", "the client resets the stream", "the client closes with an error code", "the client is killed"


async def read(reader, found):
    try:
        data = await reader.read()
        found.put_nowait(f"{len(data)} bytes, {'end' if reader.at_eof() else 'not the end'}")
    except OSError as error:
        found.put_nowait(type(error).__name__)


async def outcome(port, what, found, kinds):
    client = await asyncio.create_subprocess_exec(sys.executable, "client.py", str(port), "authority.pem", what, *kinds)
    result = await asyncio.wait_for(found.get(), 20)
    await client.wait()
    return result


async def main():
    authority = trustme.CA()
    authority.cert_pem.write_to_path("authority.pem")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path("key.pem")
    Path("chain.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    configuration = QuicConfiguration(is_client=False, idle_timeout=2)
    configuration.load_cert_chain("chain.pem", "key.pem")

    found, running, results = asyncio.Queue(), set(), {}

    def begin(reader, writer):
        running.add((asyncio.ensure_future(read(reader, found)), writer))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    for what in "write_eof()", "reset":
        results[f"TCP,  {what}"] = await outcome(server.sockets[0].getsockname()[1], what, found, ())
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    await serve("127.0.0.1", port, configuration=configuration, stream_handler=begin)
    for what in QUIC:
        results[f"QUIC, {what}"] = await outcome(port, what, found, QUIC)
    for name, result in results.items():
        print(f"{name + ':':43} {result}")
    whole = "5 bytes, end"
    return list(results.values()) == [whole, "ConnectionResetError", *[whole] * len(QUIC)]


as_described = asyncio.run(main())
sys.stdout.flush()
os._exit(0 if as_described else 1)  # without what a StreamWriter of a stream that is gone says when it is collected
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
