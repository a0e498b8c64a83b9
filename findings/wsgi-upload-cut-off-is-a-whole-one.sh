#!/bin/sh
# granian, hypercorn, a2wsgi: a WSGI application reads an upload whose client has gone as if it were whole.
#
# The client sends a part of its body, and its connection ends.  gunicorn's read() then raises if the body is chunked,
# where there is nothing else to know it by; if it has a Content-Length, that has to be compared.  asgiref's WsgiToAsgi does
# not call the application.  Hypercorn and a2wsgi, for which ASGI has "http.disconnect", give read() of a chunked body the
# bytes that came, and granian gives none at all, as of an empty one: no exception, and no way for the application to
# see that what it stores is torn.
#
# Seen with granian 2.8.9, hypercorn 0.18.0, a2wsgi 1.10.10, asgiref 3.13.0, uvicorn 0.54.0, gunicorn 27.0.1 (PyPI), CPython
# 3.11.7, Linux 6.18, x86-64, on 2026-11-30; read() when 5 bytes of 10 came, and of a chunk of 5 without the last chunk:
#
#   gunicorn:           Content-Length: 5 bytes; chunked: raises
#   asgiref, uvicorn:   Content-Length: not called; chunked: not called
#   granian, wsgi:      Content-Length: 0 bytes; chunked: 0 bytes
#   hypercorn, wsgi:    Content-Length: 5 bytes; chunked: 5 bytes
#   a2wsgi, uvicorn:    Content-Length: 5 bytes; chunked: 5 bytes
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    a2wsgi==1.10.10 asgiref==3.13.0 granian==2.8.9 gunicorn==27.0.1 hypercorn==0.18.0 uvicorn==0.54.0

cat >"$folder/application.py" <<'APPLICATION'
import os

from a2wsgi import WSGIMiddleware
from asgiref.wsgi import WsgiToAsgi


def wsgi(environ, start_response):
    try:
        found = f"{len(environ['wsgi.input'].read())} bytes"
    except Exception:
        found = "raises"
    with open(os.environ["FOUND"] + environ["PATH_INFO"], "w") as file:
        file.write(found)
    start_response("204 No Content", [])
    return []


by_a2wsgi, by_asgiref = WSGIMiddleware(wsgi), WsgiToAsgi(wsgi)
APPLICATION

cat >"$folder/program.py" <<'PROGRAM'
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

TORN = {
    "Content-Length": b"Content-Length: 10\r\n\r\n12345",
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
}
WHOLE = b"Content-Length: 5\r\n\r\n12345"
os.chdir(sys.argv[1])


def post(port, name, rest, until=None):
    """Send it, wait for a moment or until there is an answer, and go."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"POST /{name} HTTP/1.1\r\nHost: localhost\r\n".encode() + rest)
        if until:
            client.recv(1000)
        else:
            time.sleep(0.2)


def outcomes(command):
    """What the application found of a whole body, and of each torn one."""
    folder = Path(f"found-{time.monotonic_ns()}")
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program, *arguments = command.replace("PORT", str(port)).split()
    server = subprocess.Popen(
        [Path("venv", "bin", program).absolute(), *arguments], env=os.environ | {"FOUND": str(folder.absolute())},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            try:
                post(port, "whole", WHOLE, until="answer")
                break
            except ConnectionError:
                time.sleep(0.1)
        for name, rest in TORN.items():
            post(port, name, rest)
        time.sleep(2)
    finally:
        server.terminate()
        server.wait()
    return [(folder / name).read_text() if (folder / name).exists() else "not called" for name in ("whole", *TORN)]


as_described = True
for name, command, *expected in (
    ("gunicorn", "gunicorn -b 127.0.0.1:PORT application:wsgi", "5 bytes", "raises"),
    ("asgiref, uvicorn", "uvicorn --port PORT application:by_asgiref", "not called", "not called"),
    ("granian, wsgi", "granian --interface wsgi --port PORT application:wsgi", "0 bytes", "0 bytes"),
    ("hypercorn, wsgi", "hypercorn -b 127.0.0.1:PORT wsgi:application:wsgi", "5 bytes", "5 bytes"),
    ("a2wsgi, uvicorn", "uvicorn --port PORT application:by_a2wsgi", "5 bytes", "5 bytes"),
):
    whole, *found = outcomes(command)
    print(f"{name + ':':19} {'; '.join(f'{kind}: {what}' for kind, what in zip(TORN, found))}")
    as_described &= whole == "5 bytes" and found == expected
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
