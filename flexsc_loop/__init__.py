"""An asyncio event loop on exception-less system calls.

`asyncio.run(main(), loop_factory=flexsc_loop.new_event_loop)` runs a program on it unchanged.
"""

import importlib
from typing import TYPE_CHECKING, Any

from flexsc_loop import unbuilt

if not unbuilt.is_built(__path__[0]):
    # From here on, and for everybody else, `flexsc_loop` is the installed one.
    unbuilt.hand_over(__path__[0])

from flexsc_loop.loop import Loop
from flexsc_loop.own_transports import keep_transports
from flexsc_loop.policy import FlexSCPolicy, install, new_event_loop, run

if TYPE_CHECKING:
    from flexsc_loop import files
    from flexsc_loop import opentelemetry as opentelemetry
    from flexsc_loop import prometheus as prometheus
    from flexsc_loop import threads as threads
    from flexsc_loop.files import open
    from flexsc_loop.many import run_many

    __version__: str

__all__ = ["FlexSCPolicy", "Loop", "files", "install", "keep_transports", "new_event_loop", "open", "run", "run_many"]
#: Modules that `import flexsc_loop` is enough for; the last three need the packages of extras.
_MODULES = ("files", "opentelemetry", "prometheus", "threads")


def __getattr__(name: str) -> Any:
    """Modules, `open`, `run_many` and `__version__` are found when they are first asked for: most programs never do."""
    if name == "__version__":
        from flexsc_loop.version import find_version

        return globals().setdefault(name, find_version(__path__[0]))
    if name == "run_many":
        return importlib.import_module("flexsc_loop.many").run_many
    if name == "open":
        return importlib.import_module("flexsc_loop.files").open
    if name in _MODULES:
        return importlib.import_module(f"flexsc_loop.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
