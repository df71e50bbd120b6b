# The types of direct.py for the compiled gateway.
cimport cython

from node.gateway.http.messages cimport Request, Response


@cython.final
cdef class Outcomes:
    cdef double _begun
    cdef bint _done
    cdef DirectOrders _orders
    cdef object _respond
    cdef object _status
    cdef readonly object claim
    cdef readonly object command
    cdef readonly object identity
    cdef readonly object product
    cdef readonly Request request
    cdef readonly str signed_id

    cpdef bint done(self) except -1
    cpdef object set_result(self, list outcomes)
    cdef bytes _body(self, object outcome)
    cdef object _go_on(self, list outcomes, object error)
    cdef object _call(self)


@cython.final
cdef class DirectOrders:
    cdef readonly object gateway
    cdef readonly object finish
    cdef object _place
    cdef object _cancel
    cdef object _placed
    cdef object _cancelled

    @cython.locals(placing=bint, ready=bint, begun=double)
    cpdef bint begin(self, Request request, object respond) except -1
    @cython.locals(key_id=str, signed_id=str)
    cdef bint _send(self, Outcomes outcomes) except -1
    cdef object answered(self, bint placing, int status, double seconds)
    cdef object route(self, bint placing)
    @cython.locals(body=bytes)
    cdef bint _read_order(self, Outcomes outcomes) except -1
    cdef bint _make_order(self, Outcomes outcomes, dict found, object product) except -1
    cdef bint _read_order_id(self, Outcomes outcomes) except -1
    cdef object _claim(self, Request request)
