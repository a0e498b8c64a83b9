"""`python -m flexsc_loop top`: what it shows of other processes, once, as JSON and live."""

import dataclasses
import importlib.util
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from support import ROOT, Running, child_environment, eventually, run_python, turns

from flexsc_loop.insight import rates, read, top

pytestmark = pytest.mark.ours

SERVING = """
import socket, threading, time

class Slow(asyncio.Protocol):
    def data_received(self, data):
        print("hangs")
        time.sleep(30)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Slow, "127.0.0.1", 0)
    sock = socket.create_connection(server.sockets[0].getsockname())
    await asyncio.sleep(0.05)
    print("serves")
    if {hang}:
        sock.send(b"x")
    await asyncio.sleep(60)

loop = new_loop()
loop.run_until_complete(main())
"""


def serving(way, hang=False):
    return Running(way.prelude() + SERVING.format(hang=hang))


def run_top(*arguments, timeout=30):
    return subprocess.run(
        [sys.executable, "-m", "flexsc_loop", "top", *arguments], capture_output=True, text=True, timeout=timeout,
        env=child_environment(), cwd=ROOT, stdin=subprocess.DEVNULL, check=False)


def test_json(way):
    with serving(way) as child:
        assert child.line() == "serves"
        done = run_top(str(child.process.pid), "--once", "--json", "--interval", "0.2")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert (found["pid"], found["loop"], found["pages"], found["state"]) == (child.process.pid, 1, way.pages, "asleep")
    assert (found["now"]["streams"], found["now"]["listeners"], found["totals"]["accepts"]) == (1, 1, 1)
    assert 0 <= found["busy"] < 0.9 and found["blocked"] == 0
    assert found["seconds"] >= 0.2
    assert set(found["batch"]) == {"entries", "completions"} and min(found["batch"].values()) >= 0
    assert (found["syscall_thread"] is None) is (way.threads == "off")


def test_a_loop_that_hangs(way):
    with serving(way, hang=True) as child:
        assert (child.line(), child.line()) == ("serves", "hangs")
        time.sleep(rates.LONG_TURN)
        done = run_top(str(child.process.pid), "--once", "--json", "--interval", "0.1")
        (found,) = json.loads(done.stdout)
        assert found["blocked"] >= rates.LONG_TURN and found["running"] == "Slow"
        assert found["busy"] > 0.9
        pytest.importorskip("rich")
        done = run_top(str(child.process.pid), "--once", "--interval", "0.1")
        assert "BLOCKED" in done.stdout and "Slow" in done.stdout
        # Without a process named: all that may be seen.
        assert str(child.process.pid) in run_top("--once", "--interval", "0.1").stdout


def read_until(fd, wanted, seconds=15):
    seen, end = b"", time.monotonic() + seconds
    while wanted not in seen:
        ready, _, _ = select.select([fd], [], [], max(0, end - time.monotonic()))
        assert ready, (wanted, seen)
        seen += os.read(fd, 65536)
    return seen


@pytest.mark.one_way
def test_live(way):
    pytest.importorskip("rich")
    with serving(way) as child:
        assert child.line() == "serves"
        master, slave = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "flexsc_loop", "top", str(child.process.pid), "--interval", "0.1"],
            stdin=slave, stdout=slave, stderr=slave, cwd=ROOT,
            env={**child_environment(), "TERM": "xterm", "COLUMNS": "160", "LINES": "40"},
        ) as shown:
            os.close(slave)
            try:
                read_until(master, b"1 loop, by busy")
                os.write(master, b"l")
                read_until(master, b"by lag")
                os.write(master, b"\r")
                read_until(master, "127.0.0.1 ×2".encode())  # it is both ends itself
                os.write(master, b"\x1b")
                read_until(master, b"by lag")
                os.write(master, b"q")
                assert shown.wait(10) == 0
            finally:
                shown.kill()
                os.close(master)


def test_a_terminal_that_goes_away():
    """Where that ends nobody by SIGHUP, as under nohup."""
    pytest.importorskip("rich")
    master, slave = pty.openpty()
    with subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-m", "flexsc_loop", "top", "--interval", "0.1"],
        stdin=slave, stdout=slave, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
        env={**child_environment(), "TERM": "xterm"},
    ) as shown:
        os.close(slave)
        try:
            read_until(master, b"\x1b[?1049h")  # the screen
            os.close(master)
            assert (shown.wait(10), shown.stderr.read()) == (1, "")
        finally:
            shown.kill()


def test_what_can_not_be_watched():
    done = run_top("999999999", "--json")
    assert (done.returncode, done.stdout) == (1, "") and "no process" in done.stderr
    assert run_top("--interval", "0").returncode == 2
    assert json.loads(run_top(str(os.getppid()), "--once", "--json").stdout) == []


@pytest.mark.one_way
def test_one_line_for_each_interval_until_the_process_ends(way):
    """Also where there are no loops to be seen."""
    with Running("import time; print('idle'); time.sleep(60)") as child:
        child.line()
        shown = subprocess.Popen(
            [sys.executable, "-m", "flexsc_loop", "top", str(child.process.pid), "--json", "--interval", "0.2"],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=ROOT, env=child_environment(), text=True)
        with shown:
            begun = time.monotonic()
            lines = [shown.stdout.readline() for _ in range(3)]
            assert time.monotonic() - begun >= 0.4 and {line.strip() for line in lines} == {"[]"}
            child.process.kill()
            shown.communicate(timeout=10)
            assert shown.returncode == 0


def test_no_loops():
    pytest.importorskip("rich")
    done = run_top(str(os.getppid()), "--once")
    assert (done.returncode, done.stdout.strip()) == (0, top.NOTHING)


def test_without_rich():
    source = "import sys; sys.modules['rich'] = None; from flexsc_loop.insight import top; sys.exit(top.main('t', []))"
    end = run_python(source)
    assert end.code == 2 and end.err.strip() == top.HINT


def test_a_loop_that_is_gone(way):
    with serving(way) as child:
        child.line()
        watch = rates.Watch([child.process.pid])
        assert [view.pid for view in watch.look()] == [child.process.pid]
        child.process.kill()
        # Also while nobody has waited for it.
        assert eventually(lambda: watch.look() == []) and watch.ended
        child.process.wait()
        watch.close()


def test_a_process_that_runs_another_program(way):
    """What it was shows nothing any more, and is not taken for a loop that hangs."""
    source = way.prelude() + """
import os, signal

async def main():
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGUSR1, os.execv, "/bin/sh", ["sh", "-c", "echo other; exec sleep 30"])
    print("there")
    await asyncio.sleep(30)

run(main())
"""
    with Running(source) as child:
        assert child.line() == "there"
        watch = rates.Watch([child.process.pid])
        assert [view.pid for view in watch.look()] == [child.process.pid]
        child.signal(signal.SIGUSR1)
        assert child.line() == "other"
        assert watch.look() == [] and not watch.ended
        watch.close()


def test_a_process_that_is_stopped(way):
    with serving(way) as child:
        child.line()
        watch = rates.Watch([child.process.pid])
        (view,) = watch.look()
        assert not view.halted and view.thread_state in set("RSD")
        child.signal(signal.SIGSTOP)
        try:
            assert eventually(lambda: watch.look()[0].halted)
            assert watch.look()[0].data()["thread_state"] == "T"
            if importlib.util.find_spec("rich"):
                assert "STOPPED" in run_top(str(child.process.pid), "--once", "--interval", "0.1").stdout
        finally:
            child.signal(signal.SIGCONT)
        assert eventually(lambda: not watch.look()[0].halted)
        watch.close()


@pytest.mark.one_way
def test_which_processes(way):
    with serving(way) as one, serving(way) as two:
        one.line()
        two.line()
        pids = sorted((one.process.pid, two.process.pid))

        def shown(*arguments):
            return [view["pid"] for view in json.loads(run_top(*arguments, "--once", "--json", "--interval", "0.1",
                                                               "--sort", "process").stdout)]

        assert shown(*map(str, pids)) == pids
        assert [pid for pid in shown() if pid in pids] == pids
        assert shown(*map(str, pids), "--match", "data_received") == pids
        assert shown(*map(str, pids), "--match", "data_received not") == []
        one.process.kill()
        one.process.wait()
        assert run_top(*map(str, pids), "--once", "--json").returncode == 1


# ---- the screen


class Still:
    """Loops that do what they are told."""

    ended = False

    def __init__(self, *views):
        self.views = list(views)

    def look(self):
        return list(self.views)


@pytest.fixture
def views(loop):
    """As many as there are shares of busy time."""
    stats = read(loop)

    def make(*shares):
        found = []
        for number, share in enumerate(shares, 1):
            counts = {**stats.counts, "busy": share, "in_calls": 0, "asleep": 1 - share}
            now = dataclasses.replace(stats, number=number, age=1.0, since=0.0, state="asleep", counts=counts)
            found.append(rates.View(now, None, f"program{number}", None, None, 4711))
        return found

    return make


def lines(screen, width=200, height=40):
    return [line.rstrip() for line in screen.show(width, height).plain.split("\n")]


async def test_what_is_chosen_is_a_loop(views):
    pytest.importorskip("rich")
    watch = Still(*views(0.1, 0.9))
    screen = top.Screen(watch, "b")
    screen.look()
    for key in "j\r":
        screen.press(key)
    assert "loop 1 of process 4711" in screen.show(80, 40).title
    screen.press("\x1b")
    watch.views = views(0.9, 0.1)  # they change places
    screen.look()
    screen.press("\r")
    assert "loop 1 of process 4711" in screen.show(80, 40).title
    watch.views = views()
    screen.look()
    assert lines(screen)[0] == top.NOTHING
    screen.press("\r")


async def test_more_loops_than_lines(views):
    pytest.importorskip("rich")
    screen = top.Screen(Still(*views(*(0.9 - 0.01 * at for at in range(30)))), "b")
    screen.look()

    def shown(height):
        found = lines(screen, 200, height)
        return found[0], [line.split()[1] for line in found[3:] if line.startswith("4711 ")]

    assert shown(16) == ("30 loops, by busy, 1 to 10", [str(at) for at in range(1, 11)])
    screen.press("\x1b[6~")
    screen.press("\x1b[6~")
    title, numbers = shown(16)
    assert "21" in numbers and title.startswith("30 loops, by busy, 1")
    for _ in range(30):
        screen.press("j")
    assert shown(16) == ("30 loops, by busy, 21 to 30", [str(at) for at in range(21, 31)])
    assert shown(50)[0] == "30 loops, by busy"


async def test_a_narrow_terminal_shows_what_blocks_and_whom(views):
    cell_len = pytest.importorskip("rich.cells").cell_len
    (view,) = views(0.5)
    running = dataclasses.replace(view.stats, state="running", running="数を数える" * 5, since=5.0)
    watch = Still(dataclasses.replace(view, stats=running, command="x" * 500))
    screen = top.Screen(watch, "b")
    screen.look()
    for width in range(60, 200, 7):
        picture = lines(screen, width)
        assert "BLOCKED 5 s" in picture[3] and "数を" in picture[3] and "xxx" in picture[3]
        assert all(cell_len(line) <= max(width, len(top.HELP)) for line in picture)
    assert all(name in lines(screen, 200)[2] for name in top.COLUMNS)


def test_keys():
    """Several that come at once are several."""
    assert top.KEYS.findall("lj\x1b[B\x1b[6~\x1bOA\x1bq\r") == [
        "l", "j", "\x1b[B", "\x1b[6~", "\x1bOA", "\x1b", "q", "\r"]


async def test_what_a_batch_holds(loop):
    def view(before=None):
        return rates.View(read(loop), before, "", None, None, os.getpid())

    before = view()
    assert (before.per_batch("submitted") > 0) is (before.stats.counts["batches"] > 0)
    assert view(before.stats).per_batch("submitted") == 0
    await turns()
    after = view(before.stats)
    batches = after.stats.counts["batches"] - before.stats.counts["batches"]
    done = after.stats.counts["completions"] - before.stats.counts["completions"]
    assert after.data()["batch"]["completions"] == done / max(1, batches)


@pytest.mark.parametrize(
    "value, text", [(0, "0"), (1.5e-9, "2 ns"), (12.34e-6, "12.3 µs"), (1.5e-3, "1.5 ms"), (2.5, "2.5 s")])
def test_times(value, text):
    assert top.seconds(value) == text


@pytest.mark.parametrize("value, text", [(0, "0"), (999, "999"), (1500, "1.5k"), (2.5e9, "2.5G"), (1e18, "1e+03P")])
def test_amounts(value, text):
    assert top.amount(value) == text
