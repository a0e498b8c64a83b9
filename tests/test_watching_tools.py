"""Tools that look at any Python program see what they look for on this loop."""

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import Running, eventually, turns

pytestmark = pytest.mark.ours

WAITING = """
import time

async def inner():
    await asyncio.sleep(60)

async def outer():
    await inner()

async def main():
    task = asyncio.create_task(outer(), name="the task")
    await asyncio.sleep(0.01)
    print("there")
    {block}
    await task

run(main())
"""


def waiting(way, block=""):
    return Running(way.prelude() + WAITING.format(block=block))


def look(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    text = done.stdout + done.stderr
    if "Operation not permitted" in text or "Permission" in text:
        pytest.skip("this process may not look into its children")
    assert done.returncode == 0, text
    return text


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 has it")
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_asyncio_ps(way, command):
    with waiting(way) as child:
        assert child.line() == "there"
        text = look(sys.executable, "-m", "asyncio", command, str(child.process.pid))
    assert "the task" in text and "outer" in text and "inner" in text


def py_spy():
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


@pytest.mark.skipif(py_spy() is None, reason="py-spy is not installed")
@pytest.mark.parametrize("block", ["time.sleep(30)", "while True: pass"], ids=["sleeping", "computing"])
def test_py_spy(way, block):
    with waiting(way, block) as child:
        assert child.line() == "there"
        text = look(py_spy(), "dump", "--pid", str(child.process.pid))
    assert "main (<string>" in text and "run_forever (" in text


async def test_slow_callback_duration(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.02

    def slow():
        threading.Event().wait(0.05)

    with caplog.at_level(logging.WARNING, logger="asyncio"):
        loop.call_soon(slow)
        await turns()
    loop.set_debug(False)
    assert any("slow" in message and "took 0.0" in message for message in caplog.messages), caplog.messages


def test_aiomonitor(way, new_loop):
    aiomonitor = pytest.importorskip("aiomonitor")
    loop = new_loop()
    seen = []

    async def main():
        with aiomonitor.start_monitor(loop, port=0, console_enabled=False, webui_port=0) as monitor:
            task = asyncio.create_task(asyncio.sleep(60), name="the task")
            await turns()
            seen.extend(line for row in monitor.format_running_task_list("", False) for line in vars(row).values())
            task.cancel()
            await asyncio.wait([task])

    loop.run_until_complete(main())
    assert "the task" in seen


def test_the_thread_that_serves_is_named(way):
    """ps -L, htop and top -H show it."""
    with waiting(way) as child:
        assert child.line() == "there"
        folder = Path(f"/proc/{child.process.pid}/task")

        def served():
            names = [(folder / thread / "comm").read_text() for thread in os.listdir(folder)]
            return any(name.startswith(("iou-sqp-", "flexsc-page")) for name in names)

        # A thread names itself when it first runs.
        assert not served() if way.threads == "off" else eventually(served)
