#!/bin/sh
# rloop: an exception in data_received is told to nobody, and the connection goes on; closing a server ends its connections.
#
# asyncio and uvloop hand what data_received() raises to the loop's exception handler and close the connection, so that
# neither a bug nor its peer can be overlooked.  rloop forgets it: no handler, no log, no connection_lost; the next data is
# delivered to a protocol whose state is half changed.  And Server.close() "stops listening; sockets that represent
# existing client connections are left open", says the documentation; with rloop it closes them at once, without what
# has been sent to them being delivered, so that a server that is asked to stop and finish its work drops it.
#
# Seen with rloop 0.5.0, uvloop 0.23.0 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-29:
#
#   asyncio: data_received raises: handler told of ValueError, then: lost; server closed, then data: b'work' end
#   uvloop:  data_received raises: handler told of ValueError, then: lost; server closed, then data: b'work' end
#   rloop:   data_received raises: handler told of nothing, then: b'more'; server closed, then data: lost
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rloop==0.5.0 uvloop==0.23.0

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import socket
import sys

import rloop
import uvloop


class Recorder(asyncio.Protocol):
    def __init__(self, seen, fails):
        self.seen, self.fails = seen, fails

    def data_received(self, data):
        if self.fails:
            self.fails = False
            raise ValueError("a bug")
        self.seen.append(repr(data))

    def eof_received(self):
        self.seen.append("end")

    def connection_lost(self, error):
        if not self.seen:
            self.seen.append("lost")


async def served(fails):
    seen = []
    server = await asyncio.get_running_loop().create_server(lambda: Recorder(seen, fails), "127.0.0.1", 0)
    client = socket.create_connection(server.sockets[0].getsockname())
    await asyncio.sleep(0.1)
    return server, client, seen


async def send(client, data):
    try:
        client.sendall(data)
    except OSError:
        pass  # the server has closed it
    await asyncio.sleep(0.1)


async def main():
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(type(context["exception"]).__name__))
    _server, client, after_error = await served(fails=True)
    await send(client, b"first")
    await send(client, b"more")
    told, after_error = told or ["nothing"], after_error.copy()

    server, client, after_close = await served(fails=False)
    server.close()
    await send(client, b"work")
    client.close()
    await asyncio.sleep(0.1)
    print(f"data_received raises: handler told of {', '.join(told)}, then: {' '.join(after_error)}; "
          f"server closed, then data: {' '.join(after_close)}")
    return told, after_error, after_close


found = {}
for name, new_loop in (
    ("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop), ("rloop", rloop.new_event_loop),
):
    print(f"{name + ':':8}", end=" ", flush=True)
    found[name] = new_loop().run_until_complete(main())
usual = (["ValueError"], ["lost"], ["b'work'", "end"])
as_described = found == {"asyncio": usual, "uvloop": usual, "rloop": (["nothing"], ["b'more'"], ["lost"])}
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
