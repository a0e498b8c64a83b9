#!/bin/sh
# CPython, gevent: recv(n, MSG_WAITALL) waits for n bytes only while the socket has no timeout; under gevent never.
#
# MSG_WAITALL "requests that the operation block until the full request is satisfied", recv(2).  A Python socket with a
# timeout is one with O_NONBLOCK beneath, for which the kernel returns what is there.  So settimeout(60) on a program
# whose reads are right, or socket.setdefaulttimeout() by somebody else in the process, makes them short as soon as a
# message comes in two pieces; no exception, no timeout.  Neither socket's documentation nor settimeout()'s has a word of
# it ("the same as blocking, but..."), and in tests whole messages arrive at once.  Under gevent every socket has
# O_NONBLOCK, and a program that is patched gets pieces without any timeout.
#
# Seen with gevent 26.9.0 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-29; the peer sends
# b"first ", and 0.1 s later b"second":
#
#   plain,  no timeout:   b'first second'
#   plain,  timeout 60 s: b'first '
#   gevent, no timeout:   b'first '
#   gevent, timeout 60 s: b'first '
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gevent==26.9.0

cat >"$folder/program.py" <<'PROGRAM'
import sys

if sys.argv[1] == "gevent":
    from gevent import monkey

    monkey.patch_all()

import socket
import threading

for timeout in (None, 60):
    a, b = socket.socketpair()
    b.settimeout(timeout)
    a.sendall(b"first ")
    later = threading.Timer(0.1, a.sendall, [b"second"])
    later.start()
    received = b.recv(12, socket.MSG_WAITALL)
    later.join()
    print(f"{sys.argv[1] + ',':7} {'timeout 60 s' if timeout else 'no timeout'}:".ljust(21), received)
PROGRAM
{
    "$folder/venv/bin/python" "$folder/program.py" plain
    "$folder/venv/bin/python" "$folder/program.py" gevent
} | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
plain,  no timeout:   b'first second'
plain,  timeout 60 s: b'first '
gevent, no timeout:   b'first '
gevent, timeout 60 s: b'first '
SEEN
