# cython: language_level=3
"""The compiled twin of reply_cache.py: the same classes, methods and functions. `tests/unit/statemachine/test_twins.py` compares the two.

An entry has no object: its command id and its outcome are copied into the block of memory of their chunk. A table with slots of 8
bytes finds the entry of a command id. A slot has 31 bits of the id's hash, and the entry's number. The look-up of a new id, as most
ids are, costs one access to cold memory.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy

from statemachine.writer cimport quorumbook_utf8

import msgspec

from statemachine.events import AnyOutcome
from statemachine.limits import OUTCOMES_PER_ACCOUNT
from statemachine.teardown import clear

FINGERPRINT_SIZE = 8
ANY_CONTENTS = bytes(FINGERPRINT_SIZE)

cdef enum:
    CHUNK = 128
    FIRST_SLOTS = 8

cdef unsigned long long _KEY = hash("the key of the tables of command ids") & 0xffffffffffffffff
"""Derived from the secret with which the interpreter hashes texts. No result depends on it."""


class _OutcomeHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The fields of every outcome."""

    tag: int
    sequence: int
    time: int


_decoder = msgspec.msgpack.Decoder(AnyOutcome)
_head_decoder = msgspec.msgpack.Decoder(_OutcomeHead)


cdef inline uint32_t _tag(const char *at, Py_ssize_t length) noexcept:
    """Return the tag of a command id; an empty slot has the tag 0."""
    return <uint32_t>(quorumbook_hash(at, length, _KEY) >> 32) | 1


cdef class Chunk:
    """Up to 128 entries, oldest first. Written entries never change, so a view needs no copy."""

    def __dealloc__(self):
        free(self.memory)
        free(self.ends)

    cdef int append(self, const char *command_id, Py_ssize_t id_length, const char *packed, Py_ssize_t packed_length) except -1:
        cdef Py_ssize_t more = id_length + packed_length, room
        cdef void *memory
        if self.count == self.count_max:
            memory = realloc(self.ends, max(4, 2 * self.count_max) * sizeof(EntryEnds))
            if memory == NULL:
                raise MemoryError
            self.ends, self.count_max = <EntryEnds *>memory, max(4, 2 * self.count_max)
        if self.room - self.used < more:
            # Entries have similar sizes, so the last growth leaves little memory unused.
            room = max(2 * self.room, self.used + more, 512)
            if self.count > CHUNK // 8:
                room = min(room, self.used + more + (self.used // self.count + 64) * (CHUNK - self.count))
            memory = realloc(self.memory, room)
            if memory == NULL:
                raise MemoryError
            self.memory, self.room = <char *>memory, room
        memcpy(self.memory + self.used, command_id, id_length)
        memcpy(self.memory + self.used + id_length, packed, packed_length)
        self.ends[self.count].command_id = <uint32_t>(self.used + id_length)
        self.used += more
        self.ends[self.count].packed = <uint32_t>self.used
        self.count += 1
        return 0

    cdef Py_ssize_t start(self, int place) noexcept:
        """Return where an entry begins."""
        return self.ends[place - 1].packed if place else 0

    def command_id(self, int place):
        """Return the command id of an entry."""
        cdef Py_ssize_t start = self.start(place)
        return PyUnicode_DecodeUTF8(self.memory + start, self.ends[place].command_id - start, NULL)

    def packed(self, int place):
        """Return the packed form of an entry."""
        cdef Py_ssize_t start = self.ends[place].command_id
        return PyBytes_FromStringAndSize(self.memory + start, self.ends[place].packed - start)

    def __sizeof__(self):
        return self.room + self.count_max * sizeof(EntryEnds) + 64


class CacheView:
    """See reply_cache.py."""

    __slots__ = ("_chunks", "_skip", "_stop", "first_sequence")

    def __init__(self, chunks, skip, stop, first_sequence):
        self._chunks = chunks
        self._skip = skip
        self._stop = stop
        self.first_sequence = first_sequence

    def __iter__(self):
        for position in range(self._skip, self._stop):
            chunk = self._chunks[position // CHUNK]
            yield chunk.command_id(position % CHUNK), chunk.packed(position % CHUNK)


cdef class ReplyCache:
    """See reply_cache.py. The entries have the numbers `_first` to `_next` - 1. The first chunk contains the entry `_first`."""

    def __cinit__(self):
        self._chunks = []

    def __init__(self, bound=OUTCOMES_PER_ACCOUNT):
        self.bound = bound

    def __dealloc__(self):
        free(self._slots)

    def __len__(self):
        return self._known

    def memory(self):
        """See reply_cache.py."""
        return self._slot_count * sizeof(Slot) + sum([chunk.__sizeof__() for chunk in self._chunks])

    cpdef bytes find(self, str command_id):
        cdef Py_ssize_t length = 0, slot
        cdef const char *at = quorumbook_utf8(command_id, &length)
        cdef unsigned long long number
        if self._known == 0:
            return None
        slot = self._slot_of(at, length, _tag(at, length))
        if slot < 0:
            return None
        number = self._slots[slot].number - <uint32_t>self._first + self._first % CHUNK
        return (<Chunk>PyList_GET_ITEM(self._chunks, <Py_ssize_t>(number // CHUNK))).packed(<int>(number % CHUNK))

    cdef Py_ssize_t _slot_of(self, const char *at, Py_ssize_t length, uint32_t tag) noexcept:
        """Return the slot of a command id; -1 if it is not in the table."""
        cdef Py_ssize_t slot = self._search(at, length, tag)
        return slot if self._slots[slot].tag != 0 else -1

    cdef Py_ssize_t _search(self, const char *at, Py_ssize_t length, uint32_t tag) noexcept:
        """Return the slot of a command id, or the free slot for it."""
        cdef Py_ssize_t mask = self._slot_count - 1, slot = (tag >> 1) & mask, start
        cdef unsigned long long number
        cdef PyObject *chunk
        cdef EntryEnds *ends
        cdef int place
        while self._slots[slot].tag != 0:
            if self._slots[slot].tag == tag:
                number = <uint32_t>(self._slots[slot].number - <uint32_t>self._first) + self._first % CHUNK
                chunk = <PyObject *>PyList_GET_ITEM(self._chunks, <Py_ssize_t>(number // CHUNK))
                place = <int>(number % CHUNK)
                start = (<Chunk>chunk).start(place)
                ends = (<Chunk>chunk).ends
                if ends[place].command_id - start == length and memcmp((<Chunk>chunk).memory + start, at, length) == 0:
                    return slot
            slot = (slot + 1) & mask
        return slot

    cdef Py_ssize_t _free_slot(self, uint32_t tag) noexcept:
        """Return a free slot for an id that is not in the table."""
        cdef Py_ssize_t mask = self._slot_count - 1, slot = (tag >> 1) & mask
        while self._slots[slot].tag != 0:
            slot = (slot + 1) & mask
        return slot

    cdef int _resize(self) except -1:
        """Double the number of slots."""
        cdef Slot *old = self._slots
        cdef Py_ssize_t old_count = self._slot_count, slot, place
        cdef Py_ssize_t count = 2 * old_count if old_count else FIRST_SLOTS
        cdef Slot *slots = <Slot *>calloc(count, sizeof(Slot))
        if slots == NULL:
            raise MemoryError
        self._slots, self._slot_count = slots, count
        for slot in range(old_count):
            if old[slot].tag != 0:
                place = self._free_slot(old[slot].tag)
                slots[place] = old[slot]
        free(old)
        return 0

    cpdef int add(self, str command_id, bytes packed) except -1:
        return self._add(command_id, PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))

    cpdef int add_written(self, str command_id, Writer packed) except -1:
        return self._add(command_id, <char *>packed.memory, packed.used)

    cdef int _add(self, str command_id, const char *packed, Py_ssize_t length) except -1:
        cdef Py_ssize_t id_length = 0
        cdef const char *at = quorumbook_utf8(command_id, &id_length)
        cdef uint32_t tag = _tag(at, id_length)
        self._make_room()
        self._append(self._free_slot(tag), at, id_length, tag, packed, length)
        if self._known <= self.bound:
            return 1
        self._forget_oldest()
        return 0

    cpdef bint add_new(self, str command_id, bytes packed) except -1:
        cdef Py_ssize_t length = 0
        cdef const char *at = quorumbook_utf8(command_id, &length)
        return self._add_new(at, length, PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))

    cdef bint _add_new(self, const char *at, Py_ssize_t length, const char *packed, Py_ssize_t packed_length) except -1:
        """`add_new` for bytes. One search finds the entry of the id, or the free slot for it."""
        cdef uint32_t tag = _tag(at, length)
        cdef Py_ssize_t slot
        self._make_room()
        slot = self._search(at, length, tag)
        if self._slots[slot].tag != 0:
            return False
        self._append(slot, at, length, tag, packed, packed_length)
        if self._known > self.bound:
            self._forget_oldest()
        return True

    cdef int _make_room(self) except -1:
        """Double the number of slots if one more entry would fill more than 5/8 of them."""
        if 8 * (self._known + 1) > 5 * self._slot_count:
            self._resize()
        return 0

    cdef int _append(
        self, Py_ssize_t slot, const char *at, Py_ssize_t length, uint32_t tag, const char *packed, Py_ssize_t packed_length
    ) except -1:
        """Write an entry after the others, and put its number into a free slot."""
        if self._newest is None or self._newest.count == CHUNK:
            self._newest = Chunk.__new__(Chunk)
            self._chunks.append(self._newest)
        self._newest.append(at, length, packed, packed_length)
        self._slots[slot].tag = tag
        self._slots[slot].number = <uint32_t>self._next
        self._next += 1
        self._known += 1
        self.added += 1
        return 0

    cdef int _forget_oldest(self) except -1:
        """Drop the oldest entry and its slot. The chunk is dropped with its last entry."""
        cdef Chunk chunk = <Chunk>PyList_GET_ITEM(self._chunks, 0)
        cdef int place = <int>(self._first % CHUNK)
        cdef Py_ssize_t start = chunk.start(place), length = chunk.ends[place].command_id - start
        cdef Py_ssize_t mask = self._slot_count - 1
        cdef Py_ssize_t hole = self._slot_of(chunk.memory + start, length, _tag(chunk.memory + start, length)), slot = hole, home
        # Entries behind the freed slot move up, unless the slot of their hash is behind it.
        while True:
            slot = (slot + 1) & mask
            if self._slots[slot].tag == 0:
                break
            home = (self._slots[slot].tag >> 1) & mask
            if ((slot - home) & mask) >= ((slot - hole) & mask):
                self._slots[hole] = self._slots[slot]
                hole = slot
        self._slots[hole].tag = 0
        self._first += 1
        self._known -= 1
        if self._first % CHUNK == 0:
            del self._chunks[0]
        return 0

    def forget_before(self, sequence):
        """See reply_cache.py."""
        cdef Py_ssize_t dropped = 0
        while self._known and sequence_of(self._chunks[0].packed(<int>(self._first % CHUNK))) < sequence:
            self._forget_oldest()
            dropped += 1
        return dropped

    def newest(self, Py_ssize_t count):
        """See reply_cache.py."""
        cdef Py_ssize_t gone = <Py_ssize_t>(self._first % CHUNK)
        stop = gone + self._known
        first = sequence_of(self._chunks[0].packed(gone)) if self._known else 0
        return CacheView(list(self._chunks), stop - min(count, self._known), stop, first)

    def has_room(self, before):
        """See reply_cache.py."""
        if self._known < self.bound:
            return True
        return _head_decoder.decode(packed_outcome(self._chunks[0].packed(<int>(self._first % CHUNK)))).time < before

    def clear(self):
        """See reply_cache.py."""
        self._known = 0
        self._newest = None
        while self._chunks:
            self._chunks.pop()

    def check(self, last_sequence):
        """See reply_cache.py."""
        assert self._known <= self.bound, "the reply cache has too many entries"
        previous = 0
        count = 0
        for command_id, packed in self.newest(self._known):
            assert self.find(command_id) == packed, f"command {command_id}: the queue and the index of the reply cache disagree"
            sequence = sequence_of(packed)
            assert previous < sequence <= last_sequence, f"command {command_id} is out of order in the reply cache"
            previous = sequence
            count += 1
        assert count == self._known, "the queue and the index of the reply cache disagree"


def pack(bytes fingerprint, outcome):
    """See reply_cache.py."""
    return fingerprint + outcome


cpdef bint fingerprint_fits(bytes packed, bytes mark):
    return mark == ANY_CONTENTS or fingerprint_of(packed) in (mark, ANY_CONTENTS)


cpdef bytes fingerprint_of(bytes packed):
    return packed[:8]


cpdef bytes packed_outcome(bytes packed):
    return packed[8:]


def sequence_of(bytes packed):
    """See reply_cache.py."""
    return _head_decoder.decode(packed_outcome(packed)).sequence


def outcome_of(bytes packed):
    """See reply_cache.py."""
    return _decoder.decode(packed_outcome(packed))
