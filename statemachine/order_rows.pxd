# The types of order_rows.pyx, the compiled twin of order_rows.py.
cimport cython

from cpython.ref cimport PyObject

from statemachine.entities cimport Order
from statemachine.reply_cache cimport ReplyCache


@cython.final
cdef class OrderReader:
    cdef dict _accounts
    cdef dict _products
    cdef PyObject *_near[4096]
    cdef PyObject *_last_product

    cdef Order _read(self, bytes payload)
    cdef PyObject *_account(self, const unsigned char *first, Py_ssize_t length) except? NULL
    cdef PyObject *_product(self, const unsigned char *first, Py_ssize_t length) except? NULL
    cpdef Order read(self, bytes payload)


cpdef bint is_order_key(bytes key, long long order_id) noexcept


@cython.final
cdef class OutcomeReader:
    cdef object _find
    cdef str _owner
    cdef ReplyCache _cache

    cpdef tuple read(self, bytes payload)
    cpdef int put(self, bytes payload) except -1
    cdef int _put_in_place(self, bytes payload) except -1
    cdef int _turn_to(self, str owner) except -1
    cdef int _add(self, const char *command_id, Py_ssize_t id_length, const char *packed, Py_ssize_t packed_length) except -1
