"""Floor 5: what blocks in the standard library, and what stands in its place in a green thread.

Owns: the plain functions, and whether they have been replaced.  Imports: drivers, green, locks, loop, signals, slow,
sockets.

Methods of classes written in Python are replaced in the classes, so that it does not matter who has imported what
before.  Functions and classes written in C are replaced by name, in the modules that they are of: who has imported one
of them by name before is told so.  Everything decides per call: outside of a green thread it is what it always was.
"""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import fcntl
import logging
import os
import queue
import select
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

from flexsc_loop.loop import Loop
from flexsc_loop.threads import drivers, green, locks, network, signals, slow, sockets, starting, tls, waiting

_state = {"patched": False}


class PatchWarning(RuntimeWarning):
    """Something was imported by name before it could be replaced."""


def is_patched() -> bool:
    """Whether `patch()` has been called."""
    return _state["patched"]


def _methods() -> list[tuple[type, str, Any]]:
    """(class, name, what stands there from now on)."""
    found: list[tuple[type, str, Any]] = [
        (socket.socket, name, getattr(sockets, name))
        for name in ("recv", "recv_into", "send", "sendall", "connect", "connect_ex")
    ]
    for name in ("recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into", "_accept"):
        found.append((socket.socket, name, network.attempts(name, False)))
    found += [
        (socket.socket, "sendmsg", network.attempts("sendmsg", True)),
        (socket.socket, "sendto", network.sendto),
        (socket.socket, "_real_close", network.close),
        (socket.socket, "_sendfile_use_sendfile", network.sendfile),
        (selectors.EpollSelector, "select", waiting.select_epoll),
        (selectors.EpollSelector, "close", waiting.close_epoll),
        (selectors._PollLikeSelector, "select", waiting.select_poll),
        (selectors.SelectSelector, "_select", staticmethod(waiting.select_)),
        (asyncio.BaseEventLoop, "_asyncgen_firstiter_hook", starting.note_generator),
        (threading.Thread, "start", starting.start),
        (threading.Thread, "join", starting.join_thread),
        (threading.Thread, "is_alive", starting.is_alive),
        (threading.Thread, "__repr__", starting.describe),
        (ssl.SSLSocket, "settimeout", tls.settimeout),
        (ssl.SSLSocket, "setblocking", tls.setblocking),
        (ssl.SSLSocket, "gettimeout", tls.gettimeout),
        (ssl.SSLSocket, "timeout", property(tls.gettimeout)),
    ]
    for name in ("read", "write", "send", "do_handshake", "unwrap", "verify_client_post_handshake"):
        found.append((ssl.SSLSocket, name, tls.waits(name)))
    if not starting.TELLS_CONTEXT:
        found.append((Loop, "create_task", starting.create_task))
    if starting.SET_LOCK is not None:
        found.append((threading.Thread, "_set_tstate_lock", starting.set_lock))
    return found


def names() -> list[tuple[Any, str, Any]]:
    """(module, name, what stands there from now on)."""
    import _queue
    import _threading_local

    found: list[tuple[Any, str, Any]] = [
        (time, "sleep", waiting.sleep),
        (select, "select", waiting.select_), (select, "poll", waiting.Poll), (select, "epoll", waiting.Epoll),
        (os, "read", waiting.read), (os, "write", waiting.write), (os, "waitpid", waiting.waitpid),
        (os, "close", network.close_fd), (os, "system", waiting.system),
        (os, "wait", waiting.wait_for_child), (os, "wait3", waiting.wait3), (os, "wait4", waiting.wait4),
        (os, "waitid", waiting.waitid), (fcntl, "flock", waiting.flock), (fcntl, "lockf", waiting.lockf),
        (signal, "signal", signals.set_handler), (signal, "getsignal", signals.get_handler),
        (signal, "set_wakeup_fd", signals.set_wakeup_fd),
        (signal, "pthread_kill", starting.pthread_kill), (time, "pthread_getcpuclockid", starting.cpu_clock),
        (sys, "_current_frames", starting.current_frames),
        (signal, "pause", waiting.pause), (signal, "sigwait", waiting.sigwait),
        (signal, "sigwaitinfo", waiting.sigwaitinfo), (signal, "sigtimedwait", waiting.sigtimedwait),
        (_thread, "allocate_lock", locks.Lock), (_thread, "allocate", locks.Lock), (_thread, "RLock", locks.RLock),
        (_thread, "get_ident", starting.get_ident), (_thread, "start_new_thread", starting.start_new_thread),
        (_thread, "start_new", starting.start_new_thread), (_thread, "_count", starting.count),
        (_thread, "_local", _threading_local.local),
        (threading, "Lock", locks.Lock), (threading, "_allocate_lock", locks.Lock),
        (threading, "_CRLock", locks.RLock),  # which threading.RLock(), a function, makes
        (threading, "get_ident", starting.get_ident),
        (threading, "local", _threading_local.local),
        (queue, "SimpleQueue", locks.SimpleQueue), (_queue, "SimpleQueue", locks.SimpleQueue),
        (subprocess, "io", waiting.PipeIO()),
        (asyncio, "run", starting.asyncio_run), (asyncio.runners, "run", starting.asyncio_run),
    ]  # fmt: skip
    found += [
        (module, name, green.set_running_loop)
        for module in (asyncio, asyncio.events)
        for name in ("_set_running_loop", "_c__set_running_loop")
        if hasattr(module, name)
    ]
    found += [(_thread, name, locks.Lock) for name in ("lock", "LockType") if hasattr(_thread, name)]
    if hasattr(threading, "_DeleteDummyThreadOnDel"):
        found.append((threading, "_DeleteDummyThreadOnDel", starting.DeleteDummyThread))
    for name in ("gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getaddrinfo"):
        found.append((socket, name, network.in_executor(getattr(socket, name), network.quick_lookup)))
    found.append((socket, "getnameinfo", network.in_executor(socket.getnameinfo, lambda _address, _flags: False)))
    return found


def _replace_locks() -> None:
    """Locks that were made before, and are held where a green thread may wait."""
    if "concurrent.futures.thread" in sys.modules:
        lock: Any = threading.Lock()
        concurrent.futures.thread._global_shutdown_lock = lock
        # Whoever holds it while another one forks is not in the child.
        os.register_at_fork(after_in_child=lock._at_fork_reinit)
    logging._lock = threading.RLock()  # type: ignore[attr-defined]
    for reference in logging._handlerList:  # type: ignore[attr-defined]
        handler = reference()
        if handler is not None:
            handler.createLock()


def _replace_locals() -> None:
    """The loop that a thread has set (asyncio.set_event_loop) is that thread's alone, a green one's, too."""
    for name in ("_BaseDefaultEventLoopPolicy", "BaseDefaultEventLoopPolicy"):  # since Python 3.14, and before
        base: Any = vars(asyncio.events).get(name)
        if base is None:
            continue
        attributes = {key: value for key, value in vars(base._Local).items() if not key.startswith("__")}
        base._Local = type("_Local", (threading.local,), attributes)
        policy: Any = asyncio.events._event_loop_policy  # type: ignore[attr-defined]
        if hasattr(policy, "_local"):
            before = vars(policy._local)
            policy._local = base._Local()
            vars(policy._local).update(before)


def _imported_before(plain: set[int]) -> list[str]:
    """Where modules have bound what is replaced by another name: ``module.name``."""
    found = []
    for name, module in list(sys.modules.items()):
        package = name.partition(".")[0]
        if name == "__main__" or package not in (*sys.stdlib_module_names, "flexsc_loop"):
            found += [f"{name}.{key}" for key, value in list(vars(module).items()) if id(value) in plain]
    return sorted(found)


def patch(slow_thread: float | None = None) -> None:
    """Have the standard library's blocking calls cooperate in green threads; outside of them nothing changes.

    To be called at the top of a program, before its other imports; a second call does nothing.  Warns (PatchWarning) of
    names that were imported before and go on to block.  Raises RuntimeError where gevent or eventlet was there first.

    slow_thread: a green thread that goes on for longer than so many seconds, while all others wait, is reported to the
    logger `flexsc_loop`, with its stack; 0 for never, None as the environment variable FLEXSC_SLOW_THREAD says.
    Raises ValueError.
    """
    limit = slow.wanted(slow_thread)
    if _state["patched"]:
        return slow.watch(limit) if slow_thread is not None else slow.go_on()
    monkey = sys.modules.get("gevent.monkey")
    if (monkey is not None and getattr(monkey, "saved", None)) or "eventlet.patcher" in sys.modules:
        raise RuntimeError("gevent or eventlet has patched the standard library already; use one of them, not both")
    _state["patched"] = True
    locks.take_names()
    sockets.know_class(socket.socket)
    sockets.resolve_with(network.resolve)
    replaced = names()
    plain = {id(getattr(module, name)) for module, name, _ in replaced if hasattr(module, name)}
    # Whoever has these from before does not block.
    plain -= {id(waiting.PLAIN_IO), id(asyncio._set_running_loop)}
    late = _imported_before(plain)
    for owner, name, instead in _methods():
        setattr(owner, name, instead)
    for module, name, instead in replaced:
        setattr(module, name, instead)
    _replace_locks()
    _replace_locals()
    drivers.tell_psycopg()
    drivers.tell_pyopenssl()
    drivers.tell_multiprocessing()
    slow.watch(limit)
    if late:
        warnings.warn(
            f"imported before flexsc_loop.threads.patch(), these go on to block: {', '.join(late)}; call it first",
            PatchWarning, stacklevel=2,
        )  # fmt: skip
