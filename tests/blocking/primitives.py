"""threading and queue: what each primitive gives, refuses and raises."""

import _thread
import concurrent.futures
import contextvars
import gc
import pickle
import queue
import sys
import threading
import time
import traceback
import weakref


def told(what, function, *args, **kwargs):
    try:
        print(what, "->", function(*args, **kwargs))
    except BaseException as error:
        print(what, "!!", type(error).__name__, error)


def started(function, *args, **kwargs):
    thread = threading.Thread(target=function, args=args, **kwargs)
    thread.start()
    return thread


def threads():
    seen = []

    class Mine(threading.Thread):
        def run(self):
            seen.append((self.name, self is threading.current_thread(), self.is_alive(), self.daemon))

    thread = Mine(name="mine", daemon=True)
    print(thread.ident, thread.native_id is None, thread.is_alive(), repr(thread))
    told("early join", thread.join)
    thread.start()
    thread.join()
    print(seen, thread.is_alive(), thread.ident is not None)
    told("again", thread.start)
    told("itself", threading.current_thread().join)
    told("daemon", setattr, started(time.sleep, 0.3), "daemon", True)
    slow = started(time.sleep, 0.5)
    print(slow.join(0.01), slow.is_alive(), slow.join(-1), slow.join(), slow.is_alive())
    before = threading.active_count()
    event = threading.Event()
    several = [started(event.wait, name=f"w{number}") for number in range(3)]
    names = sorted(one.name for one in threading.enumerate() if one.name.startswith("w"))
    print(threading.active_count() - before, names)
    event.set()
    for one in several:
        one.join()
    print(threading.main_thread() is threading.current_thread(), threading.current_thread().name)
    idents = {threading.get_ident()}
    for one in [started(lambda: (idents.add(threading.get_ident()), time.sleep(0.02))) for _ in range(5)]:
        one.join()
    print(len(idents))
    print(threading.stack_size(), threading.get_native_id() > 0)
    told("group", threading.Thread, group=5)
    told("raises", started(sys.exit, 3).join)


def hooks():
    def hook(args):
        print("hook", args.exc_type.__name__, args.exc_value, args.thread.name, args.exc_traceback is not None)

    threading.excepthook = hook
    started(lambda: 1 / 0, name="failing").join()
    started(sys.exit, name="leaving").join()
    threading.excepthook = threading.__excepthook__
    calls = []
    threading.settrace(lambda *args: calls.append(args[1]) or None)
    started(lambda: None).join()
    threading.settrace(None)
    print("call" in calls)


def locks():
    lock = threading.Lock()
    print(lock.acquire(), lock.locked(), lock.acquire(False), lock.acquire(timeout=0.01), lock.release(), lock.locked())
    told("release", lock.release)
    told("timeout", lock.acquire, False, 1)
    told("timeout", lock.acquire, True, -2)
    again = threading.RLock()
    print(again.acquire(), again.acquire(), again.release(), again.release())
    told("release", again.release)
    again.acquire()
    started(lambda: told("not ours", again.release)).join()
    started(lambda: print("not ours", again.acquire(False), again.acquire(timeout=0.01))).join()
    again.release()
    for kind in (type(lock), type(again)):
        print(kind.__module__)
        if kind is not type(lock) or hasattr(_thread, "lock"):  # other processes have one of the same name
            print(pickle.loads(pickle.dumps(kind)) is kind)
    held = []

    def hold(number):
        with lock:
            held.append(number)
            time.sleep(0.01)
            held.append(number)

    for one in [started(hold, number) for number in range(5)]:
        one.join()
    print(held[::2] == held[1::2], sorted(held[::2]))  # each alone, in whichever order
    # A lock may be let go by another thread.
    lock.acquire()
    started(lock.release).join()
    print(lock.locked())
    semaphore = threading.BoundedSemaphore(2)
    print(semaphore.acquire(), semaphore.acquire(), semaphore.acquire(timeout=0.01), semaphore.release(2))
    told("too many", semaphore.release)
    told("negative", threading.Semaphore, -1)


def conditions():
    condition = threading.Condition()
    told("not held", condition.notify)
    told("not held", condition.wait)
    with condition:
        print(condition.wait(0.02), condition.wait_for(lambda: False, 0.02), condition.wait_for(lambda: "value", 1))
    log = []

    def waiter(number):
        with condition:
            condition.wait()
            log.append(number)

    several = [started(waiter, number) for number in range(4)]
    while len(condition._waiters) < len(several):
        time.sleep(0.01)
    with condition:
        condition.notify(2)
        print("notified", log)
    while len(log) < 2:
        time.sleep(0.01)
    print(len(log))
    with condition:
        condition.notify_all()
    for one in several:
        one.join()
    print(sorted(log))
    event = threading.Event()
    print(event.wait(0.01), event.is_set(), event.set(), event.wait(), event.clear(), event.is_set())


def barriers():
    barrier = threading.Barrier(3, action=lambda: print("action"))
    numbers = []
    several = [started(lambda: numbers.append(barrier.wait())) for _ in range(3)]
    for one in several:
        one.join()
    print(sorted(numbers), barrier.n_waiting, barrier.broken, barrier.parties)
    told("timeout", barrier.wait, 0.02)
    print(barrier.broken)
    told("broken", barrier.wait)
    barrier.reset()
    waiting = started(told, "reset", barrier.wait)
    while not barrier.n_waiting:
        time.sleep(0.01)
    print(barrier.n_waiting)
    barrier.abort()
    waiting.join()


def timers():
    log = []
    timer = threading.Timer(0.02, log.append, ["fired"])
    timer.start()
    cancelled = threading.Timer(60, log.append, ["cancelled"])
    cancelled.start()
    cancelled.cancel()
    timer.join()
    cancelled.join()
    print(log, timer.finished.is_set(), timer.is_alive())


class Local(threading.local):
    made = 0

    def __init__(self, value):
        Local.made += 1
        self.value = value


def locals_():
    here = threading.local()
    here.value = "main"
    kept = Local("begun")

    class Kept:
        pass

    gone = []

    def use(number):
        print("none yet", hasattr(here, "value"))
        here.value = number
        here.object = Kept()
        gone.append(weakref.ref(here.object))
        kept.value = number
        time.sleep(0.01)
        return here.value, kept.value

    results = []
    for number in range(2):
        started(lambda number=number: results.append(use(number))).join()
    gc.collect()
    print(sorted(results), here.value, kept.value, Local.made, [one() for one in gone], sorted(vars(here)))


def queues():
    fifo = queue.Queue(2)
    print(fifo.put(1), fifo.put(2), fifo.full(), fifo.qsize())
    told("full", fifo.put, 3, timeout=0.01)
    told("full", fifo.put_nowait, 3)
    threading.Timer(0.02, fifo.get).start()
    print(fifo.put(3, timeout=5), fifo.get(), fifo.get(), fifo.empty())
    told("empty", fifo.get, timeout=0.01)
    told("negative", fifo.get, timeout=-1)
    for _ in range(3):
        fifo.task_done()
    fifo.join()
    told("done", fifo.task_done)
    lifo, first = queue.LifoQueue(), queue.PriorityQueue()
    for number in (2, 1, 3):
        lifo.put(number)
        first.put(number)
    print([lifo.get() for _ in range(3)], [first.get() for _ in range(3)])
    simple = queue.SimpleQueue()
    threading.Timer(0.02, simple.put, ["late"]).start()
    print(simple.get(), simple.empty(), simple.qsize())
    told("empty", simple.get_nowait)
    told("empty", simple.get, timeout=0.01)
    print(simple.put(1, block=False, timeout=5), simple.get(block=False))
    got = []

    def consume():
        while (item := fifo.get()) is not None:
            got.append(item)

    several = [started(consume) for _ in range(3)]
    for number in range(30):
        fifo.put(number)
    for _ in several:
        fifo.put(None)
    for one in several:
        one.join()
    print(sorted(got) == [*range(30)])


def pools():
    with concurrent.futures.ThreadPoolExecutor(3, "pool", initializer=lambda: None) as pool:
        print([*pool.map(lambda n: (time.sleep(0.01), n)[1], range(6))])
        failing = pool.submit(lambda: 1 / 0)
        told("failed", failing.result)
        print(type(failing.exception()).__name__, failing.done(), failing.cancel())
        slow = pool.submit(time.sleep, 0.5)
        told("slow", slow.result, timeout=0.01)
        print(concurrent.futures.wait([slow], timeout=0.01).not_done == {slow}, slow.running())
        slow.result()
        several = [pool.submit(lambda n=n: (time.sleep(n / 8), n)[1]) for n in (3, 1, 2)]
        print([one.result() for one in concurrent.futures.as_completed(several)])
        name = pool.submit(lambda: threading.current_thread().name).result()
        print(name.startswith("pool_"))
        told("map timeout", lambda: [*pool.map(time.sleep, [0.5], timeout=0.01)])
        callbacks = []
        slow.add_done_callback(callbacks.append)
    print(callbacks == [slow])
    told("shut down", pool.submit, print)
    pool = concurrent.futures.ThreadPoolExecutor(1)
    futures = [pool.submit(time.sleep, 0.2) for _ in range(3)]
    pool.shutdown(cancel_futures=True)
    print([one.cancelled() for one in futures][1:])
    with concurrent.futures.ThreadPoolExecutor(1, initializer=sys.exit) as broken:
        told("broken", broken.submit(time.sleep, 0).result)


def own_states():
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("main")
    seen = []

    def use(number):
        before = variable.get()
        variable.set(number)
        try:
            raise ValueError(number)
        except ValueError:
            time.sleep(0.01)
            seen.append((before, variable.get(), sys.exc_info()[1].args, traceback.format_exc().count("ValueError")))
        seen.append(sys.exc_info()[0])

    several = [started(use, number) for number in range(3)]
    for one in several:
        one.join()
    print(sorted(map(str, seen)), variable.get(), sys.exc_info())
    print(sys.getswitchinterval(), sys.setswitchinterval(0.01), round(sys.getswitchinterval(), 3))

    def deep(depth):
        return 0 if depth == 0 else 1 + deep(depth - 1)

    told("deep", lambda: deep(sys.getrecursionlimit() - 100) > 0)
    results = []
    several = [started(lambda: results.append(deep(500))) for _ in range(10)]
    for one in several:
        one.join()
    print(results)

    def endless(depth=0):
        return endless(depth + 1)

    def caught():
        try:
            endless()
        except RecursionError as error:
            results.append(type(error))

    started(caught).join()
    print(results[-1])

    class Cycle(Exception):
        pass

    gone = []

    def cyclic():
        error = Cycle()
        error.itself = error
        gone.append(weakref.ref(error))
        try:
            raise error
        except Cycle as caught:
            error.again = caught.__traceback__
            time.sleep(0.005)

    for one in [started(cyclic) for _ in range(5)]:
        one.join()
    gc.collect()
    print([one() for one in gone])


for part in (threads, hooks, locks, conditions, barriers, timers, locals_, queues, pools, own_states):
    print(f"-- {part.__name__}")
    part()
