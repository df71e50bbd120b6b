"""The processes of a cluster's nodes: whether they live, and how much memory they have used."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from node.system.processes import descendants

WATCHED = ("node.engine.process", "node.gateway.process")


def of_nodes(supervisors: Iterable[int]) -> dict[int, str]:
    """Return engines and gateways by pid, each with its kind."""
    found: dict[int, str] = {}
    for supervisor in supervisors:
        for pid in descendants(supervisor):
            words = _read(pid, "cmdline").split("\0")
            kind = next((word for word in words if word in WATCHED), "")
            if kind:
                found[pid] = f"{kind.split('.')[1]} {pid}"
    return found


def begin_peak(pids: Iterable[int]) -> dict[int, int]:
    """Return the resident bytes. From now on `peaks` measures from here."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    return {pid: _memory(pid, "VmRSS") for pid in pids}


def peaks(pids: Iterable[int]) -> dict[int, int]:
    """Return the most resident bytes since `begin_peak`; 0 for a process that has ended."""
    return {pid: _memory(pid, "VmHWM") for pid in pids}


def _memory(pid: int, field: str) -> int:
    for line in _read(pid, "status").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
