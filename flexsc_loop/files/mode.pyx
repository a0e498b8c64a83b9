# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 4: what the mode of a file says.

Owns: which modes there are.  Imports: nothing of the package.
"""
import os
import sys


cdef dict known = {}                     # modes that were asked for before: there are not many


cdef class Mode:
    """What a mode says.  Raises TypeError and ValueError as the built-in open() does."""

    def __init__(self, mode):
        if not isinstance(mode, str):
            raise TypeError(f"open() argument 'mode' must be str, not {kind_of(mode)}")
        check_encodable(str(mode))
        kinds = set(mode)
        if kinds - set("axrwb+t") or len(mode) > len(kinds):
            raise ValueError(f"invalid mode: {mode!r}")
        self.text = str(mode)
        self.binary = "b" in kinds
        if self.binary and "t" in kinds:
            raise ValueError("can't have text and binary mode at once")
        which = len(kinds & set("rwax"))
        if which > 1:
            raise ValueError("must have exactly one of create/read/write/append mode")
        if not which:
            raise ValueError("Must have exactly one of create/read/write/append mode and at most one plus")
        writing = "w" in kinds
        self.creating, self.appending = "x" in kinds, "a" in kinds
        self.updating = "+" in kinds
        self.can_read = "r" in kinds or self.updating
        self.can_write = "r" not in kinds or self.updating
        self.truncated = writing and sys.version_info >= (3, 15)  # as `mode` of io's files says it
        flags = os.O_CLOEXEC
        flags |= os.O_RDWR if self.can_read and self.can_write else os.O_RDONLY if self.can_read else os.O_WRONLY
        if self.creating:
            flags |= os.O_CREAT | os.O_EXCL
        if writing:
            flags |= os.O_CREAT | os.O_TRUNC
        if self.appending:
            flags |= os.O_CREAT | os.O_APPEND
        self.flags = flags


cdef str kind_of(object value):
    """As complaints about arguments name it."""
    return "None" if value is None else type(value).__name__


cdef int check_encodable(str text) except -1:
    """Raise what the built-in open() raises for text that C can't take."""
    text.encode()
    if "\0" in text:
        raise ValueError("embedded null character")
    return 0


cdef Mode mode_of(object text):
    """What a mode says, which is the same each time."""
    found = known.get(text) if type(text) is str else None
    if found is None:
        found = Mode(text)
        if type(text) is str:
            known[text] = found
    return found
