# The types of framing.py for the compiled modules.
cimport cython


@cython.final
cdef class FrameSplitter:
    cdef public Py_ssize_t limit
    cdef bytearray _rest
    cdef Py_ssize_t _needed

    @cython.locals(frames=list, used=Py_ssize_t, joined=bytes, rest=bytearray)
    cpdef list feed(self, bytes data)
    @cython.locals(frames=list, start=Py_ssize_t, end=Py_ssize_t, body=Py_ssize_t, high=Py_ssize_t, length=Py_ssize_t)
    cdef tuple _cut(self, bytes data)
