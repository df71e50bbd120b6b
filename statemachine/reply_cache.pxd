# The types of reply_cache.pyx, the compiled twin of reply_cache.py.
cimport cython

from libc.stdint cimport uint32_t

from statemachine.writer cimport Writer


cdef extern from *:
    """
    #include <string.h>

    static inline unsigned long long quorumbook_mixed(unsigned long long one, unsigned long long other)
    {
        unsigned __int128 product = (unsigned __int128)one * other;
        return (unsigned long long)product ^ (unsigned long long)(product >> 64);
    }

    /* A hash of bytes. `key` is secret, so that a client cannot choose texts with the same hash. */
    static inline unsigned long long quorumbook_hash(const char *at, Py_ssize_t length, unsigned long long key)
    {
        unsigned long long found = quorumbook_mixed(key ^ (unsigned long long)length, 0x9e3779b97f4a7c15ULL), word;
        for (; length >= 8; at += 8, length -= 8) {
            memcpy(&word, at, 8);
            found = quorumbook_mixed(found ^ word, key | 1);
        }
        word = (unsigned long long)length << 56;
        if (length & 4) { memcpy(&word, at, 4); word |= (unsigned long long)length << 56; at += 4; }
        if (length & 2) { word ^= (unsigned long long)(unsigned char)at[0] << 32 | (unsigned long long)(unsigned char)at[1] << 40; at += 2; }
        if (length & 1) word ^= (unsigned long long)(unsigned char)at[0] << 48;
        return quorumbook_mixed(found ^ word, 0xbf58476d1ce4e5b9ULL ^ key);
    }
    """
    unsigned long long quorumbook_hash(const char *at, Py_ssize_t length, unsigned long long key) noexcept


cdef struct Slot:
    uint32_t tag
    uint32_t number


cdef struct EntryEnds:
    uint32_t command_id
    uint32_t packed


@cython.final
cdef class Chunk:
    cdef char *memory
    cdef EntryEnds *ends
    cdef Py_ssize_t used
    cdef Py_ssize_t room
    cdef int count
    cdef int count_max

    cdef int append(self, const char *command_id, Py_ssize_t id_length, const char *packed, Py_ssize_t packed_length) except -1
    cdef Py_ssize_t start(self, int place) noexcept


@cython.final
cdef class ReplyCache:
    cdef list _chunks
    cdef Chunk _newest
    cdef Slot *_slots
    cdef Py_ssize_t _slot_count
    cdef Py_ssize_t _known
    cdef unsigned long long _first
    cdef unsigned long long _next
    cdef readonly long long added
    cdef readonly Py_ssize_t bound

    cpdef bytes find(self, str command_id)
    cpdef int add(self, str command_id, bytes packed) except -1
    cpdef int add_written(self, str command_id, Writer packed) except -1
    cpdef bint add_new(self, str command_id, bytes packed) except -1
    cdef bint _add_new(self, const char *at, Py_ssize_t length, const char *packed, Py_ssize_t packed_length) except -1
    cdef int _make_room(self) except -1
    cdef Py_ssize_t _search(self, const char *at, Py_ssize_t length, uint32_t tag) noexcept
    cdef Py_ssize_t _slot_of(self, const char *at, Py_ssize_t length, uint32_t tag) noexcept
    cdef Py_ssize_t _free_slot(self, uint32_t tag) noexcept
    cdef int _resize(self) except -1
    cdef int _add(self, str command_id, const char *packed, Py_ssize_t length) except -1
    cdef int _append(
        self, Py_ssize_t slot, const char *at, Py_ssize_t length, uint32_t tag, const char *packed, Py_ssize_t packed_length
    ) except -1
    cdef int _forget_oldest(self) except -1


cpdef bint fingerprint_fits(bytes packed, bytes mark)
cpdef bytes fingerprint_of(bytes packed)
cpdef bytes packed_outcome(bytes packed)
