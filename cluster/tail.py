"""Reading the log of a running node from another process, entry by entry, up to the index that the node has applied.

The node only appends to a segment, cuts off what was never committed, moves whole segments to its archive, and, when it
installs a snapshot, removes all of them. So an entry up to an index that the node had applied *before* the file was
read is committed, provided that the file was still part of the log *after* it was read. A removed file may end with
entries that another leader has replaced.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from cluster.errors import LogDamagedError, MissingEntriesError
from cluster.log import HEADER_BYTES_MAX, entry_size, read_header, read_record
from cluster.ports import LogEntry

READ_BYTES = 4 * 1024 * 1024
"""Bytes that are read at a time; an entry is at most 512 KiB."""

TRIES = 5
"""Attempts to open a segment that is being moved to the archive."""


class LogTail:
    """The committed entries of a node's log, in order.

    Args:
        directories: the directory of the log, then that of the archive.
        abis: the schemas of the commands. Segments of other schemas are skipped.
        next_index: the index of the first entry to read.
    """

    def __init__(self, directories: Sequence[Path], abis: Collection[str], next_index: int) -> None:
        self._directories = directories
        self._abis = abis
        self.next_index = next_index
        self._file = -1
        self._offset = 0
        self._position = 0
        """Index of the entry at `_offset`."""

    def read(self, applied: int) -> list[LogEntry]:
        """Return some of the entries up to `applied`, which the node had applied before the call. The result is empty
        only if there are none.

        Raises:
            MissingEntriesError: the next entry is in no segment.
        """
        if self.next_index > applied:
            return []
        for _ in range(TRIES):
            if self._file < 0 and not self._open():
                continue
            entries = self._read(applied)
            if entries:
                self.next_index = entries[-1].index + 1
                return entries
        raise MissingEntriesError(self.next_index)

    def close(self) -> None:
        """Close the segment that is open."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> bool:
        """Open the segment that must have the next entry, if it exists."""
        path = segment_with(self._directories, self.next_index)
        if path is None:
            return False
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        read = read_header(path.name, os.pread(self._file, HEADER_BYTES_MAX + 64, 0))
        if read is None or read[0].abi not in self._abis:
            self.close()
            return False
        self._offset, self._position = read[1], read[0].first_index
        return True

    def _read(self, applied: int) -> list[LogEntry]:
        """Return the entries of the open segment, which is closed at its end."""
        entries: list[LogEntry] = []
        offset, position = self._offset, self._position
        while not entries:
            data = os.pread(self._file, READ_BYTES, offset)
            at = 0
            while position <= applied and (entry := read_record(data, at)) is not None:
                if entry.index != position:
                    raise LogDamagedError(f"entry {entry.index} stands where {position} belongs")
                at += entry_size(entry)
                position += 1
                if entry.index >= self.next_index:
                    entries.append(entry)
            offset += at
            if not at:
                break
        if not entries or os.fstat(self._file).st_nlink == 0:
            self.close()
            return []
        self._offset, self._position = offset, position
        return entries


def segment_with(directories: Sequence[Path], index: int) -> Path | None:
    """Return the segment that must hold entry `index`, or None. Of two with the same name, the one in the earlier
    directory is returned.

    The earlier directory is read first, so a segment that moves to the later one meanwhile is always found.
    """
    segments: dict[str, Path] = {}
    for directory in directories:
        for path in directory.glob("log-*.seg"):
            segments.setdefault(path.name, path)
    begun = [path for path in segments.values() if first_index(path) <= index]
    return max(begun, key=first_index, default=None)


def first_index(segment: Path) -> int:
    """Return the index in a segment's name."""
    return int(segment.stem.removeprefix("log-"))
