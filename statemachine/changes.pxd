# The types of changes.py for the compiled core.
cimport cython

from statemachine.entities cimport Account, Order
from statemachine.reply_cache cimport ReplyCache

cdef int _DONE
cdef Py_ssize_t _SPARE


@cython.final
cdef class AccountChanges:
    cdef readonly bint all_orders
    cdef readonly list came
    cdef readonly list left
    cdef readonly long long done_count
    cdef readonly long long added
    cdef readonly dict by_kind

    cpdef int note(self, Order order) except -1


@cython.final
cdef class Changes:
    cdef dict _accounts
    cdef object _frozen
    cdef bint _operator
    cdef readonly unsigned int epoch
    cdef readonly long long last_order_id

    @cython.locals(changes=AccountChanges)
    cpdef int touch(self, Account account) except -1
    cpdef int touch_operator(self, ReplyCache replies) except -1
    cpdef int touch_order(self, Order order) except -1
    @cython.locals(changes=AccountChanges)
    cpdef int order_came(self, Order order) except -1
    @cython.locals(changes=AccountChanges)
    cpdef int order_left(self, Order order) except -1
