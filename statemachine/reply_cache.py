"""The reply cache: a command that is sent twice is executed once, and gets its first outcome again (Raft thesis,
section 6.3).

Each account has a bounded one, first in, first out. It is part of the replicated state, so all nodes drop an entry at
the same log entry. Entries are stored as bytes: an outcome contains a copy of an order's state, an account may have ten
thousand of them, and they are seldom read.

This is the plain form. The compiled core has `reply_cache.pyx` in its place, which keeps the entries in blocks of
memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from sys import getsizeof  # pure: only to measure memory
from typing import TYPE_CHECKING, cast

import msgspec

from statemachine.events import AnyOutcome
from statemachine.limits import OUTCOMES_PER_ACCOUNT
from statemachine.teardown import clear

if TYPE_CHECKING:
    from statemachine.writer import Writer

FINGERPRINT_SIZE = 8
ANY_CONTENTS = bytes(FINGERPRINT_SIZE)
"""The fingerprint of an entry that another version wrote, in another encoding, so that contents cannot be compared. The
same id gets the first outcome, with any contents.
"""

_CHUNK = 128


class _OutcomeHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The fields of every outcome."""

    tag: int
    sequence: int
    time: int


_decoder: msgspec.msgpack.Decoder[AnyOutcome] = msgspec.msgpack.Decoder(AnyOutcome)
_head_decoder = msgspec.msgpack.Decoder(_OutcomeHead)


class CacheView:
    """The newest entries of a reply cache at one moment: command ids and packed entries, oldest first.

    `first_sequence` is the sequence of the oldest entry of the whole cache, 0 if the cache is empty.
    """

    __slots__ = ("_chunks", "_skip", "_stop", "first_sequence")

    def __init__(self, chunks: list[list[str | bytes]], skip: int, stop: int, first_sequence: int) -> None:
        self._chunks = chunks
        self._skip = skip
        self._stop = stop
        self.first_sequence = first_sequence

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for position in range(self._skip, self._stop):
            number, place = divmod(position, _CHUNK)
            chunk = self._chunks[number]
            yield cast("str", chunk[2 * place]), cast("bytes", chunk[2 * place + 1])


class ReplyCache:
    """The first outcomes of an account's latest commands. All O(1) but `newest`, O(entries / 128).

    `_chunks` has command ids and packed entries alternately, oldest first, by ascending sequence; the first `_gone` of
    them are dropped. A full chunk never changes, so a view needs no copy of its entries. `_packed` maps command ids to
    entries.
    """

    __slots__ = ("_chunks", "_gone", "_newest", "_packed", "added", "bound")

    def __init__(self, bound: int = OUTCOMES_PER_ACCOUNT) -> None:
        self.bound = bound
        """The largest number of entries."""
        self._newest: list[str | bytes] = []
        """The last of the chunks."""
        self._chunks: deque[list[str | bytes]] = deque([self._newest])
        self._gone = 0
        self._packed: dict[str, bytes] = {}
        self.added = 0
        """The number of entries that were ever added to this object."""

    def __len__(self) -> int:
        return len(self._packed)

    def find(self, command_id: str) -> bytes | None:
        """Return the packed entry of a command, for `fingerprint_of` and `outcome_of`."""
        return self._packed.get(command_id)

    def add(self, command_id: str, packed: bytes) -> int:
        """Add the entry (see `pack`) of a command that has none yet, and drop the oldest entry if there are too many.

        Returns the number of entries by which the cache grew: 1 or 0.
        """
        self._packed[command_id] = packed
        newest = self._newest
        newest.append(command_id)
        newest.append(packed)
        self.added += 1
        if len(newest) == 2 * _CHUNK:
            self._newest = []
            self._chunks.append(self._newest)
        if len(self._packed) <= self.bound:
            return 1
        self._forget_oldest()
        return 0

    def add_written(self, command_id: str, packed: Writer) -> int:
        """Add the bytes of a writer as an entry."""
        return self.add(command_id, packed.since(0))

    def add_new(self, command_id: str, packed: bytes) -> bool:
        """`add` the entry of a command that may have one. Returns whether it had none; otherwise nothing changes."""
        if command_id in self._packed:
            return False
        self.add(command_id, packed)
        return True

    def _forget_oldest(self) -> None:
        """Drop the oldest entry."""
        del self._packed[cast("str", self._chunks[0][2 * self._gone])]
        self._gone += 1
        if self._gone == _CHUNK:
            self._chunks.popleft()
            self._gone = 0

    def forget_before(self, sequence: int) -> int:
        """Drop the entries with smaller sequences. Returns their number. O(dropped)."""
        dropped = 0
        while self._packed and sequence_of(cast("bytes", self._chunks[0][2 * self._gone + 1])) < sequence:
            self._forget_oldest()
            dropped += 1
        return dropped

    def newest(self, count: int) -> CacheView:
        """Return a view of the latest `count` entries, or of all if there are fewer."""
        chunks, gone, known = list(self._chunks), self._gone, len(self._packed)
        stop = gone + known
        first = sequence_of(cast("bytes", chunks[0][2 * gone + 1])) if known else 0
        return CacheView(chunks, stop - min(count, known), stop, first)

    def has_room(self, before: int) -> bool:
        """Return whether one more entry fits without dropping one of the time `before` or later."""
        if len(self._packed) < self.bound:
            return True
        return _head_decoder.decode(packed_outcome(cast("bytes", self._chunks[0][2 * self._gone + 1]))).time < before

    def memory(self) -> int:
        """Return the bytes of memory that the entries take. O(entries)."""
        entries = sum(getsizeof(command_id) + getsizeof(packed) for command_id, packed in self._packed.items())
        return entries + getsizeof(self._packed) + sum(map(getsizeof, self._chunks))

    def clear(self) -> None:
        """Empty the cache in small steps (`teardown`). It may not be used afterwards. O(entries)."""
        clear(self._packed, self._chunks)

    def check(self, last_sequence: int) -> None:
        """Assert the invariant: bounded, chunks and dictionary agree, sequences rise and are not from the future."""
        assert len(self._packed) <= self.bound, "the reply cache has too many entries"
        previous = 0
        count = 0
        for command_id, packed in self.newest(len(self._packed)):
            assert self._packed.get(command_id) is packed, (
                f"command {command_id}: the queue and the index of the reply cache disagree"
            )
            sequence = sequence_of(packed)
            assert previous < sequence <= last_sequence, f"command {command_id} is out of order in the reply cache"
            previous = sequence
            count += 1
        assert count == len(self._packed), "the queue and the index of the reply cache disagree"


def pack(fingerprint: bytes, outcome: bytes) -> bytes:
    """Return the packed entry of a command: its fingerprint and the encoded outcome, which contains the sequence."""
    return fingerprint + outcome


def fingerprint_fits(packed: bytes, fingerprint: bytes) -> bool:
    """Return whether a packed entry may be of a command with this fingerprint."""
    return fingerprint == ANY_CONTENTS or fingerprint_of(packed) in (fingerprint, ANY_CONTENTS)


def fingerprint_of(packed: bytes) -> bytes:
    """Return the fingerprint in a packed entry."""
    return packed[:FINGERPRINT_SIZE]


def packed_outcome(packed: bytes) -> bytes:
    """Return the outcome in a packed entry, as msgpack."""
    return packed[FINGERPRINT_SIZE:]


def sequence_of(packed: bytes) -> int:
    """Return the sequence in a packed entry."""
    return _head_decoder.decode(packed_outcome(packed)).sequence


def outcome_of(packed: bytes) -> AnyOutcome:
    """Return the first outcome, decoded from a packed entry."""
    return _decoder.decode(packed_outcome(packed))
