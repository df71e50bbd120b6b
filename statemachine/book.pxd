# The types of book.py for the compiled core.
cimport cython

from statemachine.entities cimport Order, PriceLevel
from statemachine.exact cimport wide

cdef long long _NO_LIMIT
cdef Py_ssize_t _CHUNK
cdef int _MARKET
cdef int _BUY


@cython.final
cdef class BookSide:
    cdef readonly PriceLevel best
    cdef readonly list chunks
    cdef readonly long long direction

    @cython.locals(key=cython.longlong, level=PriceLevel)
    cpdef int add(self, Order order) except -1
    @cython.locals(number=Py_ssize_t, place=Py_ssize_t, half=Py_ssize_t, chunk=list, level=PriceLevel, best=PriceLevel)
    cdef PriceLevel _level(self, long long price, long long key)
    @cython.locals(low=Py_ssize_t, high=Py_ssize_t, middle=Py_ssize_t, chunk=list, level=PriceLevel)
    cdef Py_ssize_t _chunk_of(self, long long key) except -1
    @cython.locals(low=Py_ssize_t, high=Py_ssize_t, middle=Py_ssize_t, step=Py_ssize_t, level=PriceLevel)
    cdef Py_ssize_t _place_in(self, list chunk, long long key) except -1
    @cython.locals(level=PriceLevel)
    cpdef int remove(self, Order order) except -1
    @cython.locals(number=Py_ssize_t, chunk=list)
    cdef int _drop(self, PriceLevel level) except -1
    @cython.locals(level=PriceLevel)
    cpdef int reduce(self, Order order, long long by) except -1
    cpdef long long limit_key(self, Order order) noexcept
    @cython.locals(best=PriceLevel)
    cpdef bint crosses(self, long long price) noexcept


@cython.final
cdef class Filling:
    cdef BookSide _side
    cdef dict _levels
    cdef dict _late

    @cython.locals(level=PriceLevel, last=Order)
    cpdef int add(self, Order order) except -1


@cython.final
cdef class StopBook:
    cdef readonly object losses
    cdef readonly object entries
    cdef readonly Py_ssize_t count
    cdef readonly long long highest_loss
    cdef readonly long long lowest_entry
    cdef readonly object rising
    cdef readonly object falling
    cdef readonly Py_ssize_t trailing
    cdef readonly wide moves_above
    cdef readonly wide moves_below

    cdef int _update(self) except -1
    cpdef bint concerns(self, long long lowest, long long highest) except -1
    cpdef bint triggers(self, long long lowest, long long highest) except -1
    cpdef int add(self, Order order) except -1
    cpdef int remove(self, Order order) except -1
    cpdef list take(self, long long lowest, long long highest, Py_ssize_t most)
