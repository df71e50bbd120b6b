# What the compiled core knows more about engine.py: the types.
cimport cython

from statemachine.entities cimport Account
from statemachine.entry cimport EntryReader
from statemachine.exact cimport wide
from statemachine.handlers cimport cancel_order, place_order
from statemachine.remember cimport OutcomeMemory, fingerprint_fits
from statemachine.state cimport State
from statemachine.writer cimport Writer

cdef int _OTHER
cdef int _PLACE
cdef int _CANCEL
cdef Py_ssize_t _MARK

@cython.locals(transcript=Writer, outcomes=list, outcome=bytes, events=bytes)
cdef object _apply(State state, wide time, int former, EntryReader entry)
@cython.locals(account=Account, memory=OutcomeMemory, mark=bytes, seen=bytes, outcome=Writer, packed=bytes)
cdef bytes _answer(State state, EntryReader entry)
@cython.locals(memory=OutcomeMemory, mark=bytes, seen=bytes, packed=bytes)
cdef bytes _answer_transfer(State state, Account account, EntryReader entry, int kind)
cdef bytes _answer_again(State state, bytes seen, bytes mark)
cdef object _carry_out(State state, Account account, EntryReader entry)
cdef bytes _reject(State state, object refusal)
