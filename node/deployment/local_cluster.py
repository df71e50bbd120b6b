"""A cluster's nodes as processes of this machine: start, stop, kill, and wait until they serve.

Starting and ending processes is synchronous and quick; what goes over the network is a coroutine. The processes are
detached: they continue when the process that started them ends, and any `LocalCluster` on the same directory finds them
by their pid files.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from node.cluster_directory import ClusterDirectory
from node.deployment.statuses import ANSWER_SECONDS, Statuses, ask_all, certified, leader_of
from node.engine.modes import Mode
from node.errors import NodeRunningError, NodeStartError
from node.native.protocol import NodeStatus
from node.system import stop_times
from node.system.logs import LOG_FILE
from node.system.processes import ENGINE_PID_FILE, PID_FILE, alive, descendants, locked_note, locked_pid, reap, send
from node.system.sockets import host_and_port

STOP_SECONDS = stop_times.NODE + 5.0
"""Seconds for a stop before the node is killed."""

KILL_SECONDS = 10.0
"""Seconds to wait after SIGKILL. The system usually needs only moments; an overloaded machine needs longer."""

SUPERVISOR = (sys.executable, "-m", "node.supervisor")

LOG_LINES_SHOWN = 5
"""Last lines of a node's log in an error about its start."""

_POLL = 0.01


class LocalCluster:
    """The nodes of one cluster directory.

    Processes:  start, stop, kill, restart, ended, pid, running, reload
    Network:    status, leader, wait_ready

    Args:
        directory: what `quorumbook init` made.
        command: the program that runs one node; it gets `--config FILE` and perhaps `--rejoin`.
        leave_out_invalid: as for `ClusterDirectory`.

    Raises:
        DirectoryError, ConfigError, DataDirectoryError: as `ClusterDirectory`.
    """

    def __init__(self, directory: Path | str, *, command: tuple[str, ...] = SUPERVISOR, leave_out_invalid: bool = False) -> None:
        self.layout = ClusterDirectory(Path(directory), leave_out_invalid=leave_out_invalid)
        self._command = command
        self._tls = self.layout.tls()
        self._admin = self.layout.admin()
        present = [self.layout.configs[node_id] for node_id in self.layout.node_ids]
        self._as_node = functools.cache(lambda: certified(present))
        self._started: dict[str, int] = {}
        self._log_begins: dict[str, int] = {}

    def reload(self) -> None:
        """Read the directory again, because nodes were added or removed. Raises as the constructor."""
        self.layout = ClusterDirectory(self.layout.directory)

    @property
    def node_ids(self) -> list[str]:
        """The nodes of the directory that belong to the cluster, sorted."""
        return self.layout.node_ids

    def pid(self, node_id: str) -> int | None:
        """Return the pid of a node's supervisor, None if the node is down. The pid is certainly the node's: see
        `processes`.
        """
        pid = locked_pid(self.layout.configs[node_id].data_path / PID_FILE)
        return pid if pid is not None and alive(pid) else None

    def running(self) -> list[str]:
        """Return the nodes whose supervisor runs."""
        return [node_id for node_id in self.node_ids if self.pid(node_id) is not None]

    def start(self, node_ids: Iterable[str] | None = None, *, rejoin: bool = False, seconds: float = 20.0) -> None:
        """Start nodes (all by default) in the background. Returns when each holds its data directory, which is before
        it serves.

        Raises:
            NodeRunningError: one of them runs already; nothing was started.
            NodeStartError: a node ended at once; the text has the end of its log.
        """
        chosen = self._chosen(node_ids)
        for node_id in chosen:
            pid = self.pid(node_id)
            if pid is not None:
                raise NodeRunningError(f"{node_id} runs already (pid {pid})")
        for node_id in chosen:
            self._started[node_id] = self._spawn(node_id, rejoin=rejoin)
        for node_id in chosen:
            if not _wait(functools.partial(self._settled, node_id), seconds) or self.pid(node_id) is None:
                raise NodeStartError(f"{node_id} did not start; {self._log_end(node_id)}")

    def stop(self, node_ids: Iterable[str] | None = None, *, seconds: float = STOP_SECONDS) -> None:
        """Stop nodes (all unless named) gracefully: the leader transfers leadership. After `seconds` they are killed.
        Nodes that are down are ignored.
        """
        pids = {node_id: pid for node_id in self._chosen(node_ids) if (pid := self.pid(node_id)) is not None}
        for pid in pids.values():
            send(pid, signal.SIGTERM)
        if not _wait(lambda: not any(_lives(pid) for pid in pids.values()), seconds):
            for node_id, pid in pids.items():
                if _lives(pid):
                    self.kill(node_id)

    def ended(self, node_id: str, seconds: float) -> bool:
        """Wait until a node's supervisor has ended. Returns whether it ended within `seconds`."""
        return _wait(lambda: self.pid(node_id) is None, seconds)

    def kill(self, node_id: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to every process of a node at once, its supervisor first. After SIGKILL, returns when all are
        gone.
        """
        pid = self.pid(node_id)
        if pid is None:
            return
        everyone = [pid, *descendants(pid)]
        for each in everyone:
            send(each, number)
        if number == signal.SIGKILL and not _wait(lambda: not any(_lives(each) for each in everyone), KILL_SECONDS):
            raise NodeStartError(f"{node_id}: processes {everyone} are still there {KILL_SECONDS:g} s after SIGKILL")

    def restart(self, node_id: str, *, rejoin: bool = False) -> None:
        """Start a node again, stopping it first if it runs. Raises as `start`."""
        self.stop([node_id])
        self.start([node_id], rejoin=rejoin)

    async def status(self) -> Statuses:
        """Ask all nodes for their statuses at the same time, over new connections.

        This includes members that joined from elsewhere. A node that does not answer and is no longer a member is left
        out.
        """
        return await ask_all(self.layout.addresses, self._tls, self._admin, self._as_node)

    async def leader(self) -> str:
        """Return the id of the leader that a quorum follows, "" if there is none."""
        return leader_of(await self.status())

    async def wait_ready(self, seconds: float = 30.0, node_ids: Iterable[str] | None = None) -> Statuses:
        """Wait until nodes (all by default) follow one leader, have caught up with it, and accept HTTP connections.
        Returns their statuses.

        The timeout does not run while a node migrates data of another version, or reads its snapshot and log. The
        node's log shows the progress.

        Raises:
            NodeStartError: not within `seconds`, or one of their processes ended; the text says which and why.
        """
        chosen = self._chosen(node_ids)
        end = time.monotonic() + seconds
        while True:
            statuses = await self.status()
            waiting = [node_id for node_id in chosen if not (_is_ready(statuses.get(node_id)) and self._has_its_ports(node_id))]
            waiting += [node_id for node_id in chosen if node_id not in waiting and not await self._takes_http(node_id)]
            if not waiting and leader_of(statuses):
                return {node_id: statuses[node_id] for node_id in chosen}
            for node_id in chosen:
                if self.pid(node_id) is None:
                    raise NodeStartError(f"{node_id} ended; {self._log_end(node_id)}")
            if any(self._prepares(node_id) for node_id in chosen):
                end = time.monotonic() + seconds
            if time.monotonic() > end:
                detail = "; ".join(_short(node_id, statuses.get(node_id)) for node_id in chosen)
                raise NodeStartError(f"not ready within {seconds:g} s: {detail}; {self._log_end((waiting or chosen)[0])}")
            await asyncio.sleep(0.05)

    def _has_its_ports(self, node_id: str) -> bool:
        """Return whether the engine on this data directory listens. If not, an earlier one, whose directory was deleted while it
        ran, may answer in its place.
        """
        note = locked_note(self.layout.configs[node_id].data_path / ENGINE_PID_FILE)
        return note not in ("", Mode.STARTED, Mode.BOOTSTRAPPING)

    def _prepares(self, node_id: str) -> bool:
        """Return whether a node's engine is still reading or migrating its data and cannot answer yet."""
        note = locked_note(self.layout.configs[node_id].data_path / ENGINE_PID_FILE)
        return note in (Mode.STARTED, Mode.BOOTSTRAPPING)

    async def _takes_http(self, node_id: str) -> bool:
        """Return whether a node's HTTP port accepts connections, or has no gateway."""
        config = self.layout.configs[node_id].http
        if config.processes == 0:
            return True
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                _, writer = await asyncio.open_connection(*host_and_port(config.listen))
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    def _chosen(self, node_ids: Iterable[str] | None) -> list[str]:
        """Return the chosen nodes, or all. Raises NodeStartError."""
        chosen = self.node_ids if node_ids is None else list(node_ids)
        unknown = [node_id for node_id in chosen if node_id not in self.layout.configs]
        if unknown:
            raise NodeStartError(f"no node {', '.join(unknown)} in {self.layout.directory}; there are {', '.join(self.node_ids)}")
        return chosen

    def _spawn(self, node_id: str, *, rejoin: bool) -> int:
        """Start a supervisor in a session of its own, with its output at the end of the node's log."""
        argv = [*self._command, "--config", str(self.layout.config_paths[node_id])]
        log = os.open(self.layout.log_file(node_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._log_begins[node_id] = os.fstat(log).st_size
        try:
            return os.posix_spawn(
                argv[0],
                [*argv, "--rejoin"] if rejoin else argv,
                {**os.environ, LOG_FILE: str(self.layout.log_file(node_id))},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
            )
        finally:
            os.close(log)

    def _settled(self, node_id: str) -> bool:
        """Return whether a node that was spawned holds its data directory, or has ended."""
        return self.pid(node_id) == self._started[node_id] or not _lives(self._started[node_id])

    def _log_end(self, node_id: str) -> str:
        """Return the last lines of a node's log, none of them from before it was started here."""
        path = self.layout.log_file(node_id)
        try:
            text = path.read_bytes()[self._log_begins.get(node_id, 0) :].decode("utf-8", "replace")
        except OSError:
            return f"there is no {path}"
        return f"the end of {path}:\n" + "\n".join(text.splitlines()[-LOG_LINES_SHOWN:])


def _is_ready(status: NodeStatus | None) -> bool:
    return status is not None and status.ready


def _lives(pid: int) -> bool:
    reap(pid)
    return alive(pid)


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until `condition` holds. Returns whether it did within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL)
    return True


def _short(node_id: str, status: NodeStatus | None) -> str:
    """Return the status of a node in one line."""
    if status is None:
        return f"{node_id} does not answer"
    return (
        f"{node_id} is {status.role} in term {status.term}, applied {status.applied_index}, {'' if status.ready else 'not '}ready"
    )
