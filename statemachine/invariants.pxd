# The types of invariants.py for the compiled core: those of the checks of every order of a snapshot.
cimport cython

from statemachine.entities cimport Order, Product
from statemachine.exact cimport wide
from statemachine.state cimport State

cdef int _ACTIVE
cdef int _DONE
cdef int _NOT_DONE
cdef int _LIMIT
cdef int _GTC
cdef int _GTT
cdef int _BUY
cdef int _PPM

@cython.locals(filled=wide, remaining=wide, reserve=wide)
cdef bint _rests(Order order, Product product, wide time) except -1


@cython.final
cdef class AccountHolds:
    cdef readonly Product product
    cdef wide base
    cdef wide quote
    cdef readonly dict sums

    cpdef bint turn_to(self, Product product) except -1
    cpdef int settle(self) except -1


@cython.final
cdef class OpenOrders:
    cdef State _state
    cdef dict _holds
    cdef list _later
    cdef Py_ssize_t _count

    cpdef int add(self, Order order) except -1
    @cython.locals(product=Product, account_id=str, holds=AccountHolds)
    cdef bint _sum_up(self, Order order) except -1
    @cython.locals(state=State, product=Product)
    cdef bint _is_valid(self, Order order) except -1


@cython.locals(order=Order, opened=OpenOrders)
cpdef OpenOrders _open_orders(State state)
