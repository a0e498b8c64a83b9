#!/bin/sh
# uvicorn, granian, aiohttp: a client that ends its sending side after the request gets no answer, though the work is done.
#
# shutdown(SHUT_WR) after the request says that there will be no other one; TCP then still carries the answer, as gunicorn
# and hypercorn send it.  uvicorn, aiohttp and granian close the connection as soon as they see that end, while the
# application is at work: it has the whole body, goes on to its end, and what it answers is thrown away; ASGI's
# send() does not fail.  The client cannot know that its request was carried out, and may well repeat it.  asyncio
# closes a transport at the peer's end unless the protocol's eof_received() says otherwise; granian does not use its
# transports, and does the same.
#
# Seen with aiohttp 3.14.5, granian 2.8.9, gunicorn 27.0.1, hypercorn 0.18.0, uvicorn 0.54.0 (PyPI), CPython 3.11.7 (3.13.0
# likewise), Linux 6.18, x86-64, on 2026-11-30; the application reads the body and answers 0.3 s later:
#
#   gunicorn:        left open: 200, done; ended: 200, done
#   hypercorn:       left open: 200, done; ended: 200, done
#   uvicorn:         left open: 200, done; ended: no answer, done
#   granian:         left open: 200, done; ended: no answer, done
#   aiohttp:         left open: 200, done; ended: no answer, done
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    aiohttp==3.14.5 granian==2.8.9 gunicorn==27.0.1 hypercorn==0.18.0 uvicorn==0.54.0

cat >"$folder/application.py" <<'APPLICATION'
import asyncio
import os
import sys
import time


def done(path, body):
    """It had the whole body, and has come to its end."""
    with open(os.environ["FOUND"] + path, "w") as file:
        file.write("done" if body == b"12345" else f"read {body}")


def wsgi(environ, start_response):
    body = environ["wsgi.input"].read()
    time.sleep(0.3)
    start_response("200 OK", [("Content-Length", "2")])
    done(environ["PATH_INFO"], body)
    return [b"ok"]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": event + ".complete"})
            if event == "lifespan.shutdown":
                return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await asyncio.sleep(0.3)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
    done(scope["path"], body)


if __name__ == "__main__":
    from aiohttp import web

    async def handle(request):
        body = await request.read()
        await asyncio.sleep(0.3)
        done(request.path, body)
        return web.Response(text="ok")

    application = web.Application()
    application.router.add_post("/{name}", handle)
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), print=None)
APPLICATION

cat >"$folder/program.py" <<'PROGRAM'
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

os.chdir(sys.argv[1])


def answer(client, ended):
    client.sendall(f"POST /{ended} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n12345".encode())
    if ended == "ended":
        client.shutdown(socket.SHUT_WR)
    try:
        received = client.recv(1000)
    except ConnectionError:
        received = b""
    return received[9:12].decode() or "no answer"


def outcomes(command):
    folder = Path(f"found-{time.monotonic_ns()}")
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program, *arguments = command.replace("PORT", str(port)).split()
    server = subprocess.Popen(
        [Path("venv", "bin", program).absolute(), *arguments], env=os.environ | {"FOUND": str(folder.absolute()) + "/"},
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
        for ended in "open", "ended":
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                got = answer(client, ended)
                time.sleep(1)
                file = folder / ended
                found.append(f"{got}, {file.read_text() if file.exists() else 'not done'}")
    finally:
        server.terminate()
        server.wait()
    return found


as_described = True
for name, command, expected in (
    ("gunicorn", "gunicorn -b 127.0.0.1:PORT application:wsgi", "200"),
    ("hypercorn", "hypercorn -b 127.0.0.1:PORT application:asgi", "200"),
    ("uvicorn", "uvicorn --port PORT application:asgi", "no answer"),
    ("granian", "granian --interface asgi --port PORT application:asgi", "no answer"),
    ("aiohttp", "python application.py PORT", "no answer"),
):
    found = outcomes(command)
    print(f"{name + ':':16} left open: {found[0]}; ended: {found[1]}")
    as_described &= found == ["200, done", f"{expected}, done"]
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
