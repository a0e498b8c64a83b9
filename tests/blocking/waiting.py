"""select, poll, epoll, selectors, pipes, children, time."""

import fractions
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time


def told(what, function, *args, **kwargs):
    try:
        print(what, "->", function(*args, **kwargs))
    except Exception as error:
        print(what, "!!", type(error).__name__, error)


def selecting():
    a, b = socket.socketpair()
    print(select.select([a], [b], [a], 0.02) == ([], [b], []), select.select([a], [], [], 0))
    threading.Timer(0.02, b.send, [b"x"]).start()
    print(select.select([a, b], [], [], 5) == ([a], [], []))
    print(select.select([], [], [], 0.01))
    told("negative", select.select, [a], [], [], -1)
    told("kind", select.select, [5.5], [], [])
    told("closed", select.select, [10_000], [], [], 0)
    poll = select.poll()
    poll.register(a, select.POLLIN)
    print([event for _, event in poll.poll(1000)], a.recv(5))
    print(poll.poll(10))
    poll.modify(a, select.POLLOUT)
    print([event for _, event in poll.poll()])
    poll.unregister(a)
    try:
        poll.unregister(a)
    except KeyError as error:
        print("unregistered", error.args == (a.fileno(),))
    with select.epoll() as epoll:
        epoll.register(a, select.EPOLLIN)
        print(epoll.poll(0.01), epoll.closed, epoll.fileno() > 0)
        threading.Timer(0.02, b.send, [b"y"]).start()
        print([event for _, event in epoll.poll()], [event for _, event in epoll.poll(1, 1)])
        epoll.modify(a, select.EPOLLIN | select.EPOLLET)
        print(len(epoll.poll(1)), len(epoll.poll(0.01)))
        told("again", epoll.register, a)
        epoll.unregister(a)
    told("closed", epoll.poll)
    for kind in ("SelectSelector", "PollSelector", "EpollSelector", "DefaultSelector"):
        with getattr(selectors, kind)() as selector:
            selector.register(a, selectors.EVENT_READ, "data")
            print(kind, [(key.data, mask) for key, mask in selector.select(1)], len(selector.get_map()))
            selector.modify(a, selectors.EVENT_READ | selectors.EVENT_WRITE)
            print([mask for _, mask in selector.select(0)], [mask for _, mask in selector.select()])
            selector.unregister(a)
            print(selector.select(0.01), selector.select(-1))
    b.close()
    print(a.recv(1), select.select([a], [a], [], 1) == ([a], [a], []))
    a.close()


def pipes():
    read, write = os.pipe()
    threading.Timer(0.02, os.write, [write, b"late"]).start()
    print(os.read(read, 100))
    received = []

    def reader():
        while data := os.read(read, 65536):
            received.append(data)

    thread = threading.Thread(target=reader)
    thread.start()
    print(os.write(write, bytes(1_000_000)))
    os.close(write)
    thread.join()
    os.close(read)
    print(sum(map(len, received)))
    told("closed", os.read, read, 1)
    read, write = os.pipe()
    os.set_blocking(read, False)
    told("would block", os.read, read, 1)
    os.close(read)
    told("broken", os.write, write, b"x")
    os.close(write)
    with open(__file__, "rb") as file:
        print(os.read(file.fileno(), 3))
    read, write = os.pipe()
    with os.fdopen(read) as reading, os.fdopen(write, "w") as writing:
        print("line", file=writing, flush=True)
        print(reading.readline())


def python(code, *args, **kwargs):
    return subprocess.Popen([sys.executable, "-S", "-c", code, *args], **kwargs)


ECHO = "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.stderr.write('told')"


def children():
    done = subprocess.run(["cat"], input=b"x" * 300_000, capture_output=True, check=True)
    print(len(done.stdout), done.returncode, done.stderr)
    child = python(ECHO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    print(child.communicate("text", timeout=20), child.returncode)
    child = python("import time; print('begun', flush=True); time.sleep(60)", stdout=subprocess.PIPE)
    print(child.stdout.readline(), child.poll())
    for wait in (child.wait, child.communicate):
        try:
            wait(timeout=0.05)
        except subprocess.TimeoutExpired as error:
            print("timeout", error.timeout)
    child.terminate()
    print(child.communicate(), child.returncode, child.wait())
    told("nothing", subprocess.run, ["/no/such/program"])
    told("check", subprocess.run, [sys.executable, "-S", "-c", "raise SystemExit(3)"], check=True)
    print(subprocess.check_output("echo shell", shell=True), subprocess.call(["true"]), subprocess.getoutput("echo x"))
    try:
        subprocess.run(["sleep", "30"], timeout=0.05)
    except subprocess.TimeoutExpired as error:
        print("timeout", error.cmd, error.timeout <= 0.05)
    with python("print(input())", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as child:
        child.stdin.write("a line\n")
        print(repr(child.stdout.read()))
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    told("none left", os.waitpid, pid, 0)
    pid = os.spawnvp(os.P_NOWAIT, "sleep", ["sleep", "0.5"])
    print(os.waitpid(pid, os.WNOHANG), os.waitpid(-1, 0) == (pid, 0))
    pid = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", "raise SystemExit(4)"], os.environ)
    print(os.wait3(0)[1] >> 8, os.system("exit 3") >> 8)
    with os.popen("echo popen") as out:
        print(out.read())


def times():
    begin = time.monotonic()
    threads = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(0.1 <= time.monotonic() - begin < 2)
    told("negative", time.sleep, -1)
    told("kind", time.sleep, "1")
    told("nan", time.sleep, float("nan"))
    told("fraction", time.sleep, fractions.Fraction(1, 1000))
    print(time.sleep(0), time.sleep(0.001), time.sleep(0.0))
    order = []
    for number in (3, 1, 2):
        threading.Timer(number * 0.15, order.append, [number]).start()
    time.sleep(0.8)
    print(order)


def signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    threading.Timer(0.02, os.kill, [os.getpid(), signal.SIGUSR2]).start()
    print(signal.sigtimedwait([signal.SIGUSR2], 5).si_signo, signal.sigtimedwait([signal.SIGUSR2], 0.02))
    for wait in (lambda: signal.sigwait([signal.SIGUSR2]), lambda: signal.sigwaitinfo([signal.SIGUSR2]).si_pid):
        beside = threading.Timer(0.02, os.kill, [os.getpid(), signal.SIGUSR2])
        beside.start()
        print(wait() in (signal.SIGUSR2, os.getpid()), signal.sigpending())
        beside.join()
    heard = []
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    threading.Timer(0.03, os.kill, [os.getpid(), signal.SIGUSR1]).start()
    begin = time.monotonic()
    time.sleep(0.1)
    print(heard, time.monotonic() - begin >= 0.1)
    signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    a, b = socket.socketpair()
    a.settimeout(0.5)
    told("recv", a.recv, 1)

    def fail(*_):
        raise ValueError("out of a handler")

    signal.signal(signal.SIGALRM, fail)
    held = threading.Lock()
    held.acquire()
    for wait in (
        lambda: a.recv(1), lambda: time.sleep(5), lambda: threading.Event().wait(5), lambda: held.acquire(timeout=5),
        lambda: select.select([a], [], [], 5), lambda: subprocess.run(["sleep", "1"]),
    ):  # fmt: skip
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        told("raised", wait)
    signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    print(signal.pause(), beside.is_alive())
    a.close()
    b.close()


def each_in_turn(count, function, let_one_go):
    """What `count` threads return that wait for the same, of which each takes what another one waits for, too."""
    returned = []
    threads = [threading.Thread(target=lambda: returned.append(function()), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for _ in threads:
        time.sleep(0.02)
        let_one_go()
    for thread in threads:
        thread.join(5)
    return returned


def racing():
    read, write = os.pipe()
    print(each_in_turn(3, lambda: os.read(read, 1), lambda: os.write(write, b"x")))
    os.set_blocking(write, False)
    while len(select.select([], [write], [], 0)[1]):
        os.write(write, bytes(4096))
    os.set_blocking(write, True)
    print(each_in_turn(3, lambda: os.write(write, bytes(4096)), lambda: os.read(read, 4096)))
    os.close(read)
    os.close(write)
    a, b = socket.socketpair()
    a.setblocking(False)
    epoll = select.epoll()
    epoll.register(a, select.EPOLLIN)

    def polled():
        poll = select.poll()
        poll.register(a, select.POLLIN)
        return poll.poll()

    def selected(kind):
        with kind() as selector:
            selector.register(a, selectors.EVENT_READ)
            return selector.select()

    ways = [lambda: select.select([a], [], [])[0], polled, epoll.poll]
    kinds = (selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector)
    for wait in [*ways, *(lambda kind=kind: selected(kind) for kind in kinds)]:

        def take(wait=wait):
            found = len(wait())
            try:
                return found, a.recv(1)
            except BlockingIOError:
                return found, None

        # Of plain threads more than one may be woken; each is woken by something that was there.
        print({found for found, _ in each_in_turn(3, take, lambda: b.send(b"x"))})
        while select.select([a], [], [], 0)[0]:
            a.recv(1)
    epoll.close()
    b.close()
    begin = time.monotonic()
    print(select.select([], [], [a], 0.1), time.monotonic() - begin >= 0.1)  # has hung up, which is no exception
    a.close()


for part in (signals, selecting, racing, pipes, children, times):
    print(f"-- {part.__name__}")
    part()
