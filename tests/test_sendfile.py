"""sendfile over connections: the bytes, the file's position, pauses, cancels, peers that misbehave."""

import asyncio
import contextlib
import io
import os
import sys

import pytest
from support import digest, payload, settle, shrink, turns

SIZES = [1, 4096, 16 * 1024, 16 * 1024 + 1, 64 * 1024, 512 * 1024, 1024 * 1024, 3 * 1024 * 1024 + 7]
LARGE = 8 * 1024 * 1024
MOVES_ALWAYS = sys.version_info >= (3, 14)


async def sent_file(loop, transport, peer, *args, expect, **kwargs):
    """Send and receive; the number of bytes that sendfile returned."""
    receiving = asyncio.ensure_future(peer.recv(len(expect)))
    count = await loop.sendfile(transport, *args, **kwargs)
    assert digest(await receiving) == digest(expect)
    return count


# ---- over a connection


@pytest.mark.parametrize("size", SIZES)
async def test_whole_file(loop, connect, kind, make_file, size):
    transport, _, peer = await connect()
    file, data = make_file(size)
    assert await sent_file(loop, transport, peer, file, expect=data) == size
    assert file.tell() == size


@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, 1), (1, 2), (5000, None), (0, 100_000), (3000, 200_000), (299_999, None), (100_000, 1 << 40)],
)
async def test_part_of_a_file(loop, connect, make_file, offset, count):
    transport, _, peer = await connect()
    file, data = make_file(300_000)
    part = data[offset:] if count is None else data[offset : offset + count]
    assert await sent_file(loop, transport, peer, file, offset, count, expect=part) == len(part)
    assert file.tell() == offset + len(part)


@pytest.mark.parametrize("offset", [0, 1000, 3000])
@pytest.mark.parametrize("plain", [True, False], ids=["file", "other"])
async def test_a_file_that_stands_elsewhere(loop, connect, make_file, offset, plain):
    transport, _, peer = await connect()
    file, data = make_file(3000)
    if not plain:
        file = io.BytesIO(data)
    file.seek(123)
    begins = 123 if offset == 0 and not plain and not MOVES_ALWAYS else offset
    count = await sent_file(loop, transport, peer, file, offset, expect=data[begins:])
    assert count == len(data) - begins
    if offset < len(data) or not plain or MOVES_ALWAYS:
        assert file.tell() == offset + count
    else:
        assert file.tell() == 123


async def test_beyond_the_end(loop, connect, make_file):
    transport, _, peer = await connect()
    file, _ = make_file(1000)
    for offset in (1000, 5000):
        assert await loop.sendfile(transport, file, offset) == 0
    assert file.tell() == (5000 if MOVES_ALWAYS else 0)
    transport.write(b"after")
    assert await peer.recv(5) == b"after"


async def test_empty_file(loop, connect, make_file):
    transport, _, peer = await connect()
    file, _ = make_file(0)
    transport.write(b"before")
    assert await loop.sendfile(transport, file) == 0
    transport.write(b"after")
    assert await peer.recv(11) == b"beforeafter"


@pytest.mark.parametrize("before", [1, 300, 60_000, 100_000, 2_000_000])
@pytest.mark.parametrize("size", [100, 100_000, 1_500_000])
async def test_order_with_what_is_written_before_and_after(loop, connect, kind, make_file, before, size):
    transport, _, peer = await connect()
    file, data = make_file(size)
    head, tail = payload(before, 1), payload(5000, 2)
    receiving = asyncio.ensure_future(peer.recv(before + size + 5000))
    transport.write(head[: before // 2])
    transport.write(head[before // 2 :])
    assert await loop.sendfile(transport, file) == size
    transport.write(tail)
    assert digest(await receiving) == digest(head + data + tail)


async def test_many_files_one_after_the_other(loop, connect, kind, make_file):
    transport, _, peer = await connect()
    expect = []
    receiving = asyncio.ensure_future(peer.recv_all())
    for i in range(60):
        file, data = make_file(1 + i * i * 97)
        header = b"header %d\n" % i
        transport.write(header)
        assert await loop.sendfile(transport, file) == len(data)
        expect += [header, data]
    transport.close()
    assert digest(await receiving) == digest(b"".join(expect))


async def test_many_connections_send_the_same_file(loop, connect, make_file):
    file, data = make_file(LARGE // 4)
    pairs = [await connect() for _ in range(8)]

    async def one(i):
        transport, _, peer = pairs[i]
        receiving = asyncio.ensure_future(peer.recv(len(data) - i))
        assert await loop.sendfile(transport, file, i) == len(data) - i
        assert digest(await receiving) == digest(data[i:])

    await asyncio.gather(*map(one, range(8)))


async def test_slow_peer(loop, connect, kind, make_file):
    transport, _, peer = await connect(prepare=shrink)
    file, data = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(20)
    assert not sending.done()
    assert digest(await peer.recv(len(data))) == digest(data)
    assert await sending == len(data)
    assert file.tell() == len(data)


async def test_a_file_that_grows(loop, connect, make_file):
    transport, _, peer = await connect(prepare=shrink)
    file, data = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    with open(file.name, "ab") as more:
        more.write(b"more")
    assert digest(await peer.recv(len(data) + 4)) == digest(data + b"more")
    assert await sending == len(data) + 4


async def test_a_file_that_shrinks(loop, connect, make_file):
    """Fewer bytes than asked for are no error: the caller is told how many."""
    transport, _, peer = await connect(prepare=shrink)
    file, data = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sendfile(transport, file, 0, LARGE))
    await turns(5)
    os.truncate(file.name, LARGE // 2)
    receiving = asyncio.ensure_future(peer.recv_all())
    count = await sending
    assert count == LARGE // 2 == file.tell()
    transport.close()
    assert digest(await receiving) == digest(data[:count])


async def test_other_tasks_run_meanwhile(loop, connect, make_file):
    transport, _, peer = await connect()
    file, data = make_file(4 * LARGE)
    receiving = asyncio.ensure_future(peer.recv(len(data)))
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    count = 0
    while not sending.done():
        await asyncio.sleep(0)
        count += 1
    assert count > 5
    assert digest(await receiving) == digest(data)


async def test_writes_are_refused_meanwhile(loop, connect, make_file):
    transport, _, peer = await connect(prepare=shrink)
    file, data = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    with pytest.raises(RuntimeError, match="sendfile is in progress"):
        transport.write(b"x")
    assert digest(await peer.recv(len(data))) == digest(data)
    await sending
    transport.write(b"x")
    assert await peer.recv(1) == b"x"


@pytest.mark.ours  # asyncio fails with a KeyError
async def test_one_file_at_a_time(loop, connect, make_file):
    transport, _, peer = await connect(prepare=shrink)
    file, data = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    with pytest.raises(RuntimeError, match="in progress"):
        await loop.sendfile(transport, file)
    assert digest(await peer.recv(len(data))) == digest(data)
    assert await sending == len(data)


@pytest.mark.parametrize("paused", [False, True])
async def test_reading_is_paused_meanwhile(loop, connect, make_file, paused):
    transport, protocol, peer = await connect(prepare=shrink)
    file, data = make_file(LARGE)
    if paused:
        transport.pause_reading()
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    assert not transport.is_reading()
    await peer.send(b"hello")
    await turns(20)
    assert protocol.chunks == []
    assert digest(await peer.recv(len(data))) == digest(data)
    await sending
    assert transport.is_reading() is not paused
    transport.resume_reading()
    await protocol.until_received(5)
    assert protocol.data == b"hello"


async def test_protocol_is_resumed(loop, connect, make_file):
    """The protocol that was paused before the file may write again afterwards."""
    transport, protocol, peer = await connect(prepare=shrink)
    file, data = make_file(300_000)
    head = payload(1_000_000, 3)
    transport.write(head)
    assert protocol.calls[-1] == "pause"
    receiving = asyncio.ensure_future(peer.recv(1_300_000))
    await loop.sendfile(transport, file)
    assert digest(await receiving) == digest(head + data)
    await protocol.until_called("resume")


async def test_a_position_after_reading_through_a_buffer(loop, connect, make_file):
    transport, _, peer = await connect()
    file, data = make_file(100_000)
    assert await sent_file(loop, transport, peer, file, 10, 50_000, expect=data[10:50_010]) == 50_000
    assert file.tell() == 50_010
    assert file.read(5) == data[50_010:50_015]


async def test_unbuffered_file(loop, connect, make_file):
    transport, _, peer = await connect()
    file, data = make_file(200_000, buffering=0)
    assert await sent_file(loop, transport, peer, file, 7, expect=data[7:]) == len(data) - 7
    assert file.tell() == len(data)


# ---- what is no regular file


async def test_fallback_reads_other_files(loop, connect, kind):
    transport, protocol, peer = await connect()
    data = payload(1_000_000)
    file = io.BytesIO(data)
    assert await sent_file(loop, transport, peer, file, 5, 700_000, expect=data[5:700_005]) == 700_000
    assert file.tell() == 700_005
    assert transport.get_protocol() is protocol
    assert transport.is_reading()
    await peer.send(b"x")
    await protocol.until_received(1)


@pytest.mark.parametrize("count", [None, 300_000])
async def test_fallback_with_a_pipe(loop, connect, count):
    transport, _, peer = await connect()
    data = payload(300_000)
    reading, writing = os.pipe()
    with open(reading, "rb") as file:
        filling = asyncio.ensure_future(asyncio.to_thread(fill, writing, data))
        if loop_is_stdlib(loop):  # asyncio takes a pipe for an empty file
            await asyncio.gather(asyncio.to_thread(file.read), filling)
            return
        assert await sent_file(loop, transport, peer, file, 0, count, expect=data) == len(data)
        await filling


def loop_is_stdlib(loop):
    return type(loop).__module__.startswith("asyncio.")


def fill(fd, data):
    with open(fd, "wb") as file:
        file.write(data)


async def test_no_fallback(loop, connect):
    transport, _, peer = await connect()
    with pytest.raises(asyncio.SendfileNotAvailableError):
        await loop.sendfile(transport, io.BytesIO(b"data"), fallback=False)
    assert transport.is_reading()
    transport.write(b"x")
    assert await peer.recv(1) == b"x"


async def test_fallback_waits_for_a_slow_peer(loop, connect):
    """What is held in memory stays bounded."""
    transport, _, peer = await connect(prepare=shrink)
    file = io.BytesIO(payload(LARGE))
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await settle(lambda: transport.get_write_buffer_size() > 0)
    await turns(50)
    assert transport.get_write_buffer_size() <= 2 * 1024 * 1024
    assert digest(await peer.recv(LARGE)) == digest(file.getvalue())
    assert await sending == LARGE


async def test_fallback_is_told_that_the_peer_has_gone(loop, connect):
    transport, protocol, peer = await connect(prepare=shrink)
    sending = asyncio.ensure_future(loop.sendfile(transport, io.BytesIO(payload(LARGE))))
    await settle(lambda: transport.get_write_buffer_size() > 0)
    peer.reset()
    with pytest.raises(ConnectionError):
        await sending
    await protocol.until_called("lost")


async def test_cancelled_fallback(loop, connect):
    transport, protocol, _ = await connect(prepare=shrink)
    sending = asyncio.ensure_future(loop.sendfile(transport, io.BytesIO(payload(LARGE))))
    await settle(lambda: transport.get_write_buffer_size() > 0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert transport.get_protocol() is protocol
    assert transport.is_reading()


@pytest.mark.ours  # asyncio leaves the protocol without a word, and has it resumed once too often, or never
@pytest.mark.parametrize("paused_before", [False, True])
async def test_protocol_knows_after_a_cancelled_fallback_that_it_may_not_write(loop, connect, paused_before):
    transport, protocol, peer = await connect(prepare=shrink)
    if paused_before:
        transport.write(payload(LARGE))
    sending = asyncio.ensure_future(loop.sendfile(transport, io.BytesIO(payload(LARGE))))
    await settle(lambda: transport.get_write_buffer_size() > 0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert [name for name in protocol.calls if name in ("pause", "resume")] == ["pause"]
    transport.close()
    await peer.recv_all()
    await protocol.until_called("lost")
    assert [name for name in protocol.calls if name in ("pause", "resume")] == ["pause", "resume"]


# ---- cancels, and peers that misbehave


@pytest.mark.ours  # after a cancel asyncio leaves the position where it was
@pytest.mark.parametrize("after", [0, 1, 2, 7])
async def test_cancel(loop, connect, kind, make_file, after):
    """Nothing is sent after the cancel; what was sent is in order; the connection goes on."""
    transport, protocol, peer = await connect(prepare=shrink)
    file, data = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(after)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    sent = file.tell()
    assert sent < LARGE
    transport.write(b"the end")
    transport.close()
    assert digest(await peer.recv_all()) == digest(data[:sent] + b"the end")
    await protocol.until_called("lost")


@pytest.mark.ours  # asyncio's transport is of no use after this
async def test_cancel_while_earlier_data_waits(loop, connect, make_file):
    transport, protocol, peer = await connect(prepare=shrink)
    file, _ = make_file(LARGE)
    head = payload(3_000_000, 5)
    transport.write(head)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(10)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert file.tell() == 0
    transport.write(b"the end")
    transport.close()
    assert digest(await peer.recv_all()) == digest(head + b"the end")
    await protocol.until_called("lost")


@pytest.mark.ours  # after a cancel asyncio leaves the position where it was
async def test_cancel_a_hundred_times(loop, connect, make_file):
    """In steps, each cancelled a bit later: the parts join without a gap."""
    transport, _, peer = await connect(prepare=shrink)
    file, data = make_file(LARGE)
    receiving = asyncio.ensure_future(peer.recv(len(data)))
    done = 0
    for i in range(100):
        sending = asyncio.ensure_future(loop.sendfile(transport, file, done))
        await turns(1 + i % 5)
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        done = max(done, file.tell())
        if done == len(data):
            break
    if done < len(data):
        await loop.sendfile(transport, file, done)
    assert digest(await receiving) == digest(data)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_peer_vanishes(loop, connect, kind, make_file, how):
    transport, protocol, peer = await connect(prepare=shrink)
    file, _ = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    getattr(peer, how)()
    with pytest.raises(ConnectionError):
        await sending
    sent = file.tell()
    assert 0 < sent < LARGE
    transport.close()
    await protocol.until_called("lost")


async def test_abort_meanwhile(loop, connect, kind, make_file):
    transport, protocol, _ = await connect(prepare=shrink)
    file, _ = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    if loop_is_stdlib(loop):  # asyncio's sendfile goes on with a closed socket
        sending.cancel()
    transport.abort()
    with pytest.raises((ConnectionError, asyncio.CancelledError)):
        await sending
    await protocol.until_called("lost")


@pytest.mark.ours  # asyncio waits for ever
async def test_abort_while_earlier_data_waits(loop, connect, kind, make_file):
    transport, protocol, _ = await connect(prepare=shrink)
    file, _ = make_file(LARGE)
    transport.write(payload(3_000_000))
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    transport.abort()
    with pytest.raises(ConnectionError):
        await sending
    await protocol.until_called("lost")


@pytest.mark.ours  # asyncio drops the rest
async def test_close_meanwhile_sends_the_rest(loop, connect, kind, make_file):
    transport, protocol, peer = await connect(prepare=shrink)
    file, data = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    transport.close()
    assert digest(await peer.recv_all()) == digest(data)
    assert await sending == len(data)
    await protocol.until_called("lost")


async def test_closing_transport_is_refused(loop, connect, make_file):
    transport, protocol, _ = await connect()
    file, _ = make_file(10)
    transport.close()
    with pytest.raises(RuntimeError, match="closing"):
        await loop.sendfile(transport, file)
    await protocol.until_called("lost")


async def test_wrong_arguments(loop, connect, make_file, tmp_path):
    transport, _, _ = await connect()
    file, _ = make_file(10)
    for offset, count, error in [
        (-1, None, ValueError), (0, 0, ValueError), (0, -1, ValueError), ("0", None, TypeError), (0, "1", TypeError),
    ]:
        with pytest.raises(error):
            await loop.sendfile(transport, file, offset, count)
    (tmp_path / "text").write_text("text")
    with open(tmp_path / "text") as text, pytest.raises(ValueError, match="binary"):
        await loop.sendfile(transport, text)
    file.close()
    with pytest.raises(ValueError):
        await loop.sendfile(transport, file)
    assert transport.is_reading()


@pytest.mark.ours  # asyncio would send whatever file has that number by then
async def test_file_closed_meanwhile(loop, connect, make_file):
    transport, _, peer = await connect(prepare=shrink)
    file, data = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await turns(5)
    file.close()
    other, _ = make_file(LARGE)
    receiving = asyncio.ensure_future(peer.recv_all())
    with pytest.raises(ValueError):
        await sending
    transport.close()
    got = await receiving
    assert digest(got) == digest(data[: len(got)])
    assert other.tell() == 0


@pytest.mark.ours
@pytest.mark.parametrize("size", [5, 1_000_000])
async def test_headers_and_file_are_one_write_away(loop, connect, make_file, size):
    """The header is not held back when the file turns out to be empty by the time it is sent."""
    transport, _, peer = await connect()
    file, _ = make_file(size)
    os.truncate(file.name, 0)
    transport.write(b"header")
    began = loop.time()
    assert await loop.sendfile(transport, file, 0, size) == 0
    assert await peer.recv(6) == b"header"
    assert loop.time() - began < 0.15  # a header in the cork would wait for 0.2 s


@pytest.mark.ours
async def test_what_was_never_opened_is_refused(loop):
    from flexsc_loop.transports.sendfile import FileSend, send_over_stream

    with pytest.raises(RuntimeError):
        await FileSend().run()
    with pytest.raises((TypeError, AttributeError)):
        await send_over_stream(loop, object(), None, 0, None)


# ---- aiohttp


@pytest.mark.parametrize("asked", [None, (0, 99), (5, 20_000), (70_000, 2_999_999), (-500, None)])
async def test_aiohttp_static_route(loop, tmp_path, asked):
    web = pytest.importorskip("aiohttp.web")
    aiohttp = pytest.importorskip("aiohttp")
    data = payload(3_000_000)
    (tmp_path / "file").write_bytes(data)
    app = web.Application()
    app.router.add_static("/", tmp_path)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    headers, expect = {}, data
    if asked:
        first, last = asked
        headers["Range"] = f"bytes={first}" if last is None else f"bytes={first}-{last}"
        expect = data[first:] if last is None else data[first : last + 1]
    async with aiohttp.ClientSession() as session:
        url = "http://{}:{}/file".format(*runner.addresses[0])
        for _ in range(3):
            async with session.get(url, headers=headers) as response:
                assert response.status == (206 if asked else 200)
                assert digest(await response.read()) == digest(expect)
    await runner.cleanup()
