"""Information on other processes (Linux, /proc), a node's pid file, the end of a child with its supervisor, and the
file descriptors that a process may have.

A pid alone proves nothing, because numbers are reused. Therefore a node's supervisor holds a lock on its pid file while
it lives, and a pid in an unlocked file means nothing.

The supervisor keeps the write end of a pipe and never writes. Each child gets the read end, whose number is in the
environment variable `PARENT_PIPE`. Whatever ends the supervisor, SIGKILL included, closes the pipe, and the child then
ends at once. That is safe at any moment, because everything that a node has promised is already on disk.

A process without free descriptors cannot store a vote or open a log segment, and must stop. Therefore each process of a
node raises its soft limit to the hard limit at its start, refuses to start below a minimum, and limits its connections
so that its files always have room.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import Self

from node import exit_codes
from node.errors import NodeRunningError, QuorumbookError
from node.system import files

PID_FILE = "node.pid"
"""Name of the supervisor's pid file in a node's data directory."""

ENGINE_PID_FILE = "engine.pid"
"""Name of the engine's pid file. After the pid it has the engine's mode: see `modes`."""

_PID_FILE_BYTES = 64

_WHOLE_FILE = struct.Struct("hhqqi4x")
"""The system's `struct flock`. These locks belong to the open file, not to the process: a query neither takes nor drops
them.
"""


class PidFile:
    """A locked file with this process's pid. The lock ends with the process, however it ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Take the lock and write the pid.

        Raises:
            NodeRunningError: another process holds it.
            OSError: the file cannot be written.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WHOLE_FILE.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except (BlockingIOError, PermissionError):
            holder, *_ = _words(descriptor)
            os.close(descriptor)
            raise NodeRunningError(f"{path.parent}: a node runs on this data directory already (pid {holder})") from None
        try:
            with files.named(path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def note(self, word: str) -> None:
        """Write one word after the pid, in place of the previous word. It is only information, so a full disk is not an
        error.
        """
        data = f"{os.getpid()} {word}\n".encode().ljust(_PID_FILE_BYTES, b"\n")
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, data, 0)

    def release(self) -> None:
        """Empty the file and unlock it."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _words(descriptor: int) -> list[str]:
    """Return the pid and the word after it; at least one word."""
    return os.pread(descriptor, _PID_FILE_BYTES, 0).decode("ascii", "replace").split() or [""]


def locked_pid(path: Path) -> int | None:
    """Return the pid in a locked pid file; None if nobody holds the lock."""
    pid, *_ = _held(path)
    return int(pid) if pid.isdigit() else None


def locked_note(path: Path) -> str:
    """Return the word after the pid in a locked pid file; "" if nobody holds the lock or no word was written."""
    _, *notes = _held(path)
    return notes[0] if notes else ""


def _held(path: Path) -> list[str]:
    """Return the words in a locked pid file; one empty word if nobody holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return [""]
    try:
        wanted = _WHOLE_FILE.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        found, *_ = _WHOLE_FILE.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted))
        return _words(descriptor) if found != fcntl.F_UNLCK else [""]
    finally:
        os.close(descriptor)


def alive(pid: int) -> bool:
    """Return whether a process runs. A zombie does not."""
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def descendants(pid: int) -> list[int]:
    """Return the process's living descendants, nearest first."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            parent = _parent(int(name))
            if parent is not None:
                parents.setdefault(parent, []).append(int(name))
    found = sorted(parents.get(pid, []))
    for child in found:
        found.extend(sorted(parents.get(child, [])))
    return found


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal. A process that has ended is not an error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def reap(pid: int) -> None:
    """Collect the exit status of a child of this process that has ended. Does nothing for other processes."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def stat_fields(pid: int) -> list[str]:
    """Return state, parent and the other fields of /proc/PID/stat after the name; empty if the process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def _parent(pid: int) -> int | None:
    fields = stat_fields(pid)
    return int(fields[1]) if fields and fields[0] not in "ZX" else None


PARENT_PIPE = "QUORUMBOOK_PARENT_PIPE"
"""Environment variable with the number of the pipe's file descriptor."""


def watch_parent() -> bool:
    """End this process as soon as its supervisor ends. Returns False, and watches nothing, if no supervisor started it.

    Call it once, early. It removes the variable from the environment, and grandchildren do not inherit the pipe.
    """
    text = os.environ.pop(PARENT_PIPE, "")
    if not text.isdigit():
        return False
    descriptor = int(text)
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_wait_for_end, args=(descriptor,), name="parent-watch", daemon=True).start()
    return True


def _wait_for_end(descriptor: int) -> None:
    """End this process when the supervisor has ended. Runs in a thread."""
    while os.read(descriptor, 64):
        continue
    sys.stderr.write("the supervisor is gone; this process ends too\n")
    sys.stderr.flush()
    os._exit(exit_codes.ORPHANED)


DESCRIPTORS_MIN = 8_192
"""Descriptors that each process of a node must be able to open. An engine has at most
`engine.connection_limits.CONNECTIONS_MAX` connections (2,752), about 80 on its Raft port, and fewer than 200 files and
pipes; a gateway has up to 4,096 connections of clients and a few to engines.
"""

DESCRIPTORS_WANTED = 65_536
"""No process needs more."""


class DescriptorsError(QuorumbookError):
    """This process may open too few files."""


def raise_limit() -> int:
    """Raise the soft limit to the hard limit, or to `DESCRIPTORS_WANTED` if that is less. Returns the limit in force.

    Raises:
        DescriptorsError: even the hard limit is below `DESCRIPTORS_MIN`; the text says what to change.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    reachable = DESCRIPTORS_WANTED if hard == unlimited else min(hard, DESCRIPTORS_WANTED)
    if soft != unlimited and soft < reachable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
        soft = reachable
    if soft != unlimited and soft < DESCRIPTORS_MIN:
        raise DescriptorsError(
            f"this process may open {soft} files (hard limit {hard}); a node needs {DESCRIPTORS_MIN}. Raise the hard limit: "
            "LimitNOFILE=65536 in a systemd unit, --ulimit nofile=65536 for a container, nofile in /etc/security/limits.conf for a login"
        )
    return DESCRIPTORS_WANTED if soft == unlimited else soft
