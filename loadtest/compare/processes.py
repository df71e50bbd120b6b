"""CPU time and memory of processes, read from /proc (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from node.system.processes import stat_fields

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the user and system time that processes have used since they began, in seconds. Ended processes do not
    count.
    """
    return sum(int(fields[11]) + int(fields[12]) for pid in pids if (fields := stat_fields(pid))) / _TICKS


def resident_bytes(pids: Iterable[int]) -> int:
    """Return the resident memory of processes. Shared pages count once for each process."""
    return sum(int(fields[21]) for pid in pids if (fields := stat_fields(pid))) * _PAGE
