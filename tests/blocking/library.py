"""Modules that use threads, sockets and children: pools, schedules, servers that fork, TLS, interrupts, states."""

import _thread
import contextlib
import decimal
import faulthandler
import fcntl
import multiprocessing.pool
import os
import queue
import sched
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import trustme


def told(what, function, *args, **kwargs):
    """Print what `function` gives, or raises."""
    try:
        print(what, "->", function(*args, **kwargs))
    except BaseException as error:
        print(what, "!!", type(error).__name__, error)


def started(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


def pools():
    with multiprocessing.pool.ThreadPool(3) as pool:
        print(pool.map(lambda n: (time.sleep(0.01), n)[1], range(7)), pool.apply(len, ["four"]))
        print(sorted(pool.imap_unordered(lambda n: n * n, range(4))), pool.starmap(pow, [(2, 3), (3, 2)]))
        told("fails", pool.apply, lambda: 1 / 0)
        told("late", pool.apply_async(time.sleep, (0.5,)).get, 0.01)
    log = []
    schedule = sched.scheduler()
    for number in (3, 1, 2):
        schedule.enter(number / 50, 1, log.append, (number,))
    schedule.run()
    print(log)


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().upper())


class Forking(socketserver.ForkingMixIn, socketserver.TCPServer):
    block_on_close = True


def servers():
    for kind in (socketserver.TCPServer, socketserver.ThreadingTCPServer, Forking):
        with kind(("127.0.0.1", 0), Handler) as server:
            thread = started(server.serve_forever, 0.02)
            for _ in range(3):
                with socket.create_connection(server.server_address) as sock:
                    sock.sendall(b"question\n")
                    print(kind.__name__, sock.makefile().read())
            server.shutdown()
            thread.join()


def tls():
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(trusting)
    listener = socket.create_server(("127.0.0.1", 0))
    refused = []

    def serve():
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(accepted, server_side=True) as sock:
                    while data := sock.recv(1000):
                        sock.sendall(data * 2)
            except (ssl.SSLError, OSError) as error:
                refused.append(type(error).__name__)

    server = started(serve)
    with socket.create_connection(listener.getsockname()) as plain:
        with trusting.wrap_socket(plain, server_hostname="localhost") as sock:
            sock.sendall(b"twice")
            print(sock.recv(100), sock.version(), sock.pending(), sock.cipher() is not None)
            sock.settimeout(0.05)
            told("recv", sock.recv, 10)
            told("recv_into", sock.recv_into, bytearray(5))
            print(sock.gettimeout(), sock.timeout)
            sock.settimeout(None)
            with sock.makefile("rwb") as file:
                file.write(b"x" * 30_000)
                file.flush()
                print(len(file.read(60_000)))
            sock.setblocking(False)
            told("not blocking", sock.recv, 10)
            sock.setblocking(True)
    with socket.create_connection(listener.getsockname()) as plain:
        told("name", lambda: trusting.wrap_socket(plain, server_hostname="elsewhere"))
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    server.join()
    print(refused)


def interrupts():
    for function in (
        lambda: time.sleep(5), lambda: threading.Event().wait(5), lambda: queue.Queue().get(timeout=5),
        lambda: subprocess.run(["sleep", "1"]), lambda: started(time.sleep, 1).join(),
    ):  # fmt: skip
        timer = threading.Timer(0.03, _thread.interrupt_main)
        timer.start()
        told("interrupted", function)
        timer.join()
    slow = started(time.sleep, 1)
    threading.Timer(0.03, os.kill, [os.getpid(), signal.SIGINT]).start()
    told("joining", slow.join)
    slow.join()
    told("raise_signal", signal.raise_signal, signal.SIGINT)
    told("ignored", lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) and signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    told("wakeup", lambda: started(told, "not main", signal.set_wakeup_fd, -1).join())
    told("elsewhere", lambda: started(told, "not main", signal.signal, signal.SIGUSR1, signal.SIG_DFL).join())


def states():
    decimal.getcontext().prec = 3

    def divide():
        print(decimal.Decimal(1) / 3)

    started(divide).join()
    divide()

    def numbers():
        try:
            raise ValueError("in the generator")
        except ValueError:
            yield sys.exc_info()[0]
            time.sleep(0.01)
            yield sys.exc_info()[0]

    shared = numbers()
    print(next(shared), sys.exc_info()[0])
    started(lambda: print(next(shared), sys.exc_info()[0])).join()

    def failing(depth):
        if depth:
            return failing(depth - 1)
        time.sleep(0.01)
        raise KeyError("deep")

    def caught():
        try:
            failing(3)
        except KeyError:
            lines = traceback.format_exc().splitlines()
            stacks.append((len(lines), lines[-1], sum("in failing" in line for line in lines)))

    stacks = []
    for one in [started(caught) for _ in range(3)]:
        one.join()
    print(stacks)
    waiting = threading.Event()
    others = [started(waiting.wait) for _ in range(3)]
    names = [line for line in traceback.format_stack() if "in states" in line]
    # Python 3.11 may count one that has ended.
    print(len(names), sum(one.is_alive() for one in threading.enumerate()))
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        print("in states" in file.read())
    frames = sys._current_frames()
    print([one.ident in frames for one in others], frames[threading.get_ident()].f_code.co_name)
    print([time.clock_gettime(time.pthread_getcpuclockid(one.ident)) >= 0 for one in others])
    heard = []
    signal.signal(signal.SIGUSR1, lambda number, _frame: heard.append(number))
    print(signal.pthread_kill(others[0].ident, signal.SIGUSR1), time.sleep(0.05), heard)
    waiting.set()
    for one in others:
        one.join()
    calls = []
    threading.setprofile(lambda frame, event, arg: calls.append(event))
    started(len, "").join()
    threading.setprofile(None)
    print("call" in calls)
    with contextlib.suppress(SystemExit):
        sys.exit(3)


def file_locks():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lock")
        log = []

        def hold(number):
            with path.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                log.append(number)
                time.sleep(0.02)
                log.append(number)

        for one in [started(hold, number) for number in range(3)]:
            one.join()
        print([log[2 * n] == log[2 * n + 1] for n in range(3)])
        with path.open("w") as first, path.open("w") as second:
            fcntl.flock(first, fcntl.LOCK_EX)
            told("taken", fcntl.flock, second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print(fcntl.flock(first, fcntl.LOCK_UN), fcntl.flock(second, fcntl.LOCK_SH))
            print(fcntl.lockf(second, fcntl.LOCK_EX), fcntl.lockf(second, fcntl.LOCK_UN))


for part in (pools, servers, tls, interrupts, states, file_locks):
    print(f"-- {part.__name__}")
    part()
