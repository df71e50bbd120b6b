"""Logs of a node's processes: one line an event, in UTC, on standard error, as text or as JSON.

A line of text is "2026-01-31T12:00:00.123Z n1 engine INFO cluster.raft words". Tracebacks are folded into the line.
Characters that could move a terminal's cursor or begin another line are written as \\xNN. If `LOG_FILE` is in the
environment, standard error is that file: the supervisor renames it when it is large, and every process continues in the
new file.

On SIGUSR2 a process also writes the stacks of its threads to standard error. This works for a process that hangs,
because the system calls the handler even while Python code loops.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path

LOG_FILE = "QUORUMBOOK_LOG_FILE"
"""Environment variable with the path of the file that is the processes' standard error, if its size is limited."""

FORMATS = ("text", "json")

QUIET = ("alembic",)
"""Loggers of libraries whose messages at every start are of no use."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Return the text with line breaks as " | " and other control characters visible, including those that change the
    direction of writing.
    """
    return _CONTROL.sub(_visible, text.replace("\r\n", "\n").replace("\n", " | "))


def _visible(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


class _TextFormatter(logging.Formatter):
    """Formats a log line as text, with the name of the process."""

    converter = staticmethod(time.gmtime)

    def __init__(self, process: str) -> None:
        name = process.replace("%", "%%")
        super().__init__(f"%(asctime)s.%(msecs)03dZ {name} %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time, node, process, level, logger, message, and the traceback where there is one."""

    converter = staticmethod(time.gmtime)

    def __init__(self, process: str) -> None:
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%S")
        self._node, _, self._process = process.partition(" ")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON. The time is UTC."""
        line = {
            "time": f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}Z",
            "node": self._node,
            "process": self._process,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # not generic at run time
    """Writes to standard error, and continues in a new file after a rename."""

    def emit(self, record: logging.LogRecord) -> None:
        follow_file()
        super().emit(record)


def follow_file() -> None:
    """Reopen standard output and standard error if the file `LOG_FILE` has been renamed."""
    name = os.environ.get(LOG_FILE)
    if not name:
        return
    with contextlib.suppress(OSError):
        try:
            present = os.stat(name)
        except FileNotFoundError:
            present = None
        own = os.fstat(2)
        if present is None or (present.st_dev, present.st_ino) != (own.st_dev, own.st_ino):
            fresh = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            output = os.fstat(1)
            if (output.st_dev, output.st_ino) == (own.st_dev, own.st_ino):
                os.dup2(fresh, 1)
            os.dup2(fresh, 2)
            os.close(fresh)


def rotate(path: Path, bytes_max: int, files: int) -> bool:
    """Rename a log of more than `bytes_max` bytes to PATH.1, and older ones to .2 and so on; at most `files` older logs
    stay.

    Processes that write to it continue in a new file (`follow_file`), and no line is lost. Returns whether it was
    renamed.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size <= bytes_max:
            return False
        older = [path.with_name(f"{path.name}.{number}") for number in range(1, files + 1)]
        if not older:
            path.unlink()
        for source, target in reversed(list(zip([path, *older], older, strict=False))):
            with contextlib.suppress(FileNotFoundError):
                source.replace(target)
        return True
    return False


def set_up(level: str, process: str, form: str = "text") -> None:
    """Log messages of `level` ("debug", "info" ...) and above, in one of `FORMATS`. `process` names node and process in
    every line.
    """
    handler = _Handler(sys.stderr)
    handler.setFormatter(_JsonFormatter(process) if form == "json" else _TextFormatter(process))
    _write_stacks_on_signal()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


STACKS_SIGNAL = signal.SIGUSR2


def _write_stacks_on_signal() -> None:
    """Write the stacks of this process's threads on SIGUSR2. Does nothing if standard error is not a file."""
    with contextlib.suppress(AttributeError, ValueError, OSError, io.UnsupportedOperation):
        faulthandler.register(STACKS_SIGNAL, file=sys.stderr, all_threads=True, chain=False)


def request_stacks(pid: int) -> bool:
    """Make a process write its stacks. Returns False, and sends nothing, if the process does not catch the signal,
    which would end it.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:"))
    except (OSError, StopIteration, ValueError):
        return False
    if not caught >> (STACKS_SIGNAL - 1) & 1:
        return False
    try:
        os.kill(pid, STACKS_SIGNAL)
    except (ProcessLookupError, PermissionError):
        return False
    return True
