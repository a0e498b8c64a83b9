from libc.stdint cimport uint16_t, uint32_t


cdef enum:
    ADDRESS_MOST = 112           # bytes of the longest sockaddr that is decoded here: a Unix socket's


cdef struct Known:
    void* address                # what Python programs see, one reference; NULL: an empty place
    void* raw                    # bytes: the sockaddr, one reference


cdef class AddressBook:
    cdef readonly int family
    cdef Known first             # the first peer: many endpoints never have another one
    cdef Known* by_raw           # PLACES each, in one block that is allocated for the second one
    cdef Known* by_identity

    cdef object decode(self, const char* raw, size_t size)
    cdef bytes encode(self, object address)
    cdef int remember(self, object address, bytes raw, size_t place) except -1


cdef bint inet_of(bytes raw, uint32_t* host, uint16_t* port) noexcept
cdef bytes inet_name(uint32_t host, uint16_t port)
cdef bytes name_of(int fd)
cdef bytes name_of_peer(int fd)
cdef object decode(const char* raw, size_t size)
cdef bytes encode(int family, object address)
