"""What debuggers, tracebacks, warnings and reprs show; and that nothing of ours is warned about."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import sys
import textwrap
import time
import traceback
import warnings
import weakref

import pytest
from support import PROGRAM, Echo, Recorder, run_python, turns

# -- tracebacks


class Failing(asyncio.Protocol):
    def __init__(self, where: str) -> None:
        self.where = where

    def fail(self, where: str) -> None:
        if where == self.where:
            raise ZeroDivisionError(where)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.fail("connection_made")

    def data_received(self, data: bytes) -> None:
        self.fail("data_received")

    def eof_received(self) -> None:
        self.fail("eof_received")

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("connection_lost")


class FailingBuffered(asyncio.BufferedProtocol):
    def get_buffer(self, sizehint: int) -> bytearray:
        return bytearray(10)

    def buffer_updated(self, nbytes: int) -> None:
        raise ZeroDivisionError


def frames(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


@pytest.mark.ours
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received", "connection_lost"])
async def test_errors_of_protocols_show_the_users_frames(loop, connect, errors, where, debug):
    loop.set_debug(debug)
    _, _, peer = await connect(lambda: Failing(where))
    await peer.send(b"x")
    peer.close()
    while not errors:
        await asyncio.sleep(0.001)
    assert frames(errors[0]["exception"])[-2:] == [where, "fail"]
    assert isinstance(errors[0]["protocol"], Failing)
    errors.clear()


async def test_errors_of_buffered_protocols_show_the_users_frames(loop, connect, errors):
    _, _, peer = await connect(FailingBuffered)
    await peer.send(b"x")
    while not errors:
        await asyncio.sleep(0.001)
    assert frames(errors[0]["exception"])[-1] == "buffer_updated"
    errors.clear()


@pytest.mark.ours
@pytest.mark.parametrize("how", ["soon", "later", "threadsafe", "reader"])
async def test_errors_of_callbacks_show_the_users_frames_and_where_they_came_from(loop, errors, how):
    loop.set_debug(True)

    def fail():
        raise ZeroDivisionError

    def fail_once():
        loop.remove_reader(ours)
        fail()

    ours, theirs = socket.socketpair()
    with ours, theirs:
        if how == "soon":
            loop.call_soon(fail)
        elif how == "later":
            loop.call_later(0, fail)
        elif how == "threadsafe":
            loop.call_soon_threadsafe(fail)
        else:
            ours.setblocking(False)
            loop.add_reader(ours, fail_once)
            theirs.send(b"x")
        while not errors:
            await asyncio.sleep(0.001)
        assert frames(errors[0]["exception"])[-1] == "fail"
        here = "test_errors_of_callbacks_show_the_users_frames_and_where_they_came_from"
        assert errors[0]["source_traceback"][-1].name == here
        assert errors[0]["handle"] is not None
    errors.clear()


async def test_the_default_exception_handler_in_debug_mode(loop, connect, caplog):
    """asyncio's handler asks the callback that runs for its origin; a delivery has none."""
    loop.set_debug(True)
    loop.set_exception_handler(None)
    with caplog.at_level(logging.ERROR, logger="asyncio"):
        _, protocol, peer = await connect(lambda: Failing("data_received"))
        await peer.send(b"x")
        while "Fatal error" not in caplog.text:
            await asyncio.sleep(0.001)
        loop.call_soon(protocol.fail, "data_received")
        await turns()
    assert "protocol.data_received() call failed" in caplog.text
    assert "ZeroDivisionError: data_received" in caplog.text
    assert "Exception in callback Failing.fail('data_received')" in caplog.text
    assert "Object created at (most recent call last)" in caplog.text
    assert "Unhandled error in exception handler" not in caplog.text
    assert "default exception handler" not in caplog.text


async def test_tasks_show_the_users_frames(loop):
    async def inner():
        await loop.create_future()

    async def outer():
        await inner()

    task = loop.create_task(outer(), name="mine")
    await turns()
    assert asyncio.current_task() is not task
    assert task in asyncio.all_tasks(loop)
    assert [frame.f_code.co_name for frame in task.get_stack()] == ["outer"]
    assert "mine" in repr(task) and "test_introspection.py" in repr(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert frames(caught.value)[-2:] == ["outer", "inner"]


def test_current_task_is_nobodys_between_runs(loop):
    async def me():
        return asyncio.current_task()

    task = loop.run_until_complete(me())
    assert isinstance(task, asyncio.Task)
    assert asyncio.current_task(loop) is None
    assert asyncio.all_tasks(loop) == set()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio's call graphs came with Python 3.14")
async def test_call_graph(loop):
    async def inner():
        return asyncio.capture_call_graph()

    async def outer():
        return await asyncio.create_task(inner(), name="inner task")

    task = asyncio.create_task(outer())
    graph = await task
    assert "inner" in str(graph.call_stack[0].frame)
    assert [waiter.future for waiter in graph.awaited_by] == [task]


# -- never retrieved


@pytest.mark.ours
@pytest.mark.parametrize("debug", [False, True])
def test_never_retrieved_exceptions_are_reported(loop, errors, debug):
    loop.set_debug(debug)

    async def fail():
        raise ZeroDivisionError

    async def main():
        loop.create_task(fail())
        loop.create_future().set_exception(ZeroDivisionError())
        await turns()

    loop.run_until_complete(main())
    gc.collect()
    assert sorted(error["message"] for error in errors) == [
        "Future exception was never retrieved",
        "Task exception was never retrieved",
    ]
    for error in errors:
        assert ("source_traceback" in error) is debug
        if debug:
            assert error["source_traceback"][-1].name == "main"
    errors.clear()


# -- slow callbacks


@pytest.mark.ours
async def test_slow_deliveries_are_reported_with_their_protocol(loop, connect, caplog):
    class Slow(asyncio.Protocol):
        def data_received(self, data):
            time.sleep(0.03)
            arrived.set()

    arrived = asyncio.Event()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.02
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        _, _, peer = await connect(Slow)
        peer.send_now(b"x")
        await arrived.wait()
        await turns()
    assert "Executing <StreamTransport open fd=" in caplog.text
    assert "Slow object at" in caplog.text


@pytest.mark.ours
async def test_slow_readers_are_reported_with_their_callback(loop, caplog):
    def slow_reader():
        loop.remove_reader(ours)
        time.sleep(0.03)
        arrived.set()

    arrived = asyncio.Event()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.02
    ours, theirs = socket.socketpair()
    with ours, theirs, caplog.at_level(logging.WARNING, logger="asyncio"):
        ours.setblocking(False)
        loop.add_reader(ours, slow_reader)
        theirs.send(b"x")
        await arrived.wait()
        await turns()
    assert "Executing <reader fd=" in caplog.text


# -- handles


@pytest.mark.ours
def test_a_handle_keeps_its_repr_but_not_its_callback(loop):
    class Callback:
        def __call__(self):
            pass

        def __repr__(self):
            return "the callback"

    loop.set_debug(True)
    callback = Callback()
    handle = loop.call_soon(callback)
    gone = weakref.ref(callback)
    del callback
    loop.run_until_complete(turns())
    gc.collect()
    assert gone() is None
    assert "the callback" in repr(handle) and "created at" in repr(handle)


def test_a_handle_that_is_used_again_has_no_past(loop, errors):
    """Made in debug mode, run outside of it; and cancelled in debug mode."""

    def fail():
        raise ZeroDivisionError

    loop.set_debug(True)
    for _ in range(20):
        loop.call_soon(int)
        loop.call_soon(int).cancel()
    loop.set_debug(False)
    loop.run_until_complete(turns())
    handles = [loop.call_soon(fail) for _ in range(40)]
    assert not any("created at" in repr(handle) or "cancelled" in repr(handle) for handle in handles)
    loop.run_until_complete(turns())
    assert len(errors) == 40
    assert not any("source_traceback" in error for error in errors)
    errors.clear()


@pytest.mark.ours
def test_tools_can_look_at_what_waits(loop):
    assert loop._ready == [] and [handle for handle in loop._scheduled if not handle.cancelled()] == []
    soon, later = loop.call_soon(int), loop.call_later(10, int)
    assert soon in loop._ready and later in loop._scheduled
    loop._ready.clear()  # a copy
    assert soon in loop._ready
    loop.run_until_complete(turns())
    assert soon not in loop._ready and later in loop._scheduled
    later.cancel()


def test_one_turn_at_a_time(loop):
    """Some tools run the loop by its private method."""
    done = []
    loop.call_soon(done.append, 1)
    loop._run_once()
    assert done == [1]
    handle = asyncio.Handle(done.append, (2,), loop)
    loop._add_callback(handle)
    loop._run_once()
    assert done == [1, 2]


# -- reprs


@pytest.mark.ours
def test_repr_of_the_loop(loop, way):
    text = repr(loop)
    assert text.startswith("<Loop running=False closed=False debug=False ")
    assert f"{way.pages} page" in text
    assert ("the own thread" if way.threads == "off" else f"on CPU {way.threads}") in text


@pytest.mark.ours
async def test_repr_of_who_owns_a_descriptor(loop, connect):
    transport, _, _ = await connect()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    sock = server.sockets[0]
    with pytest.raises(RuntimeError, match=rf"<StreamTransport open fd={transport.get_extra_info('socket').fileno()} "):
        loop.add_reader(transport.get_extra_info("socket"), int)
    with pytest.raises(
        RuntimeError, match=rf"<Listener fd={sock.fileno()} \('127\.0\.0\.1', {sock.getsockname()[1]}\)"
    ):
        loop.add_reader(sock, int)
    server.close()
    await server.wait_closed()


# -- warnings


@pytest.mark.ours
async def test_unclosed_transports_are_warned_about(loop):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        with pytest.warns(ResourceWarning, match="unclosed transport <StreamTransport open"):
            transport.__del__()
        transport.close()
        await turns(5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            transport.__del__()


@pytest.mark.ours
def test_unclosed_servers_are_warned_about(new_loop):
    loop = new_loop()
    loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0))
    with pytest.warns(ResourceWarning, match="unclosed server <Listener fd="):
        loop.close()


@pytest.mark.ours
def test_warnings_as_errors_leave_a_closed_loop(new_loop):
    loop = new_loop()
    loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ResourceWarning):
            loop.close()
    assert loop.is_closed()
    loop.close()


EVERYTHING = """
import asyncio.subprocess, signal, ssl, subprocess, tempfile, trustme

class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.got = asyncio.get_running_loop().create_future()
    def datagram_received(self, data, address):
        if not self.got.done():
            self.got.set_result(data)

async def lines(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()
    await writer.wait_closed()

async def ask(*args, **kwargs):
    reader, writer = await asyncio.open_connection(*args, **kwargs)
    writer.write(b"hello\\n")
    assert await reader.read() == b"hello\\n"
    writer.close()
    await writer.wait_closed()

async def tls():
    authority = trustme.CA()
    server_side, client_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server_side)
    authority.configure_trust(client_side)
    async with await asyncio.start_server(lines, "127.0.0.1", 0, ssl=server_side) as server:
        await ask(*server.sockets[0].getsockname(), ssl=client_side, server_hostname="localhost")

async def unix(folder):
    server = await asyncio.start_unix_server(lines, folder + "/socket")
    reader, writer = await asyncio.open_unix_connection(folder + "/socket")
    writer.write(b"hello\\n")
    assert await reader.read() == b"hello\\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()

async def datagrams():
    loop = asyncio.get_running_loop()
    one, receiver = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    two, _ = await loop.create_datagram_endpoint(Datagrams, remote_addr=one.get_extra_info("sockname"))
    two.sendto(b"hello")
    assert await receiver.got == b"hello"
    one.close()
    two.close()
    await asyncio.sleep(0.01)

async def children():
    child = await asyncio.create_subprocess_exec("/bin/cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert await child.communicate(b"hello") == (b"hello", None)
    assert await (await asyncio.create_subprocess_shell("exit 3")).wait() == 3

async def sockets():
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        await loop.sock_sendall(one, b"hello")
        assert await loop.sock_recv(two, 100) == b"hello"
        arrived = asyncio.Event()
        loop.add_reader(one, arrived.set)
        await loop.sock_sendall(two, b"x")
        await arrived.wait()
        loop.remove_reader(one)
        waiting = asyncio.ensure_future(loop.sock_recv(two, 100))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])

async def rest():
    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(sum, [1, 2]) == 3
    assert await loop.run_in_executor(None, int) == 0
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await came.wait()
    loop.remove_signal_handler(signal.SIGUSR1)
    try:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    except TimeoutError:
        pass

async def main():
    loop = asyncio.get_running_loop()
    assert loop.get_debug()
    loop.slow_callback_duration = 60
    with tempfile.TemporaryDirectory() as folder:
        await unix(folder)
    await asyncio.gather(echo(), tls(), datagrams(), children(), sockets(), rest())
    # Servers' handlers may be closing still; Python 3.11 complains of those that are cancelled then.
    for _ in range(1000):
        if len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.001)
    assert len(asyncio.all_tasks()) == 1
"""


def quiet(source: str, way) -> None:
    """A program that ends well and says nothing, in development mode, with warnings as errors."""
    strict = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}
    end = run_python(f"{way.prelude()}\n{PROGRAM}\n{textwrap.dedent(source)}", env=strict, timeout=40)
    assert (end.code, end.err) == (0, ""), end.err


def test_no_warning_of_ours_in_development_mode(way):
    quiet(EVERYTHING + "\nrun(main())\n", way)


def test_no_warning_of_ours_from_several_runs(way):
    quiet(
        EVERYTHING
        + textwrap.dedent(
            """
            for _ in range(2):
                loop = new_loop()
                loop.set_debug(True)
                for _ in range(2):
                    loop.run_until_complete(main())
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
                loop.close()
            """
        ),
        way,
    )


@pytest.mark.ours
def test_importing_warns_of_nothing(way):
    """Neither do the ways to choose the loop that need no policy."""
    source = """
    import io, unittest
    import flexsc_loop.__main__

    class Case(unittest.IsolatedAsyncioTestCase):
        loop_factory = staticmethod(flexsc_loop.new_event_loop)
        async def test(self):
            assert sys.version_info < (3, 13) or type(asyncio.get_running_loop()) is flexsc_loop.Loop

    with asyncio.Runner(loop_factory=flexsc_loop.new_event_loop) as runner:
        assert type(runner.get_loop()) is flexsc_loop.Loop
        runner.run(asyncio.sleep(0))
    if sys.version_info >= (3, 12):
        asyncio.run(asyncio.sleep(0), loop_factory=flexsc_loop.Loop)
    flexsc_loop.run(asyncio.sleep(0))
    assert unittest.TextTestRunner(io.StringIO()).run(Case("test")).wasSuccessful()
    """
    quiet(source, way)


@pytest.mark.ours
def test_no_policies_needed(way):
    """As Python 3.16 will be: without policies."""
    source = """
    import asyncio.events
    for name in ("DefaultEventLoopPolicy", "set_event_loop_policy", "get_event_loop_policy"):
        for module in (asyncio, asyncio.events):
            vars(module).pop(name, None)
    if sys.version_info >= (3, 14):
        del asyncio.__getattr__
    import flexsc_loop
    assert flexsc_loop.run(asyncio.sleep(0, 5)) == 5
    try:
        flexsc_loop.FlexSCPolicy()
    except RuntimeError as error:
        assert "loop_factory" in str(error)
    else:
        raise AssertionError
    flexsc_loop.install()
    assert asyncio.EventLoop is flexsc_loop.Loop
    """
    end = run_python("import asyncio, sys\n" + textwrap.dedent(source), env=way.environment())
    assert end.code == 0, end.err


@pytest.mark.ours
def test_a_loop_with_signal_handlers_left_to_the_interpreters_end(way):
    """Too late to remove the handlers: asyncio says so, too."""
    source = """
    import signal
    loop = new_loop()
    loop.add_signal_handler(signal.SIGUSR1, int)

    class AtTheEnd:
        def __del__(self, close=loop.close, finalizing=sys.is_finalizing):
            assert finalizing()
            close()

    at_the_end = AtTheEnd()
    del loop
    """
    end = run_python(f"{way.prelude()}\n{PROGRAM}\n{textwrap.dedent(source)}", env={"PYTHONWARNINGS": "default"})
    assert end.code == 0, end.err
    assert "skipping signal handlers removal" in end.err
    assert "Traceback" not in end.err


# -- what tests replace


def test_the_clock_can_be_replaced(loop):
    """By a mock for `loop.time`: timers follow it."""
    fired = []
    now = loop.time()
    loop.call_later(1000, fired.append, 1)
    loop.run_until_complete(turns())
    assert fired == []
    loop.time = lambda: now + 1001
    try:
        loop.call_at(now + 1002, fired.append, 2)
        loop.run_until_complete(turns())
        assert fired == [1]
        loop.time = lambda: now + 1003
        loop.run_until_complete(turns())
        assert fired == [1, 2]
        loop.call_later(5, fired.append, 3).cancel()
    finally:
        del loop.time
    assert loop.time() - now < 500


@pytest.mark.ours
def test_a_class_can_have_its_own_clock(way):
    import flexsc_loop

    class Advanced(flexsc_loop.Loop):
        offset = 0

        def time(self):
            return self.offset + super().time()

    async def main():
        waiting = asyncio.ensure_future(asyncio.sleep(500, "woken"))
        await turns()
        loop.offset = 600
        return await waiting

    loop = Advanced(pages=way.pages, threads=way.threads)
    with contextlib.closing(loop):
        assert loop.run_until_complete(main()) == "woken"


async def test_methods_of_transports_can_be_replaced(loop, connect):
    transport, protocol, peer = await connect()
    written = []
    transport.write = written.append
    protocol.transport.write(b"x")
    assert written == [b"x"]
    del transport.write
    transport.write(b"y")
    assert await peer.recv(1) == b"y"


@pytest.mark.parametrize("name", ["call_soon", "create_task", "call_exception_handler"])
async def test_methods_of_the_loop_can_be_replaced(loop, name):
    calls = []
    setattr(loop, name, lambda *args, **kwargs: calls.append(args))
    getattr(loop, name)(1)
    delattr(loop, name)
    assert calls == [(1,)]


async def test_recorders_are_told_in_debug_mode_what_they_are_told_without(loop, connect):
    loop.set_debug(True)
    transport, protocol, peer = await connect(Recorder)
    await peer.send(b"hello")
    await protocol.until_received(5)
    transport.pause_reading()
    transport.resume_reading()
    peer.close()
    await protocol.until_called("lost")
    assert protocol.calls == ["made", "data", "eof", "lost"]
