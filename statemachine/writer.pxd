# The types of writer.pyx, the compiled twin of writer.py. Each order writes about seventy fields, so the methods that write one
# field are defined here: every module that calls them compiles them in line.
cimport cython

from libc.string cimport memcpy

from statemachine.exact cimport wide


cdef extern from *:
    """
    #include <string.h>

    /* Writes a number as msgpack in its shortest form. There must be room for 9 bytes. Returns the number of written bytes;
       0 if the number has more than 64 bits. The sizes of numbers follow no pattern, so the form of a positive number is
       computed without a branch. */
    static inline int quorumbook_number(unsigned char *at, __int128 value)
    {
        unsigned long long bits = (unsigned long long)value;
        int count, head;
        if (value >= 0) {
            if (value < 0x80) { at[0] = (unsigned char)bits; return 1; }
            if (value >> 64) return 0;
            head = (bits > 0xff) + (bits > 0xffff) + (bits > 0xffffffffULL);
            count = 1 << head;
            head += 0xcc;
        } else {
            long long number = (long long)value;
            if ((__int128)number != value) return 0;
            if (number >= -32) { at[0] = (unsigned char)bits; return 1; }
            if (number >= -0x80) { head = 0xd0; count = 1; }
            else if (number >= -0x8000) { head = 0xd1; count = 2; }
            else if (number >= -0x80000000LL) { head = 0xd2; count = 4; }
            else { head = 0xd3; count = 8; }
        }
        at[0] = (unsigned char)head;
        bits <<= 64 - 8 * count;
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        bits = __builtin_bswap64(bits);
    #endif
        memcpy(at + 1, &bits, 8);
        return count + 1;
    }

    /* Returns the bytes of a text in UTF-8, and their number. No call is needed for ASCII. Returns NULL with an exception if
       the text has no form in UTF-8. */
    static inline const char *quorumbook_utf8(PyObject *text, Py_ssize_t *size)
    {
        if (PyUnicode_IS_COMPACT_ASCII(text)) {
            *size = PyUnicode_GET_LENGTH(text);
            return (const char *)PyUnicode_1BYTE_DATA(text);
        }
        return PyUnicode_AsUTF8AndSize(text, size);
    }
    """
    int quorumbook_number(unsigned char *at, wide value) noexcept
    const char *quorumbook_utf8(object text, Py_ssize_t *size) except NULL


@cython.final
cdef class Writer:
    cdef unsigned char *memory
    cdef Py_ssize_t used
    cdef Py_ssize_t room

    cdef Py_ssize_t *marks
    cdef Py_ssize_t marked
    cdef Py_ssize_t marks_room

    cdef int grow(self, Py_ssize_t more) except -1
    cdef int grow_marks(self) except -1
    cdef int long_number(self, wide value) except -1
    cdef int text_header(self, Py_ssize_t length) except -1
    cpdef int array(self, Py_ssize_t count) except -1
    cpdef int raw(self, bytes encoded) except -1
    cpdef int copy(self, Writer other, Py_ssize_t start) except -1
    cpdef bytes since(self, Py_ssize_t start)
    cpdef object ends(self)
    cdef void _tail(self, unsigned char *at, unsigned long long bits, int count) noexcept

    cpdef inline int number(self, wide value) except -1:
        # Most numbers are small. Only their branch is compiled into the callers.
        if value < 0 or value >= 0x80 or self.used == self.room:
            return self.long_number(value)
        self.memory[self.used] = <unsigned char>value
        self.used += 1
        return 0

    cpdef inline int text(self, str value) except -1:
        cdef Py_ssize_t length = 0
        cdef const char *utf8 = quorumbook_utf8(value, &length)
        if self.room - self.used < length + 5:
            self.grow(length + 5)
        if length < 32:
            self.memory[self.used] = <unsigned char>(0xa0 | length)
            self.used += 1
        else:
            self.text_header(length)
        memcpy(self.memory + self.used, utf8, length)
        self.used += length
        return 0

    cpdef inline int nothing(self) except -1:
        if self.room == self.used:
            self.grow(1)
        self.memory[self.used] = 0xc0
        self.used += 1
        return 0

    cpdef inline int flag(self, bint value) except -1:
        if self.room == self.used:
            self.grow(1)
        self.memory[self.used] = 0xc3 if value else 0xc2
        self.used += 1
        return 0

    cpdef inline Py_ssize_t size(self) noexcept:
        return self.used

    cpdef inline int mark(self) except -1:
        if self.marked == self.marks_room:
            self.grow_marks()
        self.marks[self.marked] = self.used
        self.marked += 1
        return 0

    cpdef inline int clear(self) except -1:
        self.used = self.marked = 0
        return 0
