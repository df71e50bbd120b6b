# The types of validation.py for the compiled core: those of the checks of every order.
cimport cython

from statemachine.book cimport BookSide
from statemachine.entities cimport Account, Cancelling, Order, Placing, Product
from statemachine.entry cimport is_command_id, is_name
from statemachine.exact cimport notional, wide
from statemachine.order_index cimport OrdersByOid
from statemachine.state cimport State

cdef int _LIMIT
cdef int _BUY
cdef int _SELL
cdef int _ONLINE
cdef int _OFFLINE
cdef int _DONE
cdef int _GTC
cdef int _GTT
cdef int _FOK
cdef int _MEETING
cdef wide _AMOUNT_MAX
cdef wide _CANCEL_AFTER_MAX
cdef Py_ssize_t _OPEN_ORDERS_MAX

@cython.locals(product=Product, waits=bint)
cpdef object place_order(State state, Account account, Placing command)
cpdef object check_status(Product product, Placing command)
cdef object _limit_shape(Placing command)
@cython.locals(price=wide)
cpdef object check_limit_numbers(Product product, Placing command)
cdef object _market_shape(Placing command)
cdef object _market_numbers(Product product, Placing command)
cpdef object check_size(Product product, wide size)
cpdef object check_stop(Product product, Placing command)
cdef object _cancel_after(Placing command)
@cython.locals(oid=str, known=Order, by_oid=OrdersByOid)
cdef object _client_oid(Account account, Placing command, bint waits)
cpdef bint can_rest(int order_type, int time_in_force) noexcept
@cython.locals(cost=wide, named=wide)
cpdef wide entry_hold(Product product, Placing command, wide available) except? -1
@cython.locals(available=wide, needed=wide)
cdef object _funds(Product product, Account account, Placing command)
@cython.locals(opposite=BookSide)
cdef object _post_only(Product product, Placing command)
@cython.locals(order=Order, by_oid=OrdersByOid)
cpdef object cancel_order(State state, Account account, Cancelling command)
cpdef bint may_cancel(Product product) noexcept
