"""Tools that reach into asyncio's loop: they work as with the standard loop, or are refused clearly."""

from __future__ import annotations

import asyncio
import logging
import time
import types
import unittest

import pytest
from support import Recorder, turns

# -- replacing asyncio.Handle._run, which some do to see each callback


@pytest.fixture
def ran(monkeypatch):
    """The handles that have been run since `asyncio.Handle._run` was replaced; ask it to replace it."""
    seen = []

    def replace():
        original = asyncio.Handle._run

        def run(self):
            original(self)
            seen.append(repr(self))

        monkeypatch.setattr(asyncio.Handle, "_run", run)
        return seen

    return replace


def test_a_replaced_run_sees_callbacks_timers_and_tasks(loop, ran):
    def soon():
        called.append("soon")

    def later():
        called.append("later")

    async def task():
        await asyncio.sleep(0)
        called.append("task")

    called = []
    seen = ran()
    loop.call_soon(soon)
    loop.call_later(0.001, later)
    loop.run_until_complete(task())
    loop.run_until_complete(asyncio.sleep(0.01))
    assert sorted(called) == ["later", "soon", "task"]
    assert sum("soon()" in handle for handle in seen) == 1
    assert sum("later()" in handle and "TimerHandle" in handle for handle in seen) == 1
    assert sum("Task" in handle for handle in seen) >= 2


async def test_it_may_be_replaced_and_put_back_while_the_loop_runs(loop, monkeypatch):
    seen = []
    original = asyncio.Handle._run
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", lambda self: (seen.append(1), original(self)))
        await turns(4)
        assert seen
    count = len(seen)
    await turns(4)
    assert len(seen) - count <= 2


def test_a_replaced_run_sees_what_is_reported(loop, ran, errors):
    seen = ran()
    loop.call_soon(lambda: 1 / 0)
    loop.run_until_complete(turns())
    assert isinstance(errors.pop()["exception"], ZeroDivisionError)
    assert errors == []
    assert any("test_a_replaced_run_sees_what_is_reported" in handle for handle in seen)


@pytest.mark.parametrize("exit_type", [KeyboardInterrupt, SystemExit])
def test_exits_pass_through_a_replaced_run(loop, ran, exit_type):
    def leave():
        raise exit_type

    ran()
    called = []
    loop.call_soon(leave)
    loop.call_soon(called.append, 1)
    with pytest.raises(exit_type):
        loop.run_forever()
    loop.run_until_complete(turns())
    assert called == [1]


async def test_a_replaced_run_sees_deliveries(loop, connect, ran):
    class Slow(Recorder):
        def data_received(self, data):
            super().data_received(data)
            time.sleep(0.02)

    took = []
    _, protocol, peer = await connect(Slow)
    original = asyncio.Handle._run

    def run(self):
        start = time.monotonic()
        original(self)
        if time.monotonic() - start >= 0.02:
            took.append(repr(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", run)
        await asyncio.sleep(0)
        await peer.send(b"x")
        while not protocol.data:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
    assert len(took) == 1


# -- nest_asyncio

APPLY = """
def _patch_loop(loop):
    if hasattr(loop, '_nest_patched'):
        return
    if not isinstance(loop, asyncio.BaseEventLoop):
        raise ValueError("Can't patch loop of type %s" % type(loop))
    patched.append(loop)
"""


@pytest.mark.ours
@pytest.mark.parametrize("name", ["nest_asyncio", "nest_asyncio2"])
def test_nest_asyncio_is_refused_before_it_has_changed_the_loop(loop, name):
    module = types.ModuleType(name)
    module.__dict__.update(asyncio=asyncio, patched=[])
    exec(APPLY, module.__dict__)
    with pytest.raises(ValueError, match=r"^Can't patch loop of type <class 'flexsc_loop\.loop\.Loop'>"):
        module._patch_loop(loop)
    assert module.patched == []
    assert not hasattr(loop, "_nest_patched")
    assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5


@pytest.mark.ours
@pytest.mark.one_way
@pytest.mark.parametrize("name", ["nest_asyncio", "nest_asyncio2"])
def test_the_real_one_is_refused(loop, name):
    module = pytest.importorskip(name)
    with pytest.raises(ValueError, match="Can't patch loop"):
        module._patch_loop(loop)
    assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5


# -- what listens to messages


def test_making_and_running_a_loop_is_no_message(way):
    def use():
        loop = way.new_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    with unittest.TestCase().assertNoLogs(level=logging.INFO):
        use()


@pytest.mark.ours
def test_what_was_chosen_is_told_to_who_listens_closely(way, caplog):
    with caplog.at_level(logging.DEBUG, logger="flexsc_loop"):
        way.new_loop().close()
    (record,) = (record for record in caplog.records if record.name == "flexsc_loop")
    assert record.levelno == logging.DEBUG
    assert "page" in record.message
