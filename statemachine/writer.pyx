# cython: language_level=3
"""The compiled twin of writer.py: the same methods and the same bytes. `tests/unit/statemachine/test_twins.py` compares the two. Half of it is in writer.pxd."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy


cdef class Writer:
    """See writer.py."""

    def __dealloc__(self):
        free(self.memory)
        free(self.marks)

    cdef int grow(self, Py_ssize_t more) except -1:
        """Make room for `more` bytes."""
        cdef Py_ssize_t room = max(2 * self.room, self.used + more, 4096)
        cdef void *memory = realloc(self.memory, room)
        if memory == NULL:
            raise MemoryError
        self.memory, self.room = <unsigned char *>memory, room
        return 0

    cdef int grow_marks(self) except -1:
        """Make room for more marks."""
        cdef Py_ssize_t room = 2 * self.marks_room if self.marks_room else 64
        cdef void *marks = realloc(self.marks, room * sizeof(Py_ssize_t))
        if marks == NULL:
            raise MemoryError
        self.marks, self.marks_room = <Py_ssize_t *>marks, room
        return 0

    cdef int long_number(self, wide value) except -1:
        """Write a number of any size."""
        cdef int count
        if self.room - self.used < 9:
            self.grow(9)
        if 0 <= value and value < 0x80:
            self.memory[self.used] = <unsigned char>value
            self.used += 1
            return 0
        count = quorumbook_number(self.memory + self.used, value)
        if count == 0:
            raise OverflowError("a number of more than 64 bits")
        self.used += count
        return 0

    cdef int text_header(self, Py_ssize_t length) except -1:
        """Write the header of a text of 32 bytes or more. There is room for it."""
        cdef unsigned char *at = self.memory + self.used
        cdef int count = 1 if length <= 0xff else 2 if length <= 0xffff else 4
        at[0] = 0xd9 if count == 1 else 0xda if count == 2 else 0xdb
        self._tail(at + 1, length, count)
        self.used += count + 1
        return 0

    cpdef int array(self, Py_ssize_t count) except -1:
        if self.room - self.used < 5:
            self.grow(5)
        cdef unsigned char *at = self.memory + self.used
        if count < 16:
            at[0] = <unsigned char>(0x90 | count)
            self.used += 1
            return 0
        cdef int size = 2 if count <= 0xffff else 4
        at[0] = 0xdc if size == 2 else 0xdd
        self._tail(at + 1, count, size)
        self.used += size + 1
        return 0

    cdef inline void _tail(self, unsigned char *at, unsigned long long bits, int count) noexcept:
        """Write `count` bytes of a number, the highest first."""
        cdef int place
        for place in range(count - 1, -1, -1):
            at[place] = <unsigned char>(bits & 0xff)
            bits >>= 8

    cpdef int raw(self, bytes encoded) except -1:
        cdef Py_ssize_t length = PyBytes_GET_SIZE(encoded)
        if self.room - self.used < length:
            self.grow(length)
        if length > 0:
            memcpy(self.memory + self.used, PyBytes_AS_STRING(encoded), length)
            self.used += length
        return 0

    cpdef int copy(self, Writer other, Py_ssize_t start) except -1:
        cdef Py_ssize_t length = other.used - start
        if length > 0:
            if self.room - self.used < length:
                self.grow(length)
            memcpy(self.memory + self.used, other.memory + start, length)
            self.used += length
        return 0

    cpdef bytes since(self, Py_ssize_t start):
        return PyBytes_FromStringAndSize(<char *>self.memory + start, self.used - start)

    cpdef object ends(self):
        return memoryview(PyBytes_FromStringAndSize(<char *>self.marks, self.marked * sizeof(Py_ssize_t))).cast("n")
