"""Floor 5: methods of ssl.SSLSocket, in green threads.

Owns: the plain functions.  Imports: descriptors, green, waiting.

Beneath, a TLS socket that a green thread has used never waits: what its owner has set is kept beside it, and each
method is tried until it need not wait, in a green thread or a real one.
"""

from __future__ import annotations

import select
import ssl
import time
from collections.abc import Callable
from typing import Any

from flexsc_loop.threads import descriptors
from flexsc_loop.threads.green import current_thread
from flexsc_loop.threads.waiting import in_place_of

_poll: Any = select.poll


_plain = {
    name: getattr(ssl.SSLSocket, name)
    for name in ("read", "write", "send", "do_handshake", "unwrap", "settimeout", "setblocking", "gettimeout",
                 "verify_client_post_handshake")
}  # fmt: skip


# By which it is told what has timed out; unwrap() reads or writes.
OPERATIONS = {"read": "read", "write": "write", "send": "write", "do_handshake": "handshake"}


def gettimeout(self: Any) -> float | None:
    """What its owner has set: beneath, a socket of a green thread never waits."""
    state = vars(self)
    found: float | None = state["_green_timeout"] if "_green_timeout" in state else _plain["gettimeout"](self)
    return found


def settimeout(self: Any, timeout: float | None) -> None:
    """Source: socket.socket.settimeout."""
    if "_green_timeout" not in vars(self):
        return _plain["settimeout"](self, timeout)  # type: ignore[no-any-return]
    if timeout is not None:
        timeout = float(timeout)
        if timeout < 0:
            raise ValueError("Timeout value out of range")
    self._green_timeout = timeout


def setblocking(self: Any, flag: bool) -> None:
    """Source: socket.socket.setblocking."""
    settimeout(self, None if flag else 0.0)


def waits(name: str) -> Callable[..., Any]:
    """A method of a TLS socket: tried until it need not wait."""
    plain = _plain[name]

    @in_place_of(plain)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = vars(self)
        if "_green_timeout" not in state:
            if current_thread() is None or self._sslobj is None or _plain["gettimeout"](self) == 0:
                return plain(self, *args, **kwargs)
            state["_green_timeout"] = _plain["gettimeout"](self)
            _plain["settimeout"](self, 0.0)
        timeout = state["_green_timeout"]
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return plain(self, *args, **kwargs)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                if timeout == 0:
                    raise
                writes = isinstance(error, ssl.SSLWantWriteError)
            if not _wait_either(self.fileno(), writes, None if until is None else until - time.monotonic()):
                raise TimeoutError(f"The {OPERATIONS.get(name, 'write' if writes else 'read')} operation timed out")

    return method


def _wait_either(fd: int, writes: bool, timeout: float | None) -> bool:
    """In a green thread or a real one: wait until `fd` is ready; False after `timeout` seconds."""
    if timeout is not None and timeout <= 0:
        return False
    if current_thread() is not None:
        return (descriptors.wait_writable if writes else descriptors.wait_readable)(fd, timeout)
    poll = _poll()
    poll.register(fd, select.POLLOUT if writes else select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))
