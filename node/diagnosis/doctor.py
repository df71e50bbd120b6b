"""Checks whether a node is fit to run: its machine, its configuration and its data directory.

The doctor changes nothing, except for a temporary file in the data directory, with which it measures the disk. It may
run beside the node.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from cryptography import x509

from cluster.errors import ClusterError
from cluster.log import read_segments, segment_abis
from cluster.tail import LogTail, first_index
from node.cluster_directory import noted_removed
from node.config import file as shape
from node.config.checks import advice, split_address
from node.config.file import load
from node.config.settings import NodeConfig
from node.data_directory import identity
from node.diagnosis.findings import Finding, Severity
from node.errors import ConfigError, QuorumbookError
from node.migration import cutover
from node.native.protocol import NodeStatus
from node.records import backup
from node.system.processes import DESCRIPTORS_MIN, PID_FILE, locked_pid
from node.tls.certificates import WARN_DAYS, days_left, validity
from snapshots.abi import ABI
from snapshots.errors import SnapshotError
from snapshots.levels.level import ACCEPTED
from snapshots.manifest import Manifest
from snapshots.naming import snapshot_paths
from snapshots.seal import check_files
from statemachine import CORE
from statemachine.errors import StateMachineError

FSYNC_COUNT = 40
FSYNC_BYTES = 4096
"""Number and size in bytes of the durable appends that measure the disk."""

FSYNC_WARN_S = 0.02
FSYNC_CRITICAL_S = 0.2
"""An order waits for the fsync of two nodes. At the second value elections begin, because a leader that waits for its
disk sends no heartbeat.
"""

FREE_SHARE_WARN = 0.15
FREE_SHARE_CRITICAL = 0.05
FREE_BYTES_CRITICAL = 256 * 1024 * 1024
"""A node needs room for a snapshot beside the previous one, and for the log until then. Without any room it stops."""

DAMAGED_NEWEST = (
    "a start refuses it. If the node runs, replace it: quorumbook snapshot take. Otherwise see docs/operations.md, Failures: the node is "
    "started with --rejoin. Check this disk"
)
DAMAGED_OLDER = "no start uses it, because there is a newer snapshot. Check this disk"
"""What to do about a damaged snapshot. A node never starts with an older snapshot than the newest (ADR 0005)."""

CONNECT_SECONDS = 1.0
TIME_ERROR = 5
"""What `adjtimex` returns if no time service synchronises the clock."""

CRITICAL_DAYS = 7

Check = Callable[[], Iterator[Finding]]


def _nothing(_text: str) -> None:
    """Do nothing, as the default for `report`."""


class Doctor:
    """The checks of one node.

    Args:
        path: the node's node.toml.
        status: what the node says of itself, None where it does not answer.
        deep: also read every row of the newest snapshot.
        report: called with the present step.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        *,
        status: NodeStatus | None = None,
        deep: bool = False,
        report: Callable[[str], None] = _nothing,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._status = status
        self._deep = deep
        self._report = report
        self._now = now
        self._node_id = path.resolve().parent.name

    def examine(self) -> list[Finding]:
        """Run all checks. Files are checked only if the configuration can be read."""
        self._report("configuration")
        config, findings = self._configuration()
        findings += [self._limits(), self._core(), *self._versions()]
        if config is None:
            return findings
        checks: tuple[tuple[str, Check], ...] = (
            ("certificates", lambda: self._certificates(config)),
            ("data directory", lambda: self._data_directory(config)),
            ("ports", lambda: self._ports(config)),
            ("other nodes", lambda: self._others(config)),
            ("disk space", lambda: self._space(config)),
            ("fsync", lambda: self._fsync(config)),
            ("clock", self._clock),
            ("log", lambda: self._log(config)),
            ("snapshots", lambda: self._snapshots(config)),
        )
        for name, check in checks:
            self._report(name)
            findings += self._run_check(name, check)
        return findings

    def _run_check(self, name: str, check: Check) -> list[Finding]:
        """Return the findings of a check. A check that cannot be made is a finding too."""
        try:
            return list(check())
        except (OSError, QuorumbookError, ClusterError, SnapshotError, ValueError) as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            todo = "free space on the disk" if full else "run the doctor as the node's user"
            return [self._finding(Severity.UNKNOWN, name, f"cannot be checked: {error}", todo)]

    def _finding(self, level: Severity, check: str, text: str, todo: str = "", **figures: float) -> Finding:
        return Finding(level, self._node_id, check, text, todo, figures)

    def _ok(self, check: str, text: str, **figures: float) -> Finding:
        return Finding(Severity.OK, self._node_id, check, text, figures=figures)

    # ------------------------------------------------------------------ configuration and machine

    def _configuration(self) -> tuple[NodeConfig | None, list[Finding]]:
        """Return the configuration, if enough of it is valid to continue."""
        try:
            config = load(self._path)
        except ConfigError as error:
            finding = self._finding(
                Severity.CRITICAL, "configuration", str(error), f"correct {self._path}, then: quorumbook config check"
            )
            return self._unchecked(), [finding]
        self._node_id = config.node_id
        hints = [
            self._finding(Severity.WARNING, "configuration", line, "see docs/operations.md, Configuration")
            for line in advice(config, self._path)
        ]
        return config, hints or [self._ok("configuration", f"{self._path} is valid")]

    def _unchecked(self) -> NodeConfig | None:
        """Return a configuration of the right shape whose contents are invalid, such as an expired certificate."""
        try:
            config = shape.config_of(str(self._path), shape.read_toml(self._path))
        except ConfigError:
            return None
        self._node_id = config.node_id
        return msgspec.structs.replace(config, directory=str(self._path.resolve().parent))

    def _limits(self) -> Finding:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS_MIN:
            return self._finding(
                Severity.CRITICAL,
                "limits",
                f"a process may open {hard} files, a node needs {DESCRIPTORS_MIN}",
                "LimitNOFILE=65536 in a systemd unit, --ulimit nofile=65536 for a container, nofile in /etc/security/limits.conf",
            )
        return self._ok(
            "limits",
            f"a process may open {'any number of' if hard == resource.RLIM_INFINITY else hard} files (soft limit {soft})",
        )

    def _core(self) -> Finding:
        if resource.getrlimit(resource.RLIMIT_CORE)[0] != 0:
            return self._finding(
                Severity.WARNING,
                "limits",
                "a process that crashes may write a core file, which would hold the cluster key and the traders' secrets",
                "ulimit -c 0, or LimitCORE=0 in the systemd unit",
            )
        return self._ok("limits", "no core files are written")

    def _versions(self) -> Iterator[Finding]:
        python = ".".join(map(str, sys.version_info[:3]))
        if CORE == "compiled":
            yield self._ok("versions", f"Python {python}, ABI {ABI[:12]}, compiled core")
        else:
            yield self._finding(
                Severity.WARNING,
                "versions",
                f"Python {python}, ABI {ABI[:12]}: the plain core runs, at a fraction of the speed",
                "make core, with a C compiler",
            )
        if self._status is not None and self._status.abi != ABI:
            yield self._finding(
                Severity.WARNING,
                "versions",
                f"the node that runs has ABI {self._status.abi[:12]} ({self._status.software}), this program another one",
                "start the node with the version that is installed here, or use the program of its version; see docs/migrations.md",
            )

    # ------------------------------------------------------------------ files

    def _certificates(self, config: NodeConfig) -> Iterator[Finding]:
        for what, name in (("certificate", config.tls.certificate), ("authority", config.tls.ca)):
            path = config.path(name)
            for each in x509.load_pem_x509_certificates(path.read_bytes())[: 1 if what == "certificate" else None]:
                left = days_left(validity(each).ends, self._now())
                level = Severity.CRITICAL if left < CRITICAL_DAYS else Severity.WARNING if left < WARN_DAYS else Severity.OK
                text = f"{path}: {left:,.0f} days left" if left > 0 else f"{path}: expired {-left:,.0f} days ago"
                renew = "quorumbook pki renew" if what == "certificate" else "quorumbook pki roll --begin"
                yield self._finding(level, "certificates", text, renew if level else "", days_left=round(left, 1))

    def _data_directory(self, config: NodeConfig) -> Iterator[Finding]:
        try:
            found = identity.read(config)
        except QuorumbookError as error:
            yield self._finding(Severity.CRITICAL, "data directory", str(error), "see docs/operations.md, Failures")
            return
        yield self._ok("data directory", f"{config.data_path} is of {found.node_id} in {found.cluster_id}, {found.stage}")
        if os.statvfs(config.data_path).f_flag & os.ST_RDONLY:
            yield self._finding(
                Severity.CRITICAL,
                "data directory",
                f"the file system of {config.data_path} is read-only",
                "look for errors of the disk in dmesg, then mount it for writing",
            )
        elif not os.access(config.data_path, os.W_OK):
            yield self._finding(
                Severity.CRITICAL,
                "data directory",
                f"{config.data_path} cannot be written by this user",
                "run as the node's user, or: chown -R",
            )

    def _space(self, config: NodeConfig) -> Iterator[Finding]:
        """Yield the free space. It warns if the data could not be written a second time."""
        usage = shutil.disk_usage(config.data_path)
        used = _size(config.data_path)
        share = usage.free / usage.total
        level = Severity.OK
        if share < FREE_SHARE_CRITICAL or usage.free < FREE_BYTES_CRITICAL:
            level = Severity.CRITICAL
        elif share < FREE_SHARE_WARN or usage.free < used:
            level = Severity.WARNING
        text = (
            f"{_bytes(usage.free)} of {_bytes(usage.total)} free ({100 * share:.0f} %), {_bytes(used)} used by {config.data_path}"
        )
        todo = "enlarge the disk; with raft.archive_log the files in data/archive may be moved away" if level else ""
        yield self._finding(level, "disk space", text, todo, free_bytes=usage.free, size_bytes=usage.total)

    def _fsync(self, config: NodeConfig) -> Iterator[Finding]:
        times = sorted(sync_times(config.data_path, FSYNC_COUNT))
        middle, slowest = times[len(times) // 2], times[-1]
        level = Severity.CRITICAL if middle > FSYNC_CRITICAL_S else Severity.WARNING if slowest > FSYNC_WARN_S else Severity.OK
        text = f"4 KiB made durable in {1000 * middle:.2f} ms (median of {len(times)}), {1000 * slowest:.2f} ms (slowest)"
        todo = (
            "every order waits for this: use a local SSD with power-loss protection, and no other writers on it" if level else ""
        )
        yield self._finding(level, "fsync", text, todo, median_seconds=middle, max_seconds=slowest)
        if not config.raft.fsync:
            yield self._finding(
                Severity.CRITICAL,
                "fsync",
                "raft.fsync is false: a power loss takes acknowledged orders",
                "remove raft.fsync from node.toml",
            )

    def _log(self, config: NodeConfig) -> Iterator[Finding]:
        """Yield what the log holds, after a check of all its checksums. While the node runs, the check ends at the
        entry that it has applied.
        """
        directories = [config.data_path / "log", config.data_path / cutover.ARCHIVE]
        other = (
            sorted({abi for abi in segment_abis(directories[0]).values() if abi not in ACCEPTED})
            if directories[0].is_dir()
            else []
        )
        if other:
            yield self._finding(
                Severity.WARNING,
                "log",
                f"written by another version (ABI {other[0][:12]})",
                "quorumbook migrate --check; a start migrates it",
            )
        pid = locked_pid(config.data_path / PID_FILE)
        try:
            if pid is None:
                count = sum(1 for _ in read_segments(*directories))
                yield self._ok("log", f"{count:,} entries, all checksums match")
            elif self._status is not None:
                count = _read_beside(directories, self._status.applied_index)
                yield self._ok("log", f"{count:,} entries that the node has applied, all checksums match")
            else:
                yield self._finding(
                    Severity.UNKNOWN, "log", "the node runs and does not answer: how far its log goes is not known"
                )
        except ClusterError as error:
            todo = "do not start the node; see docs/operations.md, Failures: a node whose disk lost data is started with --rejoin"
            yield self._finding(Severity.CRITICAL, "log", str(error), todo)

    def _snapshots(self, config: NodeConfig) -> Iterator[Finding]:
        directory = backup.snapshots_of(config)
        paths = snapshot_paths(directory) if directory.is_dir() else []
        if not paths:
            yield self._ok("snapshots", "none yet: a start replays the whole log")
        for path in paths:
            try:
                manifest = backup.verify(path) if self._deep else _files_checked(path)
            except (SnapshotError, StateMachineError) as error:
                newest = path == paths[-1]
                todo = DAMAGED_NEWEST if newest else DAMAGED_OLDER
                yield self._finding(Severity.CRITICAL if newest else Severity.WARNING, "snapshots", str(error), todo)
                continue
            age = max(0.0, self._now() - manifest.created_at / 1e9)
            yield self._ok("snapshots", f"{path.name}: intact, {age / 3600:,.1f} hours old", age_seconds=round(age))

    # ------------------------------------------------------------------ network and time

    def _ports(self, config: NodeConfig) -> Iterator[Finding]:
        runs = locked_pid(config.data_path / PID_FILE) is not None
        for name, listen in (
            ("raft", config.raft.listen),
            ("native", config.native.listen),
            ("http", config.http.listen),
            ("fix", config.fix.listen),
        ):
            address = split_address(listen)
            if address is None or (name == "http" and not config.http.processes):
                continue
            if runs:
                yield self._connect(
                    f"{name} {listen}",
                    address,
                    Severity.CRITICAL,
                    "the node runs and does not take connections there: see its log",
                )
                continue
            fault = _bind_fault(address)
            if fault:
                todo = (
                    "stop what listens there (ss -ltnp), or set another address in node.toml and in the other nodes' files. A name that "
                    "does not resolve: correct it, or listen on an address such as 0.0.0.0"
                )
                yield self._finding(Severity.CRITICAL, "ports", f"{name} {listen}: {fault}", todo)
            else:
                yield self._ok("ports", f"{name} {listen} is free")

    def _others(self, config: NodeConfig) -> Iterator[Finding]:
        """Look for the members that the node names. If it does not run, they are those of its configuration which are
        not known to be removed.
        """
        members = self._status.members if self._status is not None else []
        removed = noted_removed(self._path.resolve().parent.parent)
        known = [(node.node_id, node.raft) for node in members or config.nodes if members or node.node_id not in removed]
        for node_id, raft in known:
            address = split_address(raft)
            if node_id != config.node_id and address is not None:
                todo = f"start {node_id}, or open the port in the firewall between the machines"
                yield self._connect(f"{node_id} at {raft}", address, Severity.WARNING, todo, check="other nodes")

    def _connect(self, what: str, address: tuple[str, int], level: Severity, todo: str, *, check: str = "ports") -> Finding:
        """Return the finding of a connection to an address."""
        host = "127.0.0.1" if address[0] == "0.0.0.0" else "::1" if address[0] == "[::]" else address[0].strip("[]")
        begun = time.perf_counter()
        try:
            with socket.create_connection((host, address[1]), CONNECT_SECONDS):
                taken = time.perf_counter() - begun
        except OSError as error:
            return self._finding(level, check, f"{what} cannot be reached: {error.strerror or error}", todo)
        return self._ok(check, f"{what} is reached in {1000 * taken:.1f} ms", connect_seconds=taken)

    def _clock(self) -> Iterator[Finding]:
        state = _clock_state()
        if state == TIME_ERROR:
            yield self._finding(
                Severity.WARNING,
                "clock",
                "no time service keeps this machine's clock in step",
                "run chrony, ntpd or systemd-timesyncd; a container has its machine's clock: look there",
            )
        elif state >= 0:
            yield self._ok("clock", "kept in step by a time service")
        for member in self._status.others if self._status is not None else ():
            if member.clock_skew is not None:
                far = abs(member.clock_skew) > 0.5
                text = f"the clock of {member.node_id} is {member.clock_skew:+.3f} s from this node's"
                todo = (
                    "look at the time services of both machines; from 5 s on a follower refuses the leader's entries"
                    if far
                    else ""
                )
                yield self._finding(Severity.WARNING if far else Severity.OK, "clock", text, todo, skew_seconds=member.clock_skew)


def sync_times(directory: Path, count: int) -> list[float]:
    """Return how many seconds each of `count` appends of 4 KiB takes until it is durable, on the file system of
    `directory`.

    Raises:
        OSError: the directory cannot be written.
    """
    path = directory / f".doctor-{os.getpid()}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    taken = []
    try:
        for _ in range(count):
            begun = time.perf_counter()
            os.write(descriptor, bytes(FSYNC_BYTES))
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - begun)
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            path.unlink()
    return taken


def _files_checked(path: Path) -> Manifest:
    """Check the seal and all files of a snapshot.

    Raises:
        SnapshotError: a file is damaged.
    """
    return check_files(path).manifest


def _read_beside(directories: list[Path], applied: int) -> int:
    """Read the log of a running node up to an entry. Returns the number of entries.

    Raises:
        ClusterError: the log is damaged.
    """
    begins = [first_index(path) for directory in directories if directory.is_dir() for path in directory.glob("log-*.seg")]
    if not begins:
        return 0
    tail, count = LogTail(directories, ACCEPTED, min(begins)), 0
    try:
        while entries := tail.read(applied):
            count += len(entries)
    finally:
        tail.close()
    return count


def _bind_fault(address: tuple[str, int]) -> str:
    """Return why a node could not listen on an address, "" if it could."""
    host, port = address[0].strip("[]"), address[1]
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _clock_state() -> int:
    """Return what `adjtimex` says of the clock, -1 if it cannot be asked."""
    room = ctypes.create_string_buffer(512)  # struct timex is 208 bytes; zeros ask and change nothing
    try:
        return int(ctypes.CDLL(None).adjtimex(room))
    except (OSError, AttributeError):
        return -1


def _size(directory: Path) -> int:
    """Return the size of all files in a directory."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _bytes(count: float) -> str:
    """Return a number of bytes as text."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
