"""What can go wrong with snapshots.

SnapshotError
├── SnapshotDamagedError   a snapshot on disk is not what was written
├── SnapshotAbiError       a snapshot is of another schema than this software
├── UnknownAbiError        no description of this ABI is known
├── MigrationError         data of another schema could not be brought to the one that is wanted; nothing was changed
├── SnapshotRefusedError   a snapshot that came from another node was not taken
├── NoSnapshotError        there is none to send
└── SnapshotBusyError      another process writes into this directory
"""

from __future__ import annotations


class SnapshotError(Exception):
    """Root of this package's errors."""


class SnapshotDamagedError(SnapshotError):
    """A snapshot on disk is not what was written. The text names the file or table, and what to do."""

    def __init__(self, place: str, what: str) -> None:
        super().__init__(
            f"{place}: {what}. This snapshot cannot be trusted and nothing of it was read. Restore it from a copy, or, with the other "
            "nodes up, give this node an empty data directory and start it with --rejoin"
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
    """No description of this ABI is known: the data is of a later version, or of one that was never released."""

    def __init__(self, abi: str, known: list[str]) -> None:
        super().__init__(
            f"ABI {abi} is not known to this software: a later version or one that was never released wrote it. "
            f"Known: {', '.join(known)}"
        )
        self.abi = abi


class MigrationError(SnapshotError):
    """Data of another schema could not be brought to the one that is wanted; nothing was changed.

    `check` names what failed, `place` the table and row or the log entry ("" if none).
    """

    def __init__(self, check: str, place: str, what: str) -> None:
        super().__init__(f"migration: {check}: {place}: {what}" if place else f"migration: {check}: {what}")
        self.check = check
        self.place = place
        self.what = what


class SnapshotRefusedError(SnapshotError):
    """An incoming snapshot was not taken; nothing of it was kept. The text says why."""


class NoSnapshotError(SnapshotError):
    """There is no snapshot in this directory."""


class SnapshotBusyError(SnapshotError):
    """Another process writes into this directory and did not end in time."""
