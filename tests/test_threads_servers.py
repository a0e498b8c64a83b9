"""The standard library's servers and clients in green threads: they talk to each other, side by side."""

import pytest
from threads_support import SIDE_BY_SIDE, check

pytest.importorskip("greenlet")
pytestmark = pytest.mark.ours

SERVING = (
    SIDE_BY_SIDE
    + """
import socketserver

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True

@contextlib.contextmanager
def serving(server):
    thread = in_thread(server.serve_forever, 0.01)
    try:
        yield server.server_address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
"""
)


def test_wsgiref(way):
    check(way, SERVING + """
import http.client, urllib.request, wsgiref.simple_server, wsgiref.validate

class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True

class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass

def application(environ, start_response):
    size = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(size) if size else environ["PATH_INFO"].encode()
    time.sleep(0.1)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

def main():
    with serving(wsgiref.simple_server.make_server(
            "127.0.0.1", 0, wsgiref.validate.validator(application), Server, Handler)) as (host, port):
        url = f"http://127.0.0.1:{port}"
        begin = time.monotonic()
        paths = side_by_side(30, lambda i: urllib.request.urlopen(f"{url}/{i}", timeout=20).read())
        assert sorted(paths) == sorted(b"/%d" % i for i in range(30)) and time.monotonic() - begin < 2.9
        body = os.urandom(300_000)
        assert urllib.request.urlopen(url, body, timeout=20).read() == body
""")


def test_smtplib(way):
    check(way, SERVING + """
import email.message, smtplib

received = Collected()

class Mail(socketserver.StreamRequestHandler):
    \"\"\"As much of SMTP as is asked for here.\"\"\"

    def say(self, text):
        self.wfile.write(text.encode() + b"\\r\\n")

    def handle(self):
        self.say("220 ready")
        recipients = []
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"RCPT":
                recipients.append(line.strip())
            if verb == b"DATA":
                self.say("354 go on")
                data = b"".join(iter(self.rfile.readline, b".\\r\\n"))
                time.sleep(0.1)
                received((len(recipients), data))
            self.say("221 bye" if verb == b"QUIT" else "550 nobody" if b"nobody" in line else "250 fine")
            if verb == b"QUIT":
                break

def main():
    with serving(Server(("127.0.0.1", 0), Mail)) as address:
        def send(i):
            message = email.message.EmailMessage()
            message["From"], message["To"], message["Subject"] = "me@here", "you@there", f"number {i}"
            message.set_content("line\\n.\\n" * 1000)
            with smtplib.SMTP(*address, timeout=20) as client:
                assert client.send_message(message) == {}

        begin = time.monotonic()
        side_by_side(20, send)
        assert time.monotonic() - begin < 1.9
        assert {count for count, _ in received} == {1}
        subjects = [email.message_from_bytes(data)["Subject"] for _, data in received]
        assert sorted(subjects) == sorted(f"number {i}" for i in range(20))
        # A line with a dot only has been sent with two.
        assert {data.count(b"line\\r\\n..\\r\\n") for _, data in received} == {1000}
        with smtplib.SMTP(*address, timeout=20) as client:
            raised(smtplib.SMTPRecipientsRefused, client.sendmail, "me@here", ["nobody@there"], "text")
""")


def test_ftplib(way):
    check(way, SERVING + """
import ftplib, io

files = {"big": os.urandom(1_000_000)}

class Files(socketserver.StreamRequestHandler):
    \"\"\"As much of FTP as is asked for here.\"\"\"

    def say(self, text):
        self.wfile.write(text.encode() + b"\\r\\n")

    def handle(self):
        self.say("220 ready")
        listener = socket.create_server(("127.0.0.1", 0))
        while line := self.rfile.readline():
            verb, _, name = line.decode().strip().partition(" ")
            if verb == "PASV":
                port = listener.getsockname()[1]
                self.say(f"227 Entering Passive Mode (127,0,0,1,{port >> 8},{port & 255})")
            elif verb in ("RETR", "STOR", "NLST"):
                self.transfer(listener, verb, name)
            else:
                self.say({"USER": "331 who", "PASS": "230 you", "QUIT": "221 bye"}.get(verb, "200 fine"))
        listener.close()

    def transfer(self, listener, verb, name):
        if verb == "RETR" and name not in files:
            return self.say("550 there is none")
        self.say("150 here it comes")
        with listener.accept()[0] as data:
            if verb == "STOR":
                with data.makefile("rb") as file:
                    files[name] = file.read()
            else:
                data.sendall("".join(f"{each}\\r\\n" for each in files).encode() if verb == "NLST" else files[name])
        self.say("226 done")

def main():
    with serving(Server(("127.0.0.1", 0), Files)) as (host, port):
        def use(i):
            with ftplib.FTP(timeout=20) as client:
                client.connect(host, port)
                client.login("me", "secret")
                got = io.BytesIO()
                client.retrbinary("RETR big", got.write)
                client.storbinary(f"STOR file {i}", io.BytesIO(b"%d" % i * 10_000))
                return got.getvalue()

        assert set(side_by_side(15, use)) == {files["big"]}
        assert {files[f"file {i}"] == b"%d" % i * 10_000 for i in range(15)} == {True}
        with ftplib.FTP(timeout=20) as client:
            client.connect(host, port)
            client.login()
            assert sorted(client.nlst()) == sorted(files)
            raised(ftplib.error_perm, client.retrbinary, "RETR none", print)
""")


def test_xmlrpc(way):
    check(way, SERVING + """
import xmlrpc.client, xmlrpc.server

class Server(socketserver.ThreadingMixIn, xmlrpc.server.SimpleXMLRPCServer):
    daemon_threads = True

def twice(value):
    time.sleep(0.1)
    return value * 2

def main():
    server = Server(("127.0.0.1", 0), logRequests=False, allow_none=True)
    server.register_function(twice)
    server.register_multicall_functions()
    with serving(server) as (host, port):
        def call(i):
            with xmlrpc.client.ServerProxy(f"http://{host}:{port}", allow_none=True) as proxy:
                return proxy.twice(i), proxy.twice("x" * 50_000)

        begin = time.monotonic()
        assert sorted(side_by_side(20, call)) == [(2 * i, "x" * 100_000) for i in range(20)]
        assert time.monotonic() - begin < 3.9
        with xmlrpc.client.ServerProxy(f"http://{host}:{port}") as proxy:
            calls = xmlrpc.client.MultiCall(proxy)
            calls.twice(3)
            calls.twice([4])
            assert list(calls()) == [6, [4, 4]]
            raised(xmlrpc.client.Fault, proxy.nothing)
""")


def test_logging(way):
    check(way, SERVING + """
import logging, logging.handlers, pickle, queue, struct

class Receiver(socketserver.StreamRequestHandler):
    def handle(self):
        while len(size := self.rfile.read(4)) == 4:
            record = logging.makeLogRecord(pickle.loads(self.rfile.read(*struct.unpack(">L", size))))
            received((record.getMessage(), record.threadName))

class Datagrams(socketserver.DatagramRequestHandler):
    def handle(self):
        received(pickle.loads(self.rfile.read()[4:])["msg"])

class Keep(logging.Handler):
    def emit(self, record):
        time.sleep(0.001)
        received(record.getMessage())

received = Collected()
log = logging.getLogger("green")
log.setLevel(logging.DEBUG)
log.propagate = False

@contextlib.contextmanager
def logging_to(handler):
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()

def wait_for(count):
    end = time.monotonic() + 20
    while len(received) < count and time.monotonic() < end:
        time.sleep(0.005)
    assert len(received) == count, len(received)

def main():
    with serving(Server(("127.0.0.1", 0), Receiver)) as address:
        with logging_to(logging.handlers.SocketHandler(*address)):
            side_by_side(10, lambda i: [log.info("message %d of %d", j, i) for j in range(20)])
            wait_for(200)
    assert {text for text, _ in received} == {f"message {j} of {i}" for i in range(10) for j in range(20)}
    assert len({name for _, name in received}) == 10
    received.clear()
    with serving(socketserver.UDPServer(("127.0.0.1", 0), Datagrams)) as address:
        with logging_to(logging.handlers.DatagramHandler(*address)):
            for i in range(5):
                log.warning(f"datagram {i}")
                wait_for(i + 1)
    received.clear()
    waiting = queue.Queue()
    listener = logging.handlers.QueueListener(waiting, Keep())
    listener.start()
    with logging_to(logging.handlers.QueueHandler(waiting)):
        side_by_side(10, lambda i: log.info("number %d", i))
    listener.stop()
    assert sorted(received) == sorted(f"number {i}" for i in range(10))
""")
