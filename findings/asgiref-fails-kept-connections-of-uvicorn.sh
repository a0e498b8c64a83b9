#!/bin/sh
# asgiref, uvicorn: a WSGI application on a kept connection answers the first request, and 500 a moment later.
#
# asgiref's WsgiToAsgi sends the end of a response as a piece of its own, after the last bytes.  A client on the same
# machine, a proxy, say, that keeps its connections, has the whole answer by then, and may have sent its next request.
# uvicorn has that one wait, and begins it from within the send() of that end; a task inherits the context it is started
# from, and this one holds the executor of asgiref's call from its thread, which is over when the next request asks it
# for a thread: "CurrentThreadExecutor already quit or is broken".  The WSGI application is not called, and the connection
# ends.  The same with requests that are pipelined.  After a pause all is well, which is what one sees by hand; so
# it is with a2wsgi in the place of asgiref, and with hypercorn in that of uvicorn.
#
# Seen with asgiref 3.13.0, a2wsgi 1.10.10, hypercorn 0.18.0, uvicorn 0.54.0 with h11 0.16.0, httptools 0.9.0 (PyPI),
# CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-30; 20 connections of three requests each, on how many
# all three were answered by 200, how many varies:
#
#   uvicorn, httptools, a2wsgi:  with pauses 20, without 20, pipelined 20
#   hypercorn, asgiref:          with pauses 20, without 20, pipelined 20
#   uvicorn, h11, asgiref:       with pauses 20, without 4, pipelined 0, the others 500
#   uvicorn, httptools, asgiref: with pauses 20, without 8, pipelined 1, the others 500
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    a2wsgi==1.10.10 asgiref==3.13.0 h11==0.16.0 httptools==0.9.0 hypercorn==0.18.0 uvicorn==0.54.0

cat >"$folder/application.py" <<'APPLICATION'
from a2wsgi import WSGIMiddleware
from asgiref.wsgi import WsgiToAsgi


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []


by_a2wsgi, by_asgiref = WSGIMiddleware(wsgi), WsgiToAsgi(wsgi)
APPLICATION

cat >"$folder/program.py" <<'PROGRAM'
import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
COUNT, CONNECTIONS = 3, 20
os.chdir(sys.argv[1])


def answers(port, pieces, pause):
    """The status of each answer on one connection, on which each piece is sent when the last one was answered."""
    received, sent = b"", 0
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        for piece in pieces:
            client.sendall(piece)
            sent += piece.count(b"GET")
            while received.count(b"HTTP/1.1 ") < sent and (data := client.recv(65536)):
                received += data
            time.sleep(pause)
    return re.findall(rb"HTTP/1\.1 (\d+)", received)


def statuses(port, pieces, pause=0.0):
    """(connections with nothing but 200, whether all others end with 500)"""
    every = [answers(port, pieces, pause) for _ in range(CONNECTIONS)]
    others = [each for each in every if each != [b"200"] * COUNT]
    return len(every) - len(others), all(each and each[-1] == b"500" for each in others)


def outcome(command):
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
        return (
            statuses(port, [REQUEST] * COUNT, pause=0.05), statuses(port, [REQUEST] * COUNT),
            statuses(port, [REQUEST * COUNT]),
        )
    finally:
        server.terminate()
        server.wait()


as_described = True
for name, command, good in (
    ("uvicorn, httptools, a2wsgi", "uvicorn --http httptools --port PORT application:by_a2wsgi", True),
    ("hypercorn, asgiref", "hypercorn -b 127.0.0.1:PORT application:by_asgiref", True),
    ("uvicorn, h11, asgiref", "uvicorn --http h11 --port PORT application:by_asgiref", False),
    ("uvicorn, httptools, asgiref", "uvicorn --http httptools --port PORT application:by_asgiref", False),
):
    counts, others = zip(*outcome(command))
    print(f"{name + ':':28} with pauses {counts[0]}, without {counts[1]}, pipelined {counts[2]}"
          f"{'' if counts == (CONNECTIONS,) * 3 else ', the others 500' if all(others) else ', the others differ'}")
    if good:
        as_described &= counts == (CONNECTIONS,) * 3
    else:
        as_described &= counts[0] == CONNECTIONS > max(counts[1:]) and all(others)
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
