# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 4: opening a file.

Owns: what `open` accepts and refuses, and the choice of the file object.  Imports: action, at_once, mode, binary, text,
elsewhere.

What can be opened at once is, with no coroutine; everything else is left to one.
"""
import errno
import io
import os
import warnings
from asyncio import get_running_loop
from operator import index
from types import GenericAlias

cimport cython
from cpython.object cimport PyObject, PyTypeObject
from posix.unistd cimport close as close_fd

from flexsc_loop.files.elsewhere import ExecutorCalls
from flexsc_loop.files.action cimport RETURNED, RUNNING, Action, flexsc_set_next, next_step
from flexsc_loop.files.at_once cimport S_IFDIR, S_IFREG, file_about
from flexsc_loop.files.binary cimport BinaryFile
from flexsc_loop.files.calls cimport FileCalls, c_int
from flexsc_loop.files.mode cimport Mode, check_encodable, mode_of
from flexsc_loop.files.text import TextFile


cdef enum:
    MOST_BUFFER = 8 << 20
    RIGHTS = 0o666                   # of a new file, less what the process's umask says


cdef object LIMIT = 1 << 31              # of what a descriptor may be
cdef Py_ssize_t DEFAULT_BUFFER = io.DEFAULT_BUFFER_SIZE


cdef class Opening(Action):
    """A file that is being opened: for `await`, and for `async with`, which closes it."""
    cdef object opened
    cdef bint entered

    def __init__(self, making):
        """making: the coroutine that opens it."""
        self.running = making
        self.state = RUNNING

    def __aenter__(self):
        self.entered = True
        return self

    def __aexit__(self, kind, error, traceback):
        if type(self.opened) is BinaryFile:
            return (<BinaryFile> self.opened).closing()
        if self.opened is None:
            raise RuntimeError("it was not entered")
        return self.opened.__aexit__(kind, error, traceback)

    @classmethod
    def __class_getitem__(cls, item):
        return GenericAlias(cls, item)

    cdef int advance(self, object value, PyObject** result) except -1:
        cdef int how = Action.advance(self, value, result)
        if how == RETURNED and self.entered:
            self.opened = <object> result[0]
        return how


flexsc_set_next(<PyTypeObject*> Opening, next_step)


@cython.binding(True)
@cython.annotation_typing(False)
def open(
    file: int | str | bytes | os.PathLike[str] | os.PathLike[bytes], mode: str = "r", buffering: int = -1,
    encoding: str | None = None, errors: str | None = None, newline: str | None = None, closefd: bool = True,
    opener: Callable[[Any, int], int] | None = None,
) -> Opening[Any]:
    """Open a file whose methods are awaited: `async with open(...) as file`, or `file = await open(...)`.

    The arguments, and what is raised, are those of the built-in open().  A path gives a file with a position of its
    own; with a descriptor, the kernel's position is used and moved.  Not regular files work, too.
    """
    cdef Opening opening = Opening.__new__(Opening)
    opening.begin = start_open
    opening.argument = (file, mode, buffering, encoding, errors, newline, closefd, opener)
    return opening


cdef object start_open(Action action):
    cdef file_about about
    cdef Py_ssize_t size
    cdef Mode mode
    cdef int fd = -1
    file, kind, buffering, encoding, errors, newline, closefd, opener = <tuple> action.argument
    file = path_or_number(file)
    mode = mode_of(kind)
    size = c_int(buffering)
    check(file, mode, size, encoding, errors, newline, closefd)
    loop = get_running_loop()
    calls = calls_of(loop)
    text = None if mode.binary else (encoding, errors, newline)
    if isinstance(file, int):
        return described(calls, loop, file, file, mode, size, text, closefd, True, -1)
    if opener is not None:
        action.running = _open_later(_open_fd(loop, file, mode, opener), calls, loop, file, mode, size, text, False)
        return None
    if type(calls) is FileCalls:
        call = (<FileCalls> calls).open_described(file, mode.flags, RIGHTS, &fd, &about)
    else:
        call = calls.open(file, mode.flags, RIGHTS)
    if call is not None:
        action.running = _open_later(call, calls, loop, file, mode, size, text, True)
        return None
    try:
        return make_file(calls, loop, fd, file, mode, size, text, True, False, &about)
    except BaseException:
        close_fd(fd)  # which waits for nobody, or it would not have been opened at once
        raise


async def _open_later(call, calls, loop, file, Mode mode, Py_ssize_t size, tuple text, bint by_name):
    return await _made_of(await call, calls, loop, file, mode, size, text, by_name)


async def _made_of(int fd, calls, loop, name, Mode mode, Py_ssize_t size, tuple text, bint by_name):
    """The file object for a descriptor that nobody else has.  by_name: it was opened by `name` just now."""
    try:
        return described(calls, loop, fd, name, mode, size, text, True, False, mode.flags if by_name else -1)
    except BaseException:
        await calls.close(fd)
        raise


async def _open_fd(loop, file, Mode mode, opener):
    """The descriptor that the opener gives for a file with a name."""
    if 0 in os.fsencode(file):
        raise ValueError("embedded null byte")
    flags = mode.flags
    fd = await ExecutorCalls(loop).new_fd(lambda: opener(file, flags))
    if not isinstance(fd, int):
        raise TypeError("expected integer from opener")
    if fd < 0:
        raise ValueError(f"opener returned {fd}")
    os.set_inheritable(fd, False)
    return fd


async def open_made(make, names, mode, buffering, encoding, errors, newline):
    """A file object for a descriptor that `make` gives in a thread, and which nobody else has.

    names: where `make` has put the file's name, last; without, the file is called by its number.
    """
    cdef Mode wanted = mode_of(mode)
    cdef Py_ssize_t size = c_int(buffering)
    check(0, wanted, size, encoding, errors, newline, True)
    loop = get_running_loop()
    fd = await ExecutorCalls(loop).new_fd(make)
    name = names[-1] if names else fd
    return await _made_of(fd, calls_of(loop), loop, name, wanted, size, (encoding, errors, newline), False)


cpdef object calls_of(object loop):
    """The file calls of a loop: its own if it has them, else those of its executor."""
    calls = getattr(loop, "_files", None)
    return ExecutorCalls(loop) if calls is None else calls


# ---- what is refused


cdef object path_or_number(object file):
    if type(file) is str or isinstance(file, int):
        return file
    if hasattr(type(file), "__index__") and not hasattr(type(file), "__fspath__"):
        return index(file)
    return os.fspath(file)


cdef int check(object file, Mode mode, Py_ssize_t size, object encoding, object errors, object newline,
               object closefd) except -1:
    """Raise what the built-in open() raises for arguments that do not go together."""
    if encoding is not None or errors is not None or newline is not None:
        check_text(mode, (("encoding", encoding), ("errors", errors), ("newline", newline)))
    if mode.binary and size == 1:
        warnings.warn(
            "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used",
            RuntimeWarning, stacklevel=1)
    if not mode.binary and size == 0:
        raise ValueError("can't have unbuffered text I/O")
    if isinstance(file, int):
        if isinstance(file, bool):
            warnings.warn("bool is used as a file descriptor", RuntimeWarning, stacklevel=1)
        if not -LIMIT <= file < LIMIT:
            raise TypeError("expected str, bytes or os.PathLike object, not int")
        if file < 0:
            raise ValueError("negative file descriptor")
    elif not closefd:
        raise ValueError("Cannot use closefd=False with file name")
    return 0


cdef int check_text(Mode mode, tuple given) except -1:
    for name, value in given:
        if value is not None and not isinstance(value, str):
            raise TypeError(f"open() argument {name!r} must be str or None, not {type(value).__name__}")
        if mode.binary and value is not None:
            check_encodable(str(value))
            raise ValueError(f"binary mode doesn't take {'an ' if name[0] == 'e' else 'a '}{name} argument")
    return 0


# ---- the file object


cdef object described(object calls, object loop, int fd, object name, Mode mode, Py_ssize_t size, tuple text,
                      bint closefd, bint shared, int flags):
    """As `make_file`, once it is seen what is open.  flags: with which it has just been opened by its name, or -1."""
    cdef file_about about
    if type(calls) is FileCalls:
        (<FileCalls> calls).look_at(fd, flags, &about)
    else:
        about.kind, about.size, about.block_size, about.position = calls.describe(fd)
        about.plain, about.patient = False, True
        about.closable = about.device = 0
    return make_file(calls, loop, fd, name, mode, size, text, closefd, shared, &about)


cdef object make_file(object calls, object loop, int fd, object name, Mode mode, Py_ssize_t size, tuple text,
                      bint closefd, bint shared, file_about* about):
    """The object for an open descriptor.  shared: others may use its position, which is therefore the kernel's."""
    cdef BinaryFile binary
    cdef bint seekable = about.position >= 0
    cdef Py_ssize_t room = size
    if about.kind == S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if mode.appending and seekable:
        known = about.plain or about.device != 0
        about.position = about.size if known and not shared else os.lseek(fd, 0, os.SEEK_END)
    if size < 0 or size == 1:
        room = max(min(<Py_ssize_t> about.block_size, <Py_ssize_t> MOST_BUFFER), DEFAULT_BUFFER)
    if room and mode.updating and not seekable:
        raise io.UnsupportedOperation("File or stream is not seekable.")
    binary = BinaryFile.__new__(BinaryFile)
    binary.set_up(calls, loop, fd, name, mode, about, room, shared, closefd)
    if mode.binary:
        return binary
    try:
        line_buffering = size == 1 or (size < 0 and about.kind != S_IFREG and os.isatty(fd))
        return TextFile(binary, mode.text, *text, line_buffering)
    except BaseException:
        binary.abandon()
        raise
