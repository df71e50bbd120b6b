# What the compiled core knows more about remember.py: the types.
cimport cython


@cython.final
cdef class OutcomeMemory:
    cdef readonly object _chunks
    cdef list _newest
    cdef Py_ssize_t _gone
    cdef readonly dict _packed
    cdef readonly long long remembered
    cdef readonly Py_ssize_t bound

    cpdef bytes find(self, str command_id)
    @cython.locals(newest=list)
    cpdef int remember(self, str command_id, bytes packed) except -1
    cdef int _forget_oldest(self) except -1


cpdef bint fingerprint_fits(bytes packed, bytes mark)
cpdef bytes fingerprint_of(bytes packed)
cpdef bytes packed_outcome(bytes packed)
