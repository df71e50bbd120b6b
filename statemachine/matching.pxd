# The types of matching.py for the compiled core.
cimport cython

from statemachine.validation cimport can_rest, entry_hold
from statemachine.book cimport BookSide
from statemachine.entities cimport Account, Balance, Order, Placing, PriceLevel, Product
from statemachine.exact cimport credit_after, executed, fee, most_lots, notional, wide
from statemachine.order_index cimport OrdersByOid, new_order
from statemachine.state cimport State
from statemachine.emit cimport order_changed, order_done, order_matched, order_opened, order_received

cdef int _LIMIT
cdef int _BUY
cdef int _SELL
cdef int _OPEN
cdef int _FOK
cdef int _DC
cdef int _CO
cdef int _CN
cdef int _CB
cdef int _FILLED
cdef int _CANCELLED
cdef int _END_BOOK_EMPTY
cdef int _END_ENOUGH
cdef int _END_SELF_TRADE
cdef int _END_MAKERS_MAX
cdef int _MAKERS_MAX
cdef int _LOOKS_PER_UNIT
cdef int _CREDIT_MAX


@cython.final
@cython.no_gc
@cython.freelist(8)
cdef class Taker:
    cdef readonly Order order
    cdef readonly Balance base
    cdef readonly Balance quote
    cdef readonly bint by_money
    cdef readonly bint by_funds
    cdef public long long to_raise
    cdef public bint short_of_base


@cython.locals(by_oid=OrdersByOid, paying=Balance, order=Order, hold=wide)
cpdef Order accept(State state, Account account, Product product, Placing command)
@cython.locals(account=Account)
cpdef Taker taker_of(State state, Order order)
cpdef int enter(State state, Product product, Order order) except -1
@cython.locals(maker_side=BookSide)
cpdef int match(State state, Product product, Order order) except -1
@cython.locals(order=Order, end=int, limit=cython.longlong, own_limit=cython.longlong, level=PriceLevel)
cdef int _match(State state, Product product, BookSide maker_side, Taker taker) except -1
cdef int _stay_or_leave(State state, Product product, Order order) except -1
cdef bint _held_at_collar(State state, Product product, Order order) except -1
@cython.locals(product=Product, resting=bint)
cpdef int close_order(State state, Order order, int reason) except -1
@cython.locals(side=BookSide)
cpdef int detach(Product product, Order order) except -1
@cython.locals(side=BookSide)
cpdef int rest(State state, Product product, Order order) except -1
cpdef int close(State state, Product product, Order order, int reason, bint resting) except -1
cpdef int close_on_side(State state, Product product, BookSide side, Order order, int reason) except -1
@cython.locals(order=Order, maker=Order, level=PriceLevel, bound=cython.longlong, wanted=wide, offered=cython.longlong, size=cython.longlong)
cdef int _take(State state, Product product, BookSide maker_side, Taker taker, long long limit) except -1
@cython.locals(order=Order, left=cython.longlong)
cdef bint _is_filled(Taker taker, int end) except -1
@cython.locals(order=Order, lot_cost=wide, size=wide, owned=wide, raising=wide)
cdef wide _capacity(Product product, Taker taker, long long price) except? -1
@cython.locals(order=Order, value=cython.longlong, maker_fee=cython.longlong, taker_fee=cython.longlong, owner=Account)
cpdef int trade(State state, Product product, Taker taker, Order maker, long long size, long long price, bint auction) except -1
@cython.locals(paid=wide)
cdef wide _charge(Order order, wide value, wide ppm) except? -1
@cython.locals(cost=cython.longlong, hold=cython.longlong, freed=cython.longlong)
cdef int _settle(Product product, Order order, Balance base, Balance quote, long long size, long long value, long long paid) except -1
@cython.locals(order=Order, taker_size=wide, maker_size=cython.longlong)
cdef bint _prevent(State state, Product product, BookSide maker_side, Taker taker, Order maker, wide wanted) except -1
@cython.locals(old=cython.longlong)
cpdef int decrement_size(State state, Product product, Order order, long long by, bint resting) except -1
@cython.locals(order=Order, value=cython.longlong, old=cython.longlong, new=cython.longlong)
cdef int _decrement_funds(State state, Product product, Taker taker, long long price, long long size) except -1
@cython.locals(most=cython.longlong, missing=wide, met=cython.longlong, end=int, by_totals=bint, hidden=wide, level=PriceLevel, maker=Order)
cdef int _fillable(State state, BookSide maker_side, Order order, long long limit) except -1
