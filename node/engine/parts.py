"""The parts of the engine process: opens the data on disk, and creates and connects what `process` runs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from cluster import hardstate
from cluster.driver import RaftDriver
from cluster.membership import Member, Role
from cluster.messages import narrowed
from cluster.ports import Schemas, Timekeeper
from cluster.raft import Raft, open_raft
from cluster.settings import SNAPSHOT_ENTRIES, RaftSettings
from cluster.wire import PROTOCOL, Hello, TlsWire, WireSettings
from node.config.settings import NodeConfig
from node.data_directory import evidence, identity
from node.engine import levels, membership
from node.engine.entries import Entries
from node.engine.feed import Feed
from node.engine.housekeeping import staggered
from node.engine.introductions import Addresses, Body, Introductions, Migrated, own_places
from node.engine.leadership import ahead_of_tick
from node.engine.level_change import LevelChange, LevelRequests, asking
from node.engine.level_preparation import Preparation
from node.engine.modes import Modes
from node.engine.native_server import NativeServer
from node.engine.replicated_engine import ReplicatedEngine, stamp_of
from node.engine.service import EngineService, NodeIdentity
from node.engine.snapshot_port import SnapshotPort, collector_off
from node.engine.startup import check_start, seeding_of, snapshot_loader
from node.errors import DataDirectoryError
from node.migration import cutover
from node.system import software
from node.system.durations import EngineDurations
from node.tls import pki
from node.tls.certificates import CertificateWatch
from node.tracing import tracer_of
from snapshots.abi import ABI
from snapshots.levels.level import ACCEPTED, BROUGHT_TO, abi_behind
from snapshots.levels.states import empty
from snapshots.naming import snapshot_paths
from snapshots.seal import SEAL
from snapshots.store import SnapshotStore


class Parts(msgspec.Struct):
    """The parts of a node's engine."""

    service: EngineService
    server: NativeServer
    raft: Raft
    driver: RaftDriver
    snapshots: SnapshotPort
    machine: ReplicatedEngine
    certificates: CertificateWatch
    disk: levels.LogDisk


def build(config: NodeConfig, known: identity.DirectoryIdentity, modes: Modes) -> Parts:
    """Open the data on disk and create the parts of the engine. The engine is not reachable yet. Needs a running event
    loop.

    Raises:
        ClusterError, SnapshotError, OSError: the log or the snapshots cannot be trusted or read.
        DataDirectoryError: the log or the snapshots are missing.
        DatasetError: the cluster has never run, and its first dataset is invalid.
    """
    version = software.version()
    feed = Feed(config.native.events_kept)
    machine = ReplicatedEngine(feed, empty(levels.of_data(config.data_path)))
    store = SnapshotStore(config.data_path / "snapshots", config.snapshot.keep, accepts=ACCEPTED)
    snapshots = SnapshotPort(store, machine, software=version, load=snapshot_loader(config, store))
    check_start(config, known, has_snapshot=snapshots.newest() is not None)
    refused: Counter[str] = Counter()
    certificates = CertificateWatch(config)
    joining = levels.Joining(machine)
    wire = TlsWire(_wire_settings(config, refused, joining))
    changed = levels.Changed(config, wire)
    machine.level_changed = changed.changed
    disk = _open_disk(config, known, machine.durations)
    raft = open_raft(
        _raft_settings(config, known),
        machine,
        snapshots,
        disk,
        wire,
        clock=time.monotonic,
        randomness=random.Random(),
        timekeeper=Timekeeper(time.time_ns, stamp_of, lambda: machine.engine.time),
        schemas=Schemas(lambda: machine.level.abi, ACCEPTED, abi_behind, machine.may_apply),
    )
    joining.raft = raft
    changed.request_snapshot = raft.request_snapshot
    machine.beside = _thread_runner(raft)
    entries = Entries(lambda: raft.abi_at_end)
    start = secrets.token_hex(8)
    addresses = Addresses(config, lambda: _members_of(raft))
    introductions = _introductions(config, known, raft, start, addresses)
    raft.introduce(introductions)
    loop = asyncio.get_running_loop()
    disk_figures = DiskFigures(config.data_path)
    service = EngineService(
        config,
        NodeIdentity(version, ABI, start),
        machine,
        feed,
        raft,
        later=loop.call_soon,
        after=loop.call_later,
        ahead_of_tick=ahead_of_tick(loop.call_soon, lambda: raft.wake()),
        more_counters=lambda: {
            **{f"raft_refused_{kind}": number for kind, number in sorted(refused.items())},
            **snapshots.counters(),
            **disk_figures.now(),
            "old_copies_noticed": introductions.old_copies,
        },
        doubt=lambda: introductions.doubt,
        warnings=addresses.warnings,
        modes=modes,
        seeding=seeding_of(config, known, machine, raft, entries.encode),
        entries=entries,
        certificate_expires=lambda: certificates.expires,
        trace=tracer.engine if (tracer := tracer_of(config, "engine")) is not None else None,
    )
    service.levels = _level_requests(config, service, raft, machine, Preparation(raft, machine, store, snapshots))
    driver = RaftDriver(raft, wire_failed=wire.failed)
    return Parts(service, NativeServer(service, pki.peer_node_id), raft, driver, snapshots, machine, certificates, disk)


def _level_requests(
    config: NodeConfig, service: EngineService, raft: Raft, machine: ReplicatedEngine, preparation: Preparation
) -> LevelRequests:
    """Return the handler of requests that change the level."""
    ask, prepare = asking(config)
    change = LevelChange(
        config.node_id,
        raft,
        service.queue,
        level=lambda: machine.level,
        members=service.members,
        busy=service.holds_log_up,
        ask=ask,
        prepare=prepare,
        own=service.status,
        prepare_own=preparation.prepare,
        obstacles=preparation.obstacles,
    )
    return LevelRequests(change, preparation)


DISK_LOOK_S = 2.0
"""Seconds for which the figures of the disk are kept."""


class DiskFigures:
    """How full the disk of a data directory is, and when its newest snapshot was taken, for the status.

    The status is asked for twice a second by each gateway, and under load more often. The figures take system calls in
    Raft's thread, so they are not taken for each status.
    """

    def __init__(self, data: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._data = data
        self._clock = clock
        self._found: dict[str, int] = {}
        self._taken_at = float("-inf")

    def now(self) -> dict[str, int]:
        """Return the figures, at most `DISK_LOOK_S` seconds old. What cannot be read is 0, and so is the time of a
        snapshot if there is none.
        """
        if self._clock() - self._taken_at >= DISK_LOOK_S:
            self._found, self._taken_at = self._taken(), self._clock()
        return self._found

    def _taken(self) -> dict[str, int]:
        """Return the figures of the disk now."""
        found = {"disk_free_bytes": 0, "disk_size_bytes": 0, "snapshot_timestamp_seconds": 0}
        with contextlib.suppress(OSError):
            usage = os.statvfs(self._data)
            found |= {"disk_free_bytes": usage.f_bavail * usage.f_frsize, "disk_size_bytes": usage.f_blocks * usage.f_frsize}
            if paths := snapshot_paths(self._data / "snapshots"):
                found["snapshot_timestamp_seconds"] = int((paths[-1] / SEAL).stat().st_mtime)
        return found


def _thread_runner(raft: Raft) -> Callable[[Callable[[], None]], object]:
    """Return a function that runs work in a thread with the garbage collector off, and wakes Raft at the end."""
    loop = asyncio.get_running_loop()

    def work(action: Callable[[], None]) -> None:
        with collector_off():
            action()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(lambda: raft.wake())

    return lambda action: loop.run_in_executor(None, work, action)


def _open_disk(config: NodeConfig, known: identity.DirectoryIdentity, durations: EngineDurations) -> levels.LogDisk:
    """Open the disk of the log, which archives segments if the configuration or a pending rollback needs them."""

    # A rollback to the previous version exports the entries applied since the migration, so the log is kept until the
    # migration is final.
    def archives() -> bool:
        return config.keeps_log or cutover.may_go_back(config.data_path)

    archive = config.data_path / cutover.ARCHIVE
    disk = levels.LogDisk(
        config.data_path / "log", fsync=config.raft.fsync, archive_to=archive, archives=archives, synced=durations.fsync.observe
    )
    _check_archive(config.data_path / "log", archive)
    if known.stage is identity.Stage.STARTED and hardstate.load(disk) is None:
        raise DataDirectoryError(
            f"{config.data_path / 'log'}: the term and the vote of this node are gone. {identity.REJOIN_ADVICE}"
        )
    return disk


def _check_archive(log: Path, archive: Path) -> None:
    """Check that a segment can be moved to the archive. Otherwise the node would stop at its first snapshot.

    Raises:
        DataDirectoryError: they are on different file systems.
        OSError: they cannot be written.
    """
    trial = log / "archive.tmp"  # a name that the log ignores
    trial.touch()
    try:
        trial.replace(archive / trial.name).unlink()
    except OSError as error:
        trial.unlink(missing_ok=True)
        if error.errno != errno.EXDEV:
            raise
        raise DataDirectoryError(
            f"{archive}: expected the file system of {log}: segments of the log are renamed into it. Put the whole data directory on one "
            "file system"
        ) from error


def _raft_settings(config: NodeConfig, known: identity.DirectoryIdentity) -> RaftSettings:
    """Return the settings of Raft from the configuration."""
    raft = config.raft
    return RaftSettings(
        node_id=config.node_id,
        peers=tuple(node.node_id for node in config.nodes if node.node_id != config.node_id),
        members=membership.first_members(config),
        abi=ABI,
        heartbeat=raft.heartbeat,
        election_timeout_min=raft.election_timeout_min,
        election_timeout_max=raft.election_timeout_max,
        leader_fallback=raft.leader_fallback,
        snapshot_entries=staggered(SNAPSHOT_ENTRIES, config),
        snapshot_bytes=config.snapshot.every_bytes,
        rejoin=known.stage is identity.Stage.REJOIN,
        join=known.joined,
    )


def _wire_settings(config: NodeConfig, refused: Counter[str], joining: levels.Joining) -> WireSettings:
    """Return the settings of the Raft port from the configuration."""
    return WireSettings(
        hello=Hello(PROTOCOL, config.cluster_id, config.node_id, ABI),
        listen=config.raft.listen,
        peers={node.node_id: node.raft for node in config.nodes if node.node_id != config.node_id},
        server_tls=pki.server_context(config, require_client_cert=True),
        client_tls=pki.client_context(config, with_cert=True),
        peer_node_id=pki.peer_node_id,
        refused=refused,
        introduce=joining.introduce,
        met=joining.met,
        narrow=narrowed,
    )


def _members_of(raft: Raft) -> tuple[list[Member], int]:
    status = raft.status()
    return [each.member for each in status.members], status.members_index


def _introductions(
    config: NodeConfig, known: identity.DirectoryIdentity, raft: Raft, start: str, addresses: Addresses
) -> Introductions:
    """Return this node's introduction. The start is counted here, before any peer learns of it."""
    records = [record for record in cutover.former(config.data_path) if record.to_abi == BROUGHT_TO.abi and record.steps]
    migrated = None
    if records:
        last = records[-1]
        migrated = Migrated(last.from_abi, last.to_abi, last.steps, last.last_index, last.last_term, last.state_hash)
    body = Body(known.incarnation, evidence.count_start(config.data_path), start, migrated, own_places(config))

    def voters() -> set[str]:
        return {state.member.node_id for state in raft.status().members if state.member.role is Role.VOTER}

    return Introductions(
        config.data_path,
        config.node_id,
        body,
        last_index=lambda: raft.status().last_log_index,
        voters=voters,
        place=addresses.heard,
    )
