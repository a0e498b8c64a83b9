"""gunicorn, unmodified, with our worker for aiohttp's applications."""

import http.client
import json
import os
import re
import signal
import sys
import threading

import pytest
from programs import check_facts, fetch, fetch_json, module
from support import digest, eventually, payload

from benchmarks.databases import free_port

pytest.importorskip("gunicorn")
pytest.importorskip("aiohttp")

pytestmark = [pytest.mark.ours, pytest.mark.one_way]

WORKERS = 2
CROWD = 40  # connections at once


@pytest.fixture
def gunicorn(start):
    def run(*arguments, env=None):
        port = free_port()
        program = start(
            *module("gunicorn", "-k", "flexsc_loop.gunicorn.FlexSCWebWorker", "-w", WORKERS, "-b", f"127.0.0.1:{port}",
                    "--no-control-socket", "--graceful-timeout", 10, *arguments, "site_gunicorn:make"), env=env,
        )  # fmt: skip
        return program, port

    return run


def workers(program):
    """The ids of all workers that have been started, in order."""
    return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", program.text())]


def serving(port, way):
    """The workers that serve now, as they say themselves.  Of single connections the quicker one takes all."""
    seen = set()

    def look():
        crowd = [http.client.HTTPConnection("127.0.0.1", port, timeout=20) for _ in range(CROWD)]
        for one in crowd:
            one.connect()
        for one in crowd:
            one.request("GET", "/facts")
            facts = json.loads(one.getresponse().read())
            one.close()
            check_facts(facts, way)
            seen.add(facts["pid"])
        return len(seen) == WORKERS

    eventually(look, 20)
    return seen


def in_background(function):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(function()))
    thread.start()
    return thread, answers


def test_two_workers_reload_and_stop(gunicorn, way):
    program, port = gunicorn()
    program.wait_for("Booting worker with pid", count=WORKERS)
    first = serving(port, way)
    assert first == set(workers(program))
    body = payload(3_000_000)
    assert fetch(port, "/digest", method="POST", body=body).decode() == digest(body)
    assert fetch_json(port, "/child") == 7

    # A reload: new workers take over, and the request that is under way is answered by an old one.
    thread, answers = in_background(lambda: fetch_json(port, "/slow?seconds=2"))
    program.wait_for("slow request has come")
    program.send_signal(signal.SIGHUP)
    program.wait_for("Booting worker with pid", count=2 * WORKERS)
    thread.join(20)
    assert answers[0]["pid"] in first
    assert eventually(lambda: all(f"Worker exiting (pid: {pid})" in program.text() for pid in first), 20)
    second = serving(port, way)
    assert second == set(workers(program)) - first
    assert len(second) == WORKERS

    # The end: what is under way is answered, and then nobody is left.
    thread, answers = in_background(lambda: fetch_json(port, "/slow?seconds=1"))
    program.wait_for("slow request has come", count=2)
    assert program.stop() == 0
    thread.join(20)
    assert answers[0]["pid"] in second
    assert "Traceback" not in program.text(), program.text()


def test_websocket(gunicorn, way):
    client = pytest.importorskip("websockets.sync.client")
    program, port = gunicorn()
    program.wait_for("Booting worker with pid", count=WORKERS)
    with client.connect(f"ws://127.0.0.1:{port}/ws", open_timeout=20, max_size=None) as ws:
        for size in (1, 70_000, 1_000_000):
            ws.send(payload(size))
            assert digest(ws.recv(20)) == digest(payload(size))
    assert program.stop() == 0


def test_loaded_before_the_fork(gunicorn, way):
    """With --preload the application is imported in the master; this one makes a loop there."""
    program, port = gunicorn("--preload", env={"LOOP_IN_THE_MASTER": "yes"})
    program.wait_for("Booting worker with pid", count=WORKERS)
    assert serving(port, way) == set(workers(program))
    assert program.stop(signal.SIGINT) == 0
    assert "Traceback" not in program.text(), program.text()


def test_killed_workers_are_replaced(gunicorn, way):
    program, port = gunicorn()
    program.wait_for("Booting worker with pid", count=WORKERS)
    first = serving(port, way)
    os.kill(min(first), signal.SIGKILL)
    program.wait_for("Booting worker with pid", count=WORKERS + 1)
    assert serving(port, way) == set(workers(program)) - {min(first)}
    assert program.stop() == 0


def test_bad_settings_stop_it(gunicorn):
    program, _ = gunicorn(env={"FLEXSC_PAGES": "rubbish"})
    assert program.end() != 0
    assert "rubbish" in program.text()


def test_without_aiohttp_it_says_what_is_missing(start):
    code = "import sys; sys.modules['aiohttp'] = None; from flexsc_loop.gunicorn import FlexSCWebWorker"
    program = start(sys.executable, "-c", code)
    assert program.end() == 1
    assert "aiohttp" in program.text().splitlines()[-1]
