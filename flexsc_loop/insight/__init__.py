"""Looking at loops that run, from within their process or from outside; see README.md beside this."""

from flexsc_loop.insight.layout import Histogram, LoopStats
from flexsc_loop.insight.reader import own_loops, pages_of, processes, read

__all__ = ["Histogram", "LoopStats", "own_loops", "pages_of", "processes", "read"]
