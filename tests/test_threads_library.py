"""The standard library's blocking calls in green threads: what they give, and that others run meanwhile."""

import pytest
from threads_support import check

pytest.importorskip("greenlet")
pytestmark = pytest.mark.ours


# ---- sockets


def test_streams(way):
    check(way, """
        def main():
            ours, theirs = tcp_pair()
            big = os.urandom(5_000_000)
            sender = in_thread(lambda: (ours.sendall(big), ours.shutdown(socket.SHUT_WR)))
            got = bytearray()
            while data := theirs.recv(1 << 20):
                got += data
            sender.join()
            assert got == big
            assert ours.recv(0) == b"" and theirs.send(b"abc") == 3
            buffer = bytearray(10)
            assert ours.recv_into(buffer) == 3 and buffer[:3] == b"abc"
            theirs.sendall(b"line 1\\nline 2\\n")
            with ours.makefile("rb") as file:
                assert [file.readline(), file.readline()] == [b"line 1\\n", b"line 2\\n"]
            theirs.sendall(memoryview(b"peek"))
            assert ours.recv(10, socket.MSG_PEEK) == ours.recv(10) == b"peek"
            theirs.close()
            assert ours.recv(1) == b""
            assert raised(ValueError, ours.recv, -1) and raised(ValueError, ours.recv_into, buffer, 11)
    """)  # fmt: skip


def test_timeouts(way):
    check(way, """
        def main():
            ours, theirs = tcp_pair()
            ours.settimeout(0.05)
            begin = time.monotonic()
            assert isinstance(raised(TimeoutError, ours.recv, 1), socket.timeout)
            assert 0.04 < time.monotonic() - begin < 2
            assert ours.gettimeout() == 0.05
            theirs.sendall(b"late")
            assert ours.recv(10) == b"late"
            raised(TimeoutError, ours.sendall, bytes(50_000_000))
            ours.setblocking(False)
            raised(BlockingIOError, ours.recv, 1)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                listener.settimeout(0.02)
                raised(TimeoutError, listener.accept)
    """)  # fmt: skip


def test_connecting(way):
    check(way, """
        def main():
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
                connected = Collected()
                begun = [in_thread(lambda: connected(socket.create_connection(("localhost", port)))) for _ in range(20)]
                accepted = [listener.accept() for _ in range(20)]
                for thread in begun:
                    thread.join()
                assert {peer for _, peer in accepted} == {sock.getsockname() for sock in connected}
                assert not any(sock.getblocking() is False for sock, _ in accepted)
            raised(ConnectionRefusedError, socket.create_connection, ("127.0.0.1", port))
            with socket.socket() as sock:
                assert sock.connect_ex(("127.0.0.1", port)) != 0
            raised(socket.gaierror, socket.create_connection, ("nowhere.invalid", 80))
    """)  # fmt: skip


def test_datagrams_and_unix_sockets(way, tmp_path):
    check(way, f"""
        def main():
            ours, theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
            ours.bind(("127.0.0.1", 0))
            seen = Collected()
            waiting = in_thread(lambda: seen(ours.recvfrom(100)))
            time.sleep(0.01)
            theirs.sendto(b"hello", ours.getsockname())
            waiting.join()
            assert seen[0][0] == b"hello"
            theirs.connect(ours.getsockname())
            theirs.send(b"again")
            assert ours.recv(100) == b"again"
            with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
                listener.bind({str(tmp_path / "socket")!r})
                listener.listen()
                greeter = in_thread(lambda: listener.accept()[0].sendall(b"hello"))
                client.connect({str(tmp_path / "socket")!r})
                assert client.recvmsg(100)[0] == b"hello"
                greeter.join()
    """)  # fmt: skip


def test_tls(way):
    pytest.importorskip("trustme")
    check(way, """
        import ssl
        import trustme

        authority = trustme.CA()
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(server)
        client = ssl.create_default_context()
        authority.configure_trust(client)

        def serve(listener):
            for _ in range(5):
                in_thread(answer, listener.accept()[0])

        def answer(sock):
            with server.wrap_socket(sock, server_side=True) as tls:
                tls.sendall(tls.recv(100).upper() + bytes(300_000))

        def ask(port, seen):
            with client.wrap_socket(socket.create_connection(("localhost", port)), server_hostname="localhost") as tls:
                tls.settimeout(0.05)
                raised(TimeoutError, tls.recv, 1)
                assert tls.gettimeout() == 0.05
                tls.settimeout(None)
                tls.sendall(b"hello")
                with tls.makefile("rb") as file:
                    seen(file.read(300_005)[:5])

        def main():
            listener, seen = socket.create_server(("127.0.0.1", 0)), Collected()
            begun = [in_thread(serve, listener)]
            begun += [in_thread(ask, listener.getsockname()[1], seen) for _ in range(5)]
            for thread in begun:
                thread.join()
            assert seen == [b"HELLO"] * 5
            listener.close()
    """)  # fmt: skip


# ---- select and friends


def test_selecting(way):
    check(way, """
        import select, selectors

        def main():
            ours, theirs = tcp_pair()
            begin = time.monotonic()
            assert select.select([ours], [], [], 0.03) == ([], [], []) and time.monotonic() - begin > 0.02
            assert select.select([ours], [theirs], [], 1) == ([], [theirs], [])
            poll = select.poll()
            poll.register(ours, select.POLLIN)
            assert poll.poll(20) == []
            epoll = select.epoll()
            epoll.register(ours, select.EPOLLIN)
            assert epoll.poll(0.02) == []
            for kind in (selectors.DefaultSelector, selectors.PollSelector, selectors.SelectSelector):
                with kind() as selector:
                    selector.register(ours, selectors.EVENT_READ, "data")
                    assert selector.select(0.02) == []
                    later = threading.Timer(0.02, theirs.send, (b"x",))
                    later.start()
                    assert [key.data for key, _ in selector.select(5)] == ["data"]
                    later.join()
                    assert poll.poll() and epoll.poll() and select.select([ours], [], [])[0]
                    ours.recv(1)
            epoll.close()
    """)  # fmt: skip


# ---- threading


def test_threading(way):
    check(way, """
        def main():
            assert threading.current_thread() is threading.main_thread()
            seen = Collected()
            barrier, event = threading.Barrier(3), threading.Event()
            local = threading.local()
            local.name = "main"

            def work(name):
                local.name = name
                barrier.wait()
                event.wait()
                seen((local.name, threading.current_thread().name, threading.get_ident()))

            begun = [threading.Thread(target=work, args=(name,), name=name) for name in "abc"]
            for thread in begun:
                thread.start()
            assert threading.active_count() == 4 and all(thread.is_alive() for thread in begun)
            begun[0].join(0.02)
            assert begun[0].is_alive()
            event.set()
            for thread in begun:
                thread.join()
            assert {(a, b) for a, b, _ in seen} == {("a", "a"), ("b", "b"), ("c", "c")} and local.name == "main"
            assert len({ident for _, _, ident in seen}) == 3
            assert threading.active_count() == 1 and not any(thread.is_alive() for thread in begun)
            assert raised(RuntimeError, begun[0].start)
    """)  # fmt: skip


def test_locks(way):
    check(way, """
        def main():
            lock, order = threading.Lock(), Collected()
            lock.acquire()
            begun = [in_thread(lambda i: (lock.acquire(), order(i), lock.release()), i) for i in range(5)]
            time.sleep(0.01)
            assert not lock.acquire(False) and not lock.acquire(timeout=0.02) and order == []
            lock.release()
            for thread in begun:
                thread.join()
            assert order == [0, 1, 2, 3, 4] and not lock.locked()
            raised(RuntimeError, lock.release)
            raised(ValueError, lock.acquire, False, 1)
            again = threading.RLock()
            with again, again:
                other = in_thread(lambda: order(again.acquire(timeout=0.02)))
                other.join()
            assert order[-1] is False
            raised(RuntimeError, again.release)
            condition = threading.Condition()
            ready = []

            def consume():
                with condition:
                    condition.wait_for(lambda: ready)
                    order(ready.pop())

            begun = [in_thread(consume) for _ in range(3)]
            for i in range(3):
                with condition:
                    ready.append(i)
                    condition.notify()
                time.sleep(0.001)
            for thread in begun:
                thread.join()
            assert sorted(order[-3:]) == [0, 1, 2]
    """)  # fmt: skip


def test_a_lock_is_shared_with_real_threads(way):
    check(way, """
        import asyncio, queue

        def main():
            lock, counter, waiting = threading.Lock(), [0], queue.SimpleQueue()

            def count(pause):
                for _ in range(100):
                    with lock:
                        before = counter[0]
                        pause(0.00001)
                        counter[0] = before + 1
                waiting.put("counted")

            async def real():
                await asyncio.gather(*(asyncio.to_thread(count, time.sleep) for _ in range(3)))

            begun = [in_thread(count, time.sleep) for _ in range(3)] + [in_thread(lambda: asyncio.run(real()))]
            for thread in begun:
                thread.join()
            assert counter == [600] and [waiting.get() for _ in range(6)] == ["counted"] * 6
    """)  # fmt: skip


def test_an_error_in_a_thread_goes_to_the_excepthook(way):
    check(way, """
        def main():
            seen = Collected()
            threading.excepthook = lambda args: seen((args.exc_type, args.thread.name))
            thread = threading.Thread(target=lambda: 1 / 0, name="fails")
            thread.start()
            thread.join()
            assert seen == [(ZeroDivisionError, "fails")]
    """)  # fmt: skip


def test_queues_and_executors(way):
    check(way, """
        import concurrent.futures, queue

        def main():
            for kind in (queue.Queue, queue.LifoQueue, queue.SimpleQueue):
                waiting = kind()
                raised(queue.Empty, waiting.get, True, 0.02)
                in_thread(lambda: (time.sleep(0.01), waiting.put(1)))
                assert waiting.get(timeout=5) == 1
            full = queue.Queue(1)
            full.put(1)
            raised(queue.Full, full.put, 2, True, 0.02)
            with concurrent.futures.ThreadPoolExecutor(5) as executor:
                begin = time.monotonic()
                assert list(executor.map(lambda i: (time.sleep(0.05), i)[1], range(20))) == list(range(20))
                assert time.monotonic() - begin < 2
                future = executor.submit(time.sleep, 1)
                raised(concurrent.futures.TimeoutError, future.result, 0.01)
    """)  # fmt: skip


# ---- children, pipes


def test_children_and_pipes(way):
    check(way, """
        import subprocess

        def main():
            ticks = Collected()
            ticker = in_thread(lambda: [(time.sleep(0.01), ticks(1)) for _ in range(10)])
            program = [sys.executable, "-c", "import sys, time; time.sleep(0.3); print(sys.stdin.read()[::-1])"]
            done = subprocess.run(program, input="abc" * 100_000, capture_output=True, text=True)
            assert done.stdout == "cba" * 100_000 + "\\n" and len(ticks) == 10
            ticker.join()
            child = subprocess.Popen(["sleep", "20"])
            raised(subprocess.TimeoutExpired, child.wait, 0.05)
            child.kill()
            assert child.wait() == -9
            with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
                cat.stdin.write(b"line\\n")
                cat.stdin.flush()
                assert cat.stdout.readline() == b"line\\n"
                cat.stdin.close()
                assert cat.stdout.read() == b""
            reading, writing = os.pipe()
            writer = in_thread(os.write, writing, bytes(300_000))
            got = 0
            while got < 300_000:
                got += len(os.read(reading, 65536))
            writer.join()
            child = os.fork()
            if child == 0:
                os._exit(3)
            assert os.waitpid(child, 0) == (child, 3 << 8)
    """)  # fmt: skip


# ---- servers that others know


def test_socketserver_and_http(way):
    check(way, """
        import http.server, socketserver, urllib.request, xmlrpc.client, xmlrpc.server

        class Shout(socketserver.StreamRequestHandler):
            def handle(self):
                for line in self.rfile:
                    self.wfile.write(line.upper())

        class Hello(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                time.sleep(0.05)
                self.send_response(200)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"hello")

            def log_message(self, *args):
                pass

        @contextlib.contextmanager
        def serving(server):
            server.daemon_threads = True
            thread = in_thread(server.serve_forever)
            try:
                yield server.server_address
            finally:
                server.shutdown()
                server.server_close()
                thread.join()

        def main():
            seen = Collected()
            with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Shout)) as address:
                for _ in range(3):
                    with socket.create_connection(address) as sock, sock.makefile("rwb") as file:
                        file.write(b"hello\\n")
                        file.flush()
                        assert file.readline() == b"HELLO\\n"
            with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)) as address:
                url = "http://{}:{}/".format(*address)
                begin = time.monotonic()
                begun = [in_thread(lambda: seen(urllib.request.urlopen(url).read())) for _ in range(40)]
                for thread in begun:
                    thread.join()
                assert seen == [b"hello"] * 40 and time.monotonic() - begin < 10
            with serving(xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)) as address:
                with xmlrpc.client.ServerProxy("http://{}:{}/".format(*address)) as proxy:
                    raised(xmlrpc.client.Fault, proxy.nothing)
    """)  # fmt: skip


def test_polling_lets_others_run(way):
    check(way, """
        import queue, select

        def main():
            waiting = queue.Queue()
            ours, theirs = tcp_pair()
            ours.setblocking(False)
            seen = Collected()
            other = in_thread(lambda: (time.sleep(0.01), waiting.put(1), theirs.send(b"x"), seen(1)))
            got = 0
            while not got:
                with contextlib.suppress(queue.Empty):
                    got = waiting.get(False)
            while not select.select([ours], [ours], [])[0]:
                pass
            other = in_thread(lambda: (time.sleep(0.01), theirs.send(b"y")))
            data = b""
            while len(data) < 2:
                with contextlib.suppress(BlockingIOError):
                    data += ours.recv(1)
            assert data == b"xy"
    """)  # fmt: skip


def test_what_a_signal_handler_raises_is_raised_in_main(way):
    check(way, """
        def main():
            def handler(*_):
                raise LookupError("told")

            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert str(raised(LookupError, time.sleep, 20)) == "told"
    """)  # fmt: skip


def test_simple_queues(way):
    """Each that waits gets something; shared with real threads, and filled by a signal handler."""
    check(way, """
        import queue

        def main():
            found, line = Collected(), queue.SimpleQueue()
            getting = [in_thread(lambda: found(line.get(timeout=20))) for _ in range(8)]
            for number in range(8):
                line.put(number)
            for thread in getting:
                thread.join()
            assert sorted(found) == [*range(8)] and line.empty() and line.qsize() == 0
            raised(queue.Empty, line.get_nowait)
            raised(queue.Empty, lambda: line.get(timeout=0.01))
            raised(ValueError, lambda: line.get(timeout=-1))
            assert queue.SimpleQueue[int].__args__ == (int,)

            there, back = queue.SimpleQueue(), queue.SimpleQueue()
            real = threading.Thread(target=lambda: [back.put(there.get(timeout=20) + 1) for _ in range(100)])
            real._real = True
            real.start()
            for number in range(100):
                there.put(number)
                assert back.get(timeout=20) == number + 1
            real.join()

            signal.signal(signal.SIGUSR1, lambda *_: line.put("signal"))
            thread = in_thread(lambda: (time.sleep(0.01), os.kill(os.getpid(), signal.SIGUSR1)))
            assert line.get(timeout=20) == "signal"
            thread.join()
    """)


def test_what_locks_refuse_and_what_low_level_threads_tell(way):
    """Impossible time-outs, even of a lock that is free; errors that nobody waits for; how many there are."""
    check(way, """
        import _thread

        def main():
            for lock in (threading.Lock(), threading.RLock(), _thread.allocate_lock()):
                raised(ValueError, lambda: lock.acquire(False, 1))
                raised(ValueError, lambda: lock.acquire(timeout=-2))
                raised(OverflowError, lambda: lock.acquire(timeout=threading.TIMEOUT_MAX * 2))
                assert lock.acquire(timeout=threading.TIMEOUT_MAX)
                lock.release()

            told, before, over = Collected(), _thread._count(), threading.Lock()
            sys.unraisablehook = told

            def fails():
                try:
                    assert _thread._count() == before + 1
                    raise ValueError("so")
                finally:
                    over.release()

            over.acquire()
            _thread.start_new_thread(fails, ())
            over.acquire()
            assert str(told[0].exc_value) == "so" and "thread started by" in told[0].err_msg
            assert _thread._count() == before
            _thread.start_new_thread(over.release, ()) and over.acquire()
            raised(TypeError, _thread.start_new_thread, None, ())
            raised(TypeError, _thread.start_new_thread, fails, [])
    """)


def test_poll_refuses_what_poll_refuses(way):
    """Time-outs that it can't wait for, and two who wait at once."""
    check(way, """
        import select

        def main():
            one, other = socket.socketpair()
            poll = select.poll()
            poll.register(one, select.POLLIN)
            raised(OverflowError, poll.poll, 1 << 31)
            found = Collected()
            waiting = in_thread(lambda: found(poll.poll()))
            raised(RuntimeError, poll.poll)
            other.send(b"x")
            waiting.join()
            assert found == [[(one.fileno(), select.POLLIN)]] and poll.poll(0) == found[0]
    """)


def test_threads_are_counted_without_the_executor_s(way):
    """Names are looked up by real threads, which the program has not started."""
    check(way, """
        import _thread

        def main():
            before = _thread._count()
            socket.getaddrinfo("localhost", 80)
            assert _thread._count() == before
            go = threading.Event()
            threads = [in_thread(go.wait) for _ in range(3)]
            assert _thread._count() == before + 3
            go.set()
            for thread in threads:
                thread.join()
            assert _thread._count() == before
    """)


def test_calls_that_are_told_not_to_wait(way):
    """By MSG_DONTWAIT, on a socket that would; and arguments by their names."""
    check(way, """
        def main():
            ours, theirs = socket.socketpair()
            room, flags = bytearray(8), socket.MSG_DONTWAIT
            for name, args in dict(
                recv=(8, flags), recv_into=(room, 8, flags), recvfrom=(8, flags), recvfrom_into=(room, 8, flags),
                recvmsg=(8, 0, flags), recvmsg_into=([room], 0, flags),
            ).items():
                raised(BlockingIOError, getattr(ours, name), *args)
            piece, sent = bytes(1 << 20), 0
            for send in (lambda: ours.send(piece, flags), lambda: ours.sendmsg([piece], [], flags)):
                def fill():
                    nonlocal sent
                    while True:
                        sent += send()
                raised(BlockingIOError, fill)
            assert 0 < sent
            raised(BlockingIOError, ours.sendall, piece, flags)
            ours.close()
            while got := theirs.recv(1 << 20):
                sent -= len(got)
            assert sent <= 0  # sendall() may have sent a part

            ours, theirs = socket.socketpair()
            theirs.send(b"abcdef")
            assert ours.recvfrom_into(room, nbytes=3, flags=0)[0] == 3 and room[:3] == b"abc"
            in_thread(lambda: (time.sleep(0.01), theirs.send(b"later")))
            assert ours.recv_into(buffer=memoryview(room), nbytes=3, flags=socket.MSG_WAITALL) == 3
            assert ours.recvfrom_into(buffer=room, flags=0)[0] == 5
    """)


def test_mistakes_are_told_as_ever(way):
    """Calls with arguments that make no sense, joining oneself, errors of lookups that leave no cycle behind."""
    check(way, """
        import gc, weakref

        def joins_itself():
            found(raised(RuntimeError, threading.current_thread().join))

        def main():
            global found
            found = Collected()
            for thread in (in_thread(joins_itself), in_thread(joins_itself)):
                thread.join()
                assert "stopped" in repr(thread) and "started" not in repr(thread), thread
            joins_itself()
            assert len(found) == 3
            raised(TypeError, threading.Lock, 1)
            raised(TypeError, type, "Sub", (type(threading.Lock()),), {})
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                assert "1 given" in str(raised(TypeError, sock.sendto, b"x"))
                assert "4 given" in str(raised(TypeError, sock.sendto, b"x", 0, ("127.0.0.1", 9), 4))
                raised(TypeError, sock.sendto, b"x", None)

            class Name(str):
                pass

            gc.disable()
            name = Name("x" * 300)
            gone = weakref.ref(name)
            raised(Exception, socket.getaddrinfo, name, 80)
            # The executor's thread lets go of its last job with the next one.
            del name
            socket.getaddrinfo("localhost", 80)
            assert gone() is None, gc.get_referrers(gone())
    """)


def test_lists_and_names_of_unusual_kinds(way):
    """Lists that fileno() changes are selected from as they are; a host may be bytes."""
    check(way, """
        import select, warnings

        class Shrinking:
            def fileno(self):
                del one[-1]
                return sys.stdout.fileno()

        def main():
            global one
            one = [Shrinking() for _ in range(10)]
            whole = one[:]
            assert select.select([], one, []) == ([], whole[:5], [])
            warnings.simplefilter("error")
            for host in (b"127.0.0.1", "127.0.0.1", None):
                assert socket.getaddrinfo(host, 80)
            assert socket.gethostbyname(b"127.0.0.1") == "127.0.0.1"
    """)
