# The types of loading.py for the compiled core: those of the functions for every row of a large table.
cimport cython

from statemachine.book cimport Filling
from statemachine.entities cimport Account, Order, Product
from statemachine.invariants cimport OpenOrders
from statemachine.order_index cimport OrdersByOid
from statemachine.order_rows cimport OrderReader, OutcomeReader, is_order_key
from statemachine.state cimport State

cdef int _ACTIVE
cdef int _BUY


@cython.final
cdef class Places:
    cdef Product _product
    cdef Filling _bids
    cdef Filling _asks
    cdef list _stops
    cdef list _queued
    cdef list _collected
    cdef dict _expiring

    cpdef int add(self, Order order) except -1


@cython.locals(part=list, key=bytes, payload=bytes, reader=OrderReader, order=Order, places=Places, places_of=dict, last=cython.longlong, number=Py_ssize_t)
cpdef int _load_orders(State state, OpenOrders opened, object rows) except -1
@cython.locals(account=Account, by_oid=OrdersByOid)
cdef int _index_open(State state, Order order) except -1
@cython.locals(part=list, key=bytes, last=bytes, payload=bytes, reader=OrderReader, number=Py_ssize_t)
cpdef int _load_done_orders(State state, object rows) except -1
@cython.locals(account=Account, number=cython.longlong)
cdef int _load_done(State state, bytes key, Order order) except -1
@cython.locals(part=list, key=bytes, last=bytes, payload=bytes, reader=OutcomeReader, number=Py_ssize_t)
cpdef int _load_outcomes(State state, object find, bint verified, object rows) except -1
@cython.locals(part=list, key=bytes, last=bytes)
cpdef bint _rise(list pairs) except -1
