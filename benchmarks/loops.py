"""The loops that can be compared, by name.  The only module that knows how each of them is made."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.placement import ROOT

NAMES = ("asyncio", "uvloop", "rloop", "aiofastnet", "flexsc", "threads", "gevent")
PAGES = ("auto", "kernel", "user")
BASELINE = "uvloop"

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@dataclass(frozen=True)
class LoopChoice:
    """A loop and, for ours, the way to run it.  Written ``name[:pages[:threads]]``, such as ``flexsc:kernel:off``.

    ``flexsc@FOLDER`` is another version of it: the one that is built in that checkout.
    """

    name: str
    pages: str | None = None
    threads: str | None = None
    root: Path = ROOT
    """The checkout that servers run from."""

    @classmethod
    def parse(cls, text: str) -> LoopChoice:
        """Raises BenchmarkError, listing what is possible, for anything else than the form above."""
        name, _, rest = text.partition(":")
        name, _, folder = name.partition("@")
        pages, _, threads = rest.partition(":")
        if name not in NAMES:
            raise BenchmarkError(f"unknown loop {name!r}; choose from {', '.join(NAMES)}")
        if (rest or folder) and name != "flexsc":
            raise BenchmarkError(f"{text!r}: only flexsc takes pages and threads, as in flexsc:kernel:off")
        if folder and not (Path(folder) / "benchmarks" / "servers").is_dir():
            raise BenchmarkError(f"{text!r}: {folder!r} is no checkout of this project")
        if pages and pages not in PAGES:
            raise BenchmarkError(f"{text!r}: unknown pages {pages!r}; choose from {', '.join(PAGES)}")
        return cls(name, pages or None, threads or None, Path(folder).resolve() if folder else ROOT)

    @property
    def label(self) -> str:
        return self._text(self.name if self.root == ROOT else f"{self.name}@{self.root}")

    @property
    def title(self) -> str:
        """What it is, for people who have not met the form above."""
        if self.name == "asyncio":
            return "asyncio's own loop"
        if self.name == "threads":
            return "plain threads"
        if self.name != "flexsc":
            return self.name
        page = f"{self.pages} page, " if self.pages in ("kernel", "user") else ""
        server = "own thread"
        if self.threads == "on":
            server = "syscall thread"
        elif self.pinned:
            server = f"syscall thread on CPU {self.threads}"
        name = "flexsc_loop" if self.root == ROOT else f"flexsc_loop of {self.root}"
        return f"{name}, {page}{server}"

    @property
    def label_there(self) -> str:
        """The label within the checkout that it names."""
        return self._text(self.name)

    def _text(self, name: str) -> str:
        return ":".join(part for part in (name, self.pages, self.threads) if part)

    @property
    def pinned(self) -> bool:
        """Whether a syscall thread is asked for."""
        return self.threads not in (None, "off", "auto")

    def factory(self) -> LoopFactory:
        """A function that makes such a loop; BenchmarkError when the package is not there."""
        if self.name in ("threads", "gevent"):
            raise BenchmarkError(f"{self.name} runs blocking code only: --workload blocking-echo, say")
        if self.name == "asyncio":
            return asyncio.SelectorEventLoop
        if self.name == "aiofastnet":
            return _aiofastnet()
        module_name = "flexsc_loop" if self.name == "flexsc" else self.name
        try:
            module = importlib.import_module(module_name)
            new_event_loop: Callable[..., asyncio.AbstractEventLoop] = module.new_event_loop
        except (ImportError, AttributeError) as error:
            absent = isinstance(error, ModuleNotFoundError) and error.name == self.name
            remedy = f": python -m pip install {self.name}" if absent else ""
            raise BenchmarkError(f"{module_name} cannot be imported: {error}{remedy}") from error
        if self.name != "flexsc":
            return new_event_loop
        return lambda: new_event_loop(pages=self.pages, threads=self.threads)


def _aiofastnet() -> LoopFactory:
    """aiofastnet's transports on uvloop, as its documentation recommends them."""
    try:
        aiofastnet, uvloop = importlib.import_module("aiofastnet"), importlib.import_module("uvloop")
    except ImportError as error:
        raise BenchmarkError(f"aiofastnet on uvloop cannot be imported: {error}") from error
    factory: LoopFactory = aiofastnet.loop_factory(uvloop.new_event_loop)
    return factory
