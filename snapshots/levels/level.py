"""A level: the schema and the rules by which every entry of the log is read and applied. It is part of the replicated
state.

A cluster runs at one level, whatever software its nodes have. Its entries, outcomes, events, hashes and snapshots are
those of the level's version, byte for byte. The entry `SetLevel` changes it: on every node, earlier entries are of the
old level, and later ones of the new level.
"""

from __future__ import annotations

from importlib import metadata

import msgspec

from snapshots.abi import ABI
from statemachine.rules import RULES

ENTRY_MARK = b"\xc1"
"""The first byte of an entry that changes the level. msgpack never uses it, so no version takes such an entry for a
batch of commands: one that does not know it cannot decode it, and stops there."""

CORES = {"0.2.0": "5270bad0c427b5f040e974666a6f98d958f5a1961e7b08abab822d50ca1d61d4"}
"""Frozen cores by version, with the digest of each archive (`freezing`)."""


class Level(msgspec.Struct, frozen=True, array_like=True):
    """A level. `version` is the first version with it, for people. `abi` identifies the schema, `rules` the behaviour
    (`statemachine.rules`).
    """

    version: str
    abi: str
    rules: int

    def __str__(self) -> str:
        return f"{self.version} (ABI {self.abi[:12]}, rules {self.rules})"


V0_2_0 = Level("0.2.0", "9e8690deb4d99e2c9dbd16b3e6e3f90c05a0252c", 2)

RELEASED_RULES = {"0.1.0": 1, "0.2.0": 2}
"""The rules number of every released version."""

OWN = Level(metadata.version("quorumbook"), ABI, RULES)
"""The level of this software."""

SUPPORTED: tuple[Level, ...] = (V0_2_0, OWN)
"""Every level that this software can run, oldest first. One is dropped, with its module and its archive, one release
after it was last the level of a release that may be upgraded from."""

BROUGHT_TO: Level = V0_2_0
"""The level to which a start brings data of a version that no supported level can run. Its frozen core knows by which
rules entries of that version are applied; no later core does."""

ACCEPTED = frozenset(level.abi for level in SUPPORTED)
"""Their ABIs."""


def by_abi(abi: str) -> Level | None:
    """Return the supported level with this ABI."""
    return next((level for level in SUPPORTED if level.abi == abi), None)


def by_version(version: str) -> Level | None:
    """Return the supported level of a version, or with an ABI that begins with `version` (at least twelve digits)."""
    return next(
        (level for level in SUPPORTED if level.version == version or (len(version) >= 12 and level.abi.startswith(version))),
        None,
    )


def rules_of(version: str, abi: str) -> int:
    """Return the rules number of a released version, or of this software by its ABI; 0 if it is unknown."""
    return RULES if abi == ABI else RELEASED_RULES.get(version, 0)


class SetLevel(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A log entry: from the next entry on the cluster runs at level `to`. It has no effect if the level in force is not
    `old`.
    """

    old: Level
    to: Level


class CheckLevel(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A log entry: every node checks whether its state can return to the earlier level `to` without loss. It changes
    nothing. A `SetLevel` that returns to an earlier level follows only if every node's check succeeded. It is the next
    entry, so it applies to the state that was checked.
    """

    old: Level
    to: Level


LevelEntry = SetLevel | CheckLevel
_decoder: msgspec.msgpack.Decoder[LevelEntry] = msgspec.msgpack.Decoder(LevelEntry)


def encode_level_entry(entry: LevelEntry) -> bytes:
    """Return the entry's bytes."""
    return ENTRY_MARK + msgspec.msgpack.encode(entry)


def decode_level_entry(payload: bytes) -> LevelEntry | None:
    """Return the entry about the level that the bytes contain; None for an entry with commands.

    Raises:
        msgspec.DecodeError: the entry begins like one about the level and cannot be decoded.
    """
    return _decoder.decode(payload[1:]) if payload[:1] == ENTRY_MARK else None


def decode_set_level(payload: bytes) -> SetLevel | None:
    """Return the change of the level in an entry; None for any other entry. Raises as `decode_level_entry`."""
    entry = decode_level_entry(payload)
    return entry if isinstance(entry, SetLevel) else None


def is_level_entry(payload: bytes) -> bool:
    """Return whether an entry is about the level. Such an entry has no commands."""
    return payload[:1] == ENTRY_MARK


def is_earlier(level: Level, than: Level) -> bool:
    """Return whether a supported level is earlier than another one."""
    return level in SUPPORTED and than in SUPPORTED and SUPPORTED.index(level) < SUPPORTED.index(than)


def abi_behind(payload: bytes) -> str | None:
    """Return the ABI of the entries after this one; None if it does not set one."""
    if payload[:1] != ENTRY_MARK:
        return None
    try:
        entry = decode_set_level(payload)
    except msgspec.DecodeError:
        return None
    return None if entry is None else entry.to.abi
