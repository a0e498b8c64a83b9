#!/bin/sh
# granian: when an RSGI application fails in the midst of an answer, the client has a whole one, only shorter.
#
# After the headers an error can be told in one way only: not to end the body.  With chunked transfer coding the last, empty
# chunk is what says that all has come, and clients raise if the connection ends without it.  Granian does so for ASGI, and
# uvicorn and hypercorn do; over RSGI, its own interface, an exception that leaves the application after response_stream()
# has the last chunk sent, as if the application had returned.  A report or an export that broke
# off is a good file to its client, to caches and to proxies; only the server's log knows.
#
# Seen with granian 2.8.9, hypercorn 0.18.0, uvicorn 0.54.0 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64,
# on 2026-11-30; the application sends one line of two, and raises ValueError; the client is http.client:
#
#   uvicorn:       well: 200, 2 lines; fails: 200, IncompleteRead
#   hypercorn:     well: 200, 2 lines; fails: 200, IncompleteRead
#   granian, ASGI: well: 200, 2 lines; fails: 200, IncompleteRead
#   granian, RSGI: well: 200, 2 lines; fails: 200, 1 line
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check granian==2.8.9 hypercorn==0.18.0 uvicorn==0.54.0

cat >"$folder/application.py" <<'APPLICATION'
async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": event + ".complete"})
            if event == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first\n", "more_body": True})
    if scope["path"] == "/fails":
        raise ValueError("a bug")
    await send({"type": "http.response.body", "body": b"last\n"})


async def rsgi(scope, protocol):
    transport = protocol.response_stream(200, [])
    await transport.send_bytes(b"first\n")
    if scope.path == "/fails":
        raise ValueError("a bug")
    await transport.send_bytes(b"last\n")
APPLICATION

cat >"$folder/program.py" <<'PROGRAM'
import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

os.chdir(sys.argv[1])


def answer(port, path):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        client.request("GET", path)
        response = client.getresponse()
        try:
            count = response.read().count(b"\n")
            return f"{response.status}, {count} line{'s' if count > 1 else ''}"
        except http.client.IncompleteRead:
            return f"{response.status}, IncompleteRead"
    finally:
        client.close()


def outcomes(command):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program, *arguments = command.replace("PORT", str(port)).split()
    server = subprocess.Popen(
        [Path("venv", "bin", program).absolute(), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionError:
                time.sleep(0.1)
        return answer(port, "/well"), answer(port, "/fails")
    finally:
        server.terminate()
        server.wait()


as_described = True
for name, command, expected in (
    ("uvicorn", "uvicorn --port PORT application:asgi", "200, IncompleteRead"),
    ("hypercorn", "hypercorn -b 127.0.0.1:PORT application:asgi", "200, IncompleteRead"),
    ("granian, ASGI", "granian --interface asgi --port PORT application:asgi", "200, IncompleteRead"),
    ("granian, RSGI", "granian --interface rsgi --port PORT application:rsgi", "200, 1 line"),
):
    well, fails = outcomes(command)
    print(f"{name + ':':14} well: {well}; fails: {fails}")
    as_described &= (well, fails) == ("200, 2 lines", expected)
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
