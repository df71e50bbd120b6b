# What the compiled core knows more about order_rows.py: the types of its twin, order_rows.pyx.
cimport cython

from statemachine.entities cimport Order
from statemachine.entry cimport EntryReader


@cython.final
cdef class OrderReader:
    cdef dict _accounts
    cdef dict _products
    cdef EntryReader _at

    cdef Order _read(self, bytes payload)
    cdef str _text(self, bint is_name)
    cpdef Order read(self, bytes payload)
