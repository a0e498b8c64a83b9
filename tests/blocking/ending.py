"""How a program ends: errors of threads, daemons, exit hooks, executors that nobody has shut down."""

import atexit
import concurrent.futures
import logging.handlers
import queue
import sys
import threading
import time

atexit.register(print, "atexit")


def daemon():
    try:
        time.sleep(60)
    finally:
        print("never")


class Slow(logging.Handler):
    def emit(self, record):
        time.sleep(0.01)
        print(record.getMessage())


# Its thread is a daemon, and is needed once more, at the very end.
records = queue.SimpleQueue()
listener = logging.handlers.QueueListener(records, Slow())
listener.start()
atexit.register(listener.stop)
atexit.register(lambda: print("in", threading.current_thread().name, [records.put(logging.makeLogRecord(
    {"msg": f"record {number}"})) for number in range(5)]))  # fmt: skip

over, later = threading.Event(), threading.Event()


def late():
    over.wait()
    time.sleep(0.05)
    print("late")
    threading.Thread(target=lambda: (time.sleep(0.02), print("later"), later.set())).start()


threading.Thread(target=daemon, daemon=True).start()
threading.Thread(target=late).start()
concurrent.futures.ThreadPoolExecutor(1).submit(lambda: (later.wait(), print("executed")))
over.set()
print("main", sys.argv[1])
if sys.argv[1] == "error":
    raise ValueError("out of main")
if sys.argv[1] == "exit":
    sys.exit("a message")
if sys.argv[1] == "thread":
    failing = threading.Thread(target=lambda: 1 / 0, name="failing")
    failing.start()
    failing.join()
if sys.argv[1] == "interrupt":
    raise KeyboardInterrupt
