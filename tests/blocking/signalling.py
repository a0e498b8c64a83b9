"""Signal handlers: the main thread calls them, whatever it waits for and whoever else runs."""

import _thread
import os
import select
import signal
import socketserver
import threading
import time


def told(what, function, *args):
    try:
        print(what, "->", function(*args))
    except BaseException as error:
        print(what, "!!", type(error).__name__, error)


def soon():
    """A signal comes while the caller waits."""
    signal.setitimer(signal.ITIMER_REAL, 0.05)


def busy(over):
    """Runs most of the time, and waits for a moment now and then."""
    while not over.is_set():
        sum(range(1000))
        time.sleep(0)


def beside_others():
    def handler(number, frame):
        print("in", threading.current_thread().name, number == signal.SIGALRM, frame is not None)
        if fails:
            raise ValueError("out of a handler")

    over = threading.Event()
    thread = threading.Thread(target=busy, args=(over,))
    thread.start()
    print(signal.signal(signal.SIGALRM, handler))
    print(signal.getsignal(signal.SIGALRM) is handler)
    for fails in (False, True):  # noqa: B007  the handler asks
        soon()
        told("beside", lambda: time.sleep(0.2))
        print(thread.is_alive())
    over.set()
    thread.join()
    fails = True
    soon()
    told("alone", lambda: threading.Event().wait(5))


def waiting_ones():
    """What a handler waits for is done by other threads."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        signal.signal(signal.SIGALRM, lambda *_: print("down", server.shutdown()))
        soon()
        thread.join()
    print(thread.is_alive())

    def asks(*_):
        answer = []
        threading.Timer(0.02, answer.append, [5]).start()
        time.sleep(0.1)
        print("answer", answer)

    signal.signal(signal.SIGALRM, asks)
    lock = threading.Lock()
    lock.acquire()
    soon()
    print(lock.acquire(timeout=0.5))


def setting():
    def again(*_):
        print("first", signal.signal(signal.SIGALRM, lambda *_: print("second")) is again)

    signal.signal(signal.SIGALRM, again)
    for _ in range(2):
        soon()
        time.sleep(0.2)
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    told("interrupted", lambda: (threading.Timer(0.02, _thread.interrupt_main).start(), time.sleep(5)))
    print(signal.signal(signal.SIGINT, signal.SIG_IGN) is signal.default_int_handler)
    print(signal.signal(signal.SIGINT, signal.default_int_handler), signal.getsignal(signal.SIGINT).__name__)
    told("default", lambda: (threading.Timer(0.02, os.kill, [os.getpid(), signal.SIGINT]).start(), time.sleep(5)))


def descriptors():
    read, write = os.pipe()
    os.set_blocking(write, False)
    print(signal.set_wakeup_fd(write))
    signal.signal(signal.SIGALRM, lambda *_: print("handled"))
    soon()
    print(select.select([read], [], [], 5)[0] == [read], os.read(read, 10) == bytes([signal.SIGALRM]))
    print(signal.set_wakeup_fd(-1) == write, signal.set_wakeup_fd(-1))
    soon()
    time.sleep(0.2)


def main():
    for part in (beside_others, waiting_ones, setting, descriptors):
        print(f"-- {part.__name__}")
        part()


main()
