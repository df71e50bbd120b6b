# The types of entities.py for the compiled core.
cimport cython

from statemachine.exact cimport fee, notional, wide
from statemachine.reply_cache cimport ReplyCache
from statemachine.writer cimport Writer

cdef int _MARKET
cdef int _BUY
cdef int _SELL
cdef Py_ssize_t _FIELDS
cdef Balance _NO_BALANCE


@cython.final
cdef class Balance:
    cdef public long long available
    cdef public long long hold

    cpdef void lock(self, long long amount) noexcept
    cpdef void unhold(self, long long amount) noexcept


@cython.final
cdef class Currency:
    cdef readonly str name
    cdef readonly int scale
    cdef public unsigned long long deposited
    cdef public unsigned long long withdrawn
    cdef readonly long long turnover
    cdef public long long fees


@cython.final
@cython.no_gc
cdef class PriceLevel:
    cdef readonly Order first
    cdef readonly Order last
    cdef readonly long long price
    cdef readonly long long key
    cdef readonly Py_ssize_t count
    cdef public wide total
    cdef public wide hidden

    @cython.locals(last=Order)
    cpdef void append(self, Order order) noexcept
    @cython.locals(ahead=Order, behind=Order)
    cpdef void unlink(self, Order order) noexcept
    @cython.locals(order=Order)
    cpdef list orders(self)


@cython.final
cdef class Product:
    cdef readonly str product_id
    cdef readonly str base
    cdef readonly str quote
    cdef readonly Currency currency
    cdef readonly object bids
    cdef readonly object asks
    cdef readonly object buys
    cdef readonly object sells
    cdef readonly object stops
    cdef readonly long long tick
    cdef readonly long long lot
    cdef readonly long long unit
    cdef public long long min_size
    cdef public long long max_size
    cdef public long long sequence
    cdef public long long last_trade_id
    cdef public long long last_price
    cdef public int maker_fee_ppm
    cdef public int taker_fee_ppm
    cdef public signed char status
    cdef public long long version
    cdef readonly object collection
    cdef readonly object expiring
    cdef readonly object triggered
    cdef readonly object arrivals
    cdef public long long trigger_low
    cdef public long long trigger_high
    cdef public signed char opening
    cdef public long long opening_price
    cdef public long long opening_size
    cdef public bint busy
    cdef public object controls
    cdef public object band
    cdef public object collar
    cdef public signed char cause
    cdef public unsigned long long until

    cpdef object side(self, int side)
    cpdef object opposite(self, int side)
    cpdef object collected(self, int side)
    cpdef wide notional(self, wide price, wide size) noexcept
    @cython.locals(cost=wide)
    cpdef wide highest_fee(self, wide cost, wide ppm, wide credit) noexcept
    cpdef wide hold_for(self, Order order) noexcept
    @cython.locals(cost=wide)
    cpdef wide hold_at(self, Order order, wide price, wide remaining) noexcept
    cpdef object row(self)


@cython.final
@cython.no_gc
cdef class DoneOrders:
    cdef readonly Py_ssize_t count
    cdef Order _oldest
    cdef Order _newest

    @cython.locals(newest=Order)
    cpdef int append(self, Order order) except -1
    @cython.locals(order=Order)
    cpdef Order popleft(self)


@cython.final
@cython.no_gc
cdef class Account:
    cdef readonly str account_id
    cdef readonly unsigned long long opened_at
    cdef readonly dict balances
    cdef public Order oldest
    cdef public Order newest
    cdef public Py_ssize_t open_count
    cdef readonly DoneOrders done
    cdef public Product paired
    cdef public Balance base
    cdef public Balance quote
    cdef public long long done_count
    cdef readonly object by_client_oid
    cdef readonly ReplyCache replies
    cdef public object changes
    cdef readonly dict other_replies
    cdef public list streams
    cdef public unsigned int touched

    @cython.locals(balance=Balance)
    cpdef long long available(self, str currency)
    @cython.locals(newest=Order)
    cpdef void list_order(self, Order order) noexcept
    @cython.locals(older=Order, newer=Order)
    cpdef void unlist_order(self, Order order) noexcept
    @cython.locals(order=Order)
    cpdef list open_orders(self)


@cython.final
cdef class Placing:
    cdef public Product product
    cdef public str product_id
    cdef public str client_oid
    cdef public wide price
    cdef public wide size
    cdef public wide funds
    cdef public wide stop_price
    cdef public wide cancel_after
    cdef public wide life_min
    cdef public int side
    cdef public int order_type
    cdef public int time_in_force
    cdef public int stp
    cdef public int stop
    cdef public int maker_fee_ppm
    cdef public int taker_fee_ppm
    cdef public bint post_only

    cpdef int take(self, object command) except -1


@cython.final
cdef class Cancelling:
    cdef public str command_id
    cdef public long long order_id
    cdef public str client_oid
    cdef public str product_id

    cpdef int take(self, object command) except -1


@cython.final
@cython.no_gc
cdef class Order:
    cdef readonly Account account
    cdef readonly Product product
    cdef public PriceLevel level
    cdef public object terms
    cdef public long long reserve
    cdef public Order ahead
    cdef public Order behind
    cdef public Order older
    cdef public Order newer
    cdef public str client_oid
    cdef public long long order_id
    cdef public long long price
    cdef public long long size
    cdef public long long funds
    cdef public unsigned long long created_at
    cdef public long long remaining
    cdef public long long hold
    cdef public long long filled_size
    cdef public unsigned long long executed_value
    cdef public long long fill_fees
    cdef public unsigned long long done_at
    cdef public long long stop_price
    cdef public long long expires_at
    cdef public long long opened_sequence
    cdef public long long queued
    cdef public int fee_credit
    cdef public int maker_fee_ppm
    cdef public int taker_fee_ppm
    cdef public unsigned int touched
    cdef public signed char side
    cdef public signed char order_type
    cdef public signed char time_in_force
    cdef public signed char stp
    cdef public signed char status
    cdef public signed char done_reason
    cdef public signed char stop
    cdef public signed char post_only
    cdef public signed char listed

    cpdef bint is_by_funds(self) noexcept
    cpdef int write(self, Writer writer) except -1
    cpdef object row(self)


cpdef Order order_of_row(object row, Account account, Product product)
