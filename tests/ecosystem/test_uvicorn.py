"""uvicorn, unmodified, with `--loop flexsc_loop:new_event_loop`; the clients know no event loop."""

import json
import signal
import socket
import threading

import pytest
from programs import check_facts, fetch, fetch_json, module
from support import digest, eventually, payload

from benchmarks.databases import free_port

pytest.importorskip("uvicorn")

pytestmark = pytest.mark.ours


@pytest.fixture
def uvicorn(start):
    def run(*arguments, app="apps:plain", workers=1):
        port = free_port()
        program = start(
            *module("uvicorn", "--loop", "flexsc_loop:new_event_loop", "--host", "127.0.0.1", "--port", port),
            *map(str, arguments), app,
        )  # fmt: skip
        program.wait_for("Application startup complete", count=workers)
        program.wait_for("Uvicorn running on")
        return program, port

    return run


def stopped(program):
    """uvicorn ends gracefully, and then by the signal that asked it to."""
    assert program.stop() == -signal.SIGTERM
    assert "the application ends" in program.text()
    assert "Traceback" not in program.text(), program.text()


def talk_http(port):
    body = payload(3_000_000)
    assert fetch(port, "/digest", method="POST", body=body).decode() == digest(body)
    assert fetch(port, "/stream?size=2000000") == payload(2_000_000)
    # One connection, every request at once: the answers must come whole and in order.
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        requests = [f"GET /number?n={n:05} HTTP/1.1\r\nHost: x\r\n\r\n" for n in range(300)]
        requests.append("GET /number?n=00300 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        sock.sendall("".join(requests).encode())
        answers = b"".join(iter(lambda: sock.recv(65536), b""))
    bodies = [part[-5:] for part in answers.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [f"{n:05}".encode() for n in range(301)]


def talk_at_once(port, threads=16, each=20):
    wrong = []

    def client(number):
        body = payload(20_000, number)
        for _ in range(each):
            if fetch(port, "/digest", method="POST", body=body).decode() != digest(body):
                wrong.append(number)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(threads)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(30)
    assert wrong == []
    assert not any(thread.is_alive() for thread in clients)


def talk_websocket(port):
    client = pytest.importorskip("websockets.sync.client")
    closed = pytest.importorskip("websockets.exceptions").ConnectionClosed
    with client.connect(f"ws://127.0.0.1:{port}/", open_timeout=20, max_size=None) as ws:
        for size in (1, 125, 126, 65535, 65536, 1_500_000):
            data = payload(size)
            ws.send(data)
            assert digest(ws.recv(20)) == digest(data)
        for number in range(200):
            ws.send(f"message {number}")
        assert [ws.recv(20) for _ in range(200)] == [f"MESSAGE {number}" for number in range(200)]
        assert ws.ping(b"here?").wait(20)
        ws.send("close")
        with pytest.raises(closed) as caught:
            ws.recv(20)
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4321, "as asked")


def test_http_and_websockets(uvicorn, way):
    program, port = uvicorn("--http", "httptools", "--ws", "websockets")
    check_facts(fetch_json(port, "/facts"), way)
    talk_http(port)
    talk_at_once(port)
    talk_websocket(port)
    stopped(program)


@pytest.mark.one_way
def test_the_protocols_in_python(uvicorn, way):
    program, port = uvicorn("--http", "h11", "--ws", "wsproto")
    check_facts(fetch_json(port, "/facts"), way)
    talk_http(port)
    talk_websocket(port)
    stopped(program)


def test_a_client_that_stops_reading_and_then_goes(uvicorn):
    program, port = uvicorn()

    def counters():
        return fetch_json(port, "/counters")

    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")
        last = [-1]

        def stands_still():
            before, last[0] = last[0], counters()["produced"]
            return last[0] == before

        assert eventually(stands_still, 20)
        # What the kernel's buffers take, and what the server queues.
        assert last[0] < 64 * 1024 * 1024
        assert counters()["disconnects"] == 0
    assert eventually(lambda: counters()["disconnects"] == 1)
    stopped(program)


@pytest.mark.one_way
def test_a_running_request_is_finished_before_the_end(uvicorn):
    program, port = uvicorn()
    answers = []
    client = threading.Thread(target=lambda: answers.append(fetch(port, "/slow?seconds=1")))
    client.start()
    program.wait_for("slow request has come")
    stopped(program)
    client.join(20)
    assert answers == [b"slow, but done"]


@pytest.mark.one_way
def test_two_processes(uvicorn, way):
    """Both serve; while one is busy the other one does."""
    program, port = uvicorn("--workers", 2, workers=2)
    pids = set()

    def both():
        facts = fetch_json(port, "/facts")
        check_facts(facts, way)
        pids.add(facts["pid"])
        return len(pids) == 2

    blockers = [threading.Thread(target=fetch, args=(port, "/block?seconds=0.3")) for _ in range(8)]
    for thread in blockers:
        thread.start()
    assert eventually(both, 20)
    for thread in blockers:
        thread.join(20)
    assert program.stop() in (0, -signal.SIGTERM)
    assert program.text().count("the application ends") == 2


@pytest.mark.one_way
def test_unix_socket(uvicorn, start, way, tmp_path):
    path = str(tmp_path / "u")
    program = start(*module("uvicorn", "--loop", "flexsc_loop:new_event_loop", "--uds", path), "apps:plain")
    program.wait_for("Uvicorn running on unix socket")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        sock.sendall(b"GET /facts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    check_facts(json.loads(answer.partition(b"\r\n\r\n")[2]), way)
    stopped(program)


@pytest.mark.one_way
def test_inherited_socket(start, way):
    """With --fd uvicorn says that a TCP listener is a Unix one; it must serve all the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.set_inheritable(True)
        script = f'exec {" ".join(module("uvicorn", "--loop", "flexsc_loop:new_event_loop", "--fd", 9))} apps:plain'
        program = start("bash", "-c", f"{script} 9<&{listener.fileno()}", pass_fds=(listener.fileno(),))
        program.wait_for("Uvicorn running on")
    check_facts(fetch_json(port, "/facts"), way)
    talk_http(port)
    stopped(program)
