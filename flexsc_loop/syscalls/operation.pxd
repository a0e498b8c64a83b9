from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef class Operation:
    cdef uint64_t user_data          # address and generation while in flight, 0 otherwise
    cdef uint64_t place              # kernel page: number of the SQE that carries it; user page: address of the entry
    cdef void* previous              # the page's list of operations in flight: borrowed, the page's reference
    cdef void* following             # keeps them alive
    cdef uint16_t generation
    cdef uint8_t ring                # kernel page of two rings: which of them carries it, 0: none
    cdef uint8_t withdrawn           # cancelled before anybody saw it: its result is -ECANCELED
    cdef uint8_t retractable         # may be abandoned half-way without loss: nothing is done until it completes
    cdef uint8_t on_file             # its memory is the kernel's until its completion, whatever becomes of the page
    cdef uint8_t by_thread           # a file thread makes the call: no entry carries it

    cdef int complete(self, int res, uint32_t flags) except -1


cdef inline bint in_flight(Operation op) noexcept:
    return op.user_data != 0


cdef inline void stamp(Operation op) noexcept:
    """Begin a flight of `op`: a late completion of an earlier one does not have its generation."""
    op.generation = <uint16_t> (op.generation + 1)
    op.user_data = <uint64_t> <void*> op | (<uint64_t> op.generation << 48)
