"""What the system knows of other processes (Linux, /proc), and a node's pid file.

A pid alone proves nothing: numbers are used again. A node's supervisor therefore holds a lock on its pid file for as
long as it lives; the pid in a file that nobody holds is history.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import Self

from node import exit_codes
from node.errors import NodeRunningError

PID_FILE = "node.pid"
"""Name of the supervisor's pid file in a node's data directory."""

ENGINE_PID_FILE = "engine.pid"
"""That of the engine. Behind the pid it says which mode the engine is in: see `modes`."""

_PID_FILE_BYTES = 64

_WHOLE_FILE = struct.Struct("hhqqi4x")
"""The system's `struct flock`. Locks are those of the open file, not of the process: asking after one neither takes nor
drops it.
"""


class PidFile:
    """A locked file with this process's pid; the lock goes with the process, however it ends."""

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
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(path, descriptor)

    def note(self, word: str) -> None:
        """Write one word behind the pid, in the place of the one before. It is for information: a full disk is no
        error.
        """
        data = f"{os.getpid()} {word}\n".encode().ljust(_PID_FILE_BYTES, b"\n")
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, data, 0)

    def release(self) -> None:
        """Empty the file and give up the lock."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _words(descriptor: int) -> list[str]:
    """The pid as it is written, and what was noted; at least one word."""
    return os.pread(descriptor, _PID_FILE_BYTES, 0).decode("ascii", "replace").split() or [""]


def locked_pid(path: Path) -> int | None:
    """The pid in a pid file whose lock is held, else None."""
    pid, *_ = _held(path)
    return int(pid) if pid.isdigit() else None


def locked_note(path: Path) -> str:
    """What the holder of a pid file's lock noted last; "" where nobody holds it, or nothing was noted."""
    _, *notes = _held(path)
    return notes[0] if notes else ""


def _held(path: Path) -> list[str]:
    """The words in a pid file whose lock is held; one empty word where nobody holds it."""
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
    """Whether a process runs. A zombie does not."""
    fields = _fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def descendants(pid: int) -> list[int]:
    """The process's living descendants, nearest first."""
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
    """Send a signal; a process that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def reap(pid: int) -> None:
    """Collect the exit status of a child of this process that has ended; nothing for any other process."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _fields(pid: int) -> list[str]:
    """State, parent and the rest of /proc/PID/stat behind the name; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def _parent(pid: int) -> int | None:
    fields = _fields(pid)
    return int(fields[1]) if fields and fields[0] not in "ZX" else None


PARENT_PIPE = "QUORUMBOOK_PARENT_PIPE"
"""Environment variable with the number of the pipe's file descriptor."""


def watch_parent() -> bool:
    """End this process as soon as its supervisor ends. False when it was not started by one; nothing is watched then.

    Call it once, early. The variable is taken out of the environment and the pipe is not handed on to grandchildren.
    """
    text = os.environ.pop(PARENT_PIPE, "")
    if not text.isdigit():
        return False
    descriptor = int(text)
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_wait_for_end, args=(descriptor,), name="parent-watch", daemon=True).start()
    return True


def _wait_for_end(descriptor: int) -> None:
    while os.read(descriptor, 64):
        continue
    sys.stderr.write("the supervisor is gone; this process ends too\n")
    sys.stderr.flush()
    os._exit(exit_codes.ORPHANED)
