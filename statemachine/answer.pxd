# The types of answer.py for the compiled core.
cimport cython

from statemachine.entities cimport Balance, Order
from statemachine.exact cimport wide
from statemachine.state cimport State
from statemachine.writer cimport Writer

@cython.locals(outcome=Writer)
cdef int _begin(State state, int tag, int fields) except -1
@cython.locals(outcome=Writer)
cpdef int rejected(State state, object reject) except -1
cpdef int done(State state, bint changed) except -1
@cython.locals(outcome=Writer)
cpdef int transferred(State state, str currency, wide amount, Balance balance) except -1
cpdef int placed(State state, Order order) except -1
cpdef int proposed(State state, long long proposal_id, long long expires_at) except -1
cpdef int amended(State state, Order order) except -1
cpdef int armed(State state, long long fires_at) except -1
cpdef int paired(State state, Order limit, Order stop) except -1
cpdef int replaced(State state, Order old, Order new) except -1
@cython.locals(order=Order)
cpdef int cancelled(State state, list orders, bint pending) except -1
@cython.locals(outcome=Writer)
cpdef int noted(State state, wide number, wide base, wide taken) except -1
