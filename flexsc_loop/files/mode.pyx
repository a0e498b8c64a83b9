# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 4: what the arguments of `open` say: the mode, and, of a file of text, encoding, errors and newline.

Owns: which modes there are, and what those that were asked for before have been found to mean.  Imports: nothing of the
package.
"""
import codecs
import io
import os
import sys


cdef enum:
    CODINGS = 64                     # that are kept


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


cdef class Coding:
    """How text and bytes are turned into each other: one for all files that were opened alike."""

    cdef object new_decoder(self):
        decoder = self.decoder(self.errors)
        return io.IncrementalNewlineDecoder(decoder, self.translating) if self.universal else decoder


# (encoding, errors, newline, whether it is read, and written) -> Coding
cdef dict codings = {}


cdef Coding coding_of(object encoding, object errors, object newline, bint reads, bint writes):
    """Takes, names and refuses what io does."""
    cdef Coding found
    # What an encoding that is not given is depends on the time.
    plain = type(encoding) is str and all(one is None or type(one) is str for one in (errors, newline))
    if plain:
        found = kept((encoding, errors, newline, reads, writes))
        if found is not None:
            return found
    model = io_model(encoding, errors, newline, writes)
    if not plain:
        encoding, errors, newline = model.encoding, model.errors, None if newline is None else str(newline)
        found = kept((encoding, errors, newline, reads, writes))
        if found is not None:
            return found
    return new_coding(model, encoding, errors, newline, reads, writes)


cdef Coding kept(tuple key):
    """One that was made before, unless its name means another encoding now."""
    cdef Coding found = codings.get(key)
    return found if found is not None and found.info is codecs.lookup(key[0]) else None


cdef object io_model(object encoding, object errors, object newline, bint writes):
    below = io.BytesIO()
    if not writes:
        below = io.BufferedReader(below, 1)  # an encoding that can't be written may be read
    return io.TextIOWrapper(below, encoding, errors, newline)


cdef Coding new_coding(object model, str encoding, str errors, str newline, bint reads, bint writes):
    """What is as `model` is, and kept for the next that is asked for in the same way."""
    cdef Coding made = Coding.__new__(Coding)
    made.encoding = sys.intern(model.encoding)
    made.errors = sys.intern(model.errors)
    made.info = codecs.lookup(encoding)
    made.universal = not newline
    made.translating = newline is None
    made.newline = newline or ("\n" if newline is None else None)
    made.written_newline = newline if newline in ("\r", "\r\n") else None
    if reads:
        made.decoder = codecs.getincrementaldecoder(made.encoding)
    if writes:
        made.encoder = codecs.getincrementalencoder(made.encoding)
    if len(codings) < CODINGS:
        codings[encoding, errors, newline, reads, writes] = made
    return made
