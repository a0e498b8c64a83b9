"""Floor 5: methods of sockets that are seldom called, and the names of hosts, in green threads.

Owns: the plain functions.  Imports: descriptors, green, sockets, waiting.
"""

from __future__ import annotations

import _socket
import contextlib
import functools
import io
import os
import socket
from collections.abc import Callable
from typing import Any

from flexsc_loop.threads import descriptors, sockets
from flexsc_loop.threads.green import current_thread
from flexsc_loop.threads.waiting import in_place_of, in_real_thread

# ---- sockets: methods of socket.socket


_real_close = socket.socket._real_close  # type: ignore[attr-defined]


#: Where the flags stand among a method's arguments.
FLAGS_AT = {"recvfrom": 1, "recvfrom_into": 2, "recvmsg": 2, "recvmsg_into": 2, "sendmsg": 2}


def _never_waits(sock: socket.socket, flags: Any) -> bool:
    """Whether a call with these flags returns at once.  One with a time-out waits for the socket before."""
    return isinstance(flags, int) and sockets.never_waits(flags, sockets.timeout_in(sock))


def attempts(name: str, writes: bool) -> Callable[..., Any]:
    """A method that waits, then calls the plain one."""
    plain = getattr(_socket.socket, name)
    at = FLAGS_AT.get(name, 0)

    @in_place_of(plain)
    def method(self: socket.socket, *args: Any, **kwargs: Any) -> Any:
        thread = current_thread()
        flags = args[at] if at and len(args) > at else kwargs.get("flags")
        if thread is None or _never_waits(self, flags):
            return plain(self, *args, **kwargs)
        tried = functools.partial(plain, **kwargs) if kwargs else plain
        return sockets.attempt(thread, self, tried, args, writes)

    return method


def sendto(self: socket.socket, *args: Any) -> int:
    """Source: socket.socket.sendto."""
    thread = current_thread()
    if thread is None or not 2 <= len(args) <= 3 or (len(args) == 3 and _never_waits(self, args[1])):
        return _socket.socket.sendto(self, *args)
    address = sockets.resolved(self, args[-1])
    return int(sockets.attempt(thread, self, _socket.socket.sendto, (*args[:-1], address), True))


_plain_sendfile = socket.socket._sendfile_use_sendfile  # type: ignore[attr-defined]
SENDFILE_MOST = 1 << 20  # bytes of one call, so that others get their turn


def _send_piece(self: socket.socket, source: int, offset: int, size: int) -> int:
    return os.sendfile(self.fileno(), source, offset, size)


def sendfile(self: Any, file: Any, offset: int = 0, count: int | None = None) -> int:
    """Source: socket.socket.sendfile."""
    thread = current_thread()
    timeout = sockets.timeout_in(self)
    if thread is None or timeout == 0:
        return _plain_sendfile(self, file, offset, count)  # type: ignore[no-any-return]
    self._check_sendfile_params(file, offset, count)
    try:
        source = file.fileno()
        size = os.fstat(source).st_size
    except (AttributeError, io.UnsupportedOperation, OSError) as error:
        raise socket._GiveupOnSendfile(error) from error  # type: ignore[attr-defined]
    done = 0
    try:
        while count is None or done < count:
            piece = min(SENDFILE_MOST, size or SENDFILE_MOST) if count is None else min(SENDFILE_MOST, count - done)
            try:
                sent = sockets.attempt(thread, self, _send_piece, (source, offset + done, piece), True)
            except TimeoutError:
                raise
            except OSError as error:
                if done == 0:
                    raise socket._GiveupOnSendfile(error) from error  # type: ignore[attr-defined]
                raise
            if sent == 0:
                break
            done += sent
    finally:
        if done and hasattr(file, "seek"):
            file.seek(offset + done)
    return done


def close(self: socket.socket, _ss: Any = _socket.socket) -> None:
    """Source: socket.socket.close."""
    sockets.close_waits(self)
    _real_close(self, _ss)


_os_close = os.close


def close_fd(fd: int) -> None:
    """Source: os.close."""
    descriptors.closing(fd)
    _os_close(fd)


# ---- names


def _numeric(host: Any) -> bool:
    if not host:
        return True
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, text.partition("%")[0])
            return True
    return False


def in_executor(plain: Callable[..., Any], quick: Callable[..., bool]) -> Callable[..., Any]:
    """A function that another thread calls, unless it is done at once."""

    @in_place_of(plain)
    def function(*args: Any, **kwargs: Any) -> Any:
        thread = current_thread()
        if thread is None or quick(*args, **kwargs):
            return plain(*args, **kwargs)
        return in_real_thread(thread, functools.partial(plain, *args, **kwargs))

    return function


def quick_lookup(host: Any, port: Any = None, *_args: Any, **_kwargs: Any) -> bool:
    """Whether getaddrinfo() need not ask anybody."""
    number = port is None or isinstance(port, int) or (isinstance(port, str | bytes) and port.isdigit())
    return _numeric(host) and number


def resolve(family: int, kind: int, address: tuple[Any, ...]) -> tuple[Any, ...]:
    """An address with a number in it, for sockets that would look the name up."""
    if _numeric(address[0]):
        return address
    found = socket.getaddrinfo(address[0], address[1], family, kind)
    return (*found[0][4][:2], *address[2:])
