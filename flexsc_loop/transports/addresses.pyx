# cython: language_level=3, cdivision=True
"""Floor 4: addresses: the kernel's sockaddr, and the tuples and strings that Python's sockets use.

Owns: for each endpoint, which peers it has talked to lately.  Imports: no other module.

Only what is common and needs no look-up is done here: numeric IPv4 and IPv6 addresses, and Unix sockets.  Whatever
else a program may pass is left to Python's socket module.
"""
import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLong, PyLong_CheckExact
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_CheckExact
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memchr, memcmp, memcpy, memset

from flexsc_loop.syscalls.cpython_extra cimport PyUnicode_IS_ASCII
from flexsc_loop.syscalls.posix_socket cimport (
    AF_INET, AF_INET6, AF_UNIX, SO_PEERNAME, SOL_SOCKET, getpeername, getsockname, getsockopt, sockaddr, socklen_t,
)


cdef extern from "<string.h>" nogil:
    size_t strnlen(const char* text, size_t most)


cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t)
    uint16_t ntohs(uint16_t)
    uint32_t htonl(uint32_t)
    uint32_t ntohl(uint32_t)
    int inet_pton(int family, const char* text, void* address)
    const char* inet_ntop(int family, const void* address, char* text, unsigned size)


cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id


cdef enum:
    NAME_MOST = 128              # bytes of the longest sockaddr there is
    PLACES = 512                 # a power of two
    TEXT_MOST = 46               # INET6_ADDRSTRLEN
    PATH_AT = 2                  # offset of sun_path
    PATH_MOST = 108              # its size
    PORT_MOST = 0xFFFF
    FLOW_MOST = 0xFFFFF


# ---- what the kernel says

cdef bytes name_of(int fd):
    """A socket's own sockaddr; None if it has none."""
    cdef char[NAME_MOST] name
    cdef socklen_t size = sizeof(name)
    if getsockname(fd, <sockaddr*> name, &size) != 0:
        return None
    return PyBytes_FromStringAndSize(name, min(size, <socklen_t> sizeof(name)))


cdef bytes name_of_peer(int fd):
    """The other end's sockaddr, although a reset may have ended the connection; None if there is none."""
    cdef char[NAME_MOST] name
    cdef socklen_t size = sizeof(name)
    if getpeername(fd, <sockaddr*> name, &size) == 0:
        return PyBytes_FromStringAndSize(name, min(size, <socklen_t> sizeof(name)))
    # getpeername(2) tells nothing after a reset, this does: if it is asked for no more than there is.
    size = sizeof(sockaddr_in6)
    if getsockopt(fd, SOL_SOCKET, SO_PEERNAME, name, &size) != 0:
        size = sizeof(sockaddr_in)
        if getsockopt(fd, SOL_SOCKET, SO_PEERNAME, name, &size) != 0:
            return None
    return PyBytes_FromStringAndSize(name, size)


cdef bint inet_of(bytes raw, uint32_t* host, uint16_t* port) noexcept:
    """Whether a sockaddr is one of IPv4 with a port, and nothing else; None is not.  If so, both are told."""
    cdef sockaddr_in name
    if raw is None or PyBytes_GET_SIZE(raw) != sizeof(name):
        return False
    memcpy(&name, PyBytes_AS_STRING(raw), sizeof(name))
    if name.sin_family != AF_INET or name.sin_port == 0:
        return False
    host[0] = name.sin_addr.s_addr
    port[0] = name.sin_port
    return True


cdef bytes inet_name(uint32_t host, uint16_t port):
    """The sockaddr of which `inet_of` has told."""
    cdef sockaddr_in name
    memset(&name, 0, sizeof(name))
    name.sin_family = AF_INET
    name.sin_addr.s_addr = host
    name.sin_port = port
    return PyBytes_FromStringAndSize(<char*> &name, sizeof(name))


cdef object decode(const char* raw, size_t size):
    """The address that Python's sockets give for a sockaddr; None for none, and for families not known here."""
    cdef uint16_t family
    if size < sizeof(family):
        return None
    memcpy(&family, raw, sizeof(family))
    if family == AF_INET and size >= sizeof(sockaddr_in):
        return decode_inet(raw)
    if family == AF_INET6 and size >= sizeof(sockaddr_in6):
        return decode_inet6(raw)
    if family == AF_UNIX:
        return decode_unix(raw, size)
    return None


cdef object decode_inet(const char* raw):
    cdef char[TEXT_MOST] text
    cdef sockaddr_in name
    memcpy(&name, raw, sizeof(name))
    inet_ntop(AF_INET, &name.sin_addr, text, sizeof(text))
    return text.decode("ascii"), <int> ntohs(name.sin_port)


cdef object decode_inet6(const char* raw):
    cdef char[TEXT_MOST] text
    cdef sockaddr_in6 name
    memcpy(&name, raw, sizeof(name))
    inet_ntop(AF_INET6, &name.sin6_addr, text, sizeof(text))
    return text.decode("ascii"), <int> ntohs(name.sin6_port), ntohl(name.sin6_flowinfo), name.sin6_scope_id


cdef object decode_unix(const char* raw, size_t size):
    cdef const char* path = raw + PATH_AT
    cdef size_t length = min(size, <size_t> ADDRESS_MOST) - PATH_AT
    if length and path[0] == 0:
        return PyBytes_FromStringAndSize(path, length)
    return os.fsdecode(PyBytes_FromStringAndSize(path, strnlen(path, length)))


# ---- what programs say

cdef bytes encode(int family, object address):
    """The sockaddr for an address; None if Python's socket module has to say what it means, or what is wrong."""
    if family == AF_UNIX:
        return encode_unix(address)
    if not PyTuple_CheckExact(address):
        return None
    if family == AF_INET:
        return encode_inet(<tuple> address)
    if family == AF_INET6:
        return encode_inet6(<tuple> address)
    return None


cdef bint parse_host(int family, object host, void* into):
    cdef Py_ssize_t size = 0
    cdef const char* text
    if not PyUnicode_CheckExact(host) or not PyUnicode_IS_ASCII(host):
        return False
    text = PyUnicode_AsUTF8AndSize(host, &size)
    return memchr(text, 0, size) == NULL and inet_pton(family, text, into) == 1


cdef long parse_number(object number, long most):
    """The number, -1 if it is none from 0 to `most`."""
    cdef long value
    if not PyLong_CheckExact(number):
        return -1
    try:
        value = PyLong_AsLong(number)
    except OverflowError:
        return -1
    return value if 0 <= value <= most else -1


cdef bytes encode_inet(tuple address):
    cdef sockaddr_in name
    cdef long port
    if PyTuple_GET_SIZE(address) != 2:
        return None
    memset(&name, 0, sizeof(name))
    port = parse_number(<object> PyTuple_GET_ITEM(address, 1), PORT_MOST)
    if port < 0 or not parse_host(AF_INET, <object> PyTuple_GET_ITEM(address, 0), &name.sin_addr):
        return None
    name.sin_family = AF_INET
    name.sin_port = htons(<uint16_t> port)
    return PyBytes_FromStringAndSize(<char*> &name, sizeof(name))


cdef bytes encode_inet6(tuple address):
    cdef Py_ssize_t size = PyTuple_GET_SIZE(address)
    cdef sockaddr_in6 name
    cdef long port, flow = 0, scope = 0
    if not 2 <= size <= 4:
        return None
    memset(&name, 0, sizeof(name))
    port = parse_number(<object> PyTuple_GET_ITEM(address, 1), PORT_MOST)
    if size > 2:
        flow = parse_number(<object> PyTuple_GET_ITEM(address, 2), FLOW_MOST)
    if size > 3:
        scope = parse_number(<object> PyTuple_GET_ITEM(address, 3), 0xFFFFFFFF)
    if port < 0 or flow < 0 or scope < 0:
        return None
    if not parse_host(AF_INET6, <object> PyTuple_GET_ITEM(address, 0), &name.sin6_addr):
        return None
    name.sin6_family = AF_INET6
    name.sin6_port = htons(<uint16_t> port)
    name.sin6_flowinfo = htonl(<uint32_t> flow)
    name.sin6_scope_id = <uint32_t> scope
    return PyBytes_FromStringAndSize(<char*> &name, sizeof(name))


cdef bytes encode_unix(object address):
    cdef uint16_t family = AF_UNIX
    cdef bytes path
    if type(address) is str:
        try:
            path = os.fsencode(address)
        except UnicodeEncodeError:
            return None
    elif type(address) is bytes:
        path = address
    else:
        return None
    if not path or (path[0] != 0 and (len(path) >= PATH_MOST or 0 in path)) or len(path) > PATH_MOST:
        return None
    return PyBytes_FromStringAndSize(<char*> &family, sizeof(family)) + path + (b"" if path[0] == 0 else b"\0")


# ---- peers of one endpoint

cdef size_t place_of_raw(const char* raw, size_t size) noexcept:
    """A place for a sockaddr: from its last four bytes (IPv6: of the address) and the port."""
    cdef uint32_t low
    cdef uint16_t port
    memcpy(&port, raw + 2, sizeof(port))
    memcpy(&low, raw + (20 if size >= sizeof(sockaddr_in6) else 4), sizeof(low))
    return (low * <uint32_t> 2654435761u ^ port * <uint32_t> 40503u) >> 7 & (PLACES - 1)


cdef size_t place_of_object(object address) noexcept:
    return <size_t> ((<uint64_t> <void*> address) * <uint64_t> 0x9E3779B97F4A7C15ull >> 40) & (PLACES - 1)


cdef inline bint same_raw(const Known* known, const char* raw, size_t size) noexcept:
    return (known.address != NULL and <size_t> PyBytes_GET_SIZE(<object> known.raw) == size
            and memcmp(PyBytes_AS_STRING(<object> known.raw), raw, size) == 0)


cdef void put(Known* known, object address, object raw) noexcept:
    cdef void* old_address = known.address
    cdef void* old_raw = known.raw
    Py_INCREF(address)
    Py_INCREF(raw)
    known.address = <void*> address
    known.raw = <void*> raw
    Py_XDECREF(<PyObject*> old_address)
    Py_XDECREF(<PyObject*> old_raw)


cdef void clear(Known* known, size_t count) noexcept:
    cdef size_t i
    if known == NULL:
        return
    for i in range(count):
        Py_XDECREF(<PyObject*> known[i].address)
        Py_XDECREF(<PyObject*> known[i].raw)


@cython.no_gc  # holds bytes, strings, and tuples of strings and numbers
cdef class AddressBook:
    """Gives the same tuple for the same peer again, and knows it when it comes back as a destination."""

    def __init__(self, int family):
        self.family = family

    def __dealloc__(self):
        clear(&self.first, 1)
        clear(self.by_raw, 2 * PLACES)
        PyMem_Free(self.by_raw)

    cdef object decode(self, const char* raw, size_t size):
        """The address for a sockaddr that the kernel has filled."""
        cdef size_t place
        if same_raw(&self.first, raw, size):
            return <object> self.first.address
        if size < sizeof(sockaddr_in) or self.family == AF_UNIX:
            return decode(raw, size)
        place = place_of_raw(raw, size)
        if self.by_raw != NULL and same_raw(&self.by_raw[place], raw, size):
            return <object> self.by_raw[place].address
        address = decode(raw, size)
        if address is not None:
            self.remember(address, PyBytes_FromStringAndSize(raw, size), place)
        return address

    cdef int remember(self, object address, bytes raw, size_t place) except -1:
        if self.first.address == NULL:
            put(&self.first, address, raw)
            return 0
        if self.by_raw == NULL:
            # One block for both tables.
            self.by_raw = <Known*> PyMem_Calloc(2 * PLACES, sizeof(Known))
            if self.by_raw == NULL:
                raise MemoryError
            self.by_identity = self.by_raw + PLACES
        put(&self.by_raw[place], address, raw)
        put(&self.by_identity[place_of_object(address)], address, raw)
        return 0

    cdef bytes encode(self, object address):
        """The sockaddr for a destination; None if Python's socket module has to find out."""
        cdef Known* known
        cdef bytes raw
        if self.first.address == <void*> address:
            return <bytes> self.first.raw
        if self.by_identity == NULL or not PyTuple_CheckExact(address):
            return encode(self.family, address)
        known = &self.by_identity[place_of_object(address)]
        if known.address == <void*> address:
            return <bytes> known.raw
        raw = encode(self.family, address)
        if raw is not None:
            # Only numbers and strings are in it, or it would not be known here.
            put(known, address, raw)
        return raw


def decoded(bytes raw not None):
    """The address that Python's sockets give for a sockaddr, None if none is in it."""
    return decode(PyBytes_AS_STRING(raw), len(raw))


def encoded(int family, address):
    """The sockaddr for a numeric address or a Unix socket's; None if only the socket module knows what is meant."""
    return encode(family, address)
