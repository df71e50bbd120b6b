# cython: language_level=3
"""The compiled twin of entry.py: the same attributes, methods and functions. `tests/unit/statemachine/test_twins.py` compares the two.

An entry is read in place. It is scanned as a whole before anything is applied: the scan checks every header, number, choice and text
against its bounds, and accepts only the form that `encode_batch` writes. An entry in another form is decoded and encoded again by
msgspec, which raises an error if it is not a batch, and is then scanned. After the scan, fields are read without checks, and the end of
each command is known.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from statemachine.entities cimport Cancelling, Placing
from statemachine.exact cimport wide

from statemachine.commands import CancelOrder, PlaceOrder, command_decoder, decode_batch, encode_batch
from statemachine.limits import COMMAND_ID_MAX, NAME_MAX
from statemachine.types import OrderType, SelfTradePrevention, Side, StopType, TimeInForce

import msgspec

PLACE, CANCEL, OTHER = 7, 8, 0
FINGERPRINT_PRIME = 2**64 - 59

_encode = msgspec.msgpack.Encoder().encode

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maximum)
    void *PyUnicode_DATA(object text)

cdef extern from *:
    """
    #include <string.h>

    typedef unsigned __int128 quorumbook_unsigned;

    /* Returns eight bytes as a number. The first byte is the highest. */
    static inline unsigned long long quorumbook_word(const unsigned char *at)
    {
        unsigned long long word;
        memcpy(&word, at, 8);
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        word = __builtin_bswap64(word);
    #endif
        return word;
    }
    """
    ctypedef unsigned long long unsigned_wide "quorumbook_unsigned"
    unsigned long long quorumbook_word(const unsigned char *at) noexcept

# The fields are read by position. If the schema has other fields than these, msgspec decodes these commands, as it decodes all others.
cdef bint _PLACE_IS_KNOWN = PlaceOrder.__struct_fields__ == (
    "account_id", "command_id", "product_id", "side", "order_type", "price", "size", "funds", "time_in_force", "post_only", "stp", "client_oid",
    "stop", "stop_price", "cancel_after", "options",
)
cdef bint _CANCEL_IS_KNOWN = CancelOrder.__struct_fields__ == ("account_id", "command_id", "order_id", "client_oid", "product_id")
cdef int _SIDE_MAX = max(Side)
cdef int _TYPE_MAX = max(OrderType)
cdef int _FORCE_MAX = max(TimeInForce)
cdef int _STP_MAX = max(SelfTradePrevention)
cdef int _STOP_MAX = max(StopType)
cdef Py_ssize_t _NAME_MAX = NAME_MAX
cdef Py_ssize_t _COMMAND_ID_MAX = COMMAND_ID_MAX

cdef unsigned char _IS_LETTER[256]
for _code in range(256):
    _IS_LETTER[_code] = chr(_code).isascii() and (chr(_code).isalnum() or chr(_code) in "_.:-")


cdef bint _is_word(str text, Py_ssize_t longest) except -1:
    cdef Py_ssize_t length = 0, place
    cdef const unsigned char *utf8
    try:
        utf8 = <const unsigned char *>PyUnicode_AsUTF8AndSize(text, &length)
    except UnicodeEncodeError:
        return False
    if length < 1 or length > longest:
        return False
    for place in range(length):
        if not _IS_LETTER[utf8[place]]:
            return False
    return True


cpdef bint is_name(str text) except -1:
    return _is_word(text, _NAME_MAX)


cpdef bint is_command_id(str text) except -1:
    return _is_word(text, _COMMAND_ID_MAX)


cdef inline unsigned long long _reduced(unsigned_wide value) noexcept:
    """Return a number below 2**64 that equals `value` modulo 2**64 - 59. `value` is below 2**127."""
    value = (value >> 64) * 59 + <unsigned long long>value
    value = (value >> 64) * 59 + <unsigned long long>value
    return <unsigned long long>value


cdef unsigned long long _fingerprint(const unsigned char *at, Py_ssize_t length) noexcept:
    """See entry.py. 2**64 equals 59 modulo the prime, so the remainder of a number is the remainder of its 64-bit words
    as digits of base 59. One reduction covers four words, or the bytes after the last word, because each reduction
    depends on the one before. The factors are 59**4, 59**3, 59**2 and 59, and the sum stays below 2**89.
    """
    cdef unsigned long long rest = 0
    cdef unsigned_wide sum
    cdef Py_ssize_t place
    while length >= 32:
        sum = <unsigned_wide>rest * 12117361 + <unsigned_wide>quorumbook_word(at) * 205379 + <unsigned_wide>quorumbook_word(at + 8) * 3481
        rest = _reduced(sum + <unsigned_wide>quorumbook_word(at + 16) * 59 + quorumbook_word(at + 24))
        at += 32
        length -= 32
    while length >= 8:
        rest = _reduced(<unsigned_wide>rest * 59 + quorumbook_word(at))
        at += 8
        length -= 8
    if length:
        sum = rest
        for place in range(length):
            sum = (sum << 8) + at[place]
        rest = _reduced(sum)
    if rest >= <unsigned long long>18446744073709551557U:
        rest -= <unsigned long long>18446744073709551557U
    return rest if rest else 1


cdef bytes _mark(unsigned long long fingerprint):
    """Return a fingerprint as bytes, the highest first."""
    cdef unsigned char mark[8]
    cdef unsigned long long swapped = quorumbook_word(<const unsigned char *>&fingerprint)
    memcpy(mark, &swapped, 8)
    return PyBytes_FromStringAndSize(<char *>mark, 8)


cdef int _NAMES = 4096
cdef PyObject *_names[4096]
"""The latest names of accounts and products. A text that every order contains is created once, with its hash."""


cdef str _new_text(const unsigned char *at, Py_ssize_t length):
    """Return a text from its bytes, which the scan has checked."""
    cdef object text
    if not quorumbook_is_ascii(at, length) or length < 2:
        return PyUnicode_DecodeUTF8(<char *>at, length, NULL)
    text = PyUnicode_New(length, 127)
    memcpy(PyUnicode_DATA(text), at, length)
    return <str>text


cdef str _name(const unsigned char *at, Py_ssize_t length):
    """Return a name from its bytes, as `_new_text`. Recent names are not created again."""
    cdef unsigned long long mixed = length
    cdef Py_ssize_t place
    cdef PyObject *known
    cdef str text
    if length > _NAME_MAX or length < 2 or not quorumbook_is_ascii(at, length):
        return _new_text(at, length)
    for place in range(length):
        mixed = (mixed ^ at[place]) * <unsigned long long>0x100000001b3
    place = <Py_ssize_t>((mixed ^ (mixed >> 32)) & <unsigned long long>(_NAMES - 1))
    known = _names[place]
    if known != NULL and len(<str>known) == length and memcmp(PyUnicode_DATA(<object>known), at, length) == 0:
        return <str>known
    text = _new_text(at, length)
    Py_INCREF(text)
    _names[place] = <PyObject *>text
    Py_XDECREF(known)
    return text


def fingerprint(bytes encoded):
    """See entry.py."""
    return _mark(_fingerprint(<const unsigned char *>PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded)))


cdef class EntryReader:
    """See entry.py."""

    def __dealloc__(self):
        free(self.marks)

    def __init__(self, bytes payload):
        self.payload = payload
        if not self._scan():
            self.payload = encode_batch(decode_batch(payload))
            if not self._scan():
                raise AssertionError("a batch that was just encoded is not read")

    cdef bint _scan(self):
        """Scan the whole entry. Returns whether it has the form that `encode_batch` writes. If so, the commands begin at `next`."""
        cdef Py_ssize_t number
        cdef const unsigned char *first
        self.at = <const unsigned char *>PyBytes_AS_STRING(self.payload)
        self.end = self.at + PyBytes_GET_SIZE(self.payload)
        if self._array() != 2 or not self._number(&self.time):
            return False
        self.count = self._array()
        if self.count < 0:
            return False
        first = self.at
        for number in range(self.count):
            if number == self.marks_room:
                self._grow()
            if not self._scan_command():
                return False
            self.marks[number].end = self.at
            self.marks[number].kind = self.kind
        if self.at != self.end:
            return False
        self.next = first
        self.number = 0
        return True

    cdef int _grow(self) except -1:
        """Make room for the ends of more commands."""
        cdef Py_ssize_t room = 2 * self.marks_room if self.marks_room else 64
        cdef void *marks = realloc(self.marks, room * sizeof(CommandMark))
        if marks == NULL:
            raise MemoryError
        self.marks, self.marks_room = <CommandMark *>marks, room
        return 0

    cdef bint _scan_command(self) except -1:
        """Scan a command. Returns whether it has the form that `encode_batch` writes. Sets `kind`."""
        cdef const unsigned char *start = self.at
        cdef const unsigned char *first
        cdef Py_ssize_t fields = self._array()
        cdef wide number
        cdef object rest
        cdef const unsigned char *last = NULL
        cdef int tag
        if fields < 3 or self.at == self.end:
            return False
        tag = self.at[0]
        self.kind = tag if tag == 7 or tag == 8 else 0
        if self.at[0] == 7 and fields == 17 and _PLACE_IS_KNOWN:
            first = self.at
            self.at += 1
            if not (
                self._skip_text() and self._skip_text() and self._skip_text()
                and self._skip_choice(1, _SIDE_MAX) and self._skip_choice(1, _TYPE_MAX)
                and self._number(&number) and self._number(&number) and self._number(&number)
                and self._skip_choice(1, _FORCE_MAX) and self._skip_flag() and self._skip_choice(1, _STP_MAX) and self._skip_text()
                and self._skip_choice(0, _STOP_MAX) and self._number(&number) and self._number(&number)
            ):
                return False
            if self.at != self.end and self.at[0] == 0xc0:
                self.at += 1
                return True
            self.at = first  # an order with options
        if self.at[0] == 8 and fields == 6 and _CANCEL_IS_KNOWN:
            self.at += 1
            return self._skip_text() and self._skip_text() and self._number(&number) and self._skip_text() and self._skip_text()
        for _ in range(fields):
            last = self.at
            if not self._skip_value(0):
                return False
        if self.kind == 7 and last[0] != 0xc0:
            self.kind = 0  # it has options
        rest = PyBytes_FromStringAndSize(<char *>start, self.at - start)
        try:
            return _encode(command_decoder.decode(rest)) == rest
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False

    cdef Py_ssize_t _array(self) noexcept:
        """Return the number of values of an array; -1 if there is no array, or its header is longer than needed."""
        cdef Py_ssize_t count
        if self.at == self.end:
            return -1
        if self.at[0] & 0xf0 == 0x90:
            count = self.at[0] & 0x0f
            self.at += 1
            return count
        if self.at[0] == 0xdc and self.end - self.at >= 3:
            count = (<Py_ssize_t>self.at[1] << 8) | self.at[2]
            self.at += 3
            return count if count > 15 else -1
        if self.at[0] == 0xdd and self.end - self.at >= 5:
            count = (<Py_ssize_t>self.at[1] << 24) | (<Py_ssize_t>self.at[2] << 16) | (<Py_ssize_t>self.at[3] << 8) | self.at[4]
            self.at += 5
            return count if count > 0xffff else -1
        return -1

    cdef bint _number(self, wide *into) noexcept:
        """Read a whole number. Returns whether there is one in its shortest form."""
        cdef int head, size, place
        cdef unsigned long long bits = 0
        if self.at == self.end:
            return False
        head = self.at[0]
        if head < 0x80:
            into[0] = head
            self.at += 1
            return True
        if head >= 0xe0:
            into[0] = head - 256
            self.at += 1
            return True
        if head < 0xcc or head > 0xd3:
            return False
        size = 1 << (head & 3)
        if self.end - self.at <= size:
            return False
        for place in range(1, size + 1):
            bits = (bits << 8) | self.at[place]
        self.at += size + 1
        if head <= 0xcf:
            into[0] = <wide>bits
            return bits >= 0x80 if size == 1 else bits >> (4 * size) != 0
        if size == 1:
            into[0] = <signed char>bits
            return into[0] < -32
        if size == 2:
            into[0] = <short>bits
            return into[0] < -0x80
        if size == 4:
            into[0] = <int>bits
            return into[0] < -0x8000
        into[0] = <long long>bits
        return into[0] < -<wide>0x80000000

    cdef Py_ssize_t _text_length(self) noexcept:
        """Move to the first byte of the text that begins here. Returns its length in bytes; -1 if there is no complete text, or its
        header is longer than needed.
        """
        cdef Py_ssize_t length
        cdef int head
        if self.at == self.end:
            return -1
        head = self.at[0]
        if head & 0xe0 == 0xa0:
            length = head & 0x1f
            self.at += 1
        elif head == 0xd9 and self.end - self.at >= 2:
            length = self.at[1]
            self.at += 2
            if length < 32:
                return -1
        elif head == 0xda and self.end - self.at >= 3:
            length = (<Py_ssize_t>self.at[1] << 8) | self.at[2]
            self.at += 3
            if length <= 0xff:
                return -1
        elif head == 0xdb and self.end - self.at >= 5:
            length = (<Py_ssize_t>self.at[1] << 24) | (<Py_ssize_t>self.at[2] << 16) | (<Py_ssize_t>self.at[3] << 8) | self.at[4]
            self.at += 5
            if length <= 0xffff:
                return -1
        else:
            return -1
        return length if length <= self.end - self.at else -1

    cdef bint _skip_text(self):
        cdef Py_ssize_t length = self._text_length()
        if length < 0:
            return False
        if not quorumbook_is_ascii(self.at, length):
            try:
                PyUnicode_DecodeUTF8(<char *>self.at, length, NULL)
            except UnicodeDecodeError:
                return False
        self.at += length
        return True

    cdef bint _skip_choice(self, int least, int most) noexcept:
        if self.at == self.end or self.at[0] < least or self.at[0] > most:
            return False
        self.at += 1
        return True

    cdef bint _skip_flag(self) noexcept:
        if self.at == self.end or (self.at[0] != 0xc2 and self.at[0] != 0xc3):
            return False
        self.at += 1
        return True

    cdef str _text(self):
        cdef Py_ssize_t length = self._text_length()
        cdef const unsigned char *first = self.at
        if length < 0:
            raise AssertionError("scanned before")
        self.at += length
        return _new_text(first, length)

    cdef str _name(self):
        """Read a text that is often the same, such as a name."""
        cdef Py_ssize_t length = self._text_length()
        cdef const unsigned char *first = self.at
        if length < 0:
            raise AssertionError("scanned before")
        self.at += length
        return _name(first, length)

    cdef int _choice(self) noexcept:
        cdef int value = self.at[0]
        self.at += 1
        return value

    cpdef int advance(self) except -1:
        self.start = self.at = self.next
        self.next = self.marks[self.number].end
        self.kind = self.marks[self.number].kind
        self.number += 1
        self._array()
        self.tag = self.at[0]
        if self.at[0] < 0x80:
            self.at += 1
        self.account_id = self._name()
        self.command_id = self._text()
        return 0

    cdef bint _skip_value(self, int depth) noexcept:
        """Move behind a value of any type that a command may have. Returns whether there is one."""
        cdef Py_ssize_t length, place
        cdef wide number
        cdef int head
        if self.at == self.end or depth > 8:
            return False
        head = self.at[0]
        if head == 0xc0 or head == 0xc2 or head == 0xc3:
            self.at += 1
            return True
        if head >= 0xd9 and head <= 0xdb or head >= 0xa0 and head <= 0xbf:
            length = self._text_length()
            if length < 0:
                return False
            self.at += length
            return True
        if head == 0xc4 and self.end - self.at >= 2:
            length = self.at[1] + 2
            if self.end - self.at < length:
                return False
            self.at += length
            return True
        if head >= 0x90 and head <= 0x9f or head == 0xdc or head == 0xdd:
            length = self._array()
            for place in range(length):
                if not self._skip_value(depth + 1):
                    return False
            return length >= 0
        return self._number(&number)

    cpdef bytes fingerprint(self):
        return _mark(_fingerprint(self.start, self.next - self.start))

    cpdef int write_fingerprint(self, Writer into) except -1:
        cdef unsigned long long found = _fingerprint(self.start, self.next - self.start)
        cdef unsigned long long swapped = quorumbook_word(<const unsigned char *>&found)
        if into.room - into.used < 8:
            into.grow(8)
        memcpy(into.memory + into.used, &swapped, 8)
        into.used += 8
        return 0

    cpdef int placing(self, Placing into) except -1:
        if not _PLACE_IS_KNOWN:
            return into.take(self.command())
        into.product_id = self._name()
        into.side = self._choice()
        into.order_type = self._choice()
        self._number(&into.price)
        self._number(&into.size)
        self._number(&into.funds)
        into.time_in_force = self._choice()
        into.post_only = self._choice() == 0xc3
        into.stp = self._choice()
        into.client_oid = self._text()
        into.stop = self._choice()
        self._number(&into.stop_price)
        self._number(&into.cancel_after)
        return 0

    cpdef int cancelling(self, Cancelling into) except -1:
        cdef wide order_id = 0
        if not _CANCEL_IS_KNOWN:
            return into.take(self.command())
        into.command_id = self.command_id
        self._number(&order_id)
        into.order_id = <long long>order_id if order_id <= <wide>0x7fffffffffffffff else -1
        into.client_oid = self._text()
        into.product_id = self._name()
        return 0

    cpdef object command(self):
        return command_decoder.decode(PyBytes_FromStringAndSize(<char *>self.start, self.next - self.start))
