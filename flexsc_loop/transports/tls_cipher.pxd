from libc.stdint cimport uint8_t


cdef extern from "records.h":
    struct flexsc_records:
        pass

    struct flexsc_scan:
        size_t complete
        size_t room
        bint odd

    void records_scan(flexsc_records* records, const uint8_t* data, size_t size, flexsc_scan* scan) noexcept


cdef enum:
    PIECE = 64 * 1024                 # put into a BIO at a time: BIOs keep the size that they once had


cdef class Cipher:
    cdef object tls                   # ssl.SSLObject
    cdef object incoming, outgoing    # ssl.MemoryBIO
    cdef object read_some, write_some              # bound methods, called as (size[, buffer]) and (data)
    cdef object put_incoming, take_outgoing        # bound methods, called as (data) and ()
    cdef bint direct                  # read_some is the ssl module's own

    cdef flexsc_records records
    cdef bint unclear                 # complete records may wait, nobody knows how many
    cdef bint interrupted             # a read has met something else than data
    cdef bint ended                   # the peer's close_notify has been read
    cdef object broken                # the error that a read has met

    cdef object backlog               # bytes, or a list of bytes: written, not encrypted
    cdef size_t waiting               # bytes of it
    cdef size_t at                    # item of the list that is not encrypted completely yet
    cdef size_t offset                # bytes of it that have been
    cdef bint blocked                 # a write has to wait for what the peer sends: renegotiation

    cdef int scan(self, bytes data, flexsc_scan* scan) except -1
    cdef int put(self, bytes data) except -1
    cdef object read_one(self, size_t room, object view)
    cdef bytes read_record(self, size_t room)
    cdef bytes read_records(self, bytes data, size_t room)
    cdef bytes read_all(self)
    cdef int skip_all(self) except -1
    cdef size_t read_into(self, char* target, size_t room, size_t count) except? 0
    cdef int look_for_more(self) except -1

    cdef int add(self, bytes data) except -1
    cdef bytes encrypt(self)
    cdef object next_piece(self)
    cdef int advance(self, size_t count) except -1
    cdef int forget(self) except -1


cdef Cipher new_cipher(object context, bint server_side, object hostname)
