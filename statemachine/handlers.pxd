# The types of handlers.py for the compiled core: those of the two most frequent commands.
cimport cython

from statemachine.validation cimport cancel_order as validate_cancel, place_order as validate_place
from statemachine.answer cimport cancelled, placed
from statemachine.book cimport StopBook
from statemachine.entities cimport Account, Cancelling, Order, Placing, Product
from statemachine.matching cimport accept, enter, close_order
from statemachine.state cimport State

cdef int _AUCTION
cdef int _CANCELLED

@cython.locals(product=Product)
cpdef object place_order(State state, Account account, Placing command)
@cython.locals(order=Order)
cdef Order _enter_new(State state, Account account, Product product, Placing command, object terms)
@cython.locals(waiting=StopBook)
cdef int _enter(State state, Product product, Order order) except -1
cpdef object cancel_order(State state, Account account, Cancelling command)
