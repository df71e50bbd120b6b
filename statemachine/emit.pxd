# The types of emit.py for the compiled core.
cimport cython

from statemachine.entities cimport Order, Product
from statemachine.state cimport State
from statemachine.writer cimport Writer
from statemachine.exact cimport wide

cdef int _FILLED
cdef int _NEW
cdef int _TRADE
cdef int _TRIGGERED
cdef int _RESTATED
cdef int _DONE
cdef int _SELF_TRADE
cdef int _AUCTION
cdef int _AMENDED
cdef int _TRAILED
cdef int _REPORT_AMENDED
cdef int _REPORT_TRAILED
cdef int _REPRICED
cdef int _REPORT_REPRICED

cdef int _begin(State state, Product product, int tag, int fields) except -1
cdef long long _shown(Order order, long long size) except? -1
cdef int _end(State state, Product product) except -1
@cython.locals(events=Writer)
cpdef int order_received(State state, Product product, Order order) except -1
@cython.locals(events=Writer)
cpdef int order_opened(State state, Product product, Order order) except -1
@cython.locals(events=Writer)
cpdef int order_matched(
    State state, Product product, Order maker, Order taker, long long price, long long size, long long maker_fee, long long taker_fee, bint auction
) except -1
@cython.locals(events=Writer)
cdef int _changed(
    State state, Product product, Order order, long long price, long long old, long long new, bint by_funds, bint resting, bint auction,
    int reason, long long new_price, long long new_stop_price, bint requeued
) except -1
@cython.locals(reason=int)
cpdef int order_changed(
    State state, Product product, Order order, long long old, long long new, bint by_funds, bint resting, bint auction
) except -1
@cython.locals(shown=cython.longlong, left=cython.longlong)
cpdef int order_amended(State state, Product product, Order order, long long price, long long remaining, bint resting, bint requeued) except -1
@cython.locals(left=cython.longlong)
cpdef int order_repriced(State state, Product product, Order order, long long price) except -1
cpdef int order_trailed(State state, Product product, Order order) except -1
@cython.locals(events=Writer)
cpdef int order_done(State state, Product product, Order order, int reason, bint resting) except -1
@cython.locals(events=Writer)
cpdef int order_activated(State state, Product product, Order order) except -1
@cython.locals(events=Writer)
cpdef int status_changed(State state, Product product, long long open_price, long long open_size) except -1
cpdef int report(
    State state, Product product, Order order, int kind, long long price, long long size, long long fee, bint taking
) except -1
@cython.locals(events=Writer)
cdef int _report(
    State state, Product product, Order order, object stream, int kind, long long price, long long size, long long fee, bint taking
) except -1
cdef tuple _named(State state, Order order, int kind)
@cython.locals(events=Writer)
cdef int _correction(State state, Product product, object stream, object correction, Order order) except -1
@cython.locals(events=Writer)
cpdef int stream_noted(State state, object stream, str origin, str text) except -1
@cython.locals(events=Writer)
cdef int _begin_in_stream(State state, object stream, int tag, int fields) except -1
cdef int _end_in_stream(State state, object stream) except -1
