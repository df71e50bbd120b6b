# What the compiled core knows more about entry.py: the types.
from statemachine.entities cimport Cancelling, Placing

cdef class EntryReader:
    cdef list _commands
    cdef object _command
    cdef Py_ssize_t _next
    cdef readonly Py_ssize_t count
    cdef readonly int kind
    cdef readonly str account_id
    cdef readonly str command_id
    cdef readonly bytes encoded

    cpdef int advance(self) except -1
    cpdef int placing(self, Placing into) except -1
    cpdef int cancelling(self, Cancelling into) except -1
    cpdef object command(self)
