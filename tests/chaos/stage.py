"""The cluster of a chaos run: a scenario whose trading can pause, and access to the nodes and their files."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from random import Random

from loadtest.errors import DeadlineError
from loadtest.ground import Ground, prepare
from loadtest.rolling import prepare_former
from loadtest.scenario import Plan, Scenario
from loadtest.trading import Pacer
from loadtest.verdict import Verdict
from loadtest.watch import Statuses, reached
from node.config.file import Setting, change_settings
from node.deployment.member_changes import Addition, MemberChanges
from node.errors import NodeStartError
from node.native.protocol import ControlAction
from node.system.processes import ENGINE_PID_FILE, locked_pid, send
from tests.chaos.errors import NotPossibleError, UnsafeError
from tests.chaos.network import Network

READY_SECONDS = 40.0
SETTINGS: Mapping[str, Setting] = {"snapshot.every_commands": 400}
"""Snapshots often enough that nodes come back from them, and behind the compacted log."""

LOG_LINES = 30
SERVING_ACKS = 60
"""This many answers in a row mean that the cluster serves again."""

FORMER = "former"
"""Directory under a node's new data directory with the old one's archived log segments. Nodes do not read it, audits
do.
"""


class Gate(Pacer):
    """A pacer that can hold back all requests for a while."""

    def __init__(self, rate: float) -> None:
        super().__init__(rate)
        self._open = asyncio.Event()
        self._open.set()

    async def take(self, count: int) -> None:
        """Wait until the pacer and the gate let the request through."""
        await super().take(count)
        await self._open.wait()

    def shut(self) -> None:
        """Hold back new requests."""
        self._open.clear()

    def open(self) -> None:
        """Let requests through again."""
        self._open.set()


class Stage:
    """One cluster under load. `random` makes every choice of the faults. `network` is None for nodes on loopback.

    Attributes:
        operator_lines: what the command line printed for an operator.
        former: the directory of the released version's modules; None if the nodes began as this version.
        at_end: what is removed when the cluster has ended.
    """

    def __init__(self, scenario: Scenario, random: Random, network: Network | None = None) -> None:
        self.scenario = scenario
        self.cluster = scenario.cluster
        self.random = random
        self.at_end = contextlib.ExitStack()
        self.former: Path | None = None
        self._network = network
        self.operator_lines: list[str] = []
        self._gate = Gate(scenario.plan.rate)
        scenario.desk.pacer = self._gate

    @property
    def network(self) -> Network:
        """The network of the run. Raises `NotPossibleError` if the nodes are on loopback."""
        if self._network is None:
            raise NotPossibleError("the nodes are on loopback")
        return self._network

    @property
    def in_namespaces(self) -> bool:
        """Whether each node has its own network namespace."""
        return self._network is not None

    def inside(self, node_id: str) -> tuple[str, ...]:
        """Return a command prefix that runs a command in a node's network namespace."""
        return () if self._network is None else self._network.inside(node_id)

    def data(self, node_id: str) -> Path:
        """Return a node's data directory."""
        return self.scenario.access.layout.configs[node_id].data_path

    def log_ends(self) -> str:
        """Return the last lines of every node's log file."""
        parts = []
        for node_id in self.cluster.node_ids:
            lines = self.scenario.access.layout.log_file(node_id).read_text(encoding="utf-8", errors="replace").splitlines()
            parts += [f"the end of {node_id}'s log:", *lines[-LOG_LINES:]]
        return "\n".join(parts)

    async def leader(self) -> str:
        """Return the id of the leader."""
        return await self.scenario.watcher.wait_leader(READY_SECONDS)

    async def followers(self) -> list[str]:
        """Return the followers in random order."""
        leader = await self.leader()
        others = [name for name in self.cluster.node_ids if name != leader]
        self.random.shuffle(others)
        return others

    async def any_node(self) -> str:
        """Return a random node. In half of the cases it is the leader."""
        return await self.leader() if self.random.random() < 0.5 else (await self.followers())[0]

    async def kill(self, *node_ids: str) -> None:
        """SIGKILL every process of these nodes at the same time."""
        await asyncio.gather(*(asyncio.to_thread(self.cluster.kill, node_id, signal.SIGKILL) for node_id in node_ids))

    async def start(self, *node_ids: str, rejoin: bool = False) -> None:
        """Start nodes that are down. Raises `NodeStartError`."""
        await asyncio.to_thread(functools.partial(self.cluster.start, node_ids, rejoin=rejoin))

    def signal_engine(self, node_id: str, number: signal.Signals) -> None:
        """Send a signal to a node's engine process only."""
        pid = self.engine(node_id)
        if pid is not None:
            send(pid, number)

    def engine(self, node_id: str) -> int | None:
        """Return the pid of a node's engine process, or None if there is none."""
        return locked_pid(self.data(node_id) / ENGINE_PID_FILE)

    async def wait(self, wanted: Callable[[Statuses], bool], what: str) -> None:
        """Wait until the nodes' statuses are `wanted`. Raises `DeadlineError`."""
        await self.scenario.watcher.wait(wanted, what, READY_SECONDS)

    async def down(self, node_id: str, seconds: float) -> None:
        """Wait until a node has ended without a signal of the test. Raises `DeadlineError`."""
        if not await reached(lambda: self.cluster.pid(node_id) is None, seconds):
            raise DeadlineError(f"{node_id} still runs after {seconds:g} s")

    async def all_vote(self) -> None:
        """Wait until every node is ready and votes."""
        await self.wait(
            lambda seen: all(status is not None and status.ready and status.voter for status in seen.values()), "ready voters"
        )

    async def traded(self, count: int) -> None:
        """Wait for `count` more answers. Raises `DeadlineError`."""
        recorder = self.scenario.recorder
        wanted = recorder.acknowledged + count
        come = await reached(lambda: recorder.acknowledged >= wanted, READY_SECONDS)
        self.scenario.check_tasks()
        if not come:
            raise DeadlineError(f"{wanted - recorder.acknowledged} of {count} answers are missing after {READY_SECONDS:g} s")

    async def refused(self, node_id: str, *expected: str) -> str:
        """Start a node that must not start. Returns its message, which must contain all of `expected`.

        Raises:
            UnsafeError: the node runs, or its message is another one.
        """
        log = self.scenario.access.layout.log_file(node_id)
        size = log.stat().st_size if log.exists() else 0
        try:
            await self.start(node_id)
            await self.down(node_id, 15.0)
        except NodeStartError:
            pass
        except DeadlineError as error:
            raise UnsafeError(f"{node_id} was expected to refuse its start ({', '.join(expected)}): {error}") from error
        operator_lines = log.read_bytes()[size:].decode("utf-8", "replace")
        missing = [text for text in expected if text not in operator_lines]
        if missing:
            raise UnsafeError(f"{node_id} refused its start without naming {', '.join(missing)}: {operator_lines[-1000:]}")
        return operator_lines

    async def new_disk(self, node_id: str) -> None:
        """Give a stopped node an empty data directory, let it rejoin, and wait until it votes.

        The archived segments of the lost directory are copied back, so that the audit finds the whole log.
        """
        data = self.data(node_id)
        kept = data.parent / FORMER
        if data.exists():
            for path in [*data.glob("archive/*.seg"), *data.glob(f"{FORMER}/*.seg")]:
                kept.mkdir(exist_ok=True)
                path.replace(kept / path.name)
            shutil.rmtree(data)
            await self.refused(node_id, "--rejoin")
        await self.start(node_id, rejoin=True)
        await self.wait(
            lambda seen: (status := seen[node_id]) is not None and status.ready and status.voter, f"{node_id} as a voter"
        )
        if kept.exists():
            shutil.move(kept, data / FORMER)

    async def replace(self, node_id: str) -> str:
        """Delete the directory of a dead node, and add a new node in its place. Returns the new node's id. Raises
        `MembershipError`.
        """
        data = self.data(node_id)
        new = f"n{max(int(name[1:]) for name in self.cluster.layout.addresses) + 1}"
        wanted = Addition(new, *(self._network.places(new) if self._network is not None else ()))
        kept = data.parent.with_name(f"{new}-{FORMER}")
        for path in [*data.glob("archive/*.seg"), *data.glob(f"{FORMER}/*.seg")]:
            kept.mkdir(exist_ok=True)
            path.replace(kept / path.name)
        shutil.rmtree(data.parent)
        self.scenario.members_changed()
        changes = MemberChanges(self.cluster, self.operator_lines.append)
        try:
            await changes.replace(node_id, wanted, READY_SECONDS)
        finally:
            await changes.close()
        self.scenario.members_changed()
        if kept.exists():
            shutil.move(kept, self.data(new) / FORMER)
        return new

    async def snapshot_of(self, node_id: str) -> Path:
        """Return the newest snapshot directory of a running node. If it has none, take a snapshot. Raises `DeadlineError`."""
        found = self.snapshots(node_id)
        if not found:
            connection = await self.scenario.access.connect(node_id)
            try:
                await connection.control(ControlAction.SNAPSHOT)
            finally:
                await connection.close()
            if not await reached(lambda: bool(self.snapshots(node_id)), READY_SECONDS):
                raise DeadlineError(f"{node_id} took no snapshot within {READY_SECONDS:g} s")
            found = self.snapshots(node_id)
        return found[-1]

    def snapshots(self, node_id: str) -> list[Path]:
        """Return a node's finished snapshots, oldest first."""
        return sorted(path for path in (self.data(node_id) / "snapshots").glob("*") if path.name.isdigit())

    async def check(self) -> Verdict:
        """Pause trading, wait until all nodes have applied the same entries, and check everything so far. Then trading
        resumes.

        Raises:
            DeadlineError: a node does not catch up, or requests stay unanswered.
            LoadTestError: a client or reader failed.
        """
        scenario, recorder = self.scenario, self.scenario.recorder

        def answered() -> bool:
            scenario.check_tasks()
            return recorder.unanswered == 0

        self._gate.shut()
        try:
            if not await reached(answered, READY_SECONDS):
                raise DeadlineError(f"{recorder.unanswered} commands stay unanswered")
            return await scenario.check(await scenario.settle(), visits_min=0)
        finally:
            self._gate.open()

    async def serving_since(self, moment: float) -> None:
        """Wait until the cluster has given many answers since `moment`. Raises `DeadlineError`."""
        recorder = self.scenario.recorder
        served = await reached(lambda: recorder.since(moment) >= SERVING_ACKS, READY_SECONDS)
        self.scenario.check_tasks()
        if not served:
            raise DeadlineError(f"{recorder.since(moment)} answers in {time.monotonic() - moment:.0f} s")


@contextlib.asynccontextmanager
async def staged(
    directory: Path,
    shape: Plan,
    random: Random,
    *,
    network: Network | None = None,
    settings: Mapping[str, Setting] = SETTINGS,
    former: Path | None = None,
) -> AsyncGenerator[Stage, None]:
    """Yield a new cluster in `directory` with clients that trade and readers that follow. Every node is ended
    afterwards, in any case. With `former`, the directory of the released version's modules, the nodes begin as that
    version.
    """
    if former is None:
        ground = prepare(directory, settings=settings)
    else:
        cluster = prepare_former(directory, former)
        for path in cluster.layout.config_paths.values():
            change_settings(path, settings)
        ground = Ground(directory)
        ground.cluster = cluster
    if network is not None:
        ground.cluster = network.settle(directory)
    try:
        await ground.start()
        async with Scenario(ground.cluster, directory, shape) as scenario:
            await scenario.put_market()
            stage = Stage(scenario, random, network)
            stage.former = former
            scenario.start_trading()
            scenario.start_readers(await stage.leader())
            with stage.at_end:
                yield stage
    finally:
        await asyncio.to_thread(ground.stop)
        for node_id in ground.cluster.running():
            ground.cluster.kill(node_id, signal.SIGKILL)


def flip_bit(path: Path, offset: int, bit: int) -> None:
    """Invert one bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ (1 << bit)]))
        file.flush()
        os.fsync(file.fileno())
