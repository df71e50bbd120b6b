# The types of order_rows.pyx, the compiled twin of order_rows.py.
cimport cython

from statemachine.entities cimport Order
from statemachine.entry cimport EntryReader


@cython.final
cdef class OrderReader:
    cdef dict _accounts
    cdef dict _products
    cdef EntryReader _at

    cdef Order _read(self, bytes payload)
    cpdef Order read(self, bytes payload)


@cython.final
cdef class OutcomeReader:
    cdef EntryReader _at

    cdef tuple _read(self, bytes payload)
    cpdef tuple read(self, bytes payload)
