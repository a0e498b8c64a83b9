"""Floor 5: any asyncio program, unchanged, on this loop, whatever way it makes its loop.

Owns: nothing; it replaces, for the rest of the process, what asyncio, uvloop and rloop make loops with.  Imports: loop.
"""

from __future__ import annotations

import asyncio
import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import os
import sys
import types
import warnings
import zipfile
from asyncio import events, unix_events
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flexsc_loop.loop import Loop

#: A folder with a `sitecustomize` that takes over child processes: see `take_over_children`.
CHILDREN = str(Path(__file__).parent / "children")


#: Other loops, which programs may choose by themselves, and the names of their classes.
OTHERS = {"uvloop": "Loop", "rloop": "RLoop"}


class ProgramError(Exception):
    """There is no such program; the message says what was looked for."""


class SelectorEventLoop(Loop):
    """What programs that ask for `asyncio.SelectorEventLoop` get.  Nothing is asked of the selector that they bring."""

    def __init__(self, selector: object = None) -> None:
        super().__init__()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Has the other loops hand out this one as soon as they are imported, and costs nothing if they are not."""

    def __init__(self) -> None:
        self.loaders: dict[str, Any] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in OTHERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            self.loaders[name], spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self.loaders[spec.name].create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: types.ModuleType) -> None:
        self.loaders[module.__name__].exec_module(module)
        _replace_in(module)


def _run(main: Any, *, loop_factory: Any = SelectorEventLoop, debug: bool | None = None) -> Any:
    """What `uvloop.run` and `rloop.run` are for."""
    with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
        return runner.run(main)


def _replace_in(module: types.ModuleType) -> None:
    instead: dict[str, Any] = {"install": _install, "run": _run}
    instead |= dict.fromkeys(("new_event_loop", OTHERS[module.__name__]), SelectorEventLoop)
    vars(module).update((name, value) for name, value in instead.items() if hasattr(module, name))
    policy: Any = getattr(module, "EventLoopPolicy", None)
    if policy is not None:
        policy._loop_factory = staticmethod(SelectorEventLoop)


def _install() -> None:
    with warnings.catch_warnings():
        # Python 3.14 deprecates policies; 3.16 has none.
        warnings.simplefilter("ignore", DeprecationWarning)
        default: Any = getattr(asyncio, "DefaultEventLoopPolicy", None)
        if default is None:
            asyncio.new_event_loop = events.new_event_loop = SelectorEventLoop
        else:
            default._loop_factory = staticmethod(SelectorEventLoop)
            asyncio.set_event_loop_policy(default())


def take_over() -> None:
    """Have every loop of this process that asyncio, uvloop or rloop make be this one.

    `asyncio.run`, `Runner`, `new_event_loop`, `get_event_loop`, `SelectorEventLoop`, `EventLoop`, the default policy
    and theirs, which programs may set themselves.  FLEXSC_PAGES and FLEXSC_THREADS choose how it runs.  There is no
    way back.  `import flexsc_loop` by itself replaces nothing.
    """
    _install()
    for place in (asyncio, unix_events):
        for name in ("SelectorEventLoop", "EventLoop"):
            if hasattr(place, name):
                vars(place)[name] = SelectorEventLoop
    for name in OTHERS:
        if name in sys.modules:
            _replace_in(sys.modules[name])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def take_over_children() -> None:
    """Have the Python processes that this one starts from now on do the same, and theirs.

    Through PYTHONPATH and a `sitecustomize`, which imports the one that they would have imported.  Children that ignore
    PYTHONPATH (`python -E`, `-I`), or `sitecustomize` (`-S`), are left alone.
    """
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if CHILDREN not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([CHILDREN, *paths])


def run_script(path: str, arguments: Sequence[str]) -> None:
    """Run a file, compiled or not, or a folder or archive with a `__main__.py`, or `-`, as `python path` does."""
    argv = [path, *arguments]
    if path == "-":
        _set_first_path("")
        code = compile(sys.stdin.buffer.read(), "<stdin>", "exec", dont_inherit=True)
        return _run_code(code, argv, importlib.machinery.BuiltinImporter, "<stdin>")
    full = _absolute(path)
    if _is_container(path):
        _set_first_path(full)
        spec = importlib.machinery.PathFinder.find_spec("__main__", [full])
        if spec is None:
            raise ProgramError(f"can't find '__main__' module in {path!r}")
        return _run_spec(spec, argv)
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise ProgramError(f"can't open file {path!r}: {error.strerror}") from None
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    if path.endswith(".pyc"):
        loader: Any = importlib.machinery.SourcelessFileLoader("__main__", full)
        return _run_code(loader.get_code("__main__"), argv, loader, full)
    loader = importlib.machinery.SourceFileLoader("__main__", full)
    _run_code(compile(source, full, "exec", dont_inherit=True), argv, loader, full)


def run_module(name: str, arguments: Sequence[str]) -> None:
    """Run a module, or a package's `__main__`, as `python -m name arguments...` does."""
    spec = _find(name)
    if spec is not None and spec.submodule_search_locations is not None:
        name += ".__main__"
        spec = _find(name)
    if spec is None:
        raise ProgramError(f"no module named {name}")
    _run_spec(spec, [str(spec.origin), *arguments])


def run_command(command: str, arguments: Sequence[str]) -> None:
    """Run source code, as `python -c command arguments...` does."""
    _set_first_path("")
    if sys.version_info >= (3, 13):
        # Tracebacks show its lines.
        linecache.cache["<string>"] = (len(command), None, command.splitlines(True), "<string>")
    code = compile(command, "<string>", "exec", dont_inherit=True)
    _run_code(code, ["-c", *arguments], importlib.machinery.BuiltinImporter)


def _absolute(path: str) -> str:
    """As Python makes it: a program may go to another folder, and look for what lies beside it."""
    try:
        return os.path.join(os.getcwd(), path)
    except FileNotFoundError:
        return path


def _is_container(path: str) -> bool:
    """Whether Python would look for a `__main__` in it."""
    return os.path.isdir(path) or zipfile.is_zipfile(path)


def _find(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        raise ProgramError(f"no module named {error.name or name}") from error


def _code_of(spec: importlib.machinery.ModuleSpec) -> types.CodeType:
    loader: Any = spec.loader
    code = loader.get_code(spec.name) if hasattr(loader, "get_code") else None
    if code is None:
        raise ProgramError(f"no code to run in {spec.name}")
    return code  # type: ignore[no-any-return]


def _set_first_path(path: str) -> None:
    """Where `import` looks first: this command's own, the current folder, gives way to the program's."""
    if not sys.flags.safe_path:
        sys.path[0] = path


def _run_spec(spec: importlib.machinery.ModuleSpec, argv: list[str]) -> None:
    _run_code(_code_of(spec), argv, spec.loader, spec.origin, spec)


def _run_code(
    code: types.CodeType, argv: list[str], loader: object, file: str | None = None,
    spec: importlib.machinery.ModuleSpec | None = None,
) -> None:  # fmt: skip
    """Run it as the main module, which it stays: what it leaves running at its end may still ask for that."""
    main = types.ModuleType("__main__")
    names = vars(main)
    names.update(__builtins__=builtins, __loader__=loader, __spec__=spec)
    if spec is not None:
        names["__package__"] = spec.parent
    if file is not None:
        names["__file__"] = file
    # Names that only some versions of Python give to their main modules.
    pythons_own = vars(sys.modules["__main__"])
    if "__annotations__" in pythons_own:
        names["__annotations__"] = {}
    if "__cached__" in pythons_own and file is not None:
        names["__cached__"] = None if spec is None else spec.cached
    sys.modules["__main__"] = main
    sys.argv[:] = argv
    exec(code, names)


def run(program: Callable[[str, list[str]], None], name: str, arguments: list[str]) -> None:
    """Run it by one of the functions above, and tell what ends it."""
    try:
        program(name, arguments)
    except BaseException as error:
        tell_error(error)
        raise


def tell_error(error: BaseException) -> None:
    """Tell what has ended a program as Python does, before other threads are waited for, and without our own frames.

    Whoever calls this raises it again, for the exit status; it is not told twice.
    """
    if isinstance(error, ProgramError):
        return
    if isinstance(error, SystemExit):
        if not isinstance(error.code, int | None):
            if sys.stderr is not None:  # print() would take stdout instead
                print(error.code, file=sys.stderr, flush=True)
            error.code = 1
        return
    found = error.__traceback__
    while found is not None and found.tb_frame.f_globals.get("__name__", "").startswith("flexsc_loop."):
        found = found.tb_next
    # What Python shows is the traceback that the error has, whatever the hook is given.
    error.__traceback__ = found
    vars(sys).update(last_type=type(error), last_value=error, last_traceback=found)
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    sys.excepthook(type(error), error, found)
    sys.excepthook = lambda *_told: None
