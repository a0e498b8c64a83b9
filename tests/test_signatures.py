"""What can be called, and how: as on the running Python's own loop; a new Python's arguments are noticed here."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import flexsc_loop
from flexsc_loop.transports.datagram import DatagramTransport
from flexsc_loop.transports.pipe import ReadPipeTransport, WritePipeTransport
from flexsc_loop.transports.stream import StreamTransport
from flexsc_loop.transports.tls import SSLTransport

Own = asyncio.SelectorEventLoop
KINDS = inspect.Parameter
NAMED = (KINDS.POSITIONAL_OR_KEYWORD, KINDS.KEYWORD_ONLY)
CALLS = (
    "call_soon", "call_later", "call_at", "call_soon_threadsafe", "create_task", "create_future", "time", "get_debug",
    "run_in_executor", "add_reader", "add_writer", "remove_reader", "remove_writer", "sock_recv", "sock_sendall",
    "create_server", "create_unix_server", "create_connection", "create_unix_connection", "start_tls", "sendfile",
    "create_datagram_endpoint", "subprocess_exec", "add_signal_handler", "getaddrinfo", "getnameinfo", "stats",
)  # fmt: skip


def complaints(ours: inspect.Signature, theirs: inspect.Signature) -> Iterator[str]:
    """What may be given to `theirs` and not to `ours`."""
    mine = ours.parameters
    kinds = {parameter.kind for parameter in mine.values()}
    places = [name for name, parameter in mine.items() if parameter.kind is not KINDS.KEYWORD_ONLY]
    for place, (name, parameter) in enumerate(theirs.parameters.items()):
        if parameter.kind in (KINDS.VAR_POSITIONAL, KINDS.VAR_KEYWORD):
            if parameter.kind not in kinds:
                yield f"no {parameter}"
        elif place == 0:  # self
            continue
        elif name not in mine or mine[name].kind not in NAMED:
            yield f"no {name}"
        elif parameter.kind is not KINDS.KEYWORD_ONLY and places.index(name) != place:
            yield f"{name} has another place"
        elif (parameter.default is KINDS.empty) != (mine[name].default is KINDS.empty):
            yield f"{name} must be given" if parameter.default is not KINDS.empty else f"{name} need not be given"
    for name, parameter in mine.items():
        if name not in theirs.parameters and parameter.kind in NAMED and parameter.default is KINDS.empty:
            yield f"{name} is unknown"


def overridden() -> list[str]:
    """The functions of asyncio's own loop, private hooks included, that are our own here."""
    names = {name for cls in Own.__mro__ if cls is not object for name, value in vars(cls).items() if callable(value)}
    return sorted(
        name
        for name in names
        if not name.startswith("__") and getattr(flexsc_loop.Loop, name, getattr(Own, name)) is not getattr(Own, name)
    )


def test_there_is_something_to_compare():
    assert {"_start_serving", "_make_socket_transport", "_add_reader", "create_server", "call_soon"} <= {*overridden()}


@pytest.mark.parametrize("name", overridden())
def test_every_override_takes_what_the_inherited_code_gives(name):
    ours, theirs = (inspect.signature(getattr(cls, name)) for cls in (flexsc_loop.Loop, Own))
    assert [*complaints(ours, theirs)] == [], f"{ours}\n{theirs}"


@pytest.mark.parametrize("name", overridden())
def test_coroutines_are_coroutines(name):
    ours, theirs = (getattr(cls, name) for cls in (flexsc_loop.Loop, Own))
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)


@pytest.mark.parametrize("name", CALLS)
def test_a_loops_methods_can_be_asked_for_their_signature(name):
    loop = flexsc_loop.Loop(pages="user")
    try:
        ours = inspect.signature(getattr(loop, name))
    finally:
        loop.close()
    if hasattr(Own, name):
        theirs = [*inspect.signature(getattr(Own, name)).parameters][1:]
        assert [*ours.parameters][: len(theirs)] == theirs or {*theirs} <= {*ours.parameters}
    assert not str(ours).startswith("(*args, **kwargs)")


@pytest.mark.parametrize("name", [name for name in dir(flexsc_loop.Loop) if not name.startswith("_")])
def test_every_public_method_has_a_signature(name):
    member = getattr(flexsc_loop.Loop, name)
    if callable(member):
        inspect.signature(member)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (StreamTransport, asyncio.Transport),
        (SSLTransport, asyncio.Transport),
        (DatagramTransport, asyncio.DatagramTransport),
        (ReadPipeTransport, asyncio.ReadTransport),
        (WritePipeTransport, asyncio.WriteTransport),
    ],
)
def test_transports(ours, theirs):
    found = {
        name: [*complaints(inspect.signature(getattr(ours, name)), inspect.signature(getattr(theirs, name)))]
        for name in dir(theirs)
        if not name.startswith("_") and callable(getattr(theirs, name))
    }
    assert {name: what for name, what in found.items() if what} == {}


def test_sizes_are_named():
    for name in ("entries", "completions", "buffers", "buffer_size"):
        assert isinstance(inspect.signature(flexsc_loop.Loop).parameters[name].default, int)
    with pytest.raises(TypeError, match="entires"):
        flexsc_loop.Loop(entires=64)


def test_wrong_options_are_refused():
    loop = flexsc_loop.Loop(pages="user")
    with pytest.raises(TypeError, match="reuse_prot"):
        loop.run_until_complete(loop.create_server(asyncio.Protocol, reuse_prot=True))
    loop.close()


@pytest.mark.parametrize(
    ("ours", "wrong"),
    [
        (lambda self, a, b=1, *, c=None: None, []),
        (lambda self, a, b=1, d=2, *, c=None, e=3: None, []),
        (lambda self, a, b=1: None, ["no c"]),
        (lambda self, a, b=1, **options: None, ["no c"]),
        (lambda self, b=1, a=2, *, c=None: None, ["a has another place", "a need not be given", "b has another place"]),
        (lambda self, a, b, *, c=None: None, ["b must be given"]),
        (lambda self, a, b=1, *, c=None, d: None, ["d is unknown"]),
    ],
)
def test_the_comparison_itself(ours: Callable[..., Any], wrong: list[str]):
    def theirs(self, a, b=1, *, c=None): ...

    found = {*complaints(inspect.signature(ours), inspect.signature(theirs))}
    assert found <= {*wrong} and bool(found) == bool(wrong)
