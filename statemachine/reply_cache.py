"""The reply cache: a command that is sent twice happens once, and gets its first outcome again (Raft thesis, section
6.3).

Each account has its own, bounded, first in first out. It is part of the replicated state, so every node forgets the
same command at the same moment. Entries are kept packed as bytes: an outcome holds a copy of an order's state, there
may be ten thousand of them an account, and they are hardly ever looked at again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import cast

import msgspec

from statemachine.events import AnyOutcome
from statemachine.limits import OUTCOMES_PER_ACCOUNT
from statemachine.teardown import clear

FINGERPRINT_SIZE = 8
ANY_CONTENTS = bytes(FINGERPRINT_SIZE)
"""The fingerprint of a command that another version remembered, in another encoding: its contents cannot be compared
any more. The same id gets the first outcome, whatever the contents."""

_CHUNK = 128


class _OutcomeHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What every outcome begins with."""

    tag: int
    sequence: int
    time: int


_decoder: msgspec.msgpack.Decoder[AnyOutcome] = msgspec.msgpack.Decoder(AnyOutcome)
_head_decoder = msgspec.msgpack.Decoder(_OutcomeHead)


class CacheView:
    """The newest outcomes of a memory at one moment: command ids and packed entries, oldest first.

    `first_sequence` is that of the oldest command remembered at all, 0 when there is none.
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

    `_chunks` holds command ids and packed entries in turns, oldest first, in rising sequence; the first `_gone` of them
    are forgotten. A full chunk never changes again, so that a view of the memory can be taken without a copy of its
    entries. `_packed` finds them.
    """

    __slots__ = ("_chunks", "_gone", "_newest", "_packed", "added", "bound")

    def __init__(self, bound: int = OUTCOMES_PER_ACCOUNT) -> None:
        self.bound = bound
        """How many it holds at most."""
        self._newest: list[str | bytes] = []
        """The last of the chunks."""
        self._chunks: deque[list[str | bytes]] = deque([self._newest])
        self._gone = 0
        self._packed: dict[str, bytes] = {}
        self.added = 0
        """How many were ever remembered by this object."""

    def __len__(self) -> int:
        return len(self._packed)

    def find(self, command_id: str) -> bytes | None:
        """The packed entry of a command, for `fingerprint_of` and `outcome_of`."""
        return self._packed.get(command_id)

    def add(self, command_id: str, packed: bytes) -> int:
        """Keep the entry (see `pack`) of a command that is not remembered yet; the oldest goes when there are too many.

        Returns by how many the memory has grown: 1, or 0.
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

    def fill(self, command_ids: list[str], packed: list[bytes]) -> None:
        """Remember entries (see `pack`), oldest first, in a memory that is empty. An id that comes twice is one entry
        too few. O(entries).
        """
        assert not self.added, "the memory is not empty"
        self._packed = dict(zip(command_ids, packed, strict=True))
        turns = [part for entry in zip(command_ids, packed, strict=True) for part in entry]
        self._chunks = deque(turns[at : at + 2 * _CHUNK] for at in range(0, len(turns) + 1, 2 * _CHUNK))
        self._newest = self._chunks[-1]
        self.added = len(packed)

    def _forget_oldest(self) -> None:
        del self._packed[cast("str", self._chunks[0][2 * self._gone])]
        self._gone += 1
        if self._gone == _CHUNK:
            self._chunks.popleft()
            self._gone = 0

    def newest(self, count: int) -> CacheView:
        """The latest `count` entries, or all when there are fewer, as they are now."""
        chunks, gone, known = list(self._chunks), self._gone, len(self._packed)
        stop = gone + known
        first = sequence_of(cast("bytes", chunks[0][2 * gone + 1])) if known else 0
        return CacheView(chunks, stop - min(count, known), stop, first)

    def has_room(self, before: int) -> bool:
        """May one more be remembered without forgetting one of the time `before` or later?"""
        if len(self._packed) < self.bound:
            return True
        return _head_decoder.decode(packed_outcome(cast("bytes", self._chunks[0][2 * self._gone + 1]))).time < before

    def clear(self) -> None:
        """Empty it in small steps (`teardown`); it is of no use any more. O(entries)."""
        clear(self._packed, self._chunks)

    def check(self, last_sequence: int) -> None:
        """Assert the invariant: bounded, chunks and dictionary agree, sequences rise and are not from the future."""
        assert len(self._packed) <= self.bound, "the memory holds too many outcomes"
        previous = 0
        count = 0
        for command_id, packed in self.newest(len(self._packed)):
            assert self._packed.get(command_id) is packed, f"command {command_id}: the memory's queue and its entries disagree"
            sequence = sequence_of(packed)
            assert previous < sequence <= last_sequence, f"command {command_id} remembered out of order"
            previous = sequence
            count += 1
        assert count == len(self._packed), "the memory's queue and its entries disagree"


def pack(fingerprint: bytes, outcome: bytes) -> bytes:
    """The entry of a command with this fingerprint: it and the encoded outcome, which says the sequence."""
    return fingerprint + outcome


def fingerprint_fits(packed: bytes, fingerprint: bytes) -> bool:
    """Whether a packed entry is of a command with this fingerprint, as far as that can be told."""
    return fingerprint == ANY_CONTENTS or fingerprint_of(packed) in (fingerprint, ANY_CONTENTS)


def fingerprint_of(packed: bytes) -> bytes:
    """The fingerprint in a packed entry."""
    return packed[:FINGERPRINT_SIZE]


def packed_outcome(packed: bytes) -> bytes:
    """The outcome in a packed entry, as msgpack."""
    return packed[FINGERPRINT_SIZE:]


def sequence_of(packed: bytes) -> int:
    """The sequence in a packed entry."""
    return _head_decoder.decode(packed_outcome(packed)).sequence


def outcome_of(packed: bytes) -> AnyOutcome:
    """The outcome in a packed entry, as it was the first time."""
    return _decoder.decode(packed_outcome(packed))
