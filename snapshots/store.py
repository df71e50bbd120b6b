"""A node's snapshots. A separate process writes them; they are checked before they are read, sent to other nodes and
received from them.

    DIRECTORY/00000000000000012345/    the snapshot at log index 12345: RocksDB's files, and SEAL
    DIRECTORY/writer.lock              held by the process that writes one

A visible snapshot is complete. If the newest one is damaged, that is an error and not a reason to use an older one: the
log before the newest may already be compacted, and a node with an older state has lost entries that it acknowledged.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from snapshots import durable
from snapshots.abi import ABI
from snapshots.errors import NoSnapshotError, SnapshotAbiError, SnapshotBusyError, SnapshotDamagedError
from snapshots.frames import Begin, change_frames, frames
from snapshots.job import WriteJob
from snapshots.manifest import Manifest, Row, SnapshotFields
from snapshots.naming import prune, snapshot_path, snapshot_paths
from snapshots.rocks import Made, made_of_tables, read_tables
from snapshots.seal import check_files, read_attachment
from snapshots.transfer import Sink, Source
from snapshots.writer import locked
from statemachine.freezing import Frozen

LOCK_SECONDS = 60.0
"""Seconds for which opening waits for the writer of a killed parent. The writer ends when it detects this, or completes
the snapshot if that is nearly done.
"""


class SnapshotStore:
    """The snapshots of one node.

    Read:      `newest`, `check`, `load`, `build`, `attachment`
    Write:     `begin`, `begin_changes`, `adopt`
    Transfer:  `open_source`, `open_sink`

    For one process, and for one thread except `check`.

    Args:
        directory: it is created if it does not exist. Files that a killed process left in it are removed.
        keep: how many snapshots are kept when a new one is finished.
        abi: the default ABI of written snapshots.
        accepts: the ABIs that may be read; by default only `abi`.

    Raises:
        SnapshotBusyError: another process writes into the directory and does not end.
        OSError: the directory cannot be used.
    """

    def __init__(self, directory: Path, keep: int = 2, *, abi: str = ABI, accepts: Collection[str] = ()) -> None:
        assert keep >= 1
        self._directory = directory
        self._keep = keep
        self._abi = abi
        self._accepts = tuple(accepts) or (abi,)
        self._newest: Manifest | None = None
        self._just_checked: Manifest | None = None
        """The snapshot whose files were compared when the store was opened, until it is loaded."""
        self._job: WriteJob | None = None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.sync_path(directory.parent)
        self._clean()

    def _clean(self) -> None:
        """Remove what an interrupted write has left. Waits while another process writes."""
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                with locked(self._directory):
                    return durable.clean(self._directory)
            except SnapshotBusyError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.02)

    def newest(self) -> Manifest | None:
        """Return the manifest of the newest snapshot, or None. The first call checks the snapshot's files.

        Raises:
            SnapshotDamagedError: a file of it is not what was written. Never falls back to an older one.
        """
        if self._newest is None:
            paths = snapshot_paths(self._directory)
            if paths:
                self._newest = self._just_checked = self._checked(paths[-1])
        return self._newest

    @staticmethod
    def _checked(path: Path) -> Manifest:
        manifest = check_files(path).manifest
        if manifest.index != int(path.name):
            raise SnapshotDamagedError(str(path), f"holds the snapshot at index {manifest.index}")
        return manifest

    def check(self, manifest: Manifest) -> Path:
        """Compare all files of a snapshot with their checksums, and return its directory. O(bytes). May run in another
        thread.

        Raises:
            SnapshotDamagedError: a file is missing, or not what was written.
        """
        path = snapshot_path(self._directory, manifest.index)
        if self._checked(path) != manifest:
            raise SnapshotDamagedError(str(path), "is not the requested snapshot")
        return path

    def load(self, manifest: Manifest) -> dict[str, list[Row]]:
        """Return all tables of a snapshot, rows sorted by key: what `Engine.restore` takes. O(everything).

        Files, row counts, hashes and the database's own manifest are checked first or on the way. The files are not
        read once more for their digests if `newest` has just done that, as at a start; the rows' hashes are compared
        all the same.

        Raises:
            SnapshotAbiError: it is of another schema.
            SnapshotDamagedError: it is not what was written, or not there.
        """
        path = self._readable(manifest)
        tables: dict[str, list[Row]] = {name: [] for name in manifest.row_counts}
        read_tables(path, manifest, lambda name, rows: tables[name].extend(rows))
        return tables

    def build(self, manifest: Manifest, make: Callable[[Mapping[str, Iterable[Row]]], Made]) -> Made:
        """Return the result of `make`, for example `Engine.restore`, with the tables that `load` gives. It is faster,
        and needs memory for few rows: `make` takes the rows while they are read. They are checked as by `load`, before
        this returns.

        Args:
            make: takes each table once, in their order, completely. It must have no effect but its result.

        Raises:
            SnapshotAbiError, SnapshotDamagedError: see `load`. Other exceptions of `make` pass.
        """
        return made_of_tables(self._readable(manifest), manifest, make)

    def _readable(self, manifest: Manifest) -> Path:
        """Return the directory of a snapshot, after its files were compared with their digests."""
        checked, self._just_checked = self._just_checked, None
        path = snapshot_path(self._directory, manifest.index) if manifest is checked else self.check(manifest)
        if manifest.abi not in self._accepts:
            raise SnapshotAbiError(str(path), manifest.abi, self._abi, manifest.software)
        return path

    def attachment(self, manifest: Manifest, name: str) -> bytes | None:
        """Return a file beside the tables, compared with the seal; None where the snapshot has none of that
        name.

        Raises:
            SnapshotDamagedError: it is not what was written.
        """
        return read_attachment(snapshot_path(self._directory, manifest.index), name)

    def begin(self, fields: SnapshotFields, tables: Mapping[str, Collection[Row]], *, abi: str = "") -> WriteJob:
        """Begin to write a complete snapshot. Returns at once; poll the job.

        Args:
            tables: in their order; must not change any more. Iterated in another thread, once.
            abi: of the rows; that of the store unless named.
        """
        return self._begin(fields, frames(Begin(fields, abi or self._abi, list(tables)), tables))

    def begin_changes(
        self,
        fields: SnapshotFields,
        frozen: Frozen,
        base: int,
        attachments: Mapping[str, Callable[[], bytes]] | None = None,
        *,
        abi: str = "",
    ) -> WriteJob:
        """Begin to write a snapshot as changes to an earlier one, whose unchanged files it shares. Returns at once;
        poll the job.

        Args:
            frozen: what changed since (`Engine.freeze`). Iterated in another thread, once.
            base: the earlier snapshot's index; 0 when the changes are all there is.
            attachments: files beside the tables, by name (`frames.ATTACHMENTS`), and what makes their contents; called
                in another thread, once.
            abi: of the rows; that of the store unless named.
        """
        begin = Begin(fields, abi or self._abi, list(frozen.counts), base)
        return self._begin(fields, change_frames(begin, frozen.counts, frozen, attachments))

    def _begin(self, fields: SnapshotFields, chunks: Iterator[bytes]) -> WriteJob:
        assert self._job is None or self._job.settled, "one snapshot at a time"
        assert fields.index >= 1
        self._job = WriteJob(self._directory, chunks, self._finished)
        return self._job

    def _finished(self, manifest: Manifest) -> None:
        """Delete older snapshots, after the writer or a sink has published one. Until then the older ones were the
        newest that this node had.
        """
        if self._newest is None or manifest.index >= self._newest.index:
            self._newest = manifest
        prune(self._directory, self._keep)

    def adopt(self, path: Path) -> Manifest:
        """Take a finished snapshot of another store over. Its large files are shared. O(bytes).

        Raises:
            SnapshotDamagedError: it is not what was written.
            OSError: it is gone, or cannot be copied.
        """
        draft = self._directory / (path.name + durable.DRAFT)
        durable.remove(draft)
        draft.mkdir(mode=0o700)
        try:
            for each in path.iterdir():
                if each.suffix == ".sst":  # the others may be written when the database is opened
                    durable.link(each, draft / each.name)
                else:
                    shutil.copyfile(each, draft / each.name)
            manifest = check_files(draft).manifest
            if manifest.index != int(path.name):
                raise SnapshotDamagedError(str(path), f"holds the snapshot at index {manifest.index}")
            durable.sync_tree(draft)
        except BaseException:
            durable.remove(draft)
            raise
        durable.publish(draft, snapshot_path(self._directory, manifest.index))
        self._finished(manifest)
        return manifest

    def open_source(self) -> Source:
        """Open the newest snapshot as a sequence of bytes. It stays readable until it is closed, even if it is pruned
        before that.

        Raises:
            NoSnapshotError: there is none.
            SnapshotDamagedError: it is not what was written.
        """
        manifest = self.newest()
        if manifest is None:
            raise NoSnapshotError(f"{self._directory}: there is no snapshot to send")
        return Source(snapshot_path(self._directory, manifest.index))

    def open_sink(self) -> Sink:
        """Begin to receive a snapshot. It is not visible before `finish`."""
        return Sink(self._directory, self._accepts, self._finished)
