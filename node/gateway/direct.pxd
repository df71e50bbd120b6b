# The types of direct.py for the compiled gateway.
cimport cython

from node.gateway.http.messages cimport Request, Response


@cython.final
cdef class Outcomes:
    cdef object _after
    cdef double _begun
    cdef object _call
    cdef bint _done
    cdef object _finish
    cdef object _product
    cdef object _respond
    cdef readonly object command

    cpdef bint done(self) except -1
    cpdef object set_result(self, list outcomes)
    cdef bytes _body(self, object outcome)
    cdef object _go_on(self, list outcomes, object error)


@cython.final
cdef class DirectOrders:
    cdef object _gateway
    cdef object _place
    cdef object _cancel
    cdef object _finish

    @cython.locals(placing=bint, begun=double)
    cpdef bint begin(self, Request request, object respond) except -1
    cdef bint _send(self, object call, Outcomes outcomes, object identity, object status) except -1
    @cython.locals(body=bytes, request=Request)
    cdef Outcomes _order(self, object call, double begun, object respond)
    cdef Outcomes _order_id(self, object call, double begun, object respond)
