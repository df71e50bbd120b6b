# cython: language_level=3
"""The compiled twin of order_index.py: the same classes, methods and function. `tests/unit/statemachine/test_twins.py` compares the two.

Both are tables with open addressing, at most 5/8 full. When an order is removed, the entries behind it move up. The look-up of a
missing order, which every new order needs, costs one access to cold memory: it compares adjacent tags or ids, and reads no order.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcmp

from statemachine.reply_cache cimport quorumbook_hash
from statemachine.writer cimport quorumbook_utf8

cdef enum:
    FIRST_BITS = 3

cdef unsigned long long _KEY = hash("the key of the tables of client order ids") & 0xffffffffffffffff
"""Derived from the secret with which the interpreter hashes texts. No result depends on it."""


cdef int _by_id(const void *one, const void *other) noexcept nogil:
    cdef long long left = (<const IdSlot *>one).order_id, right = (<const IdSlot *>other).order_id
    return -1 if left < right else 1


cdef class OrdersById:
    """See order_index.py. Four consecutive ids have adjacent slots, because new orders have consecutive ids."""

    def __dealloc__(self):
        cdef Py_ssize_t slot
        for slot in range(self._room):
            if self._slots[slot].order != NULL:
                Py_DECREF(<object>self._slots[slot].order)
        free(self._slots)

    def __len__(self):
        return self._count

    cdef inline Py_ssize_t _home(self, long long order_id) noexcept:
        """Return the slot of an id that is not in the table."""
        cdef unsigned long long four = <unsigned long long>order_id >> 2
        return <Py_ssize_t>((four * <unsigned long long>0x9e3779b97f4a7c15) >> (66 - self._bits) << 2 | <unsigned long long>(order_id & 3))

    cdef inline Py_ssize_t _slot_of(self, long long order_id) noexcept:
        """Return the slot of an order; -1 if it is not in the table."""
        cdef Py_ssize_t slot
        if self._count == 0:
            return -1
        slot = self._home(order_id)
        while self._slots[slot].order != NULL:
            if self._slots[slot].order_id == order_id:
                return slot
            slot = (slot + 1) & (self._room - 1)
        return -1

    cpdef Order find(self, long long order_id):
        cdef Py_ssize_t slot = self._slot_of(order_id)
        return <Order>self._slots[slot].order if slot >= 0 else None

    def get(self, order_id):
        """Return the order with an id, which may be a number of any size; None if there is none."""
        return self.find(order_id) if -0x8000000000000000 <= order_id <= 0x7fffffffffffffff else None

    def __getitem__(self, order_id):
        found = self.get(order_id)
        if found is None:
            raise KeyError(order_id)
        return found

    def __setitem__(self, order_id, Order order not None):
        assert order_id == order.order_id, "an order is found under its own id"
        self.put(order)

    def __delitem__(self, order_id):
        self.drop(self[order_id])

    def __contains__(self, order_id):
        return self.get(order_id) is not None

    def __iter__(self):
        return iter([order.order_id for order in self.values()])

    def values(self):
        """Return the orders by id."""
        cdef IdSlot *found = <IdSlot *>malloc((self._count + 1) * sizeof(IdSlot))
        cdef Py_ssize_t slot, count = 0
        if found == NULL:
            raise MemoryError
        try:
            for slot in range(self._room):
                if self._slots[slot].order != NULL:
                    found[count] = self._slots[slot]
                    count += 1
            with nogil:
                qsort(found, count, sizeof(IdSlot), _by_id)
            return [<Order>found[slot].order for slot in range(count)]
        finally:
            free(found)

    cdef int _resize(self, int bits) except -1:
        cdef IdSlot *old = self._slots
        cdef Py_ssize_t old_room = self._room, number, slot
        cdef IdSlot *slots = <IdSlot *>calloc(<Py_ssize_t>1 << bits, sizeof(IdSlot))
        if slots == NULL:
            raise MemoryError
        self._slots, self._room, self._bits = slots, <Py_ssize_t>1 << bits, bits
        for number in range(old_room):
            if old[number].order != NULL:
                slot = self._home(old[number].order_id)
                while slots[slot].order != NULL:
                    slot = (slot + 1) & (self._room - 1)
                slots[slot] = old[number]
        free(old)
        return 0

    cpdef int put(self, Order order) except -1:
        cdef Py_ssize_t slot = self._slot_of(order.order_id)
        if slot >= 0:
            Py_INCREF(order)
            Py_DECREF(<object>self._slots[slot].order)
            self._slots[slot].order = <PyObject *>order
            return 0
        if 8 * (self._count + 1) > 5 * self._room:
            self._resize(self._bits + 1 if self._room else FIRST_BITS)
        slot = self._home(order.order_id)
        while self._slots[slot].order != NULL:
            slot = (slot + 1) & (self._room - 1)
        Py_INCREF(order)
        self._slots[slot].order_id = order.order_id
        self._slots[slot].order = <PyObject *>order
        self._count += 1
        return 0

    cpdef int drop(self, Order order) except -1:
        cdef Py_ssize_t slot = self._slot_of(order.order_id)
        if slot < 0:
            raise KeyError(order.order_id)
        self._remove(slot)
        return 0

    cdef int _remove(self, Py_ssize_t slot) except -1:
        cdef Py_ssize_t mask = self._room - 1, hole = slot, home
        cdef PyObject *order = self._slots[slot].order
        while True:
            slot = (slot + 1) & mask
            if self._slots[slot].order == NULL:
                break
            home = self._home(self._slots[slot].order_id)
            if ((slot - home) & mask) >= ((slot - hole) & mask):
                self._slots[hole] = self._slots[slot]
                hole = slot
        self._slots[hole].order = NULL
        self._count -= 1
        Py_DECREF(<object>order)
        return 0

    def clear_some(self, int most):
        """Remove at most `most` orders. Returns whether others are left. `teardown.clear` calls it from interpreted code."""
        cdef Py_ssize_t slot = self._room - 1
        while most and slot >= 0:
            if self._slots[slot].order != NULL:
                Py_DECREF(<object>self._slots[slot].order)
                self._slots[slot].order = NULL
                self._count -= 1
                most -= 1
            slot -= 1
        self._room = slot + 1
        return self._room > 0


cdef inline uint32_t _tag(str client_oid) except 0:
    """Return the tag of a `client_oid`; an empty slot has the tag 0."""
    cdef Py_ssize_t length = 0
    cdef const char *at = quorumbook_utf8(client_oid, &length)
    return <uint32_t>(quorumbook_hash(at, length, _KEY) >> 32) | 1


cdef class OrdersByOid:
    """See order_index.py. The tags (31 bits of the hashes) are in one array, the references to the orders in another."""

    def __dealloc__(self):
        cdef Py_ssize_t slot
        for slot in range(self._room):
            if self._tags[slot] != 0:
                Py_DECREF(<object>self._orders[slot])
        free(self._tags)
        free(self._orders)

    def __len__(self):
        return self._count

    cdef Py_ssize_t _slot_of(self, str client_oid, uint32_t tag) except -2:
        """Return the slot of a `client_oid`; -1 if it is not in the table."""
        cdef Py_ssize_t slot
        if self._count == 0:
            return -1
        slot = self._search(client_oid, tag)
        return slot if self._tags[slot] != 0 else -1

    cdef Py_ssize_t _search(self, str client_oid, uint32_t tag) except -1:
        """Return the slot of a `client_oid`, or the free slot for it."""
        cdef Py_ssize_t mask = self._room - 1, slot = (tag >> 1) & mask, length = 0, other_length = 0
        cdef const char *at
        cdef const char *other
        while self._tags[slot] != 0:
            if self._tags[slot] == tag:
                at = quorumbook_utf8(client_oid, &length)
                other = quorumbook_utf8((<Order>self._orders[slot]).client_oid, &other_length)
                if length == other_length and memcmp(at, other, length) == 0:
                    break
            slot = (slot + 1) & mask
        return slot

    cpdef Order find(self, str client_oid):
        cdef Py_ssize_t slot = self._slot_of(client_oid, _tag(client_oid))
        return <Order>self._orders[slot] if slot >= 0 else None

    def get(self, str client_oid):
        """See order_index.py."""
        return self.find(client_oid)

    def __getitem__(self, str client_oid):
        found = self.find(client_oid)
        if found is None:
            raise KeyError(client_oid)
        return found

    def __setitem__(self, str client_oid, Order order not None):
        assert client_oid == order.client_oid, "an order is found under its own client_oid"
        self.put(order)

    def __delitem__(self, str client_oid):
        self.drop(self[client_oid])

    def __contains__(self, str client_oid):
        return self.find(client_oid) is not None

    def keys(self):
        """Return the `client_oid`s."""
        return {(<Order>self._orders[slot]).client_oid for slot in range(self._room) if self._tags[slot] != 0}

    cdef int _make_room(self) except -1:
        """Grow the table if one more order would fill more than 5/8 of it."""
        if 8 * (self._count + 1) > 5 * self._room:
            self._resize(2 * self._room if self._room else 1 << FIRST_BITS)
        return 0

    cdef int _resize(self, Py_ssize_t room) except -1:
        cdef uint32_t *old_tags = self._tags
        cdef PyObject **old_orders = self._orders
        cdef Py_ssize_t old_room = self._room, number, slot
        cdef uint32_t *tags = <uint32_t *>calloc(room, sizeof(uint32_t))
        cdef PyObject **orders = <PyObject **>malloc(room * sizeof(PyObject *))
        if tags == NULL or orders == NULL:
            free(tags)
            free(orders)
            raise MemoryError
        for number in range(old_room):
            if old_tags[number] != 0:
                slot = (old_tags[number] >> 1) & (room - 1)
                while tags[slot] != 0:
                    slot = (slot + 1) & (room - 1)
                tags[slot] = old_tags[number]
                orders[slot] = old_orders[number]
        self._tags, self._orders, self._room = tags, orders, room
        free(old_tags)
        free(old_orders)
        return 0

    cpdef int put(self, Order order) except -1:
        cdef uint32_t tag = _tag(order.client_oid)
        cdef Py_ssize_t slot
        cdef PyObject *before
        self._make_room()
        slot = self._search(order.client_oid, tag)
        Py_INCREF(order)
        if self._tags[slot] != 0:
            before = self._orders[slot]
            self._orders[slot] = <PyObject *>order
            Py_DECREF(<object>before)
            return 0
        self._tags[slot] = tag
        self._orders[slot] = <PyObject *>order
        self._count += 1
        return 0

    cpdef bint put_new(self, Order order) except -1:
        cdef uint32_t tag = _tag(order.client_oid)
        cdef Py_ssize_t slot
        self._make_room()
        slot = self._search(order.client_oid, tag)
        if self._tags[slot] != 0:
            return False
        Py_INCREF(order)
        self._tags[slot] = tag
        self._orders[slot] = <PyObject *>order
        self._count += 1
        return True

    cpdef int drop(self, Order order) except -1:
        cdef uint32_t tag = _tag(order.client_oid)
        cdef Py_ssize_t mask = self._room - 1, slot = (tag >> 1) & mask
        if self._count == 0:
            return 0
        while self._tags[slot] != 0:
            if self._orders[slot] == <PyObject *>order:
                self._remove(slot)
                return 0
            slot = (slot + 1) & mask
        return 0

    cdef int _remove(self, Py_ssize_t slot) except -1:
        cdef Py_ssize_t mask = self._room - 1, hole = slot, home
        cdef PyObject *order = self._orders[slot]
        while True:
            slot = (slot + 1) & mask
            if self._tags[slot] == 0:
                break
            home = (self._tags[slot] >> 1) & mask
            if ((slot - home) & mask) >= ((slot - hole) & mask):
                self._tags[hole], self._orders[hole] = self._tags[slot], self._orders[slot]
                hole = slot
        self._tags[hole] = 0
        self._count -= 1
        Py_DECREF(<object>order)
        return 0

    def clear(self):
        """Empty the table. Its orders are in `OrdersById` too, so no order is freed."""
        cdef Py_ssize_t slot
        for slot in range(self._room):
            if self._tags[slot] != 0:
                self._tags[slot] = 0
                Py_DECREF(<object>self._orders[slot])
        self._count = 0


cpdef Order new_order(long long order_id, Account account, Product product):
    cdef Order order = Order.__new__(Order)
    order.order_id = order_id
    order.account = account
    order.product = product
    order.status = 1
    return order
