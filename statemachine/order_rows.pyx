# cython: language_level=3
"""The compiled twin of order_rows.py: the same classes and functions. `tests/unit/statemachine/test_twins.py` compares the two.

A row that the engine wrote is read in place: every header, number, choice and text is checked against the bounds of its field.
msgspec decodes all other rows (with options, a number out of range, another form), as in the plain core.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcmp, memcpy

from statemachine.entities cimport Account, Order, Product, order_of_row
from statemachine.entry cimport quorumbook_is_ascii
from statemachine.order_index cimport new_order
from statemachine.reply_cache cimport ReplyCache, quorumbook_hash
from statemachine.writer cimport quorumbook_number, quorumbook_utf8

import msgspec

from statemachine.errors import StateError
from statemachine.events import OrderState
from statemachine.reply_cache import FINGERPRINT_SIZE, pack
from statemachine.tables import PackedOutcomeRow
from statemachine.types import DoneReason, OrderStatus, OrderType, SelfTradePrevention, Side, StopType, TimeInForce

cdef unsigned long long _KEY = hash("the key of the names in rows") & 0xffffffffffffffff
"""Derived from the secret with which the interpreter hashes texts. No result depends on it."""

_decode = msgspec.msgpack.Decoder(OrderState).decode
_decode_outcome = msgspec.msgpack.Decoder(PackedOutcomeRow).decode
cdef Py_ssize_t _OUTCOME_COUNT = len(PackedOutcomeRow.__struct_fields__)

cdef int _FINGERPRINT = FINGERPRINT_SIZE

_FIELDS = (
    "order_id", "account_id", "client_oid", "product_id", "side", "order_type", "price", "size", "funds", "time_in_force", "post_only", "stp", "created_at",
    "maker_fee_ppm", "taker_fee_ppm", "remaining", "hold", "filled_size", "executed_value", "fill_fees", "status", "done_reason", "done_at", "stop",
    "stop_price", "expires_at", "opened_sequence", "queued", "fee_credit", "terms",
)
cdef Py_ssize_t _COUNT = len(_FIELDS)


def _bits(choices):
    """Return a number with one bit for each choice, at the position of its value."""
    return sum(1 << number for number in choices)


# The fields are read by position. If the schema has other fields than these, msgspec decodes the rows.
cdef bint _IS_KNOWN = OrderState.__struct_fields__ == _FIELDS
cdef unsigned long long _SIDES = _bits(Side)
cdef unsigned long long _TYPES = _bits(OrderType)
cdef unsigned long long _FORCES = _bits(TimeInForce)
cdef unsigned long long _STPS = _bits(SelfTradePrevention)
cdef unsigned long long _STATUSES = _bits(OrderStatus)
cdef unsigned long long _REASONS = _bits(DoneReason)
cdef unsigned long long _STOPS = _bits(StopType)


cdef extern from "Python.h":
    PyObject *PyDict_GetItemWithError(object dictionary, object key) except? NULL
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maximum)
    void *PyUnicode_DATA(object text)


cdef extern from *:
    """
    #include <string.h>

    /* A place in a row, and the row's end. */
    typedef struct { const unsigned char *at; const unsigned char *end; } quorumbook_cursor;

    /* Reads a whole number of any form. Returns 1 if it is not negative, -1 if it is, 0 if there is none; `bits` are those of its 64. */
    static inline int quorumbook_read(quorumbook_cursor *in, unsigned long long *bits)
    {
        Py_ssize_t left = in->end - in->at;
        unsigned long long word = 0;
        int head, size, place;
        if (left < 1) return 0;
        head = *in->at;
        if (head < 0x80) { *bits = (unsigned long long)head; in->at++; return 1; }
        if (head >= 0xe0) { *bits = (unsigned long long)(long long)(head - 256); in->at++; return -1; }
        if (head < 0xcc || head > 0xd3) return 0;
        size = 1 << (head & 3);
        if (left <= size) return 0;
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        if (left > 8) { memcpy(&word, in->at + 1, 8); word = __builtin_bswap64(word) >> (64 - 8 * size); }
        else
    #endif
        for (place = 1; place <= size; place++) word = word << 8 | in->at[place];
        in->at += size + 1;
        if (head >= 0xd0) word = (unsigned long long)((long long)(word << (64 - 8 * size)) >> (64 - 8 * size));
        *bits = word;
        return head >= 0xd0 && (long long)word < 0 ? -1 : 1;
    }

    /* The bytes of a text that begins here, and goes to the first of them; -1: there is none, or it is cut. */
    static inline Py_ssize_t quorumbook_text(quorumbook_cursor *in)
    {
        Py_ssize_t left = in->end - in->at, length;
        int head;
        if (left < 1) return -1;
        head = *in->at;
        if ((head & 0xe0) == 0xa0) { length = head & 0x1f; in->at++; left--; }
        else if (head == 0xd9 && left >= 2) { length = in->at[1]; in->at += 2; left -= 2; }
        else return -1;
        return length <= left ? length : -1;
    }

    /* By the first byte of a value: the bytes behind it, or OTHER. */
    enum { quorumbook_other = 255, quorumbook_arrays_max = 64 };
    static unsigned char quorumbook_sizes[256];

    static void quorumbook_set_sizes(void)
    {
        int head;
        for (head = 0; head < 256; head++)
            quorumbook_sizes[head] =
                head < 0x80 || head >= 0xe0 || head == 0xc0 || head == 0xc2 || head == 0xc3 ? 0 :
                (head & 0xe0) == 0xa0 ? head & 0x1f :
                head >= 0xcc && head <= 0xd3 ? 1 << (head & 3) : quorumbook_other;
    }

    /* Goes behind one value. Returns 0 if it is cut, of a kind that outcomes have not, or of many arrays. */
    static inline int quorumbook_skip(quorumbook_cursor *in)
    {
        const unsigned char *at = in->at, *end = in->end;
        Py_ssize_t values = 1;
        int arrays = 0, head, size;
        for (; values > 0; values--) {
            if (at >= end) return 0;
            head = *at++;
            size = quorumbook_sizes[head];
            if (size != quorumbook_other) { at += size; continue; }
            if ((head & 0xf0) == 0x90) values += head & 0x0f;
            else if (head == 0xdc && end - at >= 2) { values += at[0] << 8 | at[1]; at += 2; }
            else if ((head == 0xd9 || head == 0xc4) && end - at >= 1) { at += 1 + *at; continue; }
            else return 0;
            if (++arrays > quorumbook_arrays_max) return 0;
        }
        in->at = at;
        return at <= end;
    }
    """
    ctypedef struct Cursor "quorumbook_cursor":
        const unsigned char *at
        const unsigned char *end
    int quorumbook_read(Cursor *into, unsigned long long *bits) noexcept
    Py_ssize_t quorumbook_text(Cursor *into) noexcept
    bint quorumbook_skip(Cursor *into) noexcept
    void quorumbook_set_sizes() noexcept


quorumbook_set_sizes()


cdef inline bint _signed(Cursor *at, long long *into) noexcept:
    cdef unsigned long long bits = 0
    cdef int sign = quorumbook_read(at, &bits)
    into[0] = <long long>bits
    return sign < 0 or (sign > 0 and into[0] >= 0)


cdef inline bint _unsigned(Cursor *at, unsigned long long *into) noexcept:
    return quorumbook_read(at, into) > 0


cdef inline bint _short(Cursor *at, int *into) noexcept:
    cdef long long number = 0
    if not _signed(at, &number) or number > 0x7fffffff or number < -<long long>0x80000000:
        return False
    into[0] = <int>number
    return True


cdef inline bint _choice(Cursor *at, unsigned long long choices, signed char *into) noexcept:
    if at.at == at.end or at.at[0] > 63 or not (choices >> at.at[0]) & 1:
        return False
    into[0] = <signed char>at.at[0]
    at.at += 1
    return True


cdef inline bint _flag(Cursor *at, signed char *into) noexcept:
    if at.at == at.end or (at.at[0] != 0xc2 and at.at[0] != 0xc3):
        return False
    into[0] = at.at[0] == 0xc3
    at.at += 1
    return True


cdef str _text(Cursor *at):
    """Read the text that begins here; None if there is none."""
    cdef Py_ssize_t length = quorumbook_text(at)
    cdef const unsigned char *first = at.at
    cdef object text
    if length < 0:
        return None
    at.at += length
    if length < 2 or not quorumbook_is_ascii(first, length):
        try:
            return PyUnicode_DecodeUTF8(<const char *>first, length, NULL)
        except UnicodeDecodeError:
            return None
    text = PyUnicode_New(length, 127)
    memcpy(PyUnicode_DATA(text), first, length)
    return <str>text


cdef inline bint _is(str text, const unsigned char *at, Py_ssize_t length) except -1:
    """Return whether a text has these bytes."""
    cdef Py_ssize_t size = 0
    cdef const char *utf8 = quorumbook_utf8(text, &size)
    return size == length and memcmp(utf8, at, length) == 0


cdef inline void _begin(Cursor *at, bytes payload) noexcept:
    at.at = <const unsigned char *>PyBytes_AS_STRING(payload)
    at.end = at.at + PyBytes_GET_SIZE(payload)


cdef class OrderReader:
    """See order_rows.py. The bytes of a name find its account or product: `_near` has the latest accounts at the positions of the hashes
    of their names. All of them are in `_accounts` and `_products`, which only grow, so they live as long as the reader.
    """

    def __init__(self, accounts, products):
        self._accounts = accounts
        self._products = products

    cpdef Order read(self, bytes payload):
        cdef Order order = self._read(payload) if _IS_KNOWN else None
        if order is not None:
            return order
        row = _decode(payload)
        return order_of_row(row, self._accounts[row.account_id], self._products[row.product_id])

    cdef Order _read(self, bytes payload):
        """Return the order of a row without options; None if msgspec has to decode the row."""
        cdef Cursor at
        cdef long long order_id = 0
        cdef PyObject *account
        cdef PyObject *product
        cdef Py_ssize_t length
        cdef str client_oid
        cdef Order order
        _begin(&at, payload)
        if at.end - at.at < 3 or at.at[0] != 0xdc or at.at[1] != 0 or at.at[2] != _COUNT:
            return None
        at.at += 3
        if not _signed(&at, &order_id):
            return None
        length = quorumbook_text(&at)
        account = self._account(at.at, length)
        if account == NULL:
            return None
        at.at += length
        client_oid = _text(&at)
        if client_oid is None:
            return None
        length = quorumbook_text(&at)
        product = self._product(at.at, length)
        if product == NULL:
            return None
        at.at += length
        order = new_order(order_id, <Account>account, <Product>product)
        order.client_oid = client_oid
        if (
            _choice(&at, _SIDES, &order.side) and _choice(&at, _TYPES, &order.order_type)
            and _signed(&at, &order.price) and _signed(&at, &order.size) and _signed(&at, &order.funds)
            and _choice(&at, _FORCES, &order.time_in_force) and _flag(&at, &order.post_only) and _choice(&at, _STPS, &order.stp)
            and _unsigned(&at, &order.created_at) and _short(&at, &order.maker_fee_ppm) and _short(&at, &order.taker_fee_ppm)
            and _signed(&at, &order.remaining) and _signed(&at, &order.hold) and _signed(&at, &order.filled_size)
            and _unsigned(&at, &order.executed_value) and _signed(&at, &order.fill_fees)
            and _choice(&at, _STATUSES, &order.status) and _choice(&at, _REASONS, &order.done_reason) and _unsigned(&at, &order.done_at)
            and _choice(&at, _STOPS, &order.stop) and _signed(&at, &order.stop_price) and _signed(&at, &order.expires_at)
            and _signed(&at, &order.opened_sequence) and _signed(&at, &order.queued) and _short(&at, &order.fee_credit)
            and at.end - at.at == 1 and at.at[0] == 0xc0
        ):
            return order
        return None

    cdef PyObject *_account(self, const unsigned char *first, Py_ssize_t length) except? NULL:
        """Return the account with a name; NULL if there is none."""
        cdef PyObject **near
        if length < 0:
            return NULL
        near = &self._near[quorumbook_hash(<const char *>first, length, _KEY) >> 52]
        if near[0] == NULL or not _is((<Account>near[0]).account_id, first, length):
            near[0] = _found(self._accounts, first, length)
        return near[0]

    cdef PyObject *_product(self, const unsigned char *first, Py_ssize_t length) except? NULL:
        """Return the product with a name; NULL if there is none."""
        if length < 0:
            return NULL
        if self._last_product == NULL or not _is((<Product>self._last_product).product_id, first, length):
            self._last_product = _found(self._products, first, length)
        return self._last_product


cpdef bint is_order_key(bytes key, long long order_id) noexcept:
    cdef unsigned char expected[16]
    cdef Py_ssize_t length
    expected[0] = 0x91
    length = 1 + quorumbook_number(expected + 1, order_id)
    return PyBytes_GET_SIZE(key) == length and memcmp(PyBytes_AS_STRING(key), expected, length) == 0


cdef class OutcomeReader:
    """See order_rows.py."""

    def __init__(self, find):
        self._find = find
        self._owner = ""

    cpdef tuple read(self, bytes payload):
        row = _decode_outcome(payload)
        if len(row.fingerprint) != _FINGERPRINT:
            raise StateError(f"table outcome: the fingerprint of command {row.command_id} has {len(row.fingerprint)} bytes, not {_FINGERPRINT}")
        return row.account_id, row.command_id, pack(row.fingerprint, row.outcome)

    cpdef int put(self, bytes payload) except -1:
        cdef str owner, command_id
        cdef bytes packed
        cdef Py_ssize_t length = 0
        cdef const char *at
        if self._put_in_place(payload):
            return 0
        owner, command_id, packed = self.read(payload)
        if self._cache is None or owner != self._owner:
            self._turn_to(owner)
        at = quorumbook_utf8(command_id, &length)
        return self._add(at, length, PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))

    cdef int _turn_to(self, str owner) except -1:
        """Change to the reply cache of another owner."""
        self._cache = self._find(owner)
        self._owner = owner
        return 0

    cdef int _add(self, const char *command_id, Py_ssize_t id_length, const char *packed, Py_ssize_t packed_length) except -1:
        if len(self._cache) == self._cache.bound:
            raise StateError(f"table outcome: more than {self._cache.bound} rows of account {self._owner}")
        if not self._cache._add_new(command_id, id_length, packed, packed_length):
            raise StateError(f"table outcome: a command of account {self._owner} comes twice")
        return 0

    cdef int _put_in_place(self, bytes payload) except -1:
        """Do the work of `put`. Returns 0 if msgspec has to decode the row. Fingerprint and outcome are adjacent in the row, as in the
        packed entry.
        """
        cdef Cursor at
        cdef Py_ssize_t owner_length, id_length
        cdef const unsigned char *owner
        cdef const unsigned char *command_id
        cdef const unsigned char *packed
        _begin(&at, payload)
        if at.at == at.end or at.at[0] != 0x90 | _OUTCOME_COUNT:
            return 0
        at.at += 1
        owner_length = quorumbook_text(&at)
        if owner_length < 0:
            return 0
        owner = at.at
        at.at += owner_length
        id_length = quorumbook_text(&at)
        if id_length < 0:
            return 0
        command_id = at.at
        at.at += id_length
        if at.end - at.at < 2 + _FINGERPRINT or at.at[0] != 0xc4 or at.at[1] != _FINGERPRINT or not quorumbook_is_ascii(command_id, id_length):
            return 0
        packed = at.at + 2
        at.at = packed + _FINGERPRINT
        if not quorumbook_skip(&at) or at.at != at.end:
            return 0
        if self._cache is None or not _is(self._owner, owner, owner_length):
            if not quorumbook_is_ascii(owner, owner_length):
                return 0
            self._turn_to(PyUnicode_DecodeUTF8(<const char *>owner, owner_length, NULL))
        self._add(<const char *>command_id, id_length, <const char *>packed, at.end - packed)
        return 1


cdef PyObject *_found(dict known, const unsigned char *name, Py_ssize_t length) except? NULL:
    """Return the value of a dictionary under a name; NULL if there is none."""
    cdef object text
    try:
        text = PyUnicode_DecodeUTF8(<const char *>name, length, NULL)
    except UnicodeDecodeError:
        return NULL
    return PyDict_GetItemWithError(known, text)
