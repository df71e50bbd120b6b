"""Named fail points of a node: places at which a process dies, or stands still for a while.

Python loads this automatically in a process that has this directory in PYTHONPATH. The product knows nothing of it:
each point is a function of the product, wrapped when its module is loaded. The file that `FAIL_POINTS` names says what
fails, one point a line, and may change at any time: `NAME panic N` kills the process with SIGKILL at the N-th call from
then on, `NAME sleep SECONDS` makes each call late.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FUNCTIONS: dict[str, str] = {
    "log.append": "cluster.log:DurableLog.append",
    "log.sync": "cluster.log:DurableLog.sync",
    "log.segment": "cluster.log:DurableLog._begin_segment",
    "log.cut": "cluster.log:DurableLog.cut_from",
    "log.compact": "cluster.log:DurableLog.compact_to",
    "hardstate.store": "cluster.hardstate:store",
    "disk.replace": "cluster.storage:RealDisk.replace",
    "disk.archive": "cluster.storage:RealDisk.archive",
    "raft.propose": "cluster.raft:Raft.propose",
    "raft.apply": "cluster.raft:Raft.apply",
    "raft.install": "cluster.raft:Raft._install",
    "vote.request": "cluster.guard:Guard._request_vote",
    "members.append": "cluster.members:Members._append",
    "engine.apply": "node.engine.replicated_engine:ReplicatedEngine.apply",
    "engine.replace": "node.engine.replicated_engine:ReplicatedEngine.replace",
    "snapshot.capture": "node.engine.snapshot_port:SnapshotPort.capture",
    "snapshot.restore": "node.engine.snapshot_port:SnapshotPort.restore",
    "snapshot.publish": "snapshots.durable:publish",
    "snapshot.discard": "snapshots.durable:discard",
    "install.write": "snapshots.transfer:Sink.write",
    "install.publish": "snapshots.transfer:Sink.publish",
}
"""Function by point. Each stands for two points, `NAME.before` and `NAME.after`."""

POINTS: tuple[str, ...] = tuple(f"{name}.{moment}" for name in FUNCTIONS for moment in ("before", "after"))

REREAD_SECONDS = 0.05


class Plan:
    """What the file says, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = 0
        self._read_again = 0.0
        self._actions: dict[str, tuple[str, float]] = {}

    def reach(self, point: str) -> None:
        """The process is at a point."""
        now = time.monotonic()
        if now >= self._read_again:
            self._read_again = now + REREAD_SECONDS
            self._read()
        action = self._actions.get(point)
        if action is None:
            return
        kind, value = action
        if kind == "sleep":
            time.sleep(value)
        elif value > 1:
            self._actions[point] = (kind, value - 1)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def _read(self) -> None:
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp == self._stamp:
                return
            self._stamp = stamp
            lines = [line.split() for line in self._path.read_text(encoding="ascii").splitlines()]
        except FileNotFoundError:
            lines = []
        self._actions = {name: (kind, float(value)) for name, kind, value in lines}


def wrap(module: ModuleType, path: str, name: str, plan: Plan) -> None:
    """Let a function of a module, such as "Class.method", reach its two points. Raises AttributeError where it is not
    there.
    """
    *outer, last = path.split(".")
    owner: Any = functools.reduce(getattr, outer, module)
    real: Callable[..., Any] = getattr(owner, last)

    @functools.wraps(real)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        plan.reach(f"{name}.before")
        result = real(*args, **kwargs)
        plan.reach(f"{name}.after")
        return result

    setattr(owner, last, wrapped)


class _Finder(importlib.abc.MetaPathFinder):
    """Wraps the functions of a module as soon as it is loaded."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._wanted: dict[str, list[tuple[str, str]]] = {}
        for name, function in FUNCTIONS.items():
            module, _, path = function.partition(":")
            self._wanted.setdefault(module, []).append((path, name))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own spec, with a loader that wraps."""
        wanted = self._wanted.pop(fullname, None)
        if wanted is None:
            return None
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        loader, plan = spec.loader, self._plan
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for function, name in wanted:
                wrap(module, function, name, plan)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if _file := os.environ.get("FAIL_POINTS"):
    sys.meta_path.insert(0, _Finder(Plan(Path(_file))))
