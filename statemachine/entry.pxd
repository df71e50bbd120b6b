# The types of entry.pyx, the compiled twin of entry.py.
cimport cython

from statemachine.entities cimport Cancelling, Placing
from statemachine.exact cimport wide
from statemachine.writer cimport Writer


cdef extern from *:
    """
    #include <string.h>

    /* Whether all of these bytes are ASCII. */
    static inline int quorumbook_is_ascii(const unsigned char *at, Py_ssize_t length)
    {
        unsigned long long every = 0, word;
        for (; length >= 8; at += 8, length -= 8) { memcpy(&word, at, 8); every |= word; }
        for (; length > 0; at++, length--) every |= *at;
        return (every & 0x8080808080808080ULL) == 0;
    }
    """
    bint quorumbook_is_ascii(const unsigned char *at, Py_ssize_t length) noexcept


cpdef bint is_name(str text) except -1
cpdef bint is_command_id(str text) except -1

cdef struct CommandMark:
    const unsigned char *end
    int kind


@cython.final
cdef class EntryReader:
    cdef readonly bytes payload
    cdef readonly wide time
    cdef readonly Py_ssize_t count
    cdef readonly int kind
    cdef readonly int tag
    cdef readonly str account_id
    cdef readonly str command_id
    cdef const unsigned char *at
    cdef const unsigned char *end
    cdef const unsigned char *start
    cdef const unsigned char *next
    cdef CommandMark *marks
    cdef Py_ssize_t marks_room
    cdef Py_ssize_t number

    cdef bint _scan(self)
    cdef bint _scan_command(self) except -1
    cdef bint _skip_text(self)
    cdef bint _skip_choice(self, int least, int most) noexcept
    cdef bint _skip_flag(self) noexcept
    cdef bint _number(self, wide *into) noexcept
    cdef bint _skip_value(self, int depth) noexcept
    cdef Py_ssize_t _array(self) noexcept
    cdef Py_ssize_t _text_length(self) noexcept
    cdef int _grow(self) except -1
    cdef str _text(self)
    cdef str _name(self)
    cdef int _choice(self) noexcept
    cpdef int advance(self) except -1
    cpdef bytes fingerprint(self)
    cpdef int write_fingerprint(self, Writer into) except -1
    cpdef int placing(self, Placing into) except -1
    cpdef int cancelling(self, Cancelling into) except -1
    cpdef object command(self)
