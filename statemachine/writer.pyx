# cython: language_level=3
"""The compiled twin of writer.py: the same methods and the same bytes. `tests/unit/statemachine/test_twins.py` compares the two."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from statemachine.exact cimport wide


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL


cdef class Writer:
    """See writer.py."""

    def __dealloc__(self):
        free(self.memory)

    cdef int grow(self, Py_ssize_t more) except -1:
        """Make room for `more` bytes."""
        cdef Py_ssize_t room = max(2 * self.room, self.used + more, 4096)
        cdef void *memory = realloc(self.memory, room)
        if memory == NULL:
            raise MemoryError
        self.memory, self.room = <unsigned char *>memory, room
        return 0

    cpdef int number(self, wide value) except -1:
        cdef unsigned long long bits = <unsigned long long>value
        if self.room - self.used < 9:
            self.grow(9)
        cdef unsigned char *at = self.memory + self.used
        if value >= 0:
            if value < 0x80:
                at[0] = <unsigned char>bits
                self.used += 1
            elif value <= 0xff:
                self._tail(0xcc, bits, 1)
            elif value <= 0xffff:
                self._tail(0xcd, bits, 2)
            elif value <= 0xffffffff:
                self._tail(0xce, bits, 4)
            elif value <= <wide>0xffffffffffffffff:
                self._tail(0xcf, bits, 8)
            else:
                raise OverflowError("a number of more than 64 bits")
        elif value >= -32:
            at[0] = <unsigned char>bits
            self.used += 1
        elif value >= -0x80:
            self._tail(0xd0, bits, 1)
        elif value >= -0x8000:
            self._tail(0xd1, bits, 2)
        elif value >= -<wide>0x80000000:
            self._tail(0xd2, bits, 4)
        elif value >= -<wide>0x8000000000000000:
            self._tail(0xd3, bits, 8)
        else:
            raise OverflowError("a number of more than 64 bits")
        return 0

    cdef inline void _tail(self, unsigned char head, unsigned long long bits, int count) noexcept:
        """A head and `count` bytes, the highest first. There is room."""
        cdef unsigned char *at = self.memory + self.used
        cdef int place
        at[0] = head
        for place in range(count, 0, -1):
            at[place] = <unsigned char>(bits & 0xff)
            bits >>= 8
        self.used += count + 1

    cpdef int text(self, str value) except -1:
        cdef Py_ssize_t length = 0
        cdef const char *utf8 = PyUnicode_AsUTF8AndSize(value, &length)
        if self.room - self.used < length + 5:
            self.grow(length + 5)
        if length < 32:
            self.memory[self.used] = <unsigned char>(0xa0 | length)
            self.used += 1
        elif length <= 0xff:
            self._tail(0xd9, length, 1)
        elif length <= 0xffff:
            self._tail(0xda, length, 2)
        else:
            self._tail(0xdb, length, 4)
        memcpy(self.memory + self.used, utf8, length)
        self.used += length
        return 0

    cpdef int nothing(self) except -1:
        if self.room == self.used:
            self.grow(1)
        self.memory[self.used] = 0xc0
        self.used += 1
        return 0

    cpdef int flag(self, bint value) except -1:
        if self.room == self.used:
            self.grow(1)
        self.memory[self.used] = 0xc3 if value else 0xc2
        self.used += 1
        return 0

    cpdef int array(self, Py_ssize_t count) except -1:
        if self.room - self.used < 5:
            self.grow(5)
        if count < 16:
            self.memory[self.used] = <unsigned char>(0x90 | count)
            self.used += 1
        elif count <= 0xffff:
            self._tail(0xdc, count, 2)
        else:
            self._tail(0xdd, count, 4)
        return 0

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

    cpdef Py_ssize_t size(self) noexcept:
        return self.used

    cpdef bytes since(self, Py_ssize_t start):
        return PyBytes_FromStringAndSize(<char *>self.memory + start, self.used - start)

    cpdef int clear(self) except -1:
        self.used = 0
        return 0
