"""The exchange with one protection switched off at a time. The simulation of the whole exchange must detect each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cluster.log import DurableLog
from cluster.ports import CaptureState
from node.engine.feed import Feed
from node.engine.leadership import Barriers
from node.engine.service import EngineService, Send
from node.engine.snapshot_port import SnapshotPort
from node.native.protocol import Results, Submit
from snapshots import durable
from snapshots.manifest import Manifest
from snapshots.rocks import Keep
from snapshots.seal import read_seal
from snapshots.store import SnapshotStore
from statemachine.applied import AppliedBatch
from statemachine.commands import Batch, decode_batch, encode_batch
from statemachine.engine import Engine
from tests.simulation.directory import CHECKSUM_BYTES, PlainWriter

Patch = pytest.MonkeyPatch
_publish = durable.publish


def no_command_ids(patch: Patch) -> None:
    """No reply cache is consulted: each command is executed under a new command id."""
    apply_entry = Engine.apply_entry

    def apply_as_new(self: Engine, payload: bytes) -> AppliedBatch:
        batch = decode_batch(payload)
        commands = [
            replace(command, command_id=f"{self.sequence + number}-{command.command_id[:60]}")
            for number, command in enumerate(batch.commands, 1)
        ]
        return apply_entry(self, encode_batch(replace(batch, commands=commands)))

    patch.setattr(Engine, "apply_entry", apply_as_new)


def no_barrier(patch: Patch) -> None:
    """The leader answers linearizable reads from its state, without a barrier."""

    def join(_self: Barriers, answered: Callable[[bool], None]) -> bool:
        answered(True)
        return True

    patch.setattr(Barriers, "join", join)


def early_reply(patch: Patch) -> None:
    """The leader answers with the outcomes of commands before they are committed."""
    original = EngineService.submit

    def submit(self: EngineService, principal: Any, request: Submit, size: int, send: Send) -> None:
        if not self._raft.is_leader:
            original(self, principal, request, size, send)
            return
        engine = Engine.restore(dict(self._machine.engine.tables()))
        outcomes = engine.apply(Batch(self._time_ns(), request.commands)).outcomes
        original(self, principal, request, size, lambda _answer: None)
        send(Results(request.request_id, outcomes))

    patch.setattr(EngineService, "submit", submit)


def no_snapshot_check(patch: Patch) -> None:
    """A snapshot is loaded unchecked: digests of files, hashes of rows and checksums are not compared."""
    patch.setattr("tests.simulation.directory.checked", _unchecked)
    patch.setattr("snapshots.store.check_files", read_seal)
    patch.setattr("snapshots.transfer.Sink._close_file", _close_unchecked)
    patch.setattr("tests.simulation.directory.read_plain", _read_unchecked)


def _unchecked(data: bytes) -> bytes:
    return data[CHECKSUM_BYTES:]


def _read_unchecked(path: Path, manifest: Manifest, keep: Keep | None = None) -> None:
    if keep is not None:
        for name, rows in PlainWriter(path, manifest.row_counts).tables().items():
            keep(name, rows)


def _close_unchecked(sink: Any) -> None:
    sink._file.close()
    sink._file = None
    sink._position += 1


def unchecked_sharing(patch: Patch) -> None:
    """Files that are shared with the previous snapshot get new checksums, even if they have changed. RocksDB's
    checksums are not verified either.
    """
    patch.setattr("tests.simulation.directory.checked", _unchecked)
    patch.setattr("snapshots.writer.check_shared", lambda _seal, _shared: None)


def torn_snapshots(patch: Patch) -> None:
    """A snapshot is written under its final name, and not renamed when it is complete."""
    patch.setattr("snapshots.durable.DRAFT", "")
    patch.setattr("snapshots.durable.remove_drafts", lambda _parent: None)
    patch.setattr("snapshots.durable.publish", lambda _draft, final: durable.sync_path(final.parent))


def unsynced_snapshots(patch: Patch) -> None:
    """A snapshot gets its name before it is on the disk."""
    patch.setattr("snapshots.durable.sync_path", lambda _path: None)
    patch.setattr("snapshots.seal.sync_path", lambda _path: None)
    patch.setattr("snapshots.seal.sync_tree", lambda _path: None)


def snapshot_name_not_synced(patch: Patch) -> None:
    """A snapshot counts as done when it has its name, before the name is on the disk."""

    def publish(draft: Path, final: Path) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr("snapshots.durable.sync_path", lambda _path: None)
            _publish(draft, final)

    patch.setattr("snapshots.durable.publish", publish)


def snapshot_files_not_synced(patch: Patch) -> None:
    """SEAL is written without a sync of the files that it lists."""
    patch.setattr("snapshots.seal.sync_tree", lambda _path: None)


def seal_not_synced(patch: Patch) -> None:
    """A snapshot gets its name before its SEAL is on the disk."""
    patch.setattr("snapshots.seal.sync_path", lambda _path: None)


def early_compaction(patch: Patch) -> None:
    """A snapshot counts as done when it is begun, so the log that it covers is compacted before the snapshot exists."""
    original = SnapshotPort.poll

    def poll(self: SnapshotPort) -> CaptureState:
        state = original(self)
        return CaptureState.DONE if state is not CaptureState.IDLE else state

    patch.setattr(SnapshotPort, "poll", poll)
    patch.setattr(SnapshotStore, "_begin", _begin_anyway(SnapshotStore._begin))


def _begin_anyway(original: Callable[..., Any]) -> Callable[..., Any]:
    """Begin although a snapshot is unfinished, which the next snapshot would otherwise find."""

    def begin(self: SnapshotStore, *arguments: Any) -> Any:
        self._job = None
        return original(self, *arguments)

    return begin


def ignored_disk_errors(patch: Patch) -> None:
    """A log whose sync failed counts as synced."""
    original = DurableLog.sync

    def sync(self: DurableLog) -> None:
        with contextlib.suppress(OSError):
            original(self)

    patch.setattr(DurableLog, "sync", sync)


def silent_feed(patch: Patch) -> None:
    """A feed does not learn that a snapshot replaced its state."""
    patch.setattr(Feed, "restart", lambda _self, _sequences, _saved=None: None)


def forgotten_market(patch: Patch) -> None:
    """A node that restores a snapshot ignores the market data in it."""
    patch.setattr("node.engine.market.decode", lambda _data, _index: {})


MUTANTS: Mapping[str, Callable[[Patch], None]] = {
    function.__name__: function
    for function in (
        no_command_ids,
        no_barrier,
        early_reply,
        no_snapshot_check,
        unchecked_sharing,
        torn_snapshots,
        unsynced_snapshots,
        snapshot_name_not_synced,
        snapshot_files_not_synced,
        seal_not_synced,
        early_compaction,
        ignored_disk_errors,
        silent_feed,
        forgotten_market,
    )
}
