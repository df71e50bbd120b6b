"""A cluster whose members change: nodes are added, removed and replaced at any moment, while all other faults happen.

A removed node runs and campaigns until it learns of its removal. Then its operator starts it again, for ever. Nodes
that wait to be added run as well. In addition to the checks of `world.py`:

- a committed membership is the same on every node that knows it, and differs from the previous one by one change;
- a node stops as removed only if it was removed, and an acknowledged change is in every later membership;
- in the end every member has caught up, every learner votes, and no removed node disturbs the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from cluster.errors import ClusterError, RemovedError
from cluster.membership import AddMember, Change, ChangeResult, Member, RemoveMember, Role
from cluster.raft import Raft
from cluster.settings import RaftSettings
from tests.simulation.faults import Faults, Injector
from tests.simulation.incidents import Incident
from tests.simulation.parts import Host, Process
from tests.simulation.world import World

LATER_ID = re.compile(r"[az][0-9]+")
"""Ids of nodes that are made during a run."""


@dataclass(frozen=True)
class Changes:
    """How often the operator makes each change: chances for each step. `read_only` is a chance for each addition."""

    add: float = 0.004
    remove: float = 0.003
    read_only: float = 0.25
    members_max: int = 6
    nodes_max: int = 12


class Operator(Injector):
    """Draws changes beside the faults. It also makes a node that a list of incidents names and that does not exist."""

    world: MembershipWorld

    def inject(self) -> None:
        changes = self.world.changes
        if self.chance(changes.add):
            self.draw_addition()
        if self.chance(changes.remove):
            self.draw_removal()
        super().inject()

    def asked(self) -> str | None:
        """Return the node that the operator asks: a leader, or seldom any node."""
        world = self.world
        leading = [node for node in world.running() if world.raft_of(node).is_leader]
        if leading and world.rng.random() < 0.95:
            return world.rng.choice(leading)
        return world.rng.choice(world.running()) if world.running() else None

    def draw_addition(self) -> None:
        """Add a node that waits, or a new one whose id sorts before or after all others."""
        world, rng, asked = self.world, self.world.rng, self.asked()
        waiting = world.waiting()
        full = len(world.ids) >= world.changes.nodes_max
        if asked is None or len(world.members()) >= world.changes.members_max or (full and not waiting):
            return
        fresh = not full and (not waiting or rng.random() < 0.1)
        node = f"{rng.choice('az')}{len(world.ids) + 1}" if fresh else rng.choice(waiting)
        role = Role.READ_ONLY if self.chance(world.changes.read_only) else Role.LEARNER
        self.strike("add", asked, node, role.value)
        if node in world.hosts and rng.random() < 0.8:
            self.strike("start", node)

    def draw_removal(self) -> None:
        """Remove any member of the membership that the asked node has."""
        asked = self.asked()
        if asked is not None:
            members = self.world.raft_of(asked).status().members
            self.strike("remove", asked, self.world.rng.choice(members).member.node_id)

    def carry_out(self, incident: Incident) -> None:
        world, args = self.world, incident.args
        for arg in args:
            if LATER_ID.fullmatch(arg) and arg not in world.hosts:
                world.make_node(arg)
        if incident.kind == "add":
            world.ask(args[0], AddMember(Member(args[1], Role(args[2]))))
        if incident.kind == "remove":
            world.ask(args[0], RemoveMember(args[1]))
        super().carry_out(incident)


class MembershipWorld(World):
    """See the module.

    Attributes:
        committed_members: the memberships that some node knew to be committed, by the index of their entries.
        promised: acknowledged changes, by index.
        unwanted: nodes whose removal was requested.
        dismissed: those of them that stopped because of it.
    """

    def __init__(
        self,
        seed: int,
        nodes: int = 3,
        *,
        faults: Faults | None = None,
        changes: Changes | None = None,
        snapshot_entries: int = 40,
        trace: bool = False,
        incidents: Sequence[Incident] | None = None,
    ) -> None:
        self.changing: set[str] = set()
        """Nodes whose log has a change, as far as was seen, that they do not know to be committed; those that are down
        included.
        """
        super().__init__(seed, nodes, faults=faults, snapshot_entries=snapshot_entries, trace=trace, incidents=incidents)
        self.injector = Operator(self)
        self.changes = changes or Changes()
        self.first_ids = list(self.ids)
        self.configured: dict[str, tuple[str, ...]] = {}
        self.committed_members: dict[int, dict[str, Role]] = {0: dict.fromkeys(self.first_ids, Role.VOTER)}
        self.promised: dict[int, Change] = {}
        self.dismissed: set[str] = set()
        self.unwanted: set[str] = set()

    # ------------------------------------------------------------------ nodes

    def settings_of(self, host: Host) -> RaftSettings:
        """Return settings: the first nodes are configured with each other, a later node with the members at its creation."""
        settings = super().settings_of(host)
        peers = self.configured.get(host.node_id)
        known = peers or tuple(node for node in self.first_ids if node != host.node_id)
        return RaftSettings(
            host.node_id,
            known,
            snapshot_entries=settings.snapshot_entries,
            trailing_entries=settings.trailing_entries,
            rejoin=settings.rejoin,
            digest_interval=settings.digest_interval,
            join=peers is not None,
        )

    def members(self) -> list[str]:
        """Return the newest membership that any node knows to be committed."""
        newest = self.committed_members[max(self.committed_members)]
        return [node for node in self.ids if node in newest]

    def _new_host(self, node: str) -> Host:
        self.changing.discard(node)
        return super()._new_host(node)

    def make_node(self, node: str) -> None:
        """Make a machine that waits to be added, configured with the present members."""
        self.configured[node] = tuple(self.members())
        self.ids.append(node)
        self.hosts[node] = self._new_host(node)

    def waiting(self) -> list[str]:
        """Return the nodes that were never members."""
        return [node for node in self.configured if not any(node in known for known in self.committed_members.values())]

    def start(self, node: str) -> None:
        super().start(node)
        process = self.hosts[node].process
        if process is not None and process.wire.peers is None:
            process.wire.peers = dict.fromkeys(self.settings_of(self.hosts[node]).peers, "")

    def raft_of(self, node: str) -> Raft:
        """Return the Raft of a running node."""
        process = self.hosts[node].process
        assert process is not None
        return process.raft

    def all_vote(self) -> bool:
        """Return whether a disk may be lost: a majority of the voters must keep theirs, of those before a change and of
        those after it. The operator guarantees this.
        """
        newest = self.committed_members[max(self.committed_members)]
        return super().all_vote() and list(newest.values()).count(Role.VOTER) >= 3 and not self.changing

    def node_stopped(self, node: str, error: ClusterError) -> None:
        for running in self.running():
            self._check_members(running, self.raft_of(running))
        if not isinstance(error, RemovedError) or node in self.members():
            super().node_stopped(node, error)
        self.crash(node, power_loss=False)
        self.dismissed.add(node)
        self.note(f"{node} was told that it was removed")

    # ------------------------------------------------------------------ who lets in whom

    def _connect(self, one: str, other: str) -> None:
        a, b = self.hosts[one].process, self.hosts[other].process
        if a is None or b is None or frozenset((one, other)) in self.network.cut:
            return
        for caller, called in ((a, b), (b, a)):
            if called.wire.node_id in (caller.wire.peers or ()):
                if caller.wire.node_id in called.wire.removed_peers:
                    self._farewell(called, caller)
                elif caller.wire.node_id in (called.wire.peers or ()) or called.wire.accepts_unknown:
                    super()._connect(one, other)
                    return

    def _farewell(self, sender: Process, removed: Process) -> None:
        node, peer = removed.wire.node_id, sender.wire.node_id
        host = self.hosts[node]
        if host.process is removed and host.paused_until <= self.now and (peer, node) not in self.network.deaf:
            self._guarded(node, lambda: removed.wire.on_message(peer, sender.wire.removed_peers[node], False))

    def _reconnect(self) -> None:
        for one, other in combinations(self.ids, 2):
            linked = frozenset((one, other)) in self.network.links
            if linked:
                self._part(one, other)
            elif self.rng.random() < 0.3:
                self._connect(one, other)

    def _part(self, one: str, other: str) -> None:
        """End the connection of two nodes, one of which knows that the other was removed."""
        for here, there in ((one, other), (other, one)):
            process, removed = self.hosts[here].process, self.hosts[there].process
            if process is not None and removed is not None and there in process.wire.removed_peers:
                if self.rng.random() < 0.7:
                    self._farewell(process, removed)
                self.disconnect(one, other)
                return

    # ------------------------------------------------------------------ the operator

    def ask(self, node: str, change: Change) -> None:
        """Ask a node for a change. The result is recorded, and must come once."""
        process = self.hosts[node].process
        if process is None:
            return
        answers: list[ChangeResult] = []

        def done(result: ChangeResult) -> None:
            answers.append(result)
            if len(answers) > 1:
                raise self.violation(f"{change} was answered twice: {answers}")
            self.note(f"{change}: {result.error.value if result.error else f'done at {result.index}'}")
            if result.error is None:
                self.promised[result.index] = change

        if isinstance(change, RemoveMember):
            self.unwanted.add(change.node_id)
        process.raft.change_members(change, done)

    # ------------------------------------------------------------------ checks

    def _check(self) -> None:
        for node in self.running():
            self._check_members(node, self.raft_of(node))
        super()._check()

    def _check_members(self, node: str, raft: Raft) -> None:
        (self.changing.add if raft._members.under_way else self.changing.discard)(node)
        settled = raft._members.settled
        if not settled.index:
            return
        seen = {member.node_id: member.role for member in settled.members}
        known = self.committed_members.setdefault(settled.index, seen)
        if known != seen:
            raise self.violation(f"{node} has at {settled.index} the members {seen}, others {known}")

    def _check_changes(self) -> None:
        """Check that every acknowledged change is in the log, and in every later membership."""
        for index, change in self.promised.items():
            later = [known for at, known in sorted(self.committed_members.items()) if at >= index]
            if not later:
                raise self.violation(f"the change acknowledged at {index} is nowhere")
            if isinstance(change, AddMember):
                kept = change.member.node_id in later[0] or change.member.node_id in self.unwanted
            else:
                kept = not any(change.node_id in known for known in later)
            if not kept:
                raise self.violation(f"{change} was acknowledged at {index}, and the members after it are {later[0]}")

    def _is_caught_up(self, node: str, index: int) -> bool:
        process = self.hosts[node].process
        newest = self.committed_members[max(self.committed_members)]
        if process is None or newest.get(node) is not Role.READ_ONLY:
            return super()._is_caught_up(node, index)
        status = process.status()
        return status.ready and status.applied_index >= index

    def _check_following(self) -> None:
        """Check that removed nodes, which start again all the time, change neither term nor leader."""
        (leader,) = self._leading()
        status = leader.status()
        for _ in range(200):
            for node in sorted(self.dismissed):
                if self.hosts[node].process is None and self.rng.random() < 0.1:
                    self.start(node)
            self.step(faults=False, load=True)
            if not leader.is_leader or leader.status().term != status.term:
                raise self.violation(f"{status.leader_id} was deposed in a calm time, while those came back that were removed")
        super()._check_following()
        self._check_changes()

    def _check_end(self) -> None:
        super()._check_end()
        newest = max(self.committed_members)
        for node in self.members():
            status = self.raft_of(node).status()
            if status.members_index != newest or status.change_under_way:
                raise self.violation(f"{node} has the members of entry {status.members_index}, the others those of {newest}")

    def _check_undisturbed(self) -> None:
        """Only if a leader has a majority without one of the others."""
        newest = self.committed_members[max(self.committed_members)]
        if list(newest.values()).count(Role.VOTER) >= 3:
            super()._check_undisturbed()
