# The types of messages.py for the compiled gateway.
cimport cython


@cython.final
cdef class Origin:
    cdef public bint direct
    cdef public bint shared
    cdef public object answered
    cdef str _key_id

    @cython.locals(request=Request)
    cpdef object note(self, Request request, str key_id)


@cython.final
cdef class Request:
    cdef public str method
    cdef public str target
    cdef public str path
    cdef public str peer
    cdef public bytes body
    cdef public Origin origin
    cdef public bint early
    cdef public bint keep_alive
    cdef dict _headers
    cdef dict _query

    cpdef object header(self, str name)
    cpdef list headers(self, str name)
    @cython.locals(name=str)
    cpdef bint has_any(self, tuple names) except -1


cdef class Response:
    cdef public int status
    cdef public bytes body
    cdef public object headers
    cdef public str content_type

    @cython.locals(lines=list, name=str, value=str)
    cpdef bytes encode(self, bint keep_alive, bint with_body=*)


cdef class LongResponse(Response):
    cdef public object text


cdef str _start(int status)
cdef str _date()
cdef dict _starts
cdef dict _CONTENT_TYPES
