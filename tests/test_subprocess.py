"""Subprocesses: data, ends, signals, Popen's options, cancels, many at once, and nothing that leaks into a child."""

import asyncio
import errno
import functools
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from support import check_program, digest, echo, eventually, payload, settle, turns

PIPE = asyncio.subprocess.PIPE
CAT = ["/bin/cat"]
SLEEP = ["/bin/sleep", "1000"]


@pytest.fixture(autouse=True)
def no_children_left():
    """Each child is waited for: none is left, not even as a zombie."""
    yield
    gc.collect()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def python(source, *args):
    """The command that runs `source` without looking at the environment."""
    return [sys.executable, "-I", "-S", "-c", textwrap.dedent(source), *args]


def has_ended(pid):
    """Whether it has, waited for or not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


class Noting(asyncio.SubprocessProtocol):
    """Writes down what the transport calls."""

    def __init__(self):
        self.calls = []
        self.data = {1: b"", 2: b""}
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.calls.append("made")

    def pipe_data_received(self, fd, data):
        self.data[fd] += data

    def pipe_connection_lost(self, fd, exc):
        self.calls.append(f"pipe {fd}")

    def process_exited(self):
        self.calls.append("exited")

    def connection_lost(self, exc):
        self.calls.append("lost")
        self.lost.set_result(exc)


# ---- data


@pytest.mark.parametrize("size", [0, 1, 65536, 5_000_000])
async def test_data_there_and_back(loop, size):
    data = payload(size)
    process = await asyncio.create_subprocess_exec(*CAT, stdin=PIPE, stdout=PIPE)
    out, err = await process.communicate(data)
    assert digest(out) == digest(data)
    assert err is None
    assert process.returncode == 0


async def test_three_pipes(loop):
    source = """
        import sys
        data = sys.stdin.buffer.read()
        sys.stdout.buffer.write(data[::2])
        sys.stderr.buffer.write(data[1::2])
        sys.exit(7)
    """
    data = payload(1_000_000)
    process = await asyncio.create_subprocess_exec(*python(source), stdin=PIPE, stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate(data)
    assert (digest(out), digest(err)) == (digest(data[::2]), digest(data[1::2]))
    assert process.returncode == 7


async def test_a_conversation(loop):
    process = await asyncio.create_subprocess_exec(*CAT, stdin=PIPE, stdout=PIPE)
    for i in range(200):
        process.stdin.write(b"line %d\n" % i)
        await process.stdin.drain()
        assert await process.stdout.readline() == b"line %d\n" % i
    process.stdin.close()
    await process.stdin.wait_closed()
    assert await process.stdout.read() == b""
    assert await process.wait() == 0


async def test_shell(loop):
    command = "cat; echo out; echo err >&2; exit 3"
    process = await asyncio.create_subprocess_shell(command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert await process.communicate(b"in ") == (b"in out\n", b"err\n")
    assert process.returncode == 3


async def test_where_output_goes(loop, tmp_path):
    command = "echo out; echo err >&2"
    process = await asyncio.create_subprocess_shell(command, stdout=PIPE, stderr=asyncio.subprocess.STDOUT)
    assert await process.communicate() == (b"out\nerr\n", None)
    process = await asyncio.create_subprocess_shell("cat; echo out", stdin=asyncio.subprocess.DEVNULL, stdout=PIPE)
    assert await process.communicate() == (b"out\n", None)
    with open(tmp_path / "file", "wb") as file:
        process = await asyncio.create_subprocess_shell("echo out", stdout=file)
        assert await process.wait() == 0
    assert (tmp_path / "file").read_bytes() == b"out\n"


async def test_a_child_that_does_not_read(loop):
    """communicate() takes no notice; drain() says so."""
    process = await asyncio.create_subprocess_exec("/bin/true", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(payload(1_000_000)) == (b"", None)
    process = await asyncio.create_subprocess_exec("/bin/true", stdin=PIPE)
    await process.wait()
    # The pipe's end may have to come from a syscall thread; pytest's time limit ends a test in which it never does.
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            process.stdin.write(b"x" * 70_000)
            await process.stdin.drain()
            await asyncio.sleep(0.001)


async def test_drain_fails_when_the_child_ends(loop):
    """Whoever waits for room is told that there will be none."""
    process = await asyncio.create_subprocess_shell("read x; exit 0", stdin=PIPE)
    process.stdin.write(payload(1_000_000) + b"\n")
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await process.stdin.drain()
        await process.stdin.drain()
    assert await process.wait() == 0


async def test_a_child_that_closes_its_output_and_goes_on(loop):
    process = await asyncio.create_subprocess_shell("exec >&-; read x; exit 5", stdin=PIPE, stdout=PIPE)
    assert await process.stdout.read() == b""
    assert process.returncode is None
    process.stdin.write(b"go\n")
    assert await process.wait() == 5


async def test_a_grandchild_that_holds_the_pipe(loop):
    """The child's end is known although its output is still open."""
    transport, protocol = await loop.subprocess_shell(Noting, "sleep 1000 & echo $!", stdin=None, stderr=None)
    await settle(lambda: "exited" in protocol.calls and protocol.data[1].endswith(b"\n"))
    assert "lost" not in protocol.calls
    os.kill(int(protocol.data[1]), signal.SIGKILL)
    await protocol.lost
    assert protocol.calls[-2:] == ["pipe 1", "lost"]
    transport.close()


async def test_protocol_calls(loop):
    transport, protocol = await loop.subprocess_exec(Noting, *CAT)
    assert protocol.calls == ["made"] or protocol.calls == []
    pid = transport.get_pid()
    assert transport.get_returncode() is None
    assert f"pid={pid}" in repr(transport) and "running" in repr(transport)
    assert isinstance(transport.get_extra_info("subprocess"), subprocess.Popen)
    stdin = transport.get_pipe_transport(0)
    stdin.write(b"data")
    stdin.close()
    await protocol.lost
    assert protocol.data == {1: b"data", 2: b""}
    assert protocol.calls[0] == "made" and protocol.calls[-1] == "lost"
    assert sorted(protocol.calls[1:-1]) == ["exited", "pipe 0", "pipe 1", "pipe 2"]
    assert transport.get_returncode() == 0
    transport.close()


# ---- ends


@pytest.mark.parametrize("code", [0, 1, 42, 255])
async def test_exit_codes(loop, code):
    process = await asyncio.create_subprocess_shell(f"exit {code}")
    assert await process.wait() == code == process.returncode
    assert await process.wait() == code


@pytest.mark.parametrize("how", ["kill", "terminate", "send_signal"])
async def test_signals(loop, how):
    process = await asyncio.create_subprocess_exec(*SLEEP)
    if how == "send_signal":
        process.send_signal(signal.SIGUSR1)
    else:
        getattr(process, how)()
    expect = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "send_signal": signal.SIGUSR1}[how]
    assert await process.wait() == -expect
    with pytest.raises(ProcessLookupError):
        process.kill()


async def test_close_kills(loop):
    transport, protocol = await loop.subprocess_exec(Noting, *SLEEP)
    transport.close()
    assert transport.is_closing()
    transport.close()
    await protocol.lost
    assert transport.get_returncode() == -signal.SIGKILL


async def test_close_of_a_child_that_has_ended_already(loop, caplog):
    """Whoever looks first, the loop or close(), its end is known, and nothing is complained about."""
    codes = []
    for _ in range(20):
        transport, protocol = await loop.subprocess_shell(Noting, "exit 9", stdin=None, stdout=None, stderr=None)
        assert eventually(functools.partial(has_ended, transport.get_pid()))
        transport.close()
        await protocol.lost
        codes.append(transport.get_returncode())
    if hasattr(loop, "stats"):  # asyncio says 255 and warns
        assert codes == [9] * 20
        assert "already read" not in caplog.text


@pytest.mark.ours  # asyncio of old waits in a thread, which is always first
async def test_somebody_else_waits_for_the_child(loop, caplog):
    with caplog.at_level(logging.WARNING, "asyncio"):
        process = await asyncio.create_subprocess_exec(*SLEEP)
        process.kill()
        os.waitpid(process.pid, 0)
        assert await process.wait() == 255
    assert "exit status already read" in caplog.text


async def test_nobody_waits_for_children(loop, caplog):
    """With SIGCHLD ignored the kernel forgets children at once."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        for _ in range(20):
            process = await asyncio.create_subprocess_exec("/bin/true")
            assert await process.wait() in (0, 255)
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_no_handler_and_no_thread(loop):
    """A child that is waited for takes neither."""
    before = signal.getsignal(signal.SIGCHLD)
    threads = threading.active_count()
    process = await asyncio.create_subprocess_exec(*SLEEP)
    await turns(5)
    assert signal.getsignal(signal.SIGCHLD) is before
    if hasattr(loop, "stats"):
        assert threading.active_count() == threads
    process.kill()
    await process.wait()


@pytest.mark.ours
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EMFILE, errno.ESRCH])
async def test_without_pidfds(loop, monkeypatch, error):
    """An old kernel, a sandbox, no descriptors left: a thread waits instead."""

    def refuse(pid, flags=0):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    processes = [await asyncio.create_subprocess_shell(f"cat; exit {i}", stdin=PIPE, stdout=PIPE) for i in range(10)]
    results = await asyncio.gather(*[process.communicate(payload(100_000, i)) for i, process in enumerate(processes)])
    assert [digest(out) for out, _ in results] == [digest(payload(100_000, i)) for i in range(10)]
    assert [process.returncode for process in processes] == list(range(10))
    process = await asyncio.create_subprocess_exec(*SLEEP)
    process.terminate()
    assert await process.wait() == -signal.SIGTERM


class Ordered(Noting):
    """Writes down when data comes, too."""

    def pipe_data_received(self, fd, data):
        self.calls.append(f"data {fd}")
        super().pipe_data_received(fd, data)


LAST_WORDS = "echo first; echo first >&2; read x; echo out; echo err >&2; exit 4"


@pytest.mark.ours  # asyncio tells of the end first, then
async def test_the_end_is_seen_before_the_last_words(loop):
    """By a syscall thread that is late, say: what a child wrote is told before that it has ended."""
    transport, protocol = await loop.subprocess_shell(Ordered, "read x; " + LAST_WORDS)
    outputs = [transport.get_pipe_transport(fd) for fd in (1, 2)]
    await turns(5)
    before = loop.stats()["in_flight"]
    for output in outputs:
        output.pause_reading()
    transport.get_pipe_transport(0).write(b"\n")
    # The first words end the polls of both pipes.
    await settle(lambda: loop.stats()["in_flight"] <= before - 2)
    transport.get_pipe_transport(0).write(b"\n")
    assert eventually(functools.partial(has_ended, transport.get_pid()))
    for output in outputs:
        loop.call_soon(output.resume_reading)
    await protocol.lost
    assert protocol.data == {1: b"first\nout\n", 2: b"first\nerr\n"}
    assert "exited" not in protocol.calls[: protocol.calls.index("data 2")]
    assert "exited" not in protocol.calls[: protocol.calls.index("data 1")]
    assert transport.get_returncode() == 4


@pytest.mark.ours
@pytest.mark.parametrize("pidfds", [True, False])
async def test_the_end_is_seen_before_the_pipes_are_connected(loop, monkeypatch, pidfds):
    open_pidfd = os.pidfd_open

    def open_late(pid, flags=0):
        assert eventually(functools.partial(has_ended, pid))
        if not pidfds:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return open_pidfd(pid, flags)

    monkeypatch.setattr(os, "pidfd_open", open_late)
    transport, protocol = await loop.subprocess_shell(Ordered, "echo out; echo err >&2; exit 4", stdin=None)
    await protocol.lost
    assert protocol.calls[0] == "made"
    assert sorted(protocol.calls[1:3]) == ["data 1", "data 2"]
    assert "exited" in protocol.calls[3:]
    assert transport.get_returncode() == 4


@pytest.mark.ours
@pytest.mark.parametrize("first", [1, 2])
async def test_the_end_of_a_pipe_is_seen_before_what_the_other_has(loop, first):
    """What was written to one before the other was closed is told before."""
    other = 3 - first
    command = f"read x; echo first >&{other}; read x; echo last >&{other}; exec {first}>&-; read x"
    transport, protocol = await loop.subprocess_shell(Ordered, command)
    output, stdin = transport.get_pipe_transport(other), transport.get_pipe_transport(0)
    await turns(5)
    before = loop.stats()["in_flight"]
    output.pause_reading()
    stdin.write(b"\n")
    await settle(lambda: loop.stats()["in_flight"] <= before - 1)
    stdin.write(b"\n")
    path = f"/proc/{transport.get_pid()}/fd/{first}"
    assert eventually(lambda: not os.path.exists(path))
    loop.call_soon(output.resume_reading)
    await settle(lambda: f"pipe {first}" in protocol.calls)
    assert protocol.calls == ["made", f"data {other}", f"pipe {first}"]
    assert protocol.data[other] == b"first\nlast\n"
    stdin.write(b"\n")
    await protocol.lost


async def test_who_reads_goes_on_before_who_waits(loop):
    process = await asyncio.create_subprocess_shell(LAST_WORDS, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert await process.stderr.readline() == b"first\n"
    order = []

    async def read():
        order.append(await process.stderr.readline())

    async def wait():
        order.append(await process.wait())

    tasks = [asyncio.create_task(wait()), asyncio.create_task(read())]
    await turns()
    process.stdin.write(b"\n")
    assert eventually(functools.partial(has_ended, process.pid))
    await asyncio.gather(*tasks)
    assert order == [b"err\n", 4]


# ---- many


@pytest.mark.timeout(120)
async def test_two_hundred_at_once(loop):
    async def one(i):
        process = await asyncio.create_subprocess_exec(*CAT, stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(payload(1000 + i, i))
        assert digest(out) == digest(payload(1000 + i, i))
        return await process.wait()

    assert await asyncio.gather(*map(one, range(200))) == [0] * 200


async def test_two_hundred_sleepers(loop):
    processes = [await asyncio.create_subprocess_exec(*SLEEP) for _ in range(200)]
    for i, process in enumerate(processes):
        process.send_signal(signal.SIGTERM if i % 2 else signal.SIGKILL)
    codes = await asyncio.gather(*[process.wait() for process in processes])
    assert codes == [-signal.SIGTERM if i % 2 else -signal.SIGKILL for i in range(200)]


def test_loops_of_other_threads(new_loop):
    """Each thread's loop waits for its own children."""
    results = []

    def work(number):
        loop = new_loop(fresh=True)

        async def main():
            command = f"cat; exit {number}"
            processes = [await asyncio.create_subprocess_shell(command, stdin=PIPE, stdout=PIPE) for _ in range(5)]
            for process in processes:
                out, _ = await process.communicate(payload(100_000, number))
                assert digest(out) == digest(payload(100_000, number))
                results.append(process.returncode)

        loop.run_until_complete(main())
        loop.close()

    if not hasattr(new_loop(), "stats") and sys.version_info < (3, 12):
        with asyncio.get_child_watcher():  # asyncio of old wants the watcher to be made in the main thread
            pass
    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5


# ---- options of Popen

REPORT = """
    import json, os, sys
    print(json.dumps({
        "cwd": os.getcwd(), "env": dict(os.environ), "sid": os.getsid(0), "pgid": os.getpgid(0), "pid": os.getpid(),
        "uid": os.getuid(), "gid": os.getgid(), "umask": os.umask(0), "argv0": sys.orig_argv[0],
        "fds": [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")],
        "blocked": open("/proc/self/status").read().split("SigBlk:")[1].split()[0],
    }))
"""


async def report(**options):
    """What a child sees that was started with `options`."""
    import json

    process = await asyncio.create_subprocess_exec(*python(REPORT), stdout=PIPE, **options)
    out, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(out)
    assert found["pid"] == process.pid
    return found


async def test_environment_and_folder(loop, tmp_path):
    found = await report(cwd=tmp_path, env={"ONE": "two"})
    assert found["cwd"] == str(tmp_path)
    assert found["env"].pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"
    assert found["env"] == {"ONE": "two"}


async def test_sessions_and_groups(loop):
    found = await report(start_new_session=True)
    assert found["sid"] == found["pid"] == found["pgid"]
    found = await report(process_group=0)
    assert found["pgid"] == found["pid"] and found["sid"] == os.getsid(0)
    found = await report()
    assert found["pgid"] == os.getpgid(0)


async def test_umask(loop):
    assert (await report(umask=0o27))["umask"] == 0o27


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
async def test_user_and_group(loop):
    process = await asyncio.create_subprocess_shell(
        "id -u; id -g; id -G", stdout=PIPE, cwd="/", user=65534, group=65533, extra_groups=[65532]
    )
    out, _ = await process.communicate()
    assert out.split() == [b"65534", b"65533", b"65533", b"65532"]


async def test_preexec_fn(loop):
    """Runs in the forked child, with the loop alive in the parent."""
    found = await report(preexec_fn=lambda: os.umask(0o31))
    assert found["umask"] == 0o31

    def fail():
        raise ZeroDivisionError

    with pytest.raises(subprocess.SubprocessError):
        await report(preexec_fn=fail)
    await echo()


async def test_executable_and_arguments(loop):
    arguments = ["name", "-c", "echo $0 $1", "a", "b c"]
    process = await asyncio.create_subprocess_exec(*arguments, executable="/bin/sh", stdout=PIPE)
    assert await process.communicate() == (b"a b c\n", None)
    process = await asyncio.create_subprocess_exec(b"/bin/echo", b"\xff", stdout=PIPE)
    assert await process.communicate() == (b"\xff\n", None)


async def test_pass_fds(loop):
    reading, writing = os.pipe()
    assert writing in (await report(pass_fds=[writing]))["fds"]
    source = f"import os; os.write({writing}, b'hello')"
    process = await asyncio.create_subprocess_exec(*python(source), pass_fds=[writing])
    assert await process.wait() == 0
    assert os.read(reading, 100) == b"hello"
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("close_fds", [True, False])
async def test_nothing_leaks_into_a_child(loop, close_fds):
    """Not the loop's own descriptors, nor connections, nor the pipes of other children."""
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    others = [await asyncio.create_subprocess_exec(*CAT, stdin=PIPE, stdout=PIPE, stderr=PIPE) for _ in range(3)]
    loop.add_signal_handler(signal.SIGUSR1, print)
    await loop.run_in_executor(None, int)
    inherited = {fd for fd in range(4096) if is_inheritable(fd)}
    for options in ({}, {"preexec_fn": int}, {"start_new_session": True}):
        found = set((await report(close_fds=close_fds, stdin=subprocess.DEVNULL, **options))["fds"])
        assert found - ({0, 1, 2} if close_fds else inherited | {1}) == set()
    loop.remove_signal_handler(signal.SIGUSR1)
    for other in others:
        assert await other.communicate(b"x") == (b"x", b"")
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def is_inheritable(fd):
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


# ---- what goes wrong


async def test_a_program_that_is_not_there(loop, tmp_path):
    for _ in range(20):
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec(tmp_path / "nothing", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    with pytest.raises(PermissionError):
        await asyncio.create_subprocess_exec(tmp_path)
    with pytest.raises(FileNotFoundError):
        await asyncio.create_subprocess_exec("/bin/true", cwd=tmp_path / "nothing")


async def test_wrong_arguments(loop):
    for options in (
        {"universal_newlines": True}, {"bufsize": 1}, {"shell": True}, {"text": True}, {"encoding": "utf-8"},
        {"errors": "strict"},
    ):
        with pytest.raises(ValueError):
            await loop.subprocess_exec(Noting, "/bin/true", **options)
    with pytest.raises(ValueError):
        await loop.subprocess_shell(Noting, "true", shell=False)
    with pytest.raises(ValueError):
        await loop.subprocess_shell(Noting, ["true"])
    with pytest.raises(TypeError):
        await asyncio.create_subprocess_exec("/bin/true", no_such_option=1)
    with pytest.raises(TypeError):
        await asyncio.create_subprocess_exec("/bin/true", 5)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4])
async def test_cancelled_while_it_is_started(loop, after):
    """Neither a child nor a zombie nor a descriptor is left."""
    for _ in range(5):
        starting = asyncio.ensure_future(asyncio.create_subprocess_exec(*SLEEP, stdin=PIPE, stdout=PIPE, stderr=PIPE))
        await turns(after)
        starting.cancel()
        try:
            process = await starting
        except asyncio.CancelledError:
            continue
        process.kill()
        await process.wait()


async def test_cancelled_wait(loop):
    process = await asyncio.create_subprocess_exec(*SLEEP)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.02)
    process.kill()
    assert await process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("size", [0, 1_000_000])
async def test_cancelled_communicate(loop, size):
    process = await asyncio.create_subprocess_exec(*SLEEP, stdin=PIPE, stdout=PIPE)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.communicate(payload(size)), 0.02)
    process.kill()
    await process.communicate()
    assert process.returncode == -signal.SIGKILL


async def test_output_that_nobody_reads_is_not_kept(loop):
    """The child is held up by its pipe instead."""
    process = await asyncio.create_subprocess_shell("head -c 50000000 /dev/zero; echo done", stdout=PIPE)
    await asyncio.sleep(0.1)
    assert process.returncode is None
    assert len(process.stdout._buffer) < 1_000_000
    assert digest(await process.stdout.read()) == digest(bytes(50_000_000) + b"done\n")
    assert await process.wait() == 0


@pytest.mark.ours
def test_a_loop_that_is_closed_with_a_child(new_loop):
    """Its descriptors go with it; the child is killed when its transport is dropped, as by asyncio."""
    loop = new_loop()
    process = loop.run_until_complete(asyncio.create_subprocess_exec(*SLEEP))
    pid = process.pid
    loop.run_until_complete(turns(5))
    loop.close()
    process._transport.close()
    assert eventually(lambda: has_ended(pid))
    os.waitpid(pid, 0)


def test_asyncio_run_ends_with_a_child(way):
    """A program that forgets its child ends all the same."""
    check_program(
        way,
        """
async def main():
    process = await asyncio.create_subprocess_exec("/bin/sleep", "1000", stdout=asyncio.subprocess.PIPE)
    print(process.returncode)
    process._transport.close()
run(main())
""",
        out="None\n",
    )


def test_a_child_watcher_is_not_needed(way):
    """Not even in a thread of a program whose main thread has no loop."""
    check_program(
        way,
        """
def work():
    async def main():
        process = await asyncio.create_subprocess_exec("/bin/echo", "hello", stdout=asyncio.subprocess.PIPE)
        print((await process.communicate())[0], process.returncode)
    run(main())

thread = threading.Thread(target=work)
thread.start()
thread.join()
""",
        out="b'hello\\n' 0\n",
    )


async def test_blocking_children_do_not_block_the_loop(loop):
    """Timers go on while children run."""
    process = await asyncio.create_subprocess_exec(*SLEEP)
    began = time.monotonic()
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert process.returncode is None
    assert time.monotonic() - began < 10
    process.kill()
    await process.wait()
