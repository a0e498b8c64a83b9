"""Floor 5: gunicorn workers.

    gunicorn -k flexsc_loop.gunicorn.FlexSCWebWorker module:app        aiohttp applications
    gunicorn -k flexsc_loop.gunicorn.FlexSCThreadsWorker module:app    WSGI applications (Flask, Django), green threads

FLEXSC_PAGES and FLEXSC_THREADS choose how the loops run.  Each is imported when it is asked for: the first needs
aiohttp, the second greenlet.
"""

from __future__ import annotations

import importlib
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexsc_loop.threads.worker import FlexSCThreadsWorker
    from flexsc_loop.web_worker import FlexSCWebWorker

__all__ = ["FlexSCThreadsWorker", "FlexSCWebWorker"]

_MODULES = {"FlexSCThreadsWorker": "flexsc_loop.threads.worker", "FlexSCWebWorker": "flexsc_loop.web_worker"}


def hear_signals(worker: Any) -> None:
    """Have a worker be told of what would end it, from its beginning on.

    Until gunicorn does so, which is when a loop has been made, its master's handlers are in place in the worker, where
    nobody looks at what they note.
    """
    signal.signal(signal.SIGTERM, worker.handle_exit)
    signal.signal(signal.SIGINT, worker.handle_quit)
    signal.signal(signal.SIGQUIT, worker.handle_quit)
    signal.signal(signal.SIGABRT, worker.handle_abort)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
