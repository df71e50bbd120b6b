# The types of arrivals.py for the compiled modules.
cimport cython

from node.native.framing cimport FrameSplitter


@cython.final
cdef class Arrivals:
    cdef Py_ssize_t _bytes
    cdef object _clock
    cdef bint _crowded
    cdef object _owner
    cdef bint _scheduled
    cdef FrameSplitter _splitter
    cdef readonly object _waiting
    cdef public object ended
    cdef public object transport
    cdef public object writable

    @cython.locals(frames=list, body=bytes)
    cpdef data_received(self, bytes data)
    @cython.locals(until=double)
    cdef _pass_on(self)
    @cython.locals(urgent=list, body=bytes)
    cdef _urgent_first(self)
    cdef bint _is_urgent(self, message) except -1
    cdef _take(self)
    cdef _balance(self)
