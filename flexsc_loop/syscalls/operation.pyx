# cython: language_level=3, cdivision=True
"""Floor 1: operations.

Owns: the Python-side identity of one call in flight.  Imports: nothing.

An operation belongs to the page from `Page.submit` until its last completion: the page holds one reference meanwhile,
so the address that the kernel carries as `user_data` stays good, and so do the buffers that the operation keeps.  The
upper 16 bits of `user_data` carry a generation, so that a late cancel or completion can't reach a reused operation.
"""


cdef class Operation:
    """One call.  Subclasses add what the call needs and put `prepare` beside `complete`."""

    cdef int complete(self, int res, uint32_t flags) except -1:
        """Take one result.  Runs inside the completion walk: bookkeeping only, no user code.

        res: the call's result or -errno.  flags: COMPLETION_*; without COMPLETION_MORE this was the last one, and the
        operation may be submitted again from here on.
        """
        return 0
