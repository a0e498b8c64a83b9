#!/bin/sh
# hypercorn, granian, uvicorn: the close codes of WebSockets are not those of the wire, in each another way.
#
# An application learns from the code of "websocket.disconnect" whether its client has left (1000, 1001, a code of its own)
# or was lost: 1006, says RFC 6455, is for a connection that ended without a close frame, 1005 for a frame without a code.
# hypercorn tells 1006 always, also of a client that has closed in good order with a code.  granian, and uvicorn with
# wsproto or its sansio implementation, tell 1005 of one that is lost; uvicorn with websockets tells 1006.  The other way
# about, a client should hear 1011 when the application fails, or nothing, which it calls 1006: so it is with hypercorn and
# uvicorn; granian sends an empty close frame, 1005, as of a closing in good order.  What sorts by these codes, whether to
# reconnect or to count an error, changes with the server, and with uvicorn's --ws.
#
# Seen with granian 2.8.9, hypercorn 0.18.0, uvicorn 0.54.0, websockets 17.4, wsproto 1.3.2 (PyPI), CPython 3.11.7 (3.13.0
# likewise), Linux 6.18, x86-64, on 2026-11-30:
#
#                          told the application if the client       told the client if
#                          closes with 4001    is lost              the application raises
#   uvicorn, websockets:   4001                1006                 1006
#   uvicorn, wsproto:      4001                1005                 1006
#   uvicorn, sansio:       4001                1005                 1006
#   granian:               4001                1005                 1005
#   hypercorn:             1006                1006                 1011
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    granian==2.8.9 hypercorn==0.18.0 uvicorn==0.54.0 websockets==17.4 wsproto==1.3.2

cat >"$folder/application.py" <<'APPLICATION'
import os


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": event + ".complete"})
            if event == "lifespan.shutdown":
                return
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/raises":
        raise ValueError("a bug")
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            break
        await send({"type": "websocket.send", "text": "here"})
    with open(os.environ["FOUND"] + scope["path"], "w") as file:
        file.write(f"{message['code']:d}")
APPLICATION

cat >"$folder/program.py" <<'PROGRAM'
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

os.chdir(sys.argv[1])
CASES = "closes", "lost", "raises"


def leave(port, case):
    """Connect and leave; for "raises", the code that the client is told (1006 where no frame came)."""
    with connect(f"ws://127.0.0.1:{port}/{case}", compression=None, close_timeout=5) as client:
        if case == "raises":
            try:
                client.recv(timeout=5)
            except ConnectionClosed as closed:
                return str(closed.rcvd.code if closed.rcvd else 1006)
        client.send("there?")
        assert client.recv(timeout=5) == "here"
        if case == "closes":
            client.close(4001)
        else:
            client.socket.shutdown(socket.SHUT_RDWR)
    return None


def outcomes(command):
    folder = Path(f"found-{time.monotonic_ns()}")
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program, *arguments = command.replace("PORT", str(port)).split()
    server = subprocess.Popen(
        [Path("venv", "bin", program).absolute(), *arguments], env=os.environ | {"FOUND": str(folder.absolute())},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    found = []
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionError:
                time.sleep(0.1)
        for case in CASES:
            code = leave(port, case)
            time.sleep(0.5)
            found.append(code or ((folder / case).read_text() if (folder / case).exists() else "nothing"))
    finally:
        server.terminate()
        server.wait()
    return found


as_described = True
print(f"{'':22} told the application if the client       told the client if")
print(f"{'':22} closes with 4001    is lost              the application raises")
for name, command, *expected in (
    ("uvicorn, websockets", "uvicorn --ws websockets --port PORT application:asgi", "4001", "1006", "1006"),
    ("uvicorn, wsproto", "uvicorn --ws wsproto --port PORT application:asgi", "4001", "1005", "1006"),
    ("uvicorn, sansio", "uvicorn --ws websockets-sansio --port PORT application:asgi", "4001", "1005", "1006"),
    ("granian", "granian --interface asgi --port PORT application:asgi", "4001", "1005", "1005"),
    ("hypercorn", "hypercorn -b 127.0.0.1:PORT application:asgi", "1006", "1006", "1011"),
):
    found = outcomes(command)
    print(f"{name + ':':22} {found[0]:19} {found[1]:20} {found[2]}".rstrip())
    as_described &= found == expected
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
