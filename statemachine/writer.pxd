from statemachine.exact cimport wide

cdef class Writer:
    cdef unsigned char *memory
    cdef Py_ssize_t used
    cdef Py_ssize_t room

    cdef void _tail(self, unsigned char head, unsigned long long bits, int count) noexcept
    cdef int grow(self, Py_ssize_t more) except -1
    cpdef int number(self, wide value) except -1
    cpdef int text(self, str value) except -1
    cpdef int nothing(self) except -1
    cpdef int flag(self, bint value) except -1
    cpdef int array(self, Py_ssize_t count) except -1
    cpdef int raw(self, bytes encoded) except -1
    cpdef int copy(self, Writer other, Py_ssize_t start) except -1
    cpdef Py_ssize_t size(self) noexcept
    cpdef bytes since(self, Py_ssize_t start)
    cpdef int clear(self) except -1
