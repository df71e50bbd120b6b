"""A disk in memory that loses what was not synced, at the most harmful moment."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable

from cluster.log import scan
from cluster.ports import DiskFile

HARMS = ("forget", "flip")
"""The kinds of damage at the end of a log: see `SimDisk.harm`."""

RECORD_HEAD_BYTES = 28
"""Bytes of a record before its payload."""


class PowerLossError(Exception):
    """Raised by a disk operation: the machine loses power in the middle of it."""


class KilledError(PowerLossError):
    """Raised by a disk operation: only the process dies in the middle of it, and the page cache stays."""


class Inode:
    """The contents of a file: `durable`, and `seen` by processes (the page cache).

    `failed`: a sync has failed. The bytes that were not durable then stay visible. No later sync writes them, although it
    reports success.
    """

    def __init__(self) -> None:
        self.durable = b""
        self.seen = bytearray()
        self.failed = False

    def after_power_loss(self, rng: random.Random) -> None:
        """Set the contents to what a power loss leaves: of the bytes that were appended and not synced, any prefix.

        A truncation that was not synced may or may not be on the disk. Bytes that were appended after it may be on the disk
        without it. Then they have replaced the old bytes at their place, and the remaining old bytes follow.
        """
        seen, kept = bytes(self.seen), self.durable
        if seen.startswith(kept):
            seen = kept + seen[len(kept) : len(kept) + rng.randint(0, len(seen) - len(kept))]
        else:
            written = seen[: rng.randint(0, len(seen))]
            seen = rng.choice([kept, seen, written + kept[len(written) :]])
        self.seen, self.durable = bytearray(seen), seen
        self.failed = False


class SimFile:
    """See `cluster.ports.DiskFile`."""

    def __init__(self, disk: SimDisk, inode: Inode) -> None:
        self._disk = disk
        self._inode = inode

    def append(self, data: bytes) -> None:
        if self._disk.dies():
            self._inode.seen += data[: self._disk.rng.randint(0, len(data))]
            raise self._disk.death()
        if self._disk.fails():
            self._inode.seen += data[: self._disk.rng.randint(0, len(data))]
            raise full()
        self._inode.seen += data

    def sync(self) -> None:
        self._disk.maybe_die()
        if self._disk.fails():
            self._inode.failed = True
            raise broken()
        if self._disk.honest and not self._inode.failed:
            self._inode.durable = bytes(self._inode.seen)

    def truncate(self, size: int) -> None:
        self._disk.maybe_die()
        del self._inode.seen[size:]

    def close(self) -> None:
        pass


def full() -> OSError:
    """There is no room for what was to be written."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken() -> OSError:
    """What was to be synced could not be."""
    return OSError(errno.EIO, os.strerror(errno.EIO))


class SimDisk:
    """See `cluster.ports.Disk`. With `honest = False` no sync has an effect, which shows whether the checkers detect it.

    Writes fail with ENOSPC and syncs with EIO, with `error_chance`. `fate` decides whether a drawn fault happens.

    Creations and removals reach the disk in order: of those since the last `sync_names` a power loss keeps a prefix, as the
    journal of a file system does. `operations`: the number of operations.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.files: dict[str, Inode] = {}
        self._durable_files: dict[str, Inode] = {}
        self._pending: list[tuple[str, Inode | None]] = []
        self.death_chance = 0.0
        self.error_chance = 0.0
        self.fate: Callable[[str, bool], bool] = lambda _kind, drawn: drawn
        self.operations = 0
        self.honest = True

    def dies(self) -> bool:
        """Return whether the process dies now. Every operation asks this."""
        self.operations += 1
        return self.fate("disk-dies", bool(self.death_chance) and self.rng.random() < self.death_chance)

    def fails(self) -> bool:
        """Return whether this operation fails."""
        return self.fate("disk-fails", bool(self.error_chance) and self.rng.random() < self.error_chance)

    def maybe_die(self) -> None:
        if self.dies():
            raise self.death()

    def death(self) -> PowerLossError:
        """Return the error that ends the process in the middle of an operation: a kill or a power loss, equally often."""
        return KilledError() if self.rng.random() < 0.5 else PowerLossError()

    def crash(self, *, power_loss: bool) -> None:
        """End the process. Without a power loss the next process sees everything that this one wrote, and none of it
        becomes durable by that.
        """
        if power_loss:
            self._replay(self.rng.randint(0, len(self._pending)))
            self.files = dict(self._durable_files)
            for name in sorted(self.files):
                self.files[name].after_power_loss(self.rng)
            self._pending.clear()

    def harm(self, how: str, commit_index: int, snapshot_index: int) -> bool:
        """Damage the end of the log while the process is down. Returns whether there was something to damage.

        "forget": a committed entry and all later ones are lost, as on a disk whose syncs had no effect. "flip": a bit of the
        last record is inverted. A node can detect both, and must not vote on such a log.
        """
        names = [name for name in self.files if name.startswith("log-")]
        if not names:
            return False
        last = max(names)
        data = bytes(self.files[last].seen)
        header, _, offsets, end, _ = scan(last, data, last=True)
        if header is None or not offsets or end != len(data):
            return False
        if how == "flip":
            at = self.rng.randrange(offsets[-1] + RECORD_HEAD_BYTES, len(data))
            spoilt = data[:at] + bytes([data[at] ^ 1 << self.rng.randrange(8)]) + data[at + 1 :]
        else:
            committed = min(commit_index - header.first_index, len(offsets) - 1)
            if committed < 0 or commit_index <= max(snapshot_index, 1):
                return False
            spoilt = data[: offsets[self.rng.randint(0, committed)]]
        inode = self.files[last] = self._durable_files[last] = Inode()
        inode.seen, inode.durable = bytearray(spoilt), spoilt
        return True

    def _replay(self, count: int) -> None:
        for name, inode in self._pending[:count]:
            if inode is None:
                self._durable_files.pop(name, None)
            else:
                self._durable_files[name] = inode
        del self._pending[:count]

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return bytes(self.files[name].seen)

    def settle(self, name: str) -> None:
        SimFile(self, self.files[name]).sync()
        if self.files[name].failed:
            self.files[name].after_power_loss(self.rng)

    def open(self, name: str) -> DiskFile:
        if name not in self.files:
            self.files[name] = Inode()
            self._pending.append((name, self.files[name]))
        return SimFile(self, self.files[name])

    def replace(self, name: str, data: bytes) -> None:
        self.maybe_die()
        if self.fails():
            raise full()
        inode = self.files[name] = Inode()
        inode.seen = bytearray(data)
        self._pending.append((name, inode))
        if self.honest:
            inode.durable = data
        self.sync_names()

    def remove(self, name: str) -> None:
        self.maybe_die()
        del self.files[name]
        self._pending.append((name, None))

    def archive(self, name: str) -> None:
        self.remove(name)

    def sync_names(self) -> None:
        self.maybe_die()
        if self.fails():
            raise broken()
        if self.honest:
            self._replay(len(self._pending))
