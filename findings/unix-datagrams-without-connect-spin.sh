#!/bin/sh
# asyncio, uvloop: a Unix datagram endpoint with a full receiver takes a whole CPU, unless it was connected.
#
# Both wait, when sendto() answers EAGAIN, until the socket is writable, and try again.  For a Unix datagram socket that is
# connected, poll(2) looks at the receiver's queue.  One that is not may send to many, and is writable while its own send
# buffer has room, which a few small datagrams do not fill; the receiver's queue, net.unix.max_dgram_qlen long, is full
# long before.  So the loop hears EAGAIN, writable, EAGAIN, for as long as the receiver is busy or stopped.  sendto(data,
# path), the way to talk to several services, is that case: a daemon that stalls costs each of its senders a CPU, and
# nothing fails.
#
# Seen with uvloop 0.23.0 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-30; the receiver takes
# nothing for a second, then all; the CPU time of that second varies:
#
#   asyncio: not connected: 0.530 s of CPU, connected: 0.000 s of CPU, received 30 and 30 of 30
#   uvloop:  not connected: 0.384 s of CPU, connected: 0.000 s of CPU, received 30 and 30 of 30
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uvloop==0.23.0

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import socket
import sys
import time
from pathlib import Path

import uvloop

COUNT = 30


def unix_socket():
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock


async def sent(path, connect):
    """(seconds of CPU while the receiver takes nothing, how many it has in the end)."""
    receiver, sender = unix_socket(), unix_socket()
    receiver.bind(path)
    if connect:
        sender.connect(path)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(asyncio.DatagramProtocol, sock=sender)
    for _ in range(COUNT):
        transport.sendto(bytes(100), None if connect else path)
    used = time.process_time()
    await asyncio.sleep(1)
    used = time.process_time() - used
    received, until = 0, time.monotonic() + 5
    while received < COUNT and time.monotonic() < until:
        try:
            receiver.recv(1000)
            received += 1
        except BlockingIOError:
            await asyncio.sleep(0.01)
    transport.close()
    receiver.close()
    Path(path).unlink()
    return used, received


async def main(path):
    free, counts = zip(await sent(path, False), await sent(path, True))
    print(f"not connected: {free[0]:.3f} s of CPU, connected: {free[1]:.3f} s of CPU, "
          f"received {counts[0]} and {counts[1]} of {COUNT}")
    return free[0] > 0.1 > 0.02 > free[1] and counts == (COUNT, COUNT)


as_described = True
for name, new_loop in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
    print(f"{name + ':':8}", end=" ", flush=True)
    as_described &= new_loop().run_until_complete(main(sys.argv[1]))
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder/socket"
