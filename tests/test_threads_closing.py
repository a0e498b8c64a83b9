"""Closing what green threads wait on: nobody is left hanging, whatever waits, and whoever closes."""

import pytest
from threads_support import check

pytest.importorskip("greenlet")
pytestmark = pytest.mark.ours

BEFORE = """
import errno, functools, select, selectors, subprocess
from flexsc_loop.threads.starting import START_PLAIN as plain_start

def waiting_for(call):
    seen = Collected()

    def wait():
        try:
            seen(call())
        except OSError as error:
            seen(error.errno)

    thread = in_thread(wait)
    time.sleep(0.02)
    assert not seen, seen
    return thread, seen

def ends(call, close, expected=errno.EBADF):
    thread, seen = waiting_for(call)
    close()
    thread.join(10)
    assert seen == [expected], (seen, expected)

def in_real_thread(function):
    def close():
        over = []
        plain_start(lambda: (function(), over.append(1)), ())
        while not over:
            time.sleep(0.001)
    return close

"""

SOCKETS = """
def listening():
    return socket.create_server(("127.0.0.1", 0))

def datagrams():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock

def full():
    ours, theirs = socket.socketpair()
    kept.append(theirs)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(1000))
    ours.setblocking(True)
    return ours

def pair():
    ours, theirs = tcp_pair()
    kept.append(theirs)
    return ours

kept = []
CASES = {
    "recv": (pair, lambda sock: sock.recv(1)),
    "recv_into": (pair, lambda sock: sock.recv_into(bytearray(1))),
    "recvmsg": (pair, lambda sock: sock.recvmsg(1)),
    "recvfrom": (datagrams, lambda sock: sock.recvfrom(1)),
    "recvfrom_into": (datagrams, lambda sock: sock.recvfrom_into(bytearray(1))),
    "accept": (listening, lambda sock: sock.accept()),
    "sendall": (full, lambda sock: sock.sendall(bytes(100_000))),
    "sendmsg": (full, lambda sock: sock.sendmsg([bytes(1000)])),
    "send": (full, lambda sock: sock.send(bytes(100_000))),
}
"""


@pytest.mark.parametrize("who", ["sock.close", "in_real_thread(sock.close)"], ids=["green", "real"])
def test_calls_on_sockets(way, who):
    check(way, BEFORE + SOCKETS + f"""
def main():
    for name, (make, call) in CASES.items():
        for timeout in (None, 30):
            sock = make()
            sock.settimeout(timeout)
            try:
                ends(functools.partial(call, sock), {who})
            except BaseException as error:
                error.add_note(name)
                raise
    for call in (threads.wait_readable, lambda fd: os.read(fd, 1)):
        sock = pair()
        ends(functools.partial(call, sock.fileno()), {who})
""")  # fmt: skip


def test_several_that_wait_on_one(way):
    check(way, BEFORE + """
def main():
    listener = socket.create_server(("127.0.0.1", 0))
    begun = [waiting_for(listener.accept) for _ in range(5)]
    listener.close()
    for thread, seen in begun:
        thread.join(10)
        assert seen == [errno.EBADF], seen
    ours, theirs = tcp_pair()
    other, third = tcp_pair()
    reading = waiting_for(lambda: ours.recv(1))
    ready = waiting_for(lambda: select.select([ours, other], [], []) and 1)
    elsewhere = waiting_for(lambda: other.recv(1))
    ours.close()
    for thread, seen in (reading, ready):
        thread.join(10)
        assert seen == [errno.EBADF], seen
    third.sendall(b"x")
    elsewhere[0].join()
    assert elsewhere[1] == [b"x"]
""")


def test_the_number_may_be_another_file_s_at_once(way):
    check(way, BEFORE + """
def main():
    ours, theirs = socket.socketpair()
    number = ours.fileno()
    thread, seen = waiting_for(lambda: ours.recvmsg(1))
    ours.close()
    other, far = socket.socketpair()
    assert other.fileno() == number
    second, got = waiting_for(lambda: other.recvmsg(1)[0])
    assert seen == [errno.EBADF]
    far.sendall(b"x")
    second.join(10)
    assert got == [b"x"]
""")


def test_connecting(way):
    check(way, BEFORE + """
def main():
    # A listener with no room: the next connection is not established.
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    held = []

    def connecting(sock, call, seen):
        try:
            seen(getattr(sock, call)(listener.getsockname()))
        except OSError as error:
            seen(error.errno)

    for call in ("connect", "connect_ex"):
        while True:
            sock, seen = socket.socket(), Collected()
            thread = in_thread(connecting, sock, call, seen)
            thread.join(0.05)
            if not seen:
                break
            held.append(sock)
        sock.close()
        thread.join(10)
        assert seen == [errno.EBADF], (call, seen)
""")


def test_selecting(way):
    check(way, BEFORE + """
def polling(kind, sock):
    poll = kind()
    poll.register(sock, select.POLLIN)
    return lambda: [event for _, event in poll.poll(30_000 if kind is select.poll else 30)]

def main():
    for _ in range(2):
        ours, theirs = tcp_pair()
        number = ours.fileno()
        ends(lambda: select.select([ours], [], [], 30), ours.close)
        ours, theirs = tcp_pair()
        ends(polling(select.poll, ours), ours.close, [select.POLLNVAL])
        ours, theirs = tcp_pair()
        epoll = select.epoll()
        epoll.register(ours, select.EPOLLIN)
        ends(epoll.poll, epoll.close)
        selector = selectors.DefaultSelector()
        selector.register(theirs, selectors.EVENT_READ)
        ends(selector.select, selector.close)
        with selectors.PollSelector() as selector:
            selector.register(theirs, selectors.EVENT_READ)
            ends(lambda: bool(selector.select()), theirs.close, True)
""")


def test_pipes(way):
    check(way, BEFORE + """
def main():
    reader, writer = os.pipe()
    ends(lambda: os.read(reader, 1), lambda: os.close(reader))
    os.close(writer)
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE, bufsize=0) as child:
        ends(lambda: child.stdout.read(1), child.stdout.close)
        child.kill()
""")


def test_sending_a_file(way, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(3_000_000))
    check(way, BEFORE + f"""
def main():
    for timeout in (None, 30):
        ours, theirs = socket.socketpair()
        ours.settimeout(timeout)
        with open({str(path)!r}, "rb") as file:
            ends(lambda: ours.sendfile(file), ours.close)
        theirs.close()
    # What waits in sendfile() does not change how others wait on the socket.
    ours, theirs = socket.socketpair()
    with open({str(path)!r}, "rb") as file:
        sending, seen = waiting_for(lambda: ours.sendfile(file))
        receiving, got = waiting_for(lambda: ours.recv(1))
        theirs.sendall(b"x")
        receiving.join(10)
        assert got == [b"x"] and ours.gettimeout() is None, got
        left = 3_000_000
        while left:
            left -= len(theirs.recv(100_000))
        sending.join(10)
        assert seen == [3_000_000]
""")
