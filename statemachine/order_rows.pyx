# cython: language_level=3
"""The compiled twin of order_rows.py: the same classes. `tests/unit/statemachine/test_twins.py` compares the two.

A row that the engine wrote is read in place: every header, number, choice and text is checked against the bounds of its field.
msgspec decodes all other rows (with options, a number out of range, another form), as in the plain core.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from statemachine.entities cimport Account, Order, Product, order_of_row
from statemachine.entry cimport EntryReader
from statemachine.exact cimport wide

import msgspec

from statemachine.errors import StateError
from statemachine.events import OrderState
from statemachine.reply_cache import FINGERPRINT_SIZE, pack
from statemachine.tables import PackedOutcomeRow
from statemachine.types import DoneReason, OrderStatus, OrderType, SelfTradePrevention, Side, StopType, TimeInForce

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


cdef inline bint _signed(EntryReader at, long long *into) noexcept:
    cdef wide number
    if not at._number(&number) or number > <wide>0x7fffffffffffffff:
        return False
    into[0] = <long long>number
    return True


cdef inline bint _unsigned(EntryReader at, unsigned long long *into) noexcept:
    cdef wide number
    if not at._number(&number) or number < 0:
        return False
    into[0] = <unsigned long long>number
    return True


cdef inline bint _short(EntryReader at, int *into) noexcept:
    cdef wide number
    if not at._number(&number) or number > 0x7fffffff or number < -<wide>0x80000000:
        return False
    into[0] = <int>number
    return True


cdef inline bint _choice(EntryReader at, unsigned long long choices, signed char *into) noexcept:
    if at.at == at.end or at.at[0] > 63 or not (choices >> at.at[0]) & 1:
        return False
    into[0] = <signed char>at.at[0]
    at.at += 1
    return True


cdef inline bint _flag(EntryReader at, signed char *into) noexcept:
    if at.at == at.end or (at.at[0] != 0xc2 and at.at[0] != 0xc3):
        return False
    into[0] = at.at[0] == 0xc3
    at.at += 1
    return True


cdef str _text(EntryReader at, bint is_name):
    """Read the text that begins here; None if there is none."""
    cdef const unsigned char *first = at.at
    if at._text_length() < 0:
        return None
    at.at = first
    try:
        return at._name() if is_name else at._text()
    except UnicodeDecodeError:
        return None


cdef inline void _begin(EntryReader at, bytes payload):
    at.payload = payload
    at.at = <const unsigned char *>PyBytes_AS_STRING(payload)
    at.end = at.at + PyBytes_GET_SIZE(payload)


cdef class OrderReader:
    """See order_rows.py."""

    def __init__(self, accounts, products):
        self._accounts = accounts
        self._products = products
        self._at = EntryReader.__new__(EntryReader)

    cpdef Order read(self, bytes payload):
        cdef Order order = self._read(payload) if _IS_KNOWN else None
        if order is not None:
            return order
        row = _decode(payload)
        return order_of_row(row, self._accounts[row.account_id], self._products[row.product_id])

    cdef Order _read(self, bytes payload):
        """Return the order of a row without options; None if msgspec has to decode the row."""
        cdef EntryReader at = self._at
        cdef long long order_id
        cdef str account_id, client_oid, product_id
        cdef Order order
        _begin(at, payload)
        if at._array() != _COUNT or not _signed(at, &order_id):
            return None
        account_id = _text(at, True)
        client_oid = _text(at, False)
        product_id = _text(at, True)
        if account_id not in self._accounts or client_oid is None or product_id not in self._products:
            return None
        order = Order(order_id, <Account>self._accounts[account_id], <Product>self._products[product_id])
        order.client_oid = client_oid
        if (
            _choice(at, _SIDES, &order.side) and _choice(at, _TYPES, &order.order_type)
            and _signed(at, &order.price) and _signed(at, &order.size) and _signed(at, &order.funds)
            and _choice(at, _FORCES, &order.time_in_force) and _flag(at, &order.post_only) and _choice(at, _STPS, &order.stp)
            and _unsigned(at, &order.created_at) and _short(at, &order.maker_fee_ppm) and _short(at, &order.taker_fee_ppm)
            and _signed(at, &order.remaining) and _signed(at, &order.hold) and _signed(at, &order.filled_size)
            and _unsigned(at, &order.executed_value) and _signed(at, &order.fill_fees)
            and _choice(at, _STATUSES, &order.status) and _choice(at, _REASONS, &order.done_reason) and _unsigned(at, &order.done_at)
            and _choice(at, _STOPS, &order.stop) and _signed(at, &order.stop_price) and _signed(at, &order.expires_at)
            and _signed(at, &order.opened_sequence) and _signed(at, &order.queued) and _short(at, &order.fee_credit)
            and at.end - at.at == 1 and at.at[0] == 0xc0
        ):
            return order
        return None


cdef class OutcomeReader:
    """See order_rows.py."""

    def __init__(self):
        self._at = EntryReader.__new__(EntryReader)

    cpdef tuple read(self, bytes payload):
        cdef tuple found = self._read(payload)
        if found is not None:
            return found
        row = _decode_outcome(payload)
        if len(row.fingerprint) != _FINGERPRINT:
            raise StateError(f"table outcome: the fingerprint of command {row.command_id} has {len(row.fingerprint)} bytes, not {_FINGERPRINT}")
        return row.account_id, row.command_id, pack(row.fingerprint, row.outcome)

    cdef tuple _read(self, bytes payload):
        """Return the result of `read`; None if msgspec has to decode the row. Fingerprint and outcome are adjacent in the row, as in
        the packed entry.
        """
        cdef EntryReader at = self._at
        cdef str owner, command_id
        cdef const unsigned char *packed
        _begin(at, payload)
        if at._array() != _OUTCOME_COUNT:
            return None
        owner = _text(at, True)
        if owner is None:
            return None
        command_id = _text(at, False)
        if command_id is None or at.end - at.at < 2 + _FINGERPRINT or at.at[0] != 0xc4 or at.at[1] != _FINGERPRINT:
            return None
        packed = at.at + 2
        at.at = packed + _FINGERPRINT
        if not at._skip_value(0) or at.at != at.end:
            return None
        return owner, command_id, PyBytes_FromStringAndSize(<const char *>packed, at.end - packed)
