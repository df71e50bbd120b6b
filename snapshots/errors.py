"""The exceptions of snapshots.

SnapshotError
├── SnapshotDamagedError   a snapshot on disk is not what was written
├── SnapshotAbiError       a snapshot is of another schema than this software
├── UnknownAbiError        no description of this ABI is known
├── LevelError             the log or a snapshot is of a level that this software cannot run
├── levels.lowering.LossError  a state cannot return to an earlier level without loss
├── MigrationError         data of another schema could not be converted; nothing was changed
├── SnapshotRefusedError   a snapshot from another node was refused
├── NoSnapshotError        there is no snapshot to send
├── SnapshotBusyError      another process writes into this directory
├── TsvError               TSV files that are not tables
├── levels.shadow.ShadowError  the next level's state cannot be kept ready
├── levels.returning.ReturnError  the state of the level before cannot be kept ready
├── levels.v0_2_0_patch.PatchError  a change cannot be taken over into a state of 0.2.0
├── money.MoneyError       the sums of a snapshot's balances are wrong
└── writer.InputEnded      the process that sends the rows has ended
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

FAULTS_SHOWN = 20
"""The most faults of TSV files that a message lists."""


class SnapshotError(Exception):
    """Root of this package's errors."""


class SnapshotDamagedError(SnapshotError):
    """A snapshot on disk is not what was written. The text names the file or table, and what to do."""

    def __init__(self, place: str, what: str) -> None:
        super().__init__(
            f"{place}: {what}. This snapshot cannot be trusted and nothing of it was read. If it is a node's own and the other nodes "
            "are up, give the node an empty data directory and start it with --rejoin. If it is a backup, use another one"
        )
        self.place = place
        self.what = what


class SnapshotAbiError(SnapshotError):
    """A snapshot is of another schema. `found` and `expected` are ABIs."""

    def __init__(self, place: str, found: str, expected: str, software: str) -> None:
        super().__init__(
            f"{place}: written by software {software} with ABI {found}; this software has ABI {expected}. "
            "Run the version that wrote it"
        )
        self.found = found
        self.expected = expected


class UnknownAbiError(SnapshotError):
    """No description of this ABI is known: the data is of a later version, or of one that was never released.

    `writer` names the software that wrote it, if that is known.
    """

    def __init__(self, abi: str, known: list[str], writer: str = "a later version or one that was never released") -> None:
        super().__init__(f"ABI {abi} is not known to this software: {writer} wrote it. Known: {', '.join(known)}")
        self.abi = abi


class LevelError(SnapshotError):
    """A log entry or a snapshot is of a level that this software cannot run; the text says which, and what to do."""


class MigrationError(SnapshotError):
    """Data of another schema could not be converted. Nothing was changed.

    `check` names what failed, `place` the table and row or the log entry ("" if none).
    """

    def __init__(self, check: str, place: str, what: str) -> None:
        super().__init__(f"migration: {check}: {place}: {what}" if place else f"migration: {check}: {what}")
        self.check = check
        self.place = place
        self.what = what


class SnapshotRefusedError(SnapshotError):
    """An incoming snapshot was refused, and nothing of it was kept. The text says why."""


class NoSnapshotError(SnapshotError):
    """There is no snapshot in this directory."""


class SnapshotBusyError(SnapshotError):
    """Another process writes into this directory and did not end in time."""


class TsvFault(msgspec.Struct, frozen=True):
    """What is wrong at one place of a TSV file. `line` and `column` count from 1 (a column is a cell); 0 and "" where
    there is none.
    """

    file: str
    line: int
    column: int
    field: str
    expected: str

    def __str__(self) -> str:
        parts = [self.file]
        if self.line:
            parts.append(f"line {self.line}")
        if self.column:
            parts.append(f"column {self.column}")
        if self.field:
            parts.append(f"field {self.field}")
        return f"{', '.join(parts)}: {self.expected}"


class TsvError(SnapshotError):
    """TSV files that are not tables; nothing of them was used. `faults` has all that was found, in the order of
    finding.
    """

    def __init__(self, faults: Sequence[TsvFault]) -> None:
        more = [f"and {len(faults) - FAULTS_SHOWN} more faults"] if len(faults) > FAULTS_SHOWN else []
        super().__init__("\n".join([*map(str, faults[:FAULTS_SHOWN]), *more]))
        self.faults = list(faults)
