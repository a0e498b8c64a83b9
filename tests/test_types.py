"""What a type checker makes of a user's program: right uses pass `mypy --strict`, wrong ones do not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support import ROOT

pytest.importorskip("mypy")

#: A line that ends in `# wrong` must be an error, no other one may be.
PROGRAM = '''
import asyncio
import contextvars
import ssl
import flexsc_loop
from flexsc_loop import FlexSCPolicy, Loop, new_event_loop, run

async def main() -> int:
    loop = asyncio.get_running_loop()
    await loop.sock_recv(5)  # wrong
    return 1

number: int = run(main())
text: str = run(main())  # wrong
run(main(), pages="user", threads=1, debug=True)
run(main)  # wrong
asyncio.run(main(), loop_factory=new_event_loop)
with asyncio.Runner(loop_factory=flexsc_loop.new_event_loop) as runner:
    number = runner.run(main())

loop = new_event_loop(pages="kernel", threads="1,3")
new_event_loop(threads=1)
new_event_loop(pages="kernal")  # wrong
new_event_loop(threads=1.5)  # wrong
new_event_loop(page="user")  # wrong
FlexSCPolicy(pages="auto", threads="on")
FlexSCPolicy(pages=1)  # wrong
Loop(pages="user", entries=64, completions=256, buffers=16, buffer_size=4096)
Loop(entires=64)  # wrong
Loop(entries="64")  # wrong
flexsc_loop.install()

def callback(number: int, text: str) -> None: ...

handle: asyncio.Handle = loop.call_soon(callback, 1, "x", context=contextvars.copy_context())
timer: asyncio.TimerHandle = loop.call_later(0.5, callback, 1, "x")
loop.call_at(1.5, callback, 1, "x").when()
loop.call_soon(callback, "x", 1)  # wrong
loop.call_soon_threadsafe(callback, 1)  # wrong
loop.call_later("soon", callback, 1, "x")  # wrong
task: asyncio.Task[int] = loop.create_task(main(), name="mine")
loop.create_task(5)  # wrong
future: asyncio.Future[bytes] = loop.create_future()
moment: float = loop.time()
counters: dict[str, int] = loop.stats()
loop.statistics()  # wrong

async def serve() -> None:
    server: asyncio.Server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, backlog=5, reuse_port=True)
    await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, reuse_prot=True)  # wrong
    await loop.create_server(asyncio.Protocol, "127.0.0.1", "http")  # wrong
    await loop.create_unix_server(asyncio.Protocol, "/tmp/socket", backlog=5)
    await loop.create_unix_server(asyncio.Protocol, "/tmp/socket", backlog="5")  # wrong
    transport, protocol = await loop.create_connection(asyncio.Protocol, "127.0.0.1", 80)
    await loop.create_unix_connection(asyncio.Protocol, 5)  # wrong
    context = ssl.create_default_context()
    upgraded = await loop.start_tls(transport, protocol, context, server_hostname="localhost")
    if upgraded is not None:
        upgraded.write(b"x")
    await loop.start_tls(transport, protocol, True)  # wrong
    number: int = await loop.run_in_executor(None, int, "5")
    loop.run_in_executor(None, callback, 5)  # wrong
    for *_, address in await loop.getaddrinfo("localhost", 80):
        print(address[0])
    loop.add_reader(0, callback, 1, "x")
    loop.add_reader(0, callback)  # wrong
    loop.add_signal_handler(15, callback, 1, "x")
    loop.add_signal_handler("SIGTERM", callback, 1, "x")  # wrong
'''


@pytest.mark.timeout(180)
def test_a_users_program(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", tmp_path / "cache",
            "--python-version", "3.13", file,
        ],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = PROGRAM.splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    assert sorted(found ^ wrong) == [], done.stdout + done.stderr
