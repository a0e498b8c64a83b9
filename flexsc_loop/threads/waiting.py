"""Floor 5: what waits for descriptors and for time, in green threads: time, select, selectors, os, subprocess's pipes.

Owns: the plain functions.  Imports: descriptors, green.

Everything decides per call: outside of a green thread it is what it always was.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import functools
import os
import select
import selectors
import signal
import stat
import subprocess
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from flexsc_loop.threads import descriptors, green
from flexsc_loop.threads.green import GreenThread, current_thread

POLL_MOST = (1 << 31) - 1  # milliseconds that poll() may be asked to wait
PAUSE_S, PAUSE_MOST_S = 0.0005, 0.01  # between two looks that have found nothing, though something was said to be there
PIPE_PIECE = 4096  # bytes that a pipe which is ready has room for, without waiting

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def in_place_of(plain: Callable[..., Any]) -> Callable[[F], F]:
    """A decorator: what stands in the place of `plain` has its name."""

    def rename(function: F) -> F:
        function.__name__, function.__qualname__ = plain.__name__, plain.__qualname__
        return function

    return rename


def wait(awaitable: Awaitable[T]) -> T:
    """In a green thread: wait for a coroutine, task or future of its loop, and return what that gives.

    If something is thrown into the thread meanwhile (Ctrl-C), the task is cancelled.  A future of a loop that does not
    run is waited for by running that.
    """
    thread = current_thread()
    if thread is None:
        raise RuntimeError("wait() has to be called in a green thread")
    if asyncio.isfuture(awaitable) and not (loop := awaitable.get_loop()).is_running():
        return loop.run_until_complete(awaitable)  # type: ignore[no-any-return]
    if asyncio.iscoroutine(awaitable):
        # Not by the program's task factory: an eager one would begin it here, where no event loop runs.
        future: asyncio.Future[T] = asyncio.Task(awaitable, loop=thread.loop)
    else:
        future = asyncio.ensure_future(awaitable, loop=thread.loop)
    try:
        wait_until_done(thread, future)
    except BaseException:
        future.cancel()
        raise
    try:
        return future.result()
    finally:
        del future  # whose error has this frame


#: What green threads wait for.
waited_for: set[asyncio.Future[Any]] = set()


def wait_until_done(thread: GreenThread, future: asyncio.Future[Any]) -> None:
    """In `thread`, a green one: wait until a future of its loop has a result, which goes on if something is thrown."""
    future.add_done_callback(lambda _future: thread.go_on(thread.waits))
    waited_for.add(future)
    try:
        while not future.done():
            thread.wait()
    finally:
        waited_for.discard(future)


def is_waited_for(error: BaseException) -> bool:
    """Whether it is what a task has raised that a green thread waits for, which will raise it."""
    return any(one.done() and not one.cancelled() and one.exception() is error for one in [*waited_for])


def in_real_thread(thread: GreenThread, function: Callable[[], Any]) -> Any:
    """Have another thread, a real one, call what blocks in C, and wait for what that returns."""

    async def in_the_hub() -> Any:
        return await thread.loop.run_in_executor(None, function)

    return wait(in_the_hub())


# ---- time


_sleep = time.sleep


def sleep(seconds: float, /) -> None:
    """Source: time.sleep."""
    if current_thread() is None:
        _sleep(seconds)
    else:
        green.sleep(seconds)


# ---- select, poll, epoll, selectors


_select = select.select
_poll: Any = select.poll
_epoll: Any = select.epoll
_selector_of = selectors.EpollSelector.select
_close_selector = selectors.EpollSelector.close
_poll_selector_of: Any = selectors._PollLikeSelector.select


def _fd(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())


def _found_in_time(look: Callable[[], T], wait_for_some: Callable[[float | None], object], timeout: float | None) -> T:
    """What `look()` finds within `timeout` seconds, looking again each time that `wait_for_some(seconds)` is over.

    Others may have been woken by the same, and have taken what was there: that is no reason to come back with nothing.
    """
    thread = current_thread()
    assert thread is not None
    until = None if timeout is None else time.monotonic() + timeout
    left = timeout
    pause = 0.0
    while not (found := look()) and (left is None or left > 0):
        if pause:
            # What is there all the time is not what is looked for: somebody has hung up, say.
            thread.wait(pause if left is None else min(pause, left))
        wait_for_some(left)
        pause = min(pause + PAUSE_S, PAUSE_MOST_S)
        left = None if until is None else until - time.monotonic()
    return found


def _wait_for_any(events: Iterable[tuple[int, int]], timeout: float | None) -> None:
    """Wait until one of (fd, EPOLL…) is ready, or for `timeout` seconds.  Raises OSError (EBADF) if one is closed."""
    epoll = _epoll()
    try:
        wanted: dict[int, int] = {}
        for fd, event in events:
            wanted[fd] = wanted.get(fd, 0) | event
        for fd, event in wanted.items():
            try:
                epoll.register(fd, event)
            except PermissionError:  # a regular file: always ready
                return
        descriptors.wait_readable(epoll.fileno(), timeout, wanted)
    finally:
        epoll.close()


def _wait_for_some(events: Iterable[tuple[int, int]], timeout: float | None) -> None:
    """The same for who tells of closed descriptors himself."""
    try:
        _wait_for_any(events, timeout)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise


def select_(rlist: Any, wlist: Any, xlist: Any, timeout: float | None = None, /) -> Any:
    """Source: select.select."""
    thread = current_thread()
    green.let_others_run()
    if thread is None or (timeout is not None and timeout <= 0):
        return _select(rlist, wlist, xlist, timeout)
    # Lists as they are: their objects' fileno() may change them.
    rlist, wlist, xlist = (one if isinstance(one, list) else list(one) for one in (rlist, wlist, xlist))

    def look() -> Any:
        ready = _select(rlist, wlist, xlist, 0)
        return ready if any(ready) else None

    def wait_for_some(seconds: float | None) -> None:
        events = [(_fd(one), select.EPOLLIN) for one in [*rlist]]
        events += [(_fd(one), select.EPOLLOUT) for one in [*wlist]]
        events += [(_fd(one), select.EPOLLPRI) for one in [*xlist]]
        _wait_for_any(events, seconds)

    return _found_in_time(look, wait_for_some, timeout) or ([], [], [])


class Poll:
    """What `select.poll()` gives.  Source: select.poll."""

    def __init__(self) -> None:
        self._plain = _poll()
        self._wanted: dict[int, int] = {}
        self._polling = False

    def register(self, fd: Any, eventmask: int = select.POLLIN | select.POLLPRI | select.POLLOUT, /) -> None:
        """Source: select.poll.register."""
        self._plain.register(fd, eventmask)
        self._wanted[_fd(fd)] = eventmask

    def modify(self, fd: Any, eventmask: int, /) -> None:
        """Source: select.poll.modify."""
        self._plain.modify(fd, eventmask)
        self._wanted[_fd(fd)] = eventmask

    def unregister(self, fd: Any, /) -> None:
        """Source: select.poll.unregister."""
        self._plain.unregister(fd)
        del self._wanted[_fd(fd)]

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Wait for `timeout` milliseconds at most.  Source: select.poll.poll."""
        if self._polling:
            raise RuntimeError("concurrent poll() invocation")
        thread = current_thread()
        green.let_others_run()
        if thread is None or timeout == 0:
            return self._plain.poll(timeout)  # type: ignore[no-any-return]
        if timeout is not None and timeout > POLL_MOST:
            raise OverflowError("timeout is too large")
        self._polling = True
        try:
            return _found_in_time(
                functools.partial(self._plain.poll, 0), lambda seconds: _wait_for_some(self._wanted.items(), seconds),
                None if timeout is None or timeout < 0 else timeout / 1000,
            )  # fmt: skip
        finally:
            self._polling = False


class Epoll:
    """What `select.epoll()` gives.  Source: select.epoll."""

    def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
        self._plain = _epoll(sizehint, flags)

    @classmethod
    def fromfd(cls, fd: int, /) -> Epoll:
        """Source: select.epoll.fromfd."""
        epoll = cls.__new__(cls)
        epoll._plain = _epoll.fromfd(fd)
        return epoll

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def __enter__(self) -> Epoll:
        self._plain.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Source: select.epoll.close."""
        if not self._plain.closed:
            descriptors.closing(self._plain.fileno())
        self._plain.close()

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """Wait for `timeout` seconds at most.  Source: select.epoll.poll."""
        green.let_others_run()
        if current_thread() is None or timeout == 0 or self._plain.closed:
            return self._plain.poll(timeout, maxevents)  # type: ignore[no-any-return]
        return _found_in_time(
            lambda: self._plain.poll(0, maxevents),
            lambda seconds: descriptors.wait_readable(self._plain.fileno(), seconds),
            None if timeout is None or timeout < 0 else timeout,
        )


def select_epoll(self: Any, timeout: float | None = None) -> Any:
    """Source: selectors.EpollSelector.select."""
    green.let_others_run()
    if current_thread() is None or (timeout is not None and timeout <= 0):
        return _selector_of(self, timeout)
    return _found_in_time(
        lambda: _selector_of(self, 0), lambda seconds: descriptors.wait_readable(self._selector.fileno(), seconds),
        timeout,
    )  # fmt: skip


def close_epoll(self: Any) -> None:
    """Source: selectors.EpollSelector.close."""
    if not self._selector.closed:
        descriptors.closing(self._selector.fileno())
    _close_selector(self)


def select_poll(self: Any, timeout: float | None = None) -> Any:
    """Source: selectors.PollSelector.select."""
    green.let_others_run()
    if current_thread() is None or (timeout is not None and timeout <= 0):
        return _poll_selector_of(self, timeout)

    def wait_for_some(seconds: float | None) -> None:
        # EVENT_READ and EVENT_WRITE, in epoll's words.
        events = [(key.fd, (key.events & 1) * select.EPOLLIN | (key.events >> 1) * select.EPOLLOUT)
                  for key in self.get_map().values()]  # fmt: skip
        _wait_for_some(events, seconds)

    return _found_in_time(lambda: _poll_selector_of(self, 0), wait_for_some, timeout)


# ---- signals


_pause = signal.pause
_sigwait = signal.sigwait
_sigtimedwait = signal.sigtimedwait
_sigwaitinfo = signal.sigwaitinfo


def pause() -> None:
    """Source: signal.pause."""
    thread = current_thread()
    if thread is None:
        return _pause()
    future = thread.loop.create_future()

    def came() -> None:
        if not future.done():
            future.set_result(None)

    thread.loop._signal_waits.append(came)
    wait_until_done(thread, future)


def _pending(sigset: Iterable[int], seconds: float | None) -> Any:
    """Wait until one of these signals is pending, which are blocked; what that tells, None after `seconds`."""
    numbers = [*sigset]
    until = None if seconds is None else time.monotonic() + seconds
    fd = descriptors.signal_fd(numbers)
    try:
        while (found := _sigtimedwait(numbers, 0)) is None:
            left = None if until is None else until - time.monotonic()
            if (left is not None and left <= 0) or not descriptors.wait_readable(fd, left):
                return None
        return found
    finally:
        os.close(fd)


def sigtimedwait(sigset: Iterable[int], timeout: float, /) -> Any:
    """Source: signal.sigtimedwait."""
    return _sigtimedwait(sigset, timeout) if current_thread() is None or timeout <= 0 else _pending(sigset, timeout)


def sigwaitinfo(sigset: Iterable[int], /) -> Any:
    """Source: signal.sigwaitinfo."""
    return _sigwaitinfo(sigset) if current_thread() is None else _pending(sigset, None)


def sigwait(sigset: Iterable[int]) -> Any:
    """Source: signal.sigwait."""
    return _sigwait(sigset) if current_thread() is None else signal.Signals(_pending(sigset, None).si_signo)


# ---- files that may block: pipes and terminals; children


_os_read = os.read
_os_write = os.write
_os_waitpid = os.waitpid


def _may_block(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)) and os.get_blocking(fd)


def read(fd: int, length: int, /) -> bytes:
    """Source: os.read."""
    if current_thread() is not None and _may_block(fd):
        descriptors.until_readable(fd)
    return _os_read(fd, length)


def write(fd: int, data: Any, /) -> int:
    """Source: os.write."""
    if current_thread() is None or not _may_block(fd):
        return _os_write(fd, data)
    view = memoryview(data).cast("B")
    done = 0
    while True:
        try:
            descriptors.until_writable(fd)
            done += _os_write(fd, view[done : done + PIPE_PIECE])
        except OSError:
            if not done:
                raise
            return done
        if done >= len(view):
            return done


def waitpid(pid: int, options: int, /) -> tuple[int, int]:
    """Source: os.waitpid."""
    thread = current_thread()
    if thread is None or options & os.WNOHANG:
        return _os_waitpid(pid, options)
    if pid <= 0 or options:
        return in_real_thread(thread, functools.partial(_os_waitpid, pid, options))  # type: ignore[no-any-return]
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return _os_waitpid(pid, options)
    try:
        descriptors.wait_readable(fd)
    finally:
        os.close(fd)
    return _os_waitpid(pid, options)


def blocks_in_c(plain: F, returns: Callable[..., bool] = lambda *_args: False) -> F:
    """What another thread calls, a real one, unless it `returns` at once with such arguments."""

    @in_place_of(plain)
    def function(*args: Any, **kwargs: Any) -> Any:
        thread = current_thread()
        if thread is None or returns(*args, *kwargs.values()):
            return plain(*args, **kwargs)
        return in_real_thread(thread, functools.partial(plain, *args, **kwargs))

    return function  # type: ignore[return-value]


wait_for_child = blocks_in_c(os.wait)
wait3 = blocks_in_c(os.wait3, lambda options: bool(options & os.WNOHANG))
wait4 = blocks_in_c(os.wait4, lambda _pid, options: bool(options & os.WNOHANG))
waitid = blocks_in_c(os.waitid, lambda _kind, _id, options: bool(options & os.WNOHANG))
system = blocks_in_c(os.system)


def locks(plain: Callable[..., Any]) -> Callable[..., Any]:
    """fcntl.flock or fcntl.lockf: one that cannot have the lock at once waits in a real thread."""

    @in_place_of(plain)
    def function(fd: Any, cmd: int, *args: Any) -> Any:
        thread = current_thread()
        if thread is None or cmd & (fcntl.LOCK_NB | fcntl.LOCK_UN):
            return plain(fd, cmd, *args)
        try:
            return plain(fd, cmd | fcntl.LOCK_NB, *args)
        except BlockingIOError:
            return in_real_thread(thread, functools.partial(plain, fd, cmd, *args))

    return function


flock = locks(fcntl.flock)
lockf = locks(fcntl.lockf)


class PipeIO:
    """Python's `io`, for `subprocess`: its pipes are read and written by os.read() and os.write()."""

    def __getattr__(self, name: str) -> Any:
        return getattr(PLAIN_IO, name)

    def open(self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        """Source: io.open."""
        if not isinstance(file, int) or "b" not in mode or current_thread() is None:
            return PLAIN_IO.open(file, mode, buffering, *args, **kwargs)
        raw = Pipe(file, mode)
        if buffering == 0:
            return raw
        if buffering == 1:
            text = "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        size = buffering if buffering > 1 else PLAIN_IO.DEFAULT_BUFFER_SIZE
        return PLAIN_IO.BufferedReader(raw, size) if "r" in mode else PLAIN_IO.BufferedWriter(raw, size)


PLAIN_IO: Any = subprocess.io  # type: ignore[attr-defined]


class Pipe(PLAIN_IO.FileIO):  # type: ignore[misc]
    """An end of a pipe that green threads wait for."""

    def close(self) -> None:
        """Source: io.FileIO.close."""
        if not self.closed:
            descriptors.closing(self.fileno())
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Source: io.FileIO.readinto."""
        if current_thread() is None:
            return super().readinto(buffer)  # type: ignore[no-any-return]
        data = read(self.fileno(), len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """Source: io.FileIO.read."""
        if current_thread() is None:
            return super().read(size)  # type: ignore[no-any-return]
        if size is None or size < 0:
            return self.readall()
        return read(self.fileno(), size)

    def readall(self) -> bytes:
        """Source: io.FileIO.readall."""
        if current_thread() is None:
            return super().readall()  # type: ignore[no-any-return]
        return b"".join(iter(lambda: read(self.fileno(), 65536), b""))

    def write(self, data: Any) -> int:
        """Source: io.FileIO.write."""
        return write(self.fileno(), data) if current_thread() is not None else super().write(data)
