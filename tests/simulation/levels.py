"""A world of two versions. Nodes begin with 0.2.0 and are upgraded and downgraded at random, the level changes to the
next one and back, and all other faults happen too.

A node of 0.2.0 has software that applies every entry with the frozen core, knows no other level, and accepts no entry
that changes the level. The differences of its own Raft layer are not simulated:
`tests/acceptance/test_rolling_upgrade.py` runs the real one. In addition to the checks of `exchange`: the log, with
each entry applied at its own level, gives what clients saw and the state of the nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec
import pytest

from cluster.batcher import Refusal
from cluster.log import read_header
from cluster.ports import Schemas, Snapshots
from cluster.raft import ProposeResult
from loadtest.linearizability import Anomaly, AnomalyKind, HistoryVerdict, Operation, judge
from node.engine.entries import Entries
from node.native.protocol import FailCode, Failed
from snapshots.levels import states
from snapshots.levels.level import (
    OWN,
    V0_2_0,
    CheckLevel,
    Level,
    SetLevel,
    abi_behind,
    decode_set_level,
    encode_level_entry,
    is_level_entry,
)
from snapshots.store import SnapshotStore
from statemachine.commands import AnyCommand, Batch, Deposit
from tests.simulation.clients import Attempt, Call, Client
from tests.simulation.directory import SnapshotDisk
from tests.simulation.exchange import ExchangeFaults, ExchangeWorld, Running
from tests.simulation.incidents import Incident
from tests.simulation.observers import WatchedEngine, WatchedSnapshots
from tests.simulation.parts import Host, Machine, Process

BOTH = frozenset({V0_2_0.abi, OWN.abi})
FORMER = frozenset({V0_2_0.abi})
CHANGE = 0.03
"""The chance for each step that a node gets the other software, or that the operator tries to change the level."""

_encode = msgspec.msgpack.Encoder().encode


class Applied(Batch, frozen=True):
    """An entry of the log with its bytes, for the judge."""

    payload: bytes = b""


class Replay:
    """The engine that the judge uses. It applies each entry at its own level, and answers reads from the state."""

    def __init__(self) -> None:
        self._engine = states.empty(V0_2_0)

    def apply(self, batch: Applied) -> Any:
        """Apply an entry."""
        self._engine, applied = states.apply(self._engine, batch.payload)
        return applied if applied is not None else states.empty(OWN).apply(Batch(0, []))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def judged(history: list[Operation], log: list[Batch]) -> HistoryVerdict:
    """Return the judge's verdict without the known effects of a change of the level (docs/migrations.md).

    The contents of commands in the reply cache from before the change cannot be compared any more, so an id with other
    contents is answered with the first outcome, as a duplicate. A return drops `fee_credit` from the cached outcomes,
    and replaces a reason that the former version lacks.
    """
    verdict = judge(history, log)
    verdict.anomalies[:] = [each for each in verdict.anomalies if not _is_of_a_change(each)]
    return verdict


def _is_of_a_change(anomaly: Anomaly) -> bool:
    if anomaly.kind is AnomalyKind.WRONG_OUTCOME:
        return ", duplicate=True," in anomaly.text
    if anomaly.kind is not AnomalyKind.CHANGED_ANSWER:
        return False
    answers = anomaly.text.split(" was answered as ")[1].split(" and as ")
    return len({_DROPPED.sub("", answer) for answer in answers}) == 1


_DROPPED = re.compile(r"fee_credit=\d+|duplicate=\w+|reason=<[^>]*>")


class FormerMachine(WatchedEngine):
    """An engine of version 0.2.0. It does not know the entry that changes the level."""

    def apply(self, index: int, payload: bytes) -> object:
        if is_level_entry(payload):
            self.engine.apply_entry(payload)  # which cannot decode it, and raises
        return super().apply(index, payload)


class LevelClient(Client):
    """A client that seldom uses an id for commands of two kinds, because that prevents the return to the former level
    (`v0_2_0_back`).
    """

    def _command(self) -> AnyCommand:
        command = super()._command()
        while isinstance(command, Deposit) and command in self._reused() and self._world.rng.random() < 0.97:
            command = super()._command()
        return command

    def _reused(self) -> list[AnyCommand]:
        last = self._sent[-1] if self._sent else None
        ids = {each.command_id for each in self._sent}
        return (
            []
            if last is None
            else [Deposit(name, last.command_id, "USD", 7) for name in self._accounts if last.command_id in ids]
        )

    def _failed(self, call: Call, attempt: Attempt, answer: Failed) -> None:
        """Check that a command that the level in force does not have is refused for good, and was not applied."""
        if answer.code is FailCode.BAD_REQUEST:
            attempt.refused, call.over = True, True
        else:
            super()._failed(call, attempt, answer)


class Stage(Enum):
    """The stages of a change of the level at its leader."""

    DRAINING = 1
    CHECKING = 2
    """`CheckLevel` is proposed."""
    CHECKED = 3
    """Every member is to apply it."""
    PROPOSED = 4


@dataclass
class Change:
    """A change of the level that a leader makes. `index`: of the check, from the stage CHECKED on."""

    node: str
    parts: Running
    release: Callable[[], None]
    old: Level
    to: Level
    stage: Stage = Stage.DRAINING
    index: int = 0


class _Held:
    """Nothing may be proposed: see `EngineService.levels`."""

    under_way = True

    def change(self, *_arguments: object) -> None:
        """Not used here."""

    def prepare(self, *_arguments: object) -> None:
        """Not used here."""


class LevelWorld(ExchangeWorld):
    """See the module. `changed` counts the entries that changed the level."""

    def __init__(
        self, seed: int, nodes: int = 3, *, faults: ExchangeFaults | None = None, incidents: Sequence[Incident] | None = None
    ) -> None:
        self.software: dict[str, frozenset[str]] = {}
        self._change: Change | None = None
        self._changed_at = 0
        """The sequence at which the level changed last: a state has one level at each sequence and time."""
        super().__init__(seed, nodes, faults=faults, incidents=incidents)
        for client in self.clients:
            client.__class__ = LevelClient
        self.software = dict.fromkeys(self.ids, FORMER)

    # ------------------------------------------------------------------ nodes

    def level_of_data(self, host: Host) -> Level:
        """As `node.engine.levels.of_data`. A node without data takes the level of the log's first entry, which is that
        of 0.2.0.
        """
        assert isinstance(host.disk, SnapshotDisk)
        manifest = SnapshotStore(host.disk.path, accepts=BOTH).newest()
        if manifest is not None:
            return states.level_with(manifest.abi)
        for name in host.disk.names():
            read = read_header(name, host.disk.read(name)) if name.startswith("log-") else None
            if read is not None:
                return states.level_with(read[0].abi)
        return V0_2_0

    def new_machine(self, node: str) -> Machine:
        kind = WatchedEngine if self.software.get(node, FORMER) is BOTH else FormerMachine
        machine = kind(self.ledger, node)
        machine.engine = states.empty(self.level_of_data(self.hosts[node]))
        machine.beside = lambda work: self._post_at(self.now + self.rng.uniform(0.0, 0.2), work)
        return machine

    def new_snapshots(self, host: Host, machine: Machine) -> Snapshots:
        assert isinstance(host.disk, SnapshotDisk)
        assert isinstance(machine, WatchedEngine)
        store = SnapshotStore(host.disk.path, accepts=self.software[host.node_id])
        self._snapshots = WatchedSnapshots(store, machine, self.ledger, host.node_id, self.time_ns)
        return self._snapshots

    def schemas_of(self, machine: Machine) -> Schemas:
        assert isinstance(machine, WatchedEngine)
        if isinstance(machine, FormerMachine):
            return Schemas(lambda: V0_2_0.abi, FORMER)
        return Schemas(lambda: machine.level.abi, BOTH, abi_behind, machine.may_apply)

    def entries_of(self, process: Process) -> Entries:
        return Entries(lambda: process.raft.abi_at_end)

    def _connect(self, one: str, other: str) -> None:
        """As the greeting of the Raft port: a node does not connect to a peer whose level it cannot read."""
        for here, there in ((one, other), (other, one)):
            process = self.hosts[here].process
            if process is not None and self._level(process) not in self.software[there]:
                return
        super()._connect(one, other)

    @staticmethod
    def _level(process: Process) -> str:
        assert isinstance(process.machine, WatchedEngine)
        return process.machine.level.abi

    # ------------------------------------------------------------------ what the operator does

    def step(self, *, faults: bool, load: bool) -> None:
        if faults and self.rng.random() < CHANGE and self._setup.over:
            self._operate()
        self._advance()
        self._go_on_with_change()
        super().step(faults=faults, load=load)

    def _operate(self) -> None:
        if all(software is BOTH for software in self.software.values()):
            if self.rng.random() < 0.3 and not self._changed_anywhere():
                self._install(self.rng.choice(self.ids), FORMER)
            elif self.rng.random() < 0.7 and not self.counts["level changed"]:
                self._prepare(self.rng.choice(self.ids))
            else:
                self._begin_change()
            return
        node = self.rng.choice([each for each in self.ids if self.software[each] is FORMER])
        self._install(node, BOTH)

    def _changed_anywhere(self) -> bool:
        """Return whether an entry that changes the level may be in a log. From then on there is no way back."""
        return self.counts["changes begun"] > 0

    def _install(self, node: str, software: frozenset[str]) -> None:
        """Stop a node, and start other software on its data."""
        if not self.all_vote() or len(self.running()) < len(self.ids):
            return
        self.crash(node, power_loss=self.rng.random() < 0.3)
        self.software[node] = software
        self.counts["upgrades" if software is BOTH else "downgrades"] += 1
        self.note(f"{node} gets the software of {'0.3.0' if software is BOTH else '0.2.0'}")
        self.start(node)

    def may_change(self) -> bool:
        """Return whether every member has said that it can follow."""
        return len(self.running()) == len(self.ids) and all(software is BOTH for software in self.software.values())

    def _prepare(self, node: str) -> None:
        """As `node.engine.level_preparation`, except that the state is made at once. Some nodes are not prepared when
        the entry comes, because they restarted or were never asked.
        """
        process = self.hosts[node].process
        if process is None:
            return
        machine = process.machine
        assert isinstance(machine, WatchedEngine)
        if isinstance(machine, FormerMachine) or machine.shadow is not None or machine.level == OWN:
            return
        shadow = states.follow(machine.engine)
        machine.prepare(shadow)
        shadow.build({name: list(rows) for name, rows in machine.engine.tables()})
        self.counts["prepared"] += 1

    def _is_prepared(self, node: str) -> bool:
        process = self.hosts[node].process
        return process is not None and isinstance(process.machine, WatchedEngine) and process.machine.is_prepared

    def _advance(self) -> None:
        """Let each prepared state take over a part of what changed."""
        for host in self.hosts.values():
            shadow = host.process.machine.shadow if host.process is not None else None  # type: ignore[attr-defined]
            if shadow is not None and not shadow.ready:
                shadow.advance(self.rng.randrange(1, 20))

    def _begin_change(self) -> None:
        for node, parts in self._parts.items():
            if self._change is None and self.leads(node) and self.may_change():
                old = self._machine(node).level
                to = OWN if old == V0_2_0 else V0_2_0
                parts.service.levels = _Held()
                self._change = Change(node, parts, parts.service.queue.hold(), old, to)
                self.counts["changes begun"] += 1

    def _machine(self, node: str) -> WatchedEngine:
        process = self.hosts[node].process
        assert process is not None
        assert isinstance(process.machine, WatchedEngine)
        return process.machine

    def _go_on_with_change(self) -> None:
        change = self._change
        if change is None:
            return
        if self._parts.get(change.node) is not change.parts:
            self._change = None  # it died
        elif change.stage is Stage.DRAINING and not change.parts.service.queue.in_flight:
            if not self.leads(change.node) or self._machine(change.node).engine.sequence <= self._changed_at:
                self._end_change(change)
            elif change.to == V0_2_0:
                self.check_states(change)
            else:
                self.set_level(change)
        elif change.stage is Stage.CHECKED:
            if not self.leads(change.node) or self.rng.random() < 0.005:
                self._end_change(change)
            elif self.may_change() and all(self._applied(each) >= change.index for each in self.ids):
                self.set_level(change)

    def _applied(self, node: str) -> int:
        process = self.hosts[node].process
        return process.raft.status().applied_index if process is not None else 0

    def _end_change(self, change: Change) -> None:
        change.parts.service.levels = None
        change.release()
        if self._change is change:
            self._change = None

    def check_states(self, change: Change) -> None:
        """Let every node check whether its state can return."""
        change.stage = Stage.CHECKING

        def done(result: ProposeResult) -> None:
            if result.error is not None or result.value:
                self.counts["returns refused"] += result.error is None
                self._end_change(change)
            else:
                change.stage, change.index = Stage.CHECKED, result.index

        self._propose(change, encode_level_entry(CheckLevel(change.old, change.to)), done)

    def set_level(self, change: Change) -> None:
        """Propose the entry that changes the level."""
        change.stage = Stage.PROPOSED
        self.counts["prepared at the entry"] += sum(self._is_prepared(each) for each in self.ids)

        def done(result: ProposeResult) -> None:
            if result.error is None and result.value is True:
                self.counts["level changed" if change.to == OWN else "level returned"] += 1
                self._changed_at = self._machine(change.node).engine.sequence
            if change.to == V0_2_0:
                change.parts.service.queue.fail_queued(Refusal.NOT_LEADER)
            self._end_change(change)

        self._propose(change, encode_level_entry(SetLevel(change.old, change.to)), done)

    def _propose(self, change: Change, payload: bytes, done: Callable[[ProposeResult], None]) -> None:
        process = self.hosts[change.node].process
        assert process is not None
        self._guarded(change.node, lambda: process.raft.propose(payload, done))

    # ------------------------------------------------------------------ the judge

    def log(self) -> list[Batch]:
        level, found = V0_2_0, []
        for _, (payload, _) in sorted(self.committed.items()):
            change = decode_set_level(payload)
            batch = Batch(0, []) if is_level_entry(payload) else states.commands_of(level.abi, payload)
            if change is not None and change.old == level:
                level = change.to
            commands: list[AnyCommand] = batch.commands
            found.append(Applied(batch.time, commands, payload=payload))
        return [*found]

    def run(self, steps: int = 2000) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("loadtest.linearizability.Engine", Replay)
            patch.setattr("tests.simulation.exchange.judge", judged)
            super().run(steps)

    def _check_end(self) -> None:
        super()._check_end()
        replay = Replay()
        for batch in self.log():
            assert isinstance(batch, Applied)
            replay.apply(batch)
        node = self.members()[0]
        if replay.full_hash() != self._engine(node).full_hash():
            raise self.violation(f"the log, applied entry by entry, gives another state than that of {node}")
