"""What a process's threads do at this moment, written to its standard error on SIGUSR2.

For a process that hangs: the system calls the handler even while Python code loops. A signal that a process does not
catch would end it, so `ask` sends it only to processes that do.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
import sys
from pathlib import Path

SIGNAL = signal.SIGUSR2


def enable() -> None:
    """From now on this process writes its threads' stacks on SIGUSR2. Nothing where standard error is no file."""
    with contextlib.suppress(AttributeError, ValueError, OSError, io.UnsupportedOperation):
        faulthandler.register(SIGNAL, file=sys.stderr, all_threads=True, chain=False)


def ask(pid: int) -> bool:
    """Have a process write its stacks; False if it would not, and nothing was sent then."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:"))
    except (OSError, StopIteration, ValueError):
        return False
    if not caught >> (SIGNAL - 1) & 1:
        return False
    try:
        os.kill(pid, SIGNAL)
    except (ProcessLookupError, PermissionError):
        return False
    return True
