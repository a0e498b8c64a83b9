"""A page changes hands while the loop runs: nothing is lost, and who decides does as the scheduler says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sandbox import io_uring_blocked
from support import Echo, HandChanger, eventually, payload, spare_cpu, thread_names, turns

import flexsc_loop
from flexsc_loop.insight import read
from flexsc_loop.scheduler.decider import MS, WINDOW_NS, Decision, Load, Machine, State
from flexsc_loop.scheduler.lease import Lease
from flexsc_loop.scheduler.pilot import Pilot
from flexsc_loop.scheduler.signals import Signals

pytestmark = pytest.mark.ours


def threads_of_pages() -> list[str]:
    return [name for name in thread_names().values() if name.startswith(("flexsc-page", "iou-sqp-"))]


@pytest.fixture(params=["user", "kernel"])
def pages(request: pytest.FixtureRequest) -> str:
    if request.param == "kernel" and io_uring_blocked():
        pytest.skip("io_uring is blocked on this machine")
    return str(request.param)


@pytest.fixture
def loop(pages: str) -> Iterator[Any]:
    """One whose page changes hands when a test says so."""
    loop = flexsc_loop.new_event_loop(pages=pages, threads="auto")
    loop._steer(None)
    yield loop
    loop.close()


ROUNDS = 6


@pytest.fixture
def many() -> Iterator[int]:
    """A thousand, for pairs of sockets; fewer where fewer files may be open."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2200
    if soft < wanted:
        soft = min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    yield min(1000, (soft - 200) // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


# ---- the page

def test_to_a_thread_and_back(loop: Any) -> None:
    loop.run_until_complete(turns())
    for _ in range(20):
        loop.page.change_hands(spare_cpu())
        assert eventually(threads_of_pages)
        loop.run_until_complete(asyncio.sleep(0))
        loop.page.change_hands(None)
        loop.page.let_go()
        loop.run_until_complete(asyncio.sleep(0))
        assert eventually(lambda: not threads_of_pages())
    assert loop.page.thread_id() == 0


def test_from_one_cpu_to_another(loop: Any) -> None:
    for cpu in sorted(os.sched_getaffinity(0)):
        loop.page.change_hands(cpu)
        assert eventually(lambda: loop.page.thread_id() > 0)
        assert eventually(lambda cpu=cpu: os.sched_getaffinity(loop.page.thread_id()) == {cpu})
    assert eventually(lambda: len(threads_of_pages()) == 1)


def test_no_such_cpu(loop: Any) -> None:
    for before in (None, spare_cpu()):
        loop.page.change_hands(before)
        with pytest.raises(OSError, match="no syscall thread on CPU 100000") as caught:
            loop.page.change_hands(100_000)
        assert caught.value.errno == errno.EINVAL
        assert not loop.page.eager
        loop.run_until_complete(asyncio.sleep(0.001))
        assert eventually(lambda: not threads_of_pages())
        loop.run_until_complete(asyncio.sleep(0.001))


def test_a_closed_page_does_not_change_hands(loop: Any) -> None:
    loop.close()
    with pytest.raises(RuntimeError):
        loop.page.change_hands(spare_cpu())


def test_a_kernel_page_whose_hands_were_chosen_stays_as_it_was_opened() -> None:
    for threads in ("off", str(spare_cpu())):
        loop = flexsc_loop.new_event_loop(threads=threads)
        if loop.choice.kind == "kernel":
            with pytest.raises(OSError):
                loop.page.change_hands(spare_cpu())
            loop.run_until_complete(turns())
        loop.close()


async def talk(port: int, seed: int, size: int) -> None:
    chance = random.Random(seed)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = payload(size, seed)
    got = bytearray()

    async def write() -> None:
        at = 0
        while at < size:
            step = chance.choice([1, 100, 5_000, 70_000])
            writer.write(sent[at : at + step])
            at += step
            if chance.random() < 0.3:
                await writer.drain()
        writer.write_eof()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        while data := await reader.read(chance.choice([10, 1_000, 100_000])):
            got += data
    assert bytes(got) == sent
    writer.close()
    await writer.wait_closed()


class EchoToTheEnd(Echo):
    def eof_received(self) -> bool:
        return False


@pytest.mark.parametrize("goes_on_with", ["a thread", "the own thread"])
def test_another_thread_runs_a_loop_whose_page_has_changed_hands(loop: Any, goes_on_with: str) -> None:
    async def serve() -> Any:
        return await loop.create_server(EchoToTheEnd, "127.0.0.1", 0)

    server = loop.run_until_complete(serve())
    port = server.sockets[0].getsockname()[1]
    loop.page.change_hands(spare_cpu())
    loop.run_until_complete(talk(port, 1, 100_000))
    if goes_on_with == "the own thread":
        loop.page.change_hands(None)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(talk(port, 2, 100_000))
        except BaseException as error:
            failures.append(error)

    for _ in range(2):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert not failures
    loop.page.change_hands(None)
    loop.run_until_complete(talk(port, 3, 100_000))
    server.close()
    loop.run_until_complete(server.wait_closed())


@pytest.mark.parametrize("to", ["a thread", "the own thread"])
def test_a_page_changes_hands_after_a_run_and_another_thread_closes_the_loop(loop: Any, to: str) -> None:
    def run() -> None:
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.page.change_hands(spare_cpu())
        if to == "the own thread":
            loop.page.change_hands(None)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    loop.close()
    assert eventually(lambda: not threads_of_pages())


def test_no_byte_is_lost_or_out_of_order_and_no_connection_dropped(loop: Any) -> None:
    changer = HandChanger(loop, 200_000)
    loop._steer(changer)

    async def main() -> None:
        server = await loop.create_server(EchoToTheEnd, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        round_ = 0
        while changer.changes < 60:
            round_ += 1
            await asyncio.gather(*(talk(port, 100 * round_ + i, 300_000) for i in range(40)))
        server.close()
        await server.wait_closed()

    loop.run_until_complete(asyncio.wait_for(main(), 40))


def test_a_thousand_connections_while_the_page_changes_hands(loop: Any, many: int) -> None:
    """Each has a receive in flight, which moves; of what comes meanwhile nothing is lost, and nothing is overtaken."""
    changer = HandChanger(loop, 2 * MS)

    async def changed(times: int) -> None:
        while changer.changes < times:
            await asyncio.sleep(0.001)

    async def main() -> None:
        pairs = [socket.socketpair() for _ in range(many)]
        got: list[bytearray] = [bytearray() for _ in pairs]
        whole = loop.create_future()
        missing = many * ROUNDS * 4

        class Gathers(asyncio.Protocol):
            def __init__(self, number: int) -> None:
                self.number = number

            def data_received(self, data: bytes) -> None:
                nonlocal missing
                got[self.number] += data
                missing -= len(data)
                if missing == 0:
                    whole.set_result(None)

        ends = [await loop.create_connection(lambda number=number: Gathers(number), sock=pairs[number][0])
                for number in range(many)]
        chance = random.Random(7)
        for round_ in range(ROUNDS):
            await changed(round_ + 1)
            for number in chance.sample(range(many), many):
                pairs[number][1].send(round_.to_bytes(4))
                if number % 50 == 0:
                    await asyncio.sleep(0)
        await whole
        expected = b"".join(round_.to_bytes(4) for round_ in range(ROUNDS))
        assert all(bytes(each) == expected for each in got)
        for transport, _ in ends:
            transport.abort()
        for _, peer in pairs:
            peer.close()

    loop._steer(changer)
    loop.run_until_complete(asyncio.wait_for(main(), 40))
    assert changer.changes >= ROUNDS


def test_what_was_in_flight_before_is_answered_after(loop: Any) -> None:
    async def main() -> None:
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ends = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for cpu in (spare_cpu(), None) * 5:
            # Each end has a receive in flight on both sides.
            loop.page.change_hands(cpu)
            for reader, writer in ends:
                writer.write(b"again")
                assert await reader.readexactly(5) == b"again"
        for _, writer in ends:
            writer.close()
        server.close()

    loop.run_until_complete(asyncio.wait_for(main(), 30))


HOG = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
print(flush=True)
import time
end = time.monotonic() + 4
while time.monotonic() < end:
    pass
"""


@contextlib.contextmanager
def hogged(cpu: int) -> Iterator[None]:
    """Somebody else has the CPU, for seconds or until the block ends.  Skips where that is not allowed."""
    command = [sys.executable, "-c", HOG, str(cpu)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as hog:
        assert hog.stdout is not None
        if not hog.stdout.readline():
            pytest.skip("real-time priorities are not allowed here")
        try:
            yield
        finally:
            hog.kill()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the hog needs a CPU of its own")
def test_a_thread_that_does_not_get_to_run_is_replaced_all_the_same(loop: Any) -> None:
    """Whoever has its CPU, and however, the loop need not wait for it to let go."""
    allowed, spare = os.sched_getaffinity(0), spare_cpu()
    here = min(allowed - {spare})
    os.sched_setaffinity(0, {here})
    try:
        with hogged(spare):
            began = time.monotonic()
            for _ in range(3):
                loop.page.change_hands(spare)
                loop.page.change_hands(None)
            took = time.monotonic() - began
        # The kernel would let others have the CPU for 50 ms in each second.
        assert took < 0.5
    finally:
        os.sched_setaffinity(0, allowed)
    loop.run_until_complete(asyncio.sleep(0.001))


class Notes:
    """In place of the pilot: asks to be called in an hour, and notes how late the thread was when it is called."""

    steers = True
    late_look_ns = 10 * MS

    def __init__(self) -> None:
        self.late: list[int] = []

    def look(self, loop_cpu: int, messages: int, received: int, waited: float, late_ns: int) -> int:
        self.late.append(late_ns)
        return 3_600_000 * MS


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the hog needs a CPU of its own")
def test_a_late_thread_is_noticed_before_the_next_look_is_due(loop: Any) -> None:
    allowed, spare = os.sched_getaffinity(0), spare_cpu()
    here = min(allowed - {spare})
    notes = Notes()

    async def talk_until_noticed() -> None:
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        while len(notes.late) == 1:
            writer.write(b"again")
            assert await reader.readexactly(5) == b"again"
        writer.close()
        server.close()

    os.sched_setaffinity(0, {here})
    try:
        with hogged(spare):
            loop._steer(notes)
            loop.run_until_complete(asyncio.sleep(0.15))
            assert notes.late == [0]
            loop.page.change_hands(spare)
            loop.run_until_complete(asyncio.wait_for(talk_until_noticed(), 20))
            loop._steer(None)
            loop.page.change_hands(None)
    finally:
        os.sched_setaffinity(0, allowed)
    assert notes.late[-1] >= 9 * MS


# ---- the pilot

class FakePage:
    def __init__(self) -> None:
        self.hands: list[int | None] = []
        self.refuses = False

    def change_hands(self, cpu: int | None) -> None:
        if self.refuses and cpu is not None:
            raise OSError(errno.EAGAIN, "no more threads")
        self.hands.append(cpu)

    def let_go(self) -> None:
        pass

    def thread_id(self) -> int:
        return 0

    def thread_cpu_ns(self) -> int:
        return 0


class FakeServed:
    cpu: int | None = None


class FakeSignals(Signals):
    """Says that the CPUs of `best` are idle."""

    def __init__(self, best: list[int]) -> None:
        self.best = best
        self.asked = 0
        self.homes: list[int] = []

    def machine(self, loop_cpu: int, thread_cpu: int | None, tid: int, elapsed_ns: int) -> tuple[Machine, list[int]]:
        self.asked += 1
        self.homes.append(loop_cpu)
        return Machine(8, 8.0, False, 0.0, 0.0, thread_cpu if thread_cpu is not None else self.best[0], 1.0), self.best

    def forget(self) -> None:
        pass

    def close(self) -> None:
        pass


class Scripted:
    """A decider that starts the thread and takes it back when it is told to."""

    late_look_ns = 10 * MS

    def __init__(self) -> None:
        self.state = State.OWN
        self.wants_cpu = False
        self.wanted: int | None = None
        self.news: str | None = None
        self.shut_gate = "scripted"
        self.refusals: list[str] = []

    def look(self, load: Load, machine: Any) -> Decision:
        if self.wants_cpu:
            self.wanted = machine().spare
        self.state = State.THREAD if self.wanted is not None else State.OWN
        return Decision(self.wanted, WINDOW_NS, self.news)

    def refuse(self, time_ns: int, why: str) -> Decision:
        self.refusals.append(why)
        self.state, self.wants_cpu = State.OWN, False
        return Decision(None, WINDOW_NS)


CPU = 20_000 + os.getpid() % 10_000


class Rig:
    def __init__(self, best: list[int] | None = None) -> None:
        self.page, self.served, self.decider = FakePage(), FakeServed(), Scripted()
        self.signals = FakeSignals(best or [CPU])
        self.pilot = Pilot(self.page, self.served, self.signals, self.decider)  # type: ignore[arg-type]
        self.delivered = 0

    def look(self, busy: bool = True, loop_cpu: int = 0) -> int:
        self.delivered += 1_000_000 if busy else 0
        return self.pilot.look(loop_cpu, self.delivered, 0, 0.0)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.pilot.close()


def test_the_pilot_does_as_is_decided(rig: Rig) -> None:
    rig.look()
    assert rig.look() == WINDOW_NS
    assert rig.page.hands == []
    rig.decider.wants_cpu = True
    rig.look()
    assert rig.page.hands == [CPU]
    assert rig.served.cpu == CPU
    assert rig.pilot.steers
    assert rig.pilot.describe() == f"syscall thread on CPU {CPU}"
    other = Lease()
    assert not other.take(CPU)
    rig.decider.wants_cpu, rig.decider.wanted = False, None
    rig.look()
    assert rig.page.hands == [CPU, None]
    assert rig.served.cpu is None
    assert not rig.pilot.steers
    # The lease is given back with the thread.
    assert other.take(CPU)
    other.drop()


def test_the_cpu_is_chosen_for_where_the_loop_runs_as_a_rule(rig: Rig) -> None:
    """Now and then somebody of higher priority has it run elsewhere for a moment."""
    for cpu in (5, 2, 2, 6, 2):
        rig.look(loop_cpu=cpu)
    rig.decider.wants_cpu = True
    rig.look(loop_cpu=7)
    assert rig.signals.homes == [2]


def test_a_loop_on_its_thread_s_cpu_goes_elsewhere_and_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, CPU})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: masks.append(set(cpus)))
    rig = Rig()
    rig.look(loop_cpu=CPU)
    rig.decider.wants_cpu = True
    rig.look(loop_cpu=3)
    assert rig.served.cpu == CPU
    rig.look(loop_cpu=3)
    assert masks == []
    rig.look(loop_cpu=CPU)
    assert masks == [{3}, {3, CPU}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {CPU})
    rig.look(loop_cpu=CPU)
    assert len(masks) == 2
    rig.pilot.close()


def test_a_cpu_that_another_loop_has_is_passed_over() -> None:
    other = Lease()
    assert other.take(CPU)
    rig = Rig([CPU, CPU + 1])
    rig.look()
    rig.decider.wants_cpu = True
    rig.look()
    assert rig.served.cpu == CPU + 1
    third = Rig([CPU, CPU + 1])
    third.look()
    third.decider.wants_cpu = True
    third.look()
    assert third.served.cpu is None
    for holder in (rig.pilot, third.pilot):
        holder.close()
    other.drop()


def test_a_thread_that_is_not_to_be_had_is_told_to_the_decider(rig: Rig) -> None:
    rig.page.refuses = True
    rig.look()
    rig.decider.wants_cpu = True
    rig.look()
    assert rig.page.hands == []
    assert rig.served.cpu is None
    assert rig.decider.refusals == ["[Errno 11] no more threads"]
    other = Lease()
    assert other.take(CPU)
    other.drop()


def test_one_line_for_a_decision_and_none_for_a_look(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "flexsc_loop"):
        for _ in range(5):
            rig.look()
        assert caplog.records == []
        rig.decider.news = "decided"
        rig.look()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("INFO", "decided")]


def test_a_quiet_loop_costs_no_system_call(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise AssertionError("a system call")

    monkeypatch.setattr("resource.getrusage", refuse)
    for _ in range(10):
        rig.look(busy=False)
    assert rig.signals.asked == 0


# ---- threads=auto, whole

@pytest.fixture
def auto(pages: str) -> Iterator[Any]:
    loop = flexsc_loop.new_event_loop(pages=pages, threads="auto")
    yield loop
    loop.close()


def test_auto_begins_with_the_own_thread(auto: Any) -> None:
    auto.run_until_complete(turns())
    assert auto.choice.cpu is None
    assert auto.choice.state.startswith("own thread")
    assert auto.choice.decisions == []
    assert auto.stats()["trials"] == 0
    assert not threads_of_pages()


def test_auto_starts_a_thread_says_so_and_rests_when_there_is_nothing_to_do(auto: Any) -> None:
    decider = auto.choice.pilot.decider
    cpu = spare_cpu()

    async def main() -> None:
        decider._enter_thread(time.monotonic_ns())
        decider._tell(cpu, WINDOW_NS, "a thread")
        decider._since = time.monotonic_ns()
        # As if a busy loop had been looked at.
        auto.choice.pilot._act(Decision(cpu, WINDOW_NS, "a thread"), time.monotonic_ns(), -1)
        assert auto.choice.cpu == cpu
        assert eventually(threads_of_pages)
        assert f"syscall thread on CPU {cpu}" in repr(auto)
        while auto.choice.cpu is not None:
            await asyncio.sleep(0.2)

    auto.run_until_complete(asyncio.wait_for(main(), 20))
    assert eventually(lambda: not threads_of_pages())
    assert auto.stats()["rests"] == 1
    assert "less than" in auto.choice.decisions[-1]
    # From here on nothing wakes the loop up any more.
    before = auto.stats()["turns"]
    auto.run_until_complete(asyncio.sleep(0.5))
    assert auto.stats()["turns"] - before < 5


def test_who_looks_from_outside_is_told_of_decisions_that_change_no_hands(
    auto: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial begins and ends with windows of the own thread."""
    decider = auto.choice.pilot.decider
    assert read(auto).reason == "; ".join([auto.choice.state, *auto.choice.reasons])

    def begin(*_: object) -> Decision:
        decider.state = State.TRIAL
        return Decision(None, WINDOW_NS)

    def lose(*_: object) -> Decision:
        return decider._fall_back(time.monotonic_ns(), "", "own thread: lost")

    async def main() -> None:
        lost = "own thread: nothing was looked at yet; own thread: lost; "
        for look, told in ((begin, "a trial is under way; "), (lose, lost)):
            monkeypatch.setattr(decider, "look", look)
            while not read(auto).reason.startswith(told):
                await asyncio.sleep(0.01)

    auto.run_until_complete(asyncio.wait_for(main(), 10))


def test_the_settings_that_name_a_way_go_on_to_mean_it() -> None:
    for threads in ("off", "on", str(spare_cpu())):
        loop = flexsc_loop.new_event_loop(pages="user", threads=threads)
        assert loop.choice.pilot is None
        assert loop.choice.decisions == []
        assert loop.choice.state in ("own thread", f"syscall thread on CPU {loop.choice.cpu}")
        loop.close()


def test_a_lease_is_free_when_its_loop_is_closed_or_forked(auto: Any) -> None:
    assert auto.choice.pilot._lease.take(CPU)
    other = Lease()
    pid = os.fork()
    if pid == 0:
        time.sleep(0.5)
        os._exit(0)
    assert not other.take(CPU)
    auto.close()
    # The child, which lives on, has let go of its copy.
    assert eventually(lambda: other.take(CPU), 0.3)
    other.drop()
    os.waitpid(pid, 0)


def test_in_another_thread_s_loop(auto: Any) -> None:
    """Each loop looks at its own thread's time."""
    done: list[int] = []

    def run() -> None:
        loop = flexsc_loop.new_event_loop(pages="user")
        with contextlib.closing(loop):
            loop._steer(HandChanger(loop, MS))
            loop.run_until_complete(asyncio.sleep(0.05))
            done.append(loop.stats()["turns"])

    thread = threading.Thread(target=run)
    thread.start()
    auto.run_until_complete(asyncio.sleep(0.05))
    thread.join()
    assert done


def test_the_loop_s_own_thread_is_pinned_nowhere(loop: Any) -> None:
    """However soon a thread that is told to stop has ended."""
    before = os.sched_getaffinity(0)
    for _ in range(300):
        loop.page.change_hands(spare_cpu())
        loop.page.change_hands(None)
    assert os.sched_getaffinity(0) == before
