"""fork, multiprocessing of each kind, and threads beside them."""

import concurrent.futures
import multiprocessing
import os
import signal
import sys
import threading
import time


def told(what, function, *args, **kwargs):
    try:
        print(what, "->", function(*args, **kwargs), flush=True)
    except Exception as error:
        print(what, "!!", type(error).__name__, error, flush=True)


def double(number):
    return 2 * number


def failing(number):
    raise ValueError(number)


def pairs(queue, connection, event, lock, value):
    with lock:
        value.value += 1
    queue.put(("child", connection.recv()))
    connection.send(event.wait(10))


def kind(name):
    context = multiprocessing.get_context(name)
    queue, event, lock, value = context.Queue(), context.Event(), context.Lock(), context.Value("i", 0)
    ours, theirs = context.Pipe()
    child = context.Process(target=pairs, args=(queue, theirs, event, lock, value))
    child.start()
    ours.send("hello")
    print(name, queue.get(timeout=20), ours.poll(0.01), event.set(), ours.recv(), child.join(20), child.exitcode,
          value.value)
    with context.Pool(2) as pool:
        print(pool.map(double, range(5)), pool.apply_async(double, (4,)).get(20), [*pool.imap(double, [1, 2])])
        told("failing", pool.apply, failing, (3,))
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        print([*pool.map(double, range(5))])
        told("failing", pool.submit(failing, 5).result)
    child = context.Process(target=time.sleep, args=(60,))
    child.start()
    print(child.is_alive(), child.join(0.05), child.terminate(), child.join(20), child.exitcode)
    with context.Manager() as manager:
        shared = manager.dict(a=1)
        shared["b"] = 2
        print(dict(shared))


def forking():
    lock = threading.Lock()
    event = threading.Event()
    other = threading.Thread(target=lambda: (lock.acquire(), event.set(), time.sleep(0.1)))
    other.start()
    event.wait()
    pid = os.fork()
    if pid == 0:
        thread = threading.Thread(target=lambda: print("child's thread", flush=True))
        thread.start()
        thread.join()
        print(threading.active_count(), threading.current_thread() is threading.main_thread(), other.is_alive(),
              len(sys._current_frames()), flush=True)
        os._exit(5)
    print(os.waitpid(pid, 0)[1] >> 8, other.is_alive())
    other.join()

    def fork_in_thread():
        pid = os.fork()
        if pid == 0:
            time.sleep(0.01)
            print("forked in", threading.current_thread().name, len(sys._current_frames()), flush=True)
            os._exit(6)
        print(os.waitpid(pid, 0)[1] >> 8)

    several = [threading.Thread(target=fork_in_thread, name="forker") for _ in range(2)]
    for one in several:
        one.start()
        one.join()
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
    time.sleep(0.02)
    os.kill(pid, signal.SIGTERM)
    print(os.WTERMSIG(os.waitpid(pid, 0)[1]))


def main():
    beside = threading.Thread(target=lambda: [time.sleep(0.01) for _ in range(20)])
    beside.start()
    for name in sys.argv[1:]:
        kind(name) if name != "os" else forking()
    beside.join()


if __name__ == "__main__":
    main()
