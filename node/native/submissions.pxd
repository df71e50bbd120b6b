# The types of submissions.py for the compiled modules.
cimport cython

from node.native.arrivals cimport Arrivals


@cython.final
cdef class Submission:
    cdef readonly str account_id
    cdef readonly object commands
    cdef readonly object outcomes


@cython.final
cdef class Submissions:
    cdef public bint former
    cdef public Py_ssize_t written_at
    cdef Arrivals _wire
    cdef object _request_ids
    cdef object _lost
    cdef list _queued
    cdef bint _scheduled
    cdef dict _sent
    cdef bint _ended
    cdef object _reason

    @cython.locals(queued=list)
    cpdef add(self, object commands, object outcomes)
    @cython.locals(queued=list, frames=list, joined=list, submission=Submission, size=Py_ssize_t, count=Py_ssize_t, account_id=str)
    cpdef flush(self)
    cdef _write(self, list frames)
    @cython.locals(submission=Submission, request_id=object, data=bytes)
    cdef _encode(self, list joined, list frames)
    cpdef bint waits(self, request_id) except -1
    @cython.locals(joined=list, outcomes=list, only=Submission, submission=Submission, count=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t)
    cpdef applied(self, results)


@cython.final
cdef class Deadlines:
    cdef object _waiting
    cdef object _timer

    cpdef watch(self, object outcomes, double end)
