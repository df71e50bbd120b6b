"""The memory of outcomes: what makes a command that is sent twice happen once.

Each account has its own, bounded, first in first out. It is part of the replicated state, so every node forgets the same
command at the same moment. Entries are kept packed as bytes: an outcome holds a copy of an order's state, there may be
ten thousand of them an account, and they are hardly ever looked at again.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b

import msgspec

from statemachine.events import AnyOutcome
from statemachine.limits import OUTCOMES_PER_ACCOUNT

FINGERPRINT_SIZE = 8
ANY_CONTENTS = bytes(FINGERPRINT_SIZE)
"""The fingerprint of a command that another version remembered, in another encoding: its contents cannot be compared any more. The same
id gets the first outcome, whatever the contents."""

_SEQUENCE_SIZE = 8
_OUTCOME_AT = _SEQUENCE_SIZE + FINGERPRINT_SIZE

_decoder: msgspec.msgpack.Decoder[AnyOutcome] = msgspec.msgpack.Decoder(AnyOutcome)


def fingerprint(encoded_command: bytes) -> bytes:
    """Eight bytes that tell other contents under the same command id."""
    return blake2b(encoded_command, digest_size=FINGERPRINT_SIZE).digest()


class OutcomeMemory:
    """The first outcomes of an account's latest commands. All O(1).

    `_ids` holds the keys of `_packed`, oldest first, in rising sequence.
    """

    __slots__ = ("_ids", "_packed")

    def __init__(self) -> None:
        self._ids: deque[str] = deque()
        self._packed: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._packed)

    def find(self, command_id: str) -> bytes | None:
        """The packed entry of a command, for `fingerprint_of` and `outcome_of`."""
        return self._packed.get(command_id)

    def remember(self, sequence: int, command_id: str, fingerprint: bytes, outcome: bytes) -> None:
        """Keep the encoded outcome of a command that is not remembered yet; the oldest goes when there are too many."""
        self._packed[command_id] = sequence.to_bytes(_SEQUENCE_SIZE, "big") + fingerprint + outcome
        self._ids.append(command_id)
        if len(self._ids) > OUTCOMES_PER_ACCOUNT:
            del self._packed[self._ids.popleft()]

    def frozen(self) -> tuple[list[str], list[bytes]]:
        """All command ids, and their packed entries, oldest first, as they are now."""
        return list(self._packed), list(self._packed.values())

    def check(self, last_sequence: int) -> None:
        """Assert the invariant: bounded, keys and queue agree, sequences rise and are not from the future."""
        assert len(self._ids) == len(self._packed) <= OUTCOMES_PER_ACCOUNT, "the memory's queue and its entries disagree"
        previous = 0
        for command_id in self._ids:
            sequence = sequence_of(self._packed[command_id])
            assert previous < sequence <= last_sequence, f"command {command_id} remembered out of order"
            previous = sequence


def fingerprint_fits(packed: bytes, mark: bytes) -> bool:
    """Whether a packed entry is of a command with this fingerprint, as far as that can be told."""
    return mark == ANY_CONTENTS or fingerprint_of(packed) in (mark, ANY_CONTENTS)


def fingerprint_of(packed: bytes) -> bytes:
    """The fingerprint in a packed entry."""
    return packed[_SEQUENCE_SIZE:_OUTCOME_AT]


def sequence_of(packed: bytes) -> int:
    """The sequence in a packed entry."""
    return int.from_bytes(packed[:_SEQUENCE_SIZE], "big")


def packed_outcome(packed: bytes) -> bytes:
    """The outcome in a packed entry, as msgpack."""
    return packed[_OUTCOME_AT:]


def outcome_of(packed: bytes) -> AnyOutcome:
    """The outcome in a packed entry, as it was the first time."""
    return _decoder.decode(packed_outcome(packed))
