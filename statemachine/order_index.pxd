# The types of order_index.pyx, the compiled twin of order_index.py.
cimport cython

from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t

from statemachine.entities cimport Account, Order, Product


cdef struct IdSlot:
    long long order_id
    PyObject *order


@cython.final
cdef class OrdersById:
    cdef IdSlot *_slots
    cdef Py_ssize_t _room
    cdef Py_ssize_t _count
    cdef int _bits

    cdef Py_ssize_t _home(self, long long order_id) noexcept
    cdef Py_ssize_t _slot_of(self, long long order_id) noexcept
    cdef int _resize(self, int bits) except -1
    cdef int _remove(self, Py_ssize_t slot) except -1
    cpdef Order find(self, long long order_id)
    cpdef int put(self, Order order) except -1
    cpdef int drop(self, Order order) except -1


@cython.final
cdef class OrdersByOid:
    cdef uint32_t *_tags
    cdef PyObject **_orders
    cdef Py_ssize_t _room
    cdef Py_ssize_t _count

    cdef Py_ssize_t _slot_of(self, str client_oid, uint32_t tag) except -2
    cdef Py_ssize_t _search(self, str client_oid, uint32_t tag) except -1
    cdef int _make_room(self) except -1
    cdef int _resize(self, Py_ssize_t room) except -1
    cdef int _remove(self, Py_ssize_t slot) except -1
    cpdef Order find(self, str client_oid)
    cpdef int put(self, Order order) except -1
    cpdef bint put_new(self, Order order) except -1
    cpdef int drop(self, Order order) except -1


cpdef Order new_order(long long order_id, Account account, Product product)
