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
from flexsc_loop.policy import FlexSCPolicy, install, new_event_loop, run

if TYPE_CHECKING:
    from flexsc_loop import files
    from flexsc_loop.files import open

__all__ = ["FlexSCPolicy", "Loop", "files", "install", "new_event_loop", "open", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`files` and `open` are loaded when they are first asked for: most programs that start a loop never do."""
    if name not in ("files", "open"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module("flexsc_loop.files")
    return module if name == "files" else module.open
