"""gunicorn, unmodified, with our worker for WSGI applications, whose connections are green threads."""

import http.client
import os
import re
import signal
import socket
import ssl
import threading
import time

import pytest
from programs import fetch, fetch_json, in_threads
from support import digest, eventually, payload

pytest.importorskip("gunicorn")
pytest.importorskip("greenlet")

pytestmark = [pytest.mark.ours, pytest.mark.one_way]

CROWD = 60


def test_requests_of_all_kinds(gunicorn, tmp_path):
    program, port = gunicorn("--keep-alive", 5)
    file = tmp_path / "file"
    file.write_bytes(payload(3_000_000))
    assert digest(fetch(port, f"/file?{file}")) == digest(payload(3_000_000))
    assert fetch(port, "/stream?20") == payload(100_000) * 20
    assert digest(fetch(port, "/echo", method="POST", body=payload(1_000_000))) == digest(payload(1_000_000))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for _ in range(20):
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
    connection.request("GET", "/fail")
    assert connection.getresponse().status == 500
    connection.close()
    begin = time.monotonic()
    assert len(in_threads(CROWD, lambda _i: fetch(port, "/slow?0.5"))) == CROWD
    assert time.monotonic() - begin < 15, "one after the other"
    assert program.stop() == 0


def test_idle_connections_are_closed_after_the_keep_alive_time(gunicorn):
    program, port = gunicorn("--keep-alive", 1)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/")
    connection.getresponse().read()
    assert connection.sock.recv(1) == b""
    connection.close()
    assert program.stop() == 0


def test_no_more_connections_than_allowed(gunicorn):
    program, port = gunicorn("--worker-connections", 3)
    begin = time.monotonic()
    assert len(in_threads(9, lambda _i: fetch(port, "/slow?0.2", Connection="close"))) == 9
    assert time.monotonic() - begin >= 0.6
    assert program.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT])
@pytest.mark.parametrize("worker", ["FlexSCThreadsWorker", "FlexSCWebWorker"])
def test_a_worker_is_ended_while_it_starts(gunicorn, tmp_path, worker, number):
    app = {"FlexSCThreadsWorker": "apps_wsgi:bare", "FlexSCWebWorker": "site_gunicorn:make"}[worker]
    start = tmp_path / "start"
    arguments = ["-k", f"flexsc_loop.gunicorn.{worker}", "-c", "gunicorn_slow_start.py", "--graceful-timeout", 60]
    program, _ = gunicorn(*arguments, app=app, env={"START_WHEN": str(start)})
    program.wait_for("slow to start")
    pid = int(re.search(r"slow to start: (\d+)\.", program.text())[1])
    os.kill(pid, number)
    at_once = number == signal.SIGABRT or (number != signal.SIGTERM and worker == "FlexSCThreadsWorker")
    if not at_once:
        start.touch()
    program.wait_for(f"Worker exiting (pid: {pid})")
    start.touch()
    program.wait_for("slow to start", count=2)
    assert program.stop() == 0


@pytest.fixture
def connect(gunicorn, tmp_path, request):
    """Starts gunicorn, with TLS or without; the program, and what makes connections to it."""

    def start(*arguments):
        if request.param == "tls":
            certificate = request.getfixturevalue("certificate")
            key, chain = tmp_path / "key", tmp_path / "chain"
            key.write_text(certificate.key)
            chain.write_text(certificate.chain)
            arguments = (*arguments, "--keyfile", key, "--certfile", chain)
            context = ssl._create_unverified_context()
        program, port = gunicorn(*arguments)

        def connection():
            if request.param == "tls":
                made = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
            else:
                made = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            made.connect()
            return made

        return program, connection

    return start


def ask(connection, path="/"):
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body
    return body


@pytest.mark.parametrize("connect", ["plain", "tls"], indirect=True)
def test_who_was_accepted_is_answered_by_a_worker_that_stops(connect):
    program, connection = connect("-w", 2, "--keep-alive", 30, "--graceful-timeout", 60)
    workers, idle, fresh = set(), [], []
    while len(workers) < 2:
        idle.append(connection())
        workers.add(ask(idle[-1]).split()[0])
        fresh.append(connection())
    program.send_signal(signal.SIGHUP)
    for one in idle:
        assert one.sock.recv(1) == b""
        one.close()
    for one in fresh:
        assert ask(one)
        one.close()
    assert program.stop() == 0
    assert "Traceback" not in program.text(), program.text()


@pytest.mark.parametrize("connect", ["plain", "tls"], indirect=True)
def test_what_was_sent_before_the_worker_heard_that_it_stops_is_answered(connect):
    program, connection = connect("--keep-alive", 30, "--graceful-timeout", 60)
    asks_twice, blocks = connection(), connection()
    ask(asks_twice)
    blocks.request("GET", "/block?1.5")
    program.wait_for("blocking request has come")
    asks_twice.request("GET", "/")
    assert program.stop() == 0
    assert blocks.getresponse().read() and asks_twice.getresponse().read()
    asks_twice.close()
    blocks.close()


def test_a_handshake_may_end_after_the_worker_heard_that_it_stops(gunicorn, certificate, tmp_path):
    key, chain = tmp_path / "key", tmp_path / "chain"
    key.write_text(certificate.key)
    chain.write_text(certificate.chain)
    program, port = gunicorn("--graceful-timeout", 60, "--keyfile", key, "--certfile", chain)
    context = ssl._create_unverified_context()
    early = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    pid = int(ask(early).split()[0])
    with socket.create_connection(("127.0.0.1", port), 20) as late:
        time.sleep(0.3)  # a worker that has accepted tells nobody
        os.kill(pid, signal.SIGTERM)
        assert early.sock.recv(1) == b""
        early.close()
        with context.wrap_socket(late) as wrapped:
            wrapped.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert wrapped.recv(20).startswith(b"HTTP/1.1 200 "), program.text()
    assert program.stop() == 0
    assert "Traceback" not in program.text(), program.text()


@pytest.mark.parametrize("connect", ["plain", "tls"], indirect=True)
def test_no_request_fails_while_workers_are_replaced(connect):
    program, connection = connect("-w", 2)
    program.wait_for("worker is ready", count=2)
    over = threading.Event()

    def hammer(_number):
        count = 0
        while not over.is_set():
            one = connection()
            ask(one)
            one.close()
            count += 1
        return count

    def replace():
        program.send_signal(signal.SIGHUP)
        try:
            program.wait_for("Worker exiting", count=2)
        finally:
            over.set()

    replacing = threading.Thread(target=replace)
    replacing.start()
    counts = in_threads(8, hammer)
    replacing.join()
    assert len(counts) == 8 and all(counts), counts
    assert program.stop() == 0
    assert "Traceback" not in program.text(), program.text()


def test_reload_and_graceful_stop(gunicorn):
    program, port = gunicorn("-w", 2)
    program.wait_for("worker is ready", count=2)
    answers = []
    slow = threading.Thread(target=lambda: answers.append(fetch(port, "/slow?1.5")))
    slow.start()
    program.wait_for("slow request has come")
    program.send_signal(signal.SIGHUP)
    program.wait_for("worker is ready", count=4)
    slow.join(20)
    assert len(answers) == 1
    assert len({fetch(port, "/").split()[0] for _ in range(20)}) >= 1
    slow = threading.Thread(target=lambda: answers.append(fetch(port, "/slow?1")))
    slow.start()
    program.wait_for("slow request has come", count=2)
    idle = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    idle.request("GET", "/")
    idle.getresponse().read()
    begin = time.monotonic()
    assert program.stop() == 0
    assert time.monotonic() - begin < 10, "an idle connection was waited for"
    slow.join(20)
    idle.close()
    assert len(answers) == 2
    assert "Traceback" not in program.text(), program.text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_quick_stop(gunicorn, number):
    program, port = gunicorn()
    errors = []

    def ask():
        try:
            fetch(port, "/slow?30")
        except (OSError, http.client.HTTPException) as error:
            errors.append(error)

    slow = threading.Thread(target=ask)
    slow.start()
    program.wait_for("slow request has come")
    assert program.stop(number) == 0
    slow.join(20)
    assert len(errors) == 1


def test_a_killed_worker_is_replaced(gunicorn):
    program, port = gunicorn()
    os.kill(int(fetch(port, "/").split()[0]), signal.SIGKILL)
    program.wait_for("Booting worker with pid", count=2)
    assert eventually(lambda: fetch(port, "/"), 10)
    assert program.stop() == 0


def test_an_application_that_the_master_has_loaded(gunicorn):
    program, port = gunicorn("--preload", "-w", 2)
    program.wait_for("worker is ready", count=2)
    begin = time.monotonic()
    answers = in_threads(CROWD, lambda _i: fetch(port, "/slow?0.5"))
    assert time.monotonic() - begin < 15, "one after the other"
    assert len(answers) == CROWD and len({answer.split()[0] for answer in answers}) <= 2
    assert digest(fetch(port, "/echo", method="POST", body=payload(1_000_000))) == digest(payload(1_000_000))
    program.send_signal(signal.SIGHUP)
    program.wait_for("Worker exiting", count=2)
    assert fetch(port, "/")
    assert program.stop() == 0
    assert "Traceback" not in program.text(), program.text()


def test_bottle(gunicorn):
    pytest.importorskip("bottle")
    program, port = gunicorn(app="apps_wsgi:make_bottle()")
    answers = in_threads(CROWD, lambda i: fetch_json(port, f"/json/n{i}"))
    assert {answer["name"] for answer in answers} == {f"n{i}" for i in range(CROWD)}
    assert program.stop() == 0
    assert "Traceback" not in program.text(), program.text()


def test_flask(gunicorn):
    pytest.importorskip("flask")
    program, port = gunicorn(app="apps_wsgi:make_flask()")
    answers = in_threads(CROWD, lambda i: fetch_json(port, f"/json?name=n{i}"))
    assert {answer["name"] for answer in answers} == {f"n{i}" for i in range(CROWD)}
    head, tail = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n', b"\r\n--x--\r\n"
    body = head + payload(500_000) + tail
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert fetch(port, "/upload", method="POST", body=body, **headers) == b"500000"
    assert program.stop() == 0
    assert "Traceback" not in program.text(), program.text()
