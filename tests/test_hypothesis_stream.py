"""Generated sequences of calls on a transport, compared with a model of what must arrive."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import Recorder, digest, payload, shrink, tcp_pair, turns, unix_pair

sizes = st.one_of(
    st.integers(1, 200),
    st.integers(4000, 4200),
    st.sampled_from([1, 16384, 65535, 65536, 65537, 262143, 262145]),
    st.integers(1, 400_000),
)
steps = st.one_of(
    st.tuples(st.just("write"), sizes),
    st.tuples(st.just("write bytearray"), sizes),
    st.tuples(st.just("writelines"), st.lists(sizes, max_size=5)),
    st.tuples(st.just("pause"), st.none()),
    st.tuples(st.just("resume"), st.none()),
    st.tuples(st.just("turns"), st.integers(1, 4)),
    st.tuples(st.just("limits"), st.integers(0, 100_000)),
    st.tuples(st.just("switch protocol"), st.none()),
)
endings = st.sampled_from(["close", "eof, close", "eof, wait, close"])


@dataclass
class End:
    """One end of a connection and what the model says that it sent."""

    transport: asyncio.Transport
    protocol: Recorder
    vectored: bool
    sent: list[bytes] = field(default_factory=list)
    earlier: list[Recorder] = field(default_factory=list)

    @property
    def received(self):
        return b"".join(p.data for p in [*self.earlier, self.protocol])

    def apply(self, step, argument, number):
        transport = self.transport
        if step == "write":
            data = payload(argument, number)
            transport.write(data)
            self.sent.append(data)
        elif step == "write bytearray":
            data = bytearray(payload(argument, number))
            self.sent.append(bytes(data))
            transport.write(data)
        elif step == "writelines":
            parts = [payload(size, number + i) for i, size in enumerate(argument)]
            if self.vectored:
                transport.writelines(parts)
            else:
                transport.write(b"".join(parts))
            self.sent += parts
        elif step == "pause":
            transport.pause_reading()
        elif step == "resume":
            transport.resume_reading()
        elif step == "limits":
            transport.set_write_buffer_limits(high=argument)
        elif step == "switch protocol":
            fresh = Recorder(keep_open=True)
            fresh.transport = transport
            self.earlier.append(self.protocol)
            self.protocol = fresh
            transport.set_protocol(fresh)


async def connected(loop, pair, small, vectored):
    ends = []
    for sock in pair:
        if small:
            shrink(sock)
        sock.setblocking(False)
        transport, protocol = await loop.connect_accepted_socket(lambda: Recorder(keep_open=True), sock)
        ends.append(End(transport, protocol, vectored))
    return ends


async def play(loop, pair, small, vectored, script, ending):
    ends = await connected(loop, pair, small, vectored)
    for number, (which, (step, argument)) in enumerate(script):
        if step == "turns":
            await turns(argument)
            continue
        end = ends[which]
        paused = not end.transport.is_reading()
        seen = len(end.received)
        end.apply(step, argument, number)
        if paused and step != "resume":
            assert len(end.received) == seen
        assert end.transport.is_reading() is not (step == "pause" or (paused and step != "resume"))
    for one, other in (ends, ends[::-1]):
        one.transport.resume_reading()
        other.transport.resume_reading()
        if ending.startswith("eof"):
            one.transport.write_eof()
    if ending == "close":
        # Closing with unread data would reset the connection: wait for all of it first.
        for one, other in (ends, ends[::-1]):
            total = sum(map(len, one.sent))
            await other.protocol.until(lambda other=other, total=total: len(other.received) >= total)
    else:
        for end in ends:
            await end.protocol.until_called("eof")
    if ending == "eof, wait, close":
        await turns(3)
    for end in ends:
        end.transport.close()
    for end in ends:
        await end.protocol.until_called("lost")
    for one, other in (ends, ends[::-1]):
        assert digest(other.received) == digest(b"".join(one.sent))
        assert one.protocol.calls[-1] == "lost"
        assert one.protocol.exc is None
        for earlier in one.earlier:
            assert "lost" not in earlier.calls


@pytest.mark.parametrize("small", [False, True], ids=["usual", "small"])
def test_generated_conversations(way, loop, kind, small):
    @settings(
        max_examples=25,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.tuples(st.integers(0, 1), steps), max_size=25), endings)
    def converse(script, ending):
        pair = tcp_pair() if kind == "tcp" else unix_pair()
        loop.run_until_complete(asyncio.wait_for(play(loop, pair, small, way.writelines_works, script, ending), 20))

    converse()
