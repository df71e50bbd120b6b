# What the compiled core knows more about reply_cache.py: the types.
cimport cython


@cython.final
cdef class ReplyCache:
    cdef readonly object _chunks
    cdef list _newest
    cdef Py_ssize_t _gone
    cdef readonly dict _packed
    cdef readonly long long added
    cdef readonly Py_ssize_t bound

    cpdef bytes find(self, str command_id)
    @cython.locals(newest=list)
    cpdef int add(self, str command_id, bytes packed) except -1
    cdef int _forget_oldest(self) except -1


cpdef bint fingerprint_fits(bytes packed, bytes mark)
cpdef bytes fingerprint_of(bytes packed)
cpdef bytes packed_outcome(bytes packed)
