"""Floor 5: a gunicorn worker that serves aiohttp applications.

Imports gunicorn and aiohttp, which are not otherwise needed.
"""

from __future__ import annotations

import asyncio

from aiohttp.worker import GunicornWebWorker

from flexsc_loop.gunicorn import hear_signals
from flexsc_loop.policy import new_event_loop


class FlexSCWebWorker(GunicornWebWorker):
    """aiohttp's worker on a FlexSC loop.  FLEXSC_PAGES and FLEXSC_THREADS choose how the loop runs.

    Source: aiohttp.worker.GunicornWebWorker, whose loop comes from the policy; this one's does not.
    """

    def init_process(self) -> None:
        """Make the loop, in the worker's own process, and serve.  Does not return before the worker ends.

        A loop that the master may have had is left alone: it shares its file descriptors with the master's.
        """
        hear_signals(self)
        self.loop = new_event_loop()
        asyncio.set_event_loop(self.loop)
        super(GunicornWebWorker, self).init_process()
