# The types of state.py for the compiled core.
cimport cython

from statemachine.changes cimport Changes
from statemachine.entities cimport Account, Balance, Cancelling, DoneOrders, Order, Placing, Product
from statemachine.order_index cimport OrdersById, OrdersByOid
from statemachine.reply_cache cimport ReplyCache
from statemachine.writer cimport Writer

cdef int _BUY
cdef int _ACTIVE
cdef int _DONE


@cython.final
cdef class State:
    cdef object __weakref__
    cdef public long long sequence
    cdef public long long last_order_id
    cdef public unsigned long long time
    cdef public unsigned long long moment
    cdef public bytes hash
    cdef readonly dict currencies
    cdef readonly dict products
    cdef readonly dict accounts
    cdef readonly dict records
    cdef readonly object api_keys
    cdef readonly object mass_cancels
    cdef readonly OrdersById orders
    cdef public long long last_queued
    cdef public long long turn
    cdef public long long next_expiry
    cdef readonly dict busy
    cdef readonly dict streams
    cdef readonly dict killing
    cdef readonly dict members
    cdef readonly dict user_keys
    cdef public bint guarded
    cdef readonly dict limited
    cdef public bint fee_rules
    cdef public dict fee_currencies
    cdef readonly dict fee_floors
    cdef readonly object timers
    cdef readonly dict cancel_afters
    cdef public bint unchanged
    cdef public object requested
    cdef public long long work
    cdef public long long work_max
    cdef public long long makers_max
    cdef readonly ReplyCache operator_replies
    cdef public Py_ssize_t done_count
    cdef public Py_ssize_t balance_count
    cdef public Py_ssize_t outcome_count
    cdef readonly Writer events
    cdef public list event_products
    cdef readonly Writer outcome
    cdef readonly Placing placing
    cdef readonly Cancelling cancelling
    cdef readonly Writer outcomes
    cdef public list keys_put
    cdef public str sender
    cdef public bint by_venue
    cdef public list noted
    cdef public Py_ssize_t unlinked
    cdef public long long lowest
    cdef public long long highest
    cdef public Changes changes

    cpdef int pair(self, Account account, Product product) except -1
    @cython.locals(balance=Balance)
    cpdef Balance balance(self, Account account, str currency)
    @cython.locals(account=Account)
    cpdef Balance paying(self, Order order)
    cpdef int set_hold(self, Order order, long long hold) except -1
    cpdef int wait(self, Order order) except -1
    cpdef int keep(self, Order order) except -1
    cpdef Py_ssize_t place_in_queue(self) except -1
    cpdef int set_busy(self, Product product) except -1
    cpdef int touch(self, Order order) except -1
    @cython.locals(account=Account, done=DoneOrders)
    cpdef int finish(self, Order order, int reason) except -1
    @cython.locals(by_oid=OrdersByOid)
    cdef int _forget(self, Account account, Order order) except -1
