"""The rollback to the previous version: the commands that it undoes, and its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import LogDamagedError
from cluster.log import command_of, read_segments
from node.errors import DataDirectoryError
from node.migration import cutover
from node.migration.contents import LOG, look
from node.records.txlog import TxEntry, Txlog
from snapshots.levels.level import ACCEPTED, is_level_entry
from snapshots.levels.states import commands_of, is_migrated, level_with


@dataclass(frozen=True)
class WayBack:
    """The data to which a node can roll back, and the entries applied since."""

    data: Path
    record: cutover.MigrationRecord

    def txlog(self) -> Txlog:
        """Return all of `since` as a transaction log. Raises as `since` does."""
        return Txlog(self.record.last_index + 1, iter(list(self.since())), level=level_with(self.record.to_abi))

    def since(self) -> Iterator[TxEntry]:
        """Return the entries with commands that were written since the migration, in order.

        The last ones may not have been committed.

        Raises:
            DataDirectoryError: entries are missing, because the node installed a snapshot, or the log is damaged.
        """
        expected = 0
        try:
            for entry in read_segments(self.data / cutover.ARCHIVE, self.data / LOG, abis=ACCEPTED):
                if entry.index <= self.record.last_index:
                    continue
                if expected and entry.index != expected:
                    raise self._gap(expected, entry.index - 1)
                if not expected and entry.index > self.record.last_index + 1:
                    raise self._gap(self.record.last_index + 1, entry.index - 1)
                expected = entry.index + 1
                payload = command_of(entry)
                if payload is not None and not is_level_entry(payload) and not is_migrated(payload):
                    yield TxEntry(entry.index, entry.term, commands_of(self.record.to_abi, payload))
        except LogDamagedError as error:
            raise DataDirectoryError(str(error)) from error
        found = look(self.data)
        if found.manifest is not None and found.manifest.index >= max(expected, self.record.last_index + 1):
            raise self._gap(max(expected, self.record.last_index + 1), found.manifest.index)

    def _gap(self, first: int, last: int) -> DataDirectoryError:
        return DataDirectoryError(
            f"{self.data}: log entries {first} to {last}, applied since the migration, are not on this node (it took a snapshot from another "
            "one). Export on a node that has them, and roll back here with --without-export"
        )


def way_back(data: Path) -> WayBack:
    """Return the way back from the latest migration.

    Raises:
        DataDirectoryError: no migration can be undone.
    """
    cutover.finish(data)
    found = look(data)
    if found.abi is not None and found.abi not in ACCEPTED and cutover.may_go_back(data):
        raise DataDirectoryError(
            f"{data}: the data has ABI {found.abi}, at whose level this software cannot run: roll back with the version that made the migration"
        )
    records = [record for record in cutover.former(data) if record.to_abi == found.abi]
    if not records:
        raise DataDirectoryError(f"{data}: there is no migration that could be undone: none was made, or it was finalized")
    return WayBack(data, records[-1])


def ways_back(directories: Sequence[Path]) -> dict[Path, WayBack]:
    """Return the ways back of several nodes. After an interrupted rollback, nodes that are already back are left out.

    Raises:
        DataDirectoryError: one of the others has no migration that can be undone.
    """
    ways: dict[Path, WayBack] = {}
    faults: dict[Path, DataDirectoryError] = {}
    for data in directories:
        try:
            ways[data] = way_back(data)
        except DataDirectoryError as error:
            faults[data] = error
    back_at = {way.record.from_abi for way in ways.values()}
    for data, fault in faults.items():
        if look(data).abi not in back_at:
            raise fault
    return ways
