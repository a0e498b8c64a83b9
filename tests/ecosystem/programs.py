"""Programs that the tests start, and what tests ask of a server from outside, without any event loop."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support import Way, child_environment

HERE = Path(__file__).parent
START_LIMIT_S = 30
STOP_LIMIT_S = 15


class Program:
    """A program in a session of its own; it and what it has started are killed at the end if they still run."""

    def __init__(
        self, command: Sequence[str], log: Path, env: dict[str, str], pass_fds: Sequence[int] = ()
    ) -> None:
        self.log = log
        environment = child_environment(env)
        environment["PYTHONPATH"] += os.pathsep + str(HERE)
        # The kernel ends it if this process is killed.
        guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [*guard, *command],
                cwd=HERE,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pass_fds,
            )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, *words: str, count: int = 1) -> None:
        """Wait until each of `words` stands in the program's output `count` times."""
        end = time.monotonic() + START_LIMIT_S
        while not all(self.text().count(word) >= count for word in words):
            ended = self.process.poll()
            assert ended is None, f"ended with {ended}:\n{self.text()}"
            assert time.monotonic() < end, f"no {words} in:\n{self.text()}"
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        self.send_signal(number)
        try:
            return self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end on signal {number}:\n{self.text()}") from None

    def end(self, limit: float = START_LIMIT_S) -> int:
        """Wait for it to end by itself; its exit status."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end:\n{self.text()}") from None


def serve(command: Sequence[str], log: Path) -> Program:
    """A program that is on another loop than the one under test."""
    return Program(command, log, {})


def module(name: str, *arguments: object) -> list[str]:
    """The command that runs a module of this interpreter."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def fetch(port: int, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> bytes:
    """The body that a server on the loopback answers with, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, (answer.status, content)
        return content
    finally:
        connection.close()


def fetch_json(port: int, path: str, **more: Any) -> Any:
    return json.loads(fetch(port, path, **more))


def in_threads(count: int, function: Callable[[int], Any]) -> list[Any]:
    """What `function(i)` gives for each i, all called at the same time."""
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda i=i: answers.append(function(i))) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def check_facts(facts: dict[str, Any], way: Way) -> None:
    """That what an application says of its loop is what this way to run is."""
    assert facts["loop"] == "flexsc_loop.loop.Loop"
    assert facts["page"] == way.pages or way.pages == "auto"
    assert facts["cpu"] == (None if way.threads in ("auto", "off") else int(way.threads or ""))
