# The types of exact.py for the compiled core.
cimport cython

cdef extern from *:
    """
    typedef __int128 quorumbook_wide;
    """
    ctypedef long long wide "quorumbook_wide"

cdef wide _PPM
cdef wide _EXECUTED_MAX

cpdef wide notional(wide price, wide size, wide unit) except? -1
cpdef wide fee(wide notional, wide ppm, wide credit) except? -1
cpdef wide credit_after(wide notional, wide ppm, wide credit, wide paid) except? -1
cpdef wide most_lots(wide budget, wide lot_cost, wide ppm, wide credit) except? -1
@cython.locals(total=wide)
cpdef unsigned long long executed(wide so_far, wide notional) noexcept
