# cython: language_level=3
"""Floor 3: a callback before calls that block, or that end or replace the process.

Python tells audit hooks of them (PEP 578).  A hook cannot be taken away again, and makes each event of Python's some
30 ns slower, those that are not meant here, too.  So this is asked for only once something needs it.
"""


cdef extern from "audit.h":
    int audit_begin(object callback) except -1


def watch_calls(callback):
    """Have `callback()` called before os.exec*, os.fork, os.kill, os.posix_spawn, os.system, subprocess.Popen and (from
    Python 3.13 on) time.sleep, in the thread that calls them, to the end of the process.

    What `callback` raises is reported as unraisable.  Raises what another audit hook does that refuses this one.
    """
    audit_begin(callback)
