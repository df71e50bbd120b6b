"""One node's part in changes of the membership: its current membership, and the changes that it makes as the leader.

What makes a change safe (Ongaro's thesis, chapter 4, and his correction of 2015; the argument is in `docs/raft.md`):

- there is one change at a time: the next one waits until the last one is committed (`_check_settled`), so any two
  majorities have a node in common;
- a leader changes nothing before an entry of its own term is committed (`_check_own_term`);
- a membership is in force from the moment its entry is in the log, until the entry is cut (`_refresh`);
- learners get the log and do not count for majorities; they become voters by a second entry, when they are caught up
  (`_promote`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cluster import messages as m
from cluster.errors import RemovedError
from cluster.membership import (
    Change,
    ChangeDone,
    ChangeError,
    ChangeRefusedError,
    ChangeResult,
    Membership,
    PromoteMember,
    RemoveMember,
    encode_members,
)
from cluster.ports import Clock, Wire
from cluster.progress import Peers
from cluster.raft_log import RaftLog
from cluster.seams import Core
from cluster.settings import RaftSettings

log = logging.getLogger(__name__)


class Members:
    """The membership as this node sees it.

    Attributes:
        current: the membership in force on this node, which is the newest in the log.
        settled: the newest committed membership.
        ids: the other members.
        other_voters: the other members that vote.

    Args:
        on_change: called after `current` changed.
    """

    def __init__(
        self,
        settings: RaftSettings,
        raft_log: RaftLog,
        wire: Wire,
        core: Core,
        peers: Peers,
        *,
        append: Callable[[int, bytes], int],
        on_change: Callable[[Membership], None],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._raft_log = raft_log
        self._wire = wire
        self.core = core
        self._peers = peers
        self._append_entry = append
        self._on_change = on_change
        self._clock = clock
        self._first = settings.first_membership
        self._wire_peers = _addresses(self._first, settings.node_id)
        self._queue: list[tuple[Change, ChangeDone]] = []
        self._pending: tuple[int, ChangeDone] | None = None
        self.settled = self._first
        raft_log.on_membership = self._refresh
        self._refresh()

    def _take(self, membership: Membership) -> None:
        """Put a membership in force."""
        node_id = self._settings.node_id
        self.current = membership
        self.ids = frozenset(member.node_id for member in membership.others(node_id))
        self.other_voters = tuple(voter for voter in membership.voters if voter != node_id)
        self._learners = membership.learners
        self.votes = membership.is_voter(node_id)

    def _refresh(self) -> None:
        """Take the newest membership from the log. It is in force at once, committed or not."""
        self._take(self._raft_log.memberships.newest or self._first)
        self._set_peers()
        self.tell_wire()
        self._on_change(self.current)

    def _set_peers(self) -> None:
        """Pass the voters and the other members to the core and to the peers' records."""
        self.core.set_voters(self.other_voters)
        self._peers.set_members(
            self.other_voters, self.ids.difference(self.other_voters), self._raft_log.last_index if len(self._raft_log) else 1
        )

    def _at_commit(self) -> Membership:
        """Return the membership at the commit index."""
        return self._raft_log.memberships.at(self._raft_log.commit_index) or self._first

    def tell_wire(self) -> None:
        """Let the wire connect to all members, and to those removed by a change that is not committed yet, and to no
        other removed node.
        """
        peers = {**_addresses(self.settled, self._settings.node_id), **_addresses(self.current, self._settings.node_id)}
        if peers != self._wire_peers or self.settled.removed:
            self._wire_peers = peers
            last_message = m.encode(m.Removed(self._raft_log.term, self.settled.index))
            self._wire.set_peers(peers, dict.fromkeys(self.settled.removed, last_message))

    # ------------------------------------------------------------------ what owners call

    @property
    def under_way(self) -> bool:
        """Whether the membership in force is not known to be committed."""
        return self.current.index > self._raft_log.commit_index

    def change(self, change: Change, done: ChangeDone) -> None:
        """Make a change; see `Raft.change_members`."""
        self._queue.append((change, done))

    def leadership_lost(self) -> None:
        """Answer pending changes at the end of a leadership: the next leader may or may not commit them."""
        for peer in self._peers:
            peer.round = None
        pending, self._pending = self._pending, None
        if pending is not None:
            pending[1](ChangeResult(ChangeError.OUTCOME_UNKNOWN, "leadership was lost before the change was committed"))

    def refuse_queued(self) -> None:
        """Answer pending changes, because this node does not lead."""
        if not self._queue:
            return
        queue, self._queue = self._queue, []
        leader = self.core.leader_id
        for _, done in queue:
            done(ChangeResult(ChangeError.NOT_LEADER, f"{leader} leads" if leader else "this node knows of no leader"))

    def tick(self) -> None:
        """Handle committed changes, make the requested ones, and promote learners that are caught up.

        Raises:
            RemovedError: this node was removed.
        """
        if self.settled is not self.current:
            self._settle()
        if not self.core.leads:
            self.refuse_queued()
            return
        queue, self._queue = self._queue, []
        for change, done in queue:
            self._begin(change, done)
        for learner in self._learners:
            self._promote(learner)

    def _settle(self) -> None:
        """Notice that the commit index covers a change. Raises RemovedError if it removed this node."""
        before, settled = self.settled, self._at_commit()
        self.settled = settled
        if settled == before:
            return
        if self._settings.node_id in settled.removed:
            raise RemovedError(self._settings.node_id, settled.index)
        log.info("members since entry %d: %s", settled.index, _described(settled))
        self.tell_wire()

    # ------------------------------------------------------------------ the leader's part

    def _begin(self, change: Change, done: ChangeDone) -> None:
        """Append the entry of a change, or answer why it is refused."""
        try:
            after = self._checked(change)
        except ChangeRefusedError as refusal:
            done(ChangeResult(refusal.error, str(refusal)))
            return
        self._pending = (self._append(after), done)

    def _checked(self, change: Change | PromoteMember) -> Membership:
        """Return the membership after a change. Raises ChangeRefusedError."""
        self._check_settled()
        self._check_own_term()
        after = self.current.changed(change)
        if isinstance(change, RemoveMember) and change.node_id == self._settings.node_id:
            raise ChangeRefusedError(
                ChangeError.OWN_REMOVAL, f"{change.node_id} leads and does not remove itself: hand leadership over first"
            )
        if not after.have_majority({*self._peers.acknowledging, self._settings.node_id}):
            raise ChangeRefusedError(
                ChangeError.NO_MAJORITY,
                f"of the voters after the change ({', '.join(after.voters)}) {after.majority} must be connected, have answered "
                "this leader and have their disks, so that it can be committed",
            )
        return after

    def _check_settled(self) -> None:
        if self.under_way:
            raise ChangeRefusedError(
                ChangeError.UNDER_WAY, f"the change of entry {self.current.index} is not committed yet: try again soon"
            )

    def _check_own_term(self) -> None:
        if not self._raft_log.commit_index >= self.core.no_op_index > 0:
            raise ChangeRefusedError(ChangeError.NOT_READY, "this leader has committed nothing in its term yet: try again soon")

    def _append(self, after: Membership) -> int:
        index = self._append_entry(m.MEMBERS, encode_members(after))
        log.info("entry %d changes the members: %s", index, _described(after))
        return index

    def committed(self, index: int) -> None:
        """Record that the entry with a membership at `index` was applied."""
        if self._pending is not None and self._pending[0] == index:
            (_, done), self._pending = self._pending, None
            done(ChangeResult(index=index))

    def _promote(self, learner: str) -> None:
        """Make a learner a voter, if it is caught up and a change is possible now."""
        if not self._is_caught_up(learner) or learner not in self._peers.connected:
            return
        try:
            self._append(self._checked(PromoteMember(learner)))
        except ChangeRefusedError as refusal:
            log.debug("%s is caught up and not promoted yet: %s", learner, refusal)

    def _is_caught_up(self, learner: str) -> bool:
        """Return whether a learner is caught up: it copied all entries that the log had at the start of a round in less
        than an election timeout (thesis, section 4.2.1).
        """
        now = self._clock()
        peer = self._peers[learner]
        target, began = peer.round = peer.round or (self._raft_log.last_index, now)
        if peer.match_index < target:
            return False
        if now - began <= self._settings.election_timeout_min:
            return True
        peer.round = (self._raft_log.last_index, now)
        return False


def _addresses(membership: Membership, node_id: str) -> dict[str, str]:
    return {member.node_id: member.raft for member in membership.others(node_id)}


def _described(membership: Membership) -> str:
    return ", ".join(f"{member.node_id} ({member.role.value})" for member in membership.members)
