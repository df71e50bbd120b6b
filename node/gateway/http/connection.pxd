# The types of connection.py for the compiled gateway.
cimport cython

from node.gateway.http.messages cimport Origin, Request, Response

cdef Py_ssize_t _HEADERS_MAX
cdef Py_ssize_t _HEAD_MAX
cdef Py_ssize_t _BODY_MAX
cdef int _BEGIN
cdef int _HEAD
cdef int _BODY
cdef int _NOTHING

cdef dict _METHODS
cdef dict _NAMES


@cython.final
cdef class Connection:
    cdef list _body
    cdef Py_ssize_t _body_size
    cdef bint _busy
    cdef double _deadline
    cdef object _drained
    cdef bint _early
    cdef Py_ssize_t _fed
    cdef Py_ssize_t _head_size
    cdef Py_ssize_t _header_count
    cdef dict _headers
    cdef readonly bytes _held
    cdef bint _keep_alive
    cdef object _loop
    cdef Origin _origin
    cdef object _parser
    cdef readonly object _pending
    cdef int _reading
    cdef object _server
    cdef object _successor
    cdef bytes _target
    cdef int _timed
    cdef object _transport
    cdef Py_ssize_t _unsent
    cdef bint _upgrading
    cdef Py_ssize_t _waiting
    cdef bint _writable
    cdef public str holder
    cdef public str peer

    cdef object _begin(self)
    cdef object _feed(self, bytes data)
    cdef object _set_deadline(self)
    @cython.locals(name=bytes, key=str, text=str)
    cpdef object on_header(self, bytes name, bytes value)
    @cython.locals(headers=dict, version=str)
    cpdef object on_headers_complete(self)
    cpdef object on_message_begin(self)
    cpdef object on_url(self, bytes url)
    cpdef object on_body(self, bytes body)
    cpdef object on_message_complete(self)
    @cython.locals(method=str, request=Request, name=bytes)
    cdef Request _request(self, bint keep_alive)
    cdef object _take(self, Request request)
    cdef object _serve(self, Request request)
    cpdef object respond(self, Response response)
    cdef object _next(self)
