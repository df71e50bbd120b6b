# The types of engine.py for the compiled core.
cimport cython

from statemachine.answer cimport rejected
from statemachine.entities cimport Account
from statemachine.entry cimport EntryReader, is_command_id, is_name
from statemachine.exact cimport wide
from statemachine.handlers cimport cancel_order, place_order
from statemachine.reply_cache cimport ReplyCache, fingerprint_fits
from statemachine.state cimport State
from statemachine.writer cimport Writer

cdef int _OTHER
cdef int _PLACE
cdef int _CANCEL
cdef Py_ssize_t _FINGERPRINT
cdef int _REJECTS
cdef wide _LOG_TIME_MAX

@cython.locals(time=wide, command_ends=list, outcomes=bytes, events=bytes)
cdef object _apply(State state, EntryReader entry)
@cython.locals(account=Account, replies=ReplyCache, seen=bytes)
cdef int _answer(State state, EntryReader entry) except -1
@cython.locals(outcome=Writer)
cdef int _answer_first(State state, Account account, ReplyCache replies, EntryReader entry) except -1
@cython.locals(replies=ReplyCache, fingerprint=bytes, seen=bytes)
cdef int _answer_transfer(State state, Account account, EntryReader entry) except -1
@cython.locals(replies=ReplyCache)
cdef bytes _rejected_before(Account account, int kind, str command_id)
@cython.locals(replies=ReplyCache)
cdef int _cache_reject(State state, Account account, int kind, str command_id) except -1
cdef int _answer_again(State state, bytes seen, bytes fingerprint) except -1
cdef object _carry_out(State state, Account account, EntryReader entry)
cdef int _reject(State state, object reject) except -1
