# The types of loading.py for the compiled core: those of the functions for every order of a snapshot.
cimport cython

from statemachine.entities cimport Account, Order, Product, order_of_row
from statemachine.order_index cimport OrdersByOid
from statemachine.state cimport State

cdef int _ACTIVE
cdef int _BUY

@cython.locals(account=Account, by_oid=OrdersByOid)
cdef int _index_open(State state, Order order) except -1
@cython.locals(order=Order)
cdef list _ids(list orders)
@cython.locals(order=Order, product=Product)
cpdef int _load_order(State state, list keys, list orders) except -1
