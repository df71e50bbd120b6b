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
@cython.locals(order=Order, product=Product, held=dict, time=wide)
cdef int _check_open(State state) except -1
