"""Sockets: time-outs, files made of them, messages with descriptors, datagrams, Unix, names, ends."""

import array
import contextlib
import errno
import io
import os
import socket
import struct
import tempfile
import threading
import time


def told(what, function, *args, **kwargs):
    """Print what `function` gives, or raises."""
    try:
        print(what, "->", function(*args, **kwargs))
    except Exception as error:
        print(what, "!!", type(error).__name__, error.args[:1] if isinstance(error, OSError) else error)


def pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


def timeouts():
    ours, theirs = pair()
    ours.settimeout(0.05)
    print("timeouts", ours.gettimeout(), ours.getblocking())
    begin = time.monotonic()
    told("recv", ours.recv, 10)
    print(0.04 < time.monotonic() - begin < 2)
    told("recv_into", ours.recv_into, bytearray(10))
    told("recvfrom", ours.recvfrom, 10)
    told("recvmsg", ours.recvmsg, 10)
    told("makefile", ours.makefile("rb").read, 3)
    ours.setblocking(False)
    told("not blocking", ours.recv, 10)
    print(ours.gettimeout(), ours.getblocking())
    ours.settimeout(None)
    print(ours.gettimeout(), ours.getblocking())
    told("negative", ours.settimeout, -1)
    theirs.settimeout(0.05)
    told("sendall", theirs.sendall, bytes(50_000_000))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        told("accept", listener.accept)
        listener.setblocking(False)
        told("accept", listener.accept)
    socket.setdefaulttimeout(0.05)
    a, b = socket.socketpair()
    print(a.gettimeout())
    told("default", a.recv, 1)
    socket.setdefaulttimeout(None)
    for one in (ours, theirs, a, b):
        one.close()


def files():
    ours, theirs = pair()
    with ours.makefile("rw", encoding="utf-8", newline="\n") as ours_file, theirs.makefile("rwb", buffering=0) as raw:
        ours_file.write("grün\nzwei\n")
        ours_file.flush()
        print(raw.readline(), raw.read(5))
        raw.write(b"eins\nzwei\ndrei")
        theirs.shutdown(socket.SHUT_WR)
        print(ours_file.readlines(), repr(ours_file.read()))
    ours.close()
    told("closed", ours.recv, 1)
    told("fileno", ours.fileno)
    told("refused", theirs.makefile, "x")
    theirs.close()


def messages():
    a, b = socket.socketpair()
    read, write = os.pipe()
    print(socket.send_fds(a, [b"with"], [write]))
    data, fds, _flags, _address = socket.recv_fds(b, 100, 1)
    os.write(fds[0], b"through")
    print(data, os.read(read, 100))
    print(a.sendmsg([b"one", b"two"]), b.recvmsg(100, 100)[:3])
    buffers = [bytearray(2), bytearray(10)]
    a.sendmsg([b"parts"])
    print(b.recvmsg_into(buffers)[0], buffers)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read]))]
    a.sendmsg([b"x"], rights)
    _data, ancillary, _flags, _address = b.recvmsg(1, socket.CMSG_SPACE(4))
    print(len(ancillary), ancillary[0][:2] == (socket.SOL_SOCKET, socket.SCM_RIGHTS))
    for fd in (read, write, *fds, *struct.unpack("i", ancillary[0][2])):
        os.close(fd)
    a.send(b"peek")
    print(b.recv(2, socket.MSG_PEEK), b.recv(100), a.send(b""), b.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == 1)
    threading.Timer(0.02, a.sendall, [b"all of it"]).start()
    a.sendall(b"first ")
    print(b.recv(15, socket.MSG_WAITALL))
    a.close()
    print(b.recv(1), b.recv(1))
    told("broken", b.sendall, b"x" * 10)
    b.close()


def datagrams():
    with socket.socket(type=socket.SOCK_DGRAM) as a, socket.socket(type=socket.SOCK_DGRAM) as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        threading.Timer(0.02, a.sendto, [b"late", b.getsockname()]).start()
        data, address = b.recvfrom(100)
        print(data, address == a.getsockname())
        a.sendto(b"truncated", b.getsockname())
        print(b.recvmsg(5)[:3:2][0], b.gettimeout())
        print(a.sendto(b"", b.getsockname()), b.recv(10))
        a.connect(b.getsockname())
        print(a.send(b"connected"), b.recvfrom_into(bytearray(20))[0])
        b.settimeout(0.02)
        told("recvfrom", b.recvfrom, 1)
        told("too long", a.send, bytes(70_000))
        with socket.socket(type=socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            name = gone.getsockname()
        a.connect(name)
        a.send(b"to nobody")
        time.sleep(0.02)
        told("refused", a.recv, 1)


def unix():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            told("nobody", socket.socket(socket.AF_UNIX).connect, path)
            listener.bind(path)
            told("not listening", socket.socket(socket.AF_UNIX).connect, path)
            listener.listen(1)

            def client():
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(path)
                    sock.sendall(b"hello")
                    print(sock.recv(10), sock.getpeername() == path)

            thread = threading.Thread(target=client)
            thread.start()
            accepted, address = listener.accept()
            print(accepted.recv(10), repr(address))
            accepted.send(b"you")
            thread.join()
            accepted.close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind("\0flexsc" + str(os.getpid()))
            listener.listen()
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.connect(listener.getsockname())
                accepted, _ = listener.accept()
                client.send(b"one")
                client.send(b"two")
                print(accepted.recv(10), accepted.recv(2), accepted.fileno() > 0)
                accepted.close()


def sending_files():
    ours, theirs = pair()
    with tempfile.TemporaryFile() as file:
        file.write(bytes(range(256)) * 4096)
        file.seek(100)
        received = bytearray()

        def receive():
            while data := theirs.recv(100_000):
                received.extend(data)

        thread = threading.Thread(target=receive)
        thread.start()
        print(ours.sendfile(file, 10, 500_000), file.tell())
        print(ours.sendfile(file, 0), file.tell())
        print(ours.sendfile(io.BytesIO(b"no descriptor"), 3), ours.sendfile(file, 1 << 30))
        told("text", ours.sendfile, io.StringIO("text"))
        told("count", ours.sendfile, file, 0, -1)
        ours.close()
        thread.join()
        print(len(received), bytes(received[-10:]), bytes(received[:4]))
    theirs.close()


def names():
    print(socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM))
    found = socket.getaddrinfo("localhost", "http", socket.AF_INET, socket.SOCK_STREAM)
    print(found[0][4], socket.gethostbyname("localhost"))
    told("unknown", socket.getaddrinfo, "no.such.host.invalid", 80)
    told("service", socket.getaddrinfo, "127.0.0.1", "nosuchservice")
    print(socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV))
    with socket.create_server(("localhost", 0), family=socket.AF_INET) as listener:
        with socket.create_connection(("localhost", listener.getsockname()[1]), timeout=5) as sock:
            print(sock.gettimeout(), sock.getpeername()[0])
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        told("connection refused", socket.create_connection, sock.getsockname())
        print(errno.errorcode[socket.socket().connect_ex(sock.getsockname())])
    told("twice", lambda: [socket.create_server(listener.getsockname()) for _ in range(2)])
    told("bad port", socket.create_connection, ("127.0.0.1", 70_000))
    told("bad address", socket.socket().connect, "127.0.0.1")


def ends():
    ours, theirs = pair()
    number = ours.detach()
    again = socket.socket(fileno=number)
    with contextlib.closing(again.dup()) as double:
        double.sendall(b"dup")
        print(theirs.recv(10), ours.fileno(), again.family, again.type, again.proto == 0)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    told("reset", again.recv, 10)
    told("end", again.recv, 10)
    again.close()
    told("shutdown", again.shutdown, socket.SHUT_RD)
    print(repr(again).startswith("<socket.socket [closed]"), again._closed)


def main():
    for part in (timeouts, files, messages, datagrams, unix, sending_files, names, ends):
        print(f"-- {part.__name__}")
        part()


main()
