"""The processes of a cluster's nodes: whether they live, and how large they have become."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from node.system.processes import descendants

WATCHED = ("node.engine.process", "node.gateway.process")


def of_nodes(supervisors: Iterable[int]) -> dict[int, str]:
    """Engines and gateways by pid, with what each is."""
    found: dict[int, str] = {}
    for supervisor in supervisors:
        for pid in descendants(supervisor):
            words = _read(pid, "cmdline").split("\0")
            kind = next((word for word in words if word in WATCHED), "")
            if kind:
                found[pid] = f"{kind.split('.')[1]} {pid}"
    return found


def begin_peak(pids: Iterable[int]) -> dict[int, int]:
    """Resident bytes now; from now on `peaks` counts from here."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    return {pid: _memory(pid, "VmRSS") for pid in pids}


def peaks(pids: Iterable[int]) -> dict[int, int]:
    """The most resident bytes since `begin_peak`; 0 for a process that is gone."""
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
