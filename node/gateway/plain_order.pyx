# cython: language_level=3
"""The compiled twin of plain_order.py: the same functions and the same results. `tests/unit/node/gateway/test_direct.py`
compares the answers with those of `OrderJson`, and amounts with `values.units`.

An answer is written into a buffer on the stack. What does not fit, or has a number beyond 64 bits, is not plain.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from functools import lru_cache

import msgspec

from node.gateway import values
from statemachine.types import OrderStatus, OrderType

__all__ = ["plain_json", "units"]

DEF ROOM = 2048
DEF FIXED = 768
# Bytes of the buffer, and of everything in an answer except its names.

cdef enum:
    SCALE_MAX = 18

cdef unsigned long long[SCALE_MAX + 1] POWERS
POWERS[0] = 1
cdef int _exponent
for _exponent in range(SCALE_MAX):
    POWERS[_exponent + 1] = POWERS[_exponent] * 10

cdef object _LIMIT = OrderType.LIMIT
cdef object _DONE = OrderStatus.DONE
cdef object _encode = msgspec.json.Encoder().encode
cdef object _known_units = values.units


cdef dict _fragments(str name, dict words):
    """Return the members of a JSON object with a word, by the word's value."""
    return {value: f'"{name}":"{word}"'.encode() for value, word in words.items()}


cdef dict _SIDES = _fragments("side", values.SIDE_WORDS)
cdef dict _TYPES = _fragments("type", values.ORDER_TYPE_WORDS)
cdef dict _STPS = _fragments("stp", values.STP_WORDS)
cdef dict _TIMES_IN_FORCE = _fragments("time_in_force", values.TIME_IN_FORCE_WORDS)
cdef dict _STATUSES = _fragments("status", values.ORDER_STATUS_WORDS)
cdef dict _REASONS = _fragments("done_reason", values.DONE_WORDS)

cdef long long _second = -1
cdef bytes _second_text = b""


@lru_cache(maxsize=4_096)
def _quoted(text):
    """Return a name as a JSON text. Orders have few different names, besides client order ids."""
    return _encode(text)


cdef inline char *_put(char *at, const char *text, Py_ssize_t size) noexcept:
    memcpy(at, text, size)
    return at + size


cdef inline char *_put_bytes(char *at, bytes text) noexcept:
    return _put(at, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef inline char *_put_digits(char *at, unsigned long long value, int width) noexcept:
    """Write the last `width` decimal digits of a number."""
    cdef int place
    for place in range(width - 1, -1, -1):
        at[place] = 48 + value % 10
        value //= 10
    return at + width


cdef inline char *_put_number(char *at, unsigned long long value) noexcept:
    cdef int width = 1
    cdef unsigned long long rest = value // 10
    while rest:
        width += 1
        rest //= 10
    return _put_digits(at, value, width)


cdef char *_put_amount(char *at, object units, int scale) except NULL:
    """Write an amount as `values.amount_text` does. Raises OverflowError for a number beyond 64 bits."""
    cdef unsigned long long size, fraction
    if units < 0:
        at[0] = 45
        at += 1
        size = -units
    else:
        size = units
    at = _put_number(at, size // POWERS[scale])
    fraction = size % POWERS[scale]
    if fraction:
        while fraction % 10 == 0:
            fraction //= 10
            scale -= 1
        at[0] = 46
        at = _put_digits(at + 1, fraction, scale)
    return at


cdef char *_put_time(char *at, long long time_ns) except NULL:
    """Write a time as `values.iso` does. Most times of present answers are in the same second."""
    global _second, _second_text
    cdef long long second = time_ns // 1_000_000_000
    if second != _second:
        _second_text = values.iso(second * 1_000_000_000)[:-7].encode()
        _second = second
    at = _put_bytes(at, _second_text)
    at = _put_digits(at, (time_ns - second * 1_000_000_000) // 1_000, 6)
    at[0] = 90
    return at + 1


cdef char *_put_order_id(char *at, unsigned long long order_id) noexcept:
    """Write an order id as `values.order_text` does."""
    cdef int place
    memcpy(at, b"00000000-0000-0000-0000-000000000000", 36)
    for place in range(35, 18, -1):
        if place != 23:
            at[place] = b"0123456789abcdef"[order_id & 15]
            order_id >>= 4
    return at + 36


def plain_json(order, product):
    """See plain_order.py."""
    if order.terms is not None or order.funds or order.stop or order.expires_at or order.queued or not order.size:
        return None
    cdef int base = product.base_scale, quote = product.quote_scale
    cdef bytes product_id = _quoted(order.product_id), account_id = _quoted(order.account_id)
    cdef bytes client_oid = _encode(order.client_oid) if order.client_oid else b""
    cdef Py_ssize_t names = PyBytes_GET_SIZE(product_id) + PyBytes_GET_SIZE(account_id) + PyBytes_GET_SIZE(client_oid)
    if names > ROOM - FIXED or not 0 <= base <= SCALE_MAX or not 0 <= quote <= SCALE_MAX:
        return None
    try:
        return _written(order, base, quote, product_id, account_id, client_oid)
    except OverflowError:
        return None


cdef bytes _written(object order, int base, int quote, bytes product_id, bytes account_id, bytes client_oid):
    """Return the JSON text of a plain order. Raises OverflowError for a number beyond 64 bits."""
    cdef char[ROOM] text
    cdef char *at = text
    cdef bint done = order.status is _DONE
    at = _put(at, b'{"id":"', 7)
    at = _put_order_id(at, order.order_id)
    at = _put(at, b'","product_id":', 15)
    at = _put_bytes(at, product_id)
    for fragment in (
        _SIDES[order.side], _TYPES[order.order_type], _STPS[order.stp], _TIMES_IN_FORCE[order.time_in_force]
    ):
        at[0] = 44
        at = _put_bytes(at + 1, <bytes>fragment)
    at = _put(at, b',"post_only":true', 17) if order.post_only else _put(at, b',"post_only":false', 18)
    at = _put(at, b',"created_at":"', 15)
    at = _put_time(at, order.created_at)
    at = _put(at, b'","fill_fees":"', 15)
    at = _put_amount(at, order.fill_fees, quote)
    at = _put(at, b'","filled_size":"', 17)
    at = _put_amount(at, order.filled_size, base)
    at = _put(at, b'","executed_value":"', 20)
    at = _put_amount(at, order.executed_value, quote)
    at = _put(at, b'",', 2)
    at = _put_bytes(at, _STATUSES[order.status])
    at = _put(at, b',"settled":true', 15) if done else _put(at, b',"settled":false', 16)
    at = _put(at, b',"profile_id":', 14)
    at = _put_bytes(at, account_id)
    if order.order_type is _LIMIT:
        at = _put(at, b',"price":"', 10)
        at = _put_amount(at, order.price, quote)
        at = _put(at, b'"', 1)
    at = _put(at, b',"size":"', 9)
    at = _put_amount(at, order.size, base)
    at = _put(at, b'"', 1)
    if PyBytes_GET_SIZE(client_oid):
        at = _put(at, b',"client_oid":', 14)
        at = _put_bytes(at, client_oid)
    if done:
        at = _put(at, b",", 1)
        at = _put_bytes(at, _REASONS[order.done_reason])
        at = _put(at, b',"done_at":"', 12)
        at = _put_time(at, order.done_at)
        at = _put(at, b'"', 1)
    at = _put(at, b"}", 1)
    return PyBytes_FromStringAndSize(text, at - text)


def units(text, scale):
    """Convert `text` as `values.units` does. That function converts, or refuses, what is not a short plain number."""
    cdef unsigned long long value = 0
    cdef int places = -1, digits = 0, wanted
    cdef Py_UCS4 character
    if type(text) is not str or len(<str>text) > SCALE_MAX or not 0 <= scale <= SCALE_MAX:
        return _known_units(text, scale)
    for character in <str>text:
        if 48 <= <int>character <= 57:
            value = value * 10 + (<int>character - 48)
            digits += 1
            if places >= 0:
                places += 1
        elif <int>character == 46 and digits and places < 0:
            places = 0
        else:
            return _known_units(text, scale)
    wanted = <int>scale - max(places, 0)
    if not digits or places == 0 or wanted < 0 or value > <unsigned long long>0x7FFFFFFFFFFFFFFF // POWERS[wanted]:
        return _known_units(text, scale)
    return value * POWERS[wanted]
