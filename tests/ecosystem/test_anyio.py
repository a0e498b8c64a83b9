"""anyio, unmodified, with the loop by `backend_options`."""

import signal
import socket
import ssl
import threading

import pytest
from support import payload

import flexsc_loop

anyio = pytest.importorskip("anyio")

from anyio import from_thread, to_thread  # noqa: E402
from anyio.streams.tls import TLSListener, TLSStream  # noqa: E402


@pytest.fixture
def run(way):
    def run(function, *arguments):
        async def main():
            import asyncio

            assert type(asyncio.get_running_loop()) is flexsc_loop.Loop or not way.ours
            with anyio.fail_after(25):
                return await function(*arguments)

        return anyio.run(main, backend_options={"loop_factory": way.new_loop})

    return run


async def echo(stream):
    async with stream:
        async for data in stream:
            await stream.send(data)


async def there_and_back(stream, data):
    async with anyio.create_task_group() as group:
        group.start_soon(stream.send, data)
        parts, size = [], 0
        while size < len(data):
            parts.append(await stream.receive())
            size += len(parts[-1])
    assert b"".join(parts) == data


def test_streams(run, tmp_path):
    async def main():
        async with anyio.create_task_group() as group:
            tcp = await anyio.create_tcp_listener(local_host="127.0.0.1")
            unix = await anyio.create_unix_listener(tmp_path / "s")
            for listener in (tcp, unix):
                group.start_soon(listener.serve, echo)
            port = tcp.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await there_and_back(stream, payload(2_000_000))
            async with await anyio.connect_unix(tmp_path / "s") as stream:
                await there_and_back(stream, payload(2_000_000))
            group.cancel_scope.cancel()
        await tcp.aclose()
        await unix.aclose()

    run(main)


def test_cancellation(run):
    """A receive that is cancelled loses nothing; a deadline is met; a shielded scope is let finish."""

    async def main():
        ours, theirs = socket.socketpair()
        async with await anyio.abc.SocketStream.from_socket(ours) as stream:
            with theirs:
                for number in range(50):
                    with anyio.move_on_after(0) as scope:
                        await stream.receive()
                    assert scope.cancelled_caught
                    theirs.send(payload(100, number))
                    assert await stream.receive() == payload(100, number)
        finished = []

        async def child():
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.01)
                    finished.append(True)

        with anyio.move_on_after(0.05):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(child)
        assert finished == [True] * 20
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.01):
                await anyio.sleep_forever()

    run(main)


def test_datagrams(run, tmp_path):
    async def main():
        async with await anyio.create_udp_socket(local_host="127.0.0.1") as server:
            port = server.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.create_connected_udp_socket("127.0.0.1", port) as client:
                for size in (1, 1000, 60_000):
                    await client.send(payload(size))
                    data, address = await server.receive()
                    assert data == payload(size)
                    await server.sendto(data[::-1], *address)
                    assert await client.receive() == data[::-1]

    run(main)


def test_threads(run):
    async def main():
        names = set()

        def work(number):
            names.add(threading.current_thread().name)
            return from_thread.run(double, number)

        async def double(number):
            await anyio.sleep(0)
            return 2 * number

        results = []

        async def one(number):
            results.append(await to_thread.run_sync(work, number))

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(one, number)
        assert sorted(results) == [2 * number for number in range(100)]
        assert threading.main_thread().name not in names

    run(main)


@pytest.mark.one_way
def test_processes_and_signals(run):
    async def main():
        done = await anyio.run_process(["cat"], input=payload(500_000))
        assert done.stdout == payload(500_000)
        async with await anyio.open_process(["sleep", "60"]) as process:
            process.terminate()
            assert await process.wait() == -signal.SIGTERM
        with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
            for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2):
                signal.raise_signal(number)
                assert await anext(signals) == number

    run(main)


@pytest.mark.one_way
def test_files(run, tmp_path):
    async def main():
        path = anyio.Path(tmp_path / "file")
        await path.write_bytes(payload(1_000_000))
        async with await anyio.open_file(path, "rb") as file:
            await file.seek(10)
            assert await file.read() == payload(1_000_000)[10:]
        assert [entry.name async for entry in anyio.Path(tmp_path).iterdir()] == ["file"]

    run(main)


@pytest.mark.one_way
def test_tls(run, authority):
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def main():
        async with anyio.create_task_group() as group:
            plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
            port = plain.extra(anyio.abc.SocketAttribute.local_port)
            listener = TLSListener(plain, serving)
            group.start_soon(listener.serve, echo)
            tcp = await anyio.connect_tcp("127.0.0.1", port)
            stream = await TLSStream.wrap(tcp, hostname="localhost", ssl_context=trusting)
            await there_and_back(stream, payload(500_000))
            await stream.aclose()
            group.cancel_scope.cancel()
        await listener.aclose()

    run(main)


@pytest.mark.one_way
def test_blocking_portal(way):
    """A loop in a thread of its own, called from this one."""

    async def who():
        import asyncio

        await anyio.sleep(0)
        return type(asyncio.get_running_loop())

    with from_thread.start_blocking_portal(backend_options={"loop_factory": way.new_loop}) as portal:
        assert {portal.call(who) for _ in range(50)} == ({flexsc_loop.Loop} if way.ours else {portal.call(who)})
        futures = [portal.start_task_soon(anyio.sleep, 0.01) for _ in range(50)]
        assert [future.result(20) for future in futures] == [None] * 50
