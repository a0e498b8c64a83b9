"""An asyncio event loop on exception-less system calls.

`asyncio.run(main(), loop_factory=flexsc_loop.new_event_loop)` runs a program on it unchanged.
"""

from flexsc_loop import unbuilt

if not unbuilt.is_built(__path__[0]):
    # From here on, and for everybody else, `flexsc_loop` is the installed one.
    unbuilt.hand_over(__path__[0])

from flexsc_loop import files
from flexsc_loop.files import open
from flexsc_loop.loop import Loop
from flexsc_loop.policy import FlexSCPolicy, install, new_event_loop, run

__all__ = ["FlexSCPolicy", "Loop", "files", "install", "new_event_loop", "open", "run"]
__version__ = "0.1.0"
