"""The guard that every test has: a loop with nothing to do sleeps, and one that does not is found."""

import socket

import pytest
from support import restless

pytestmark = pytest.mark.ours


def test_a_new_loop_sleeps(loop):
    assert restless(loop) is None


def test_a_callback_that_calls_itself_is_found(loop):
    def again():
        nonlocal handle
        handle = loop.call_soon(again)

    handle = loop.call_soon(again)
    assert "does not sleep" in restless(loop, 0.01)
    handle.cancel()


def test_a_reader_that_does_not_read_is_found(loop):
    one, other = socket.socketpair()
    with one, other:
        loop.add_reader(one, int)
        assert restless(loop) is None
        other.send(b"x")
        # A syscall thread that has no core for a moment looks calm.
        assert any(restless(loop, 0) for _ in range(1000))
        loop.remove_reader(one)
