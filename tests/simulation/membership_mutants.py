"""Membership changes with one rule switched off at a time. The simulation must detect each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from cluster import captures
from cluster.members import Members
from cluster.membership import MembershipHistory
from cluster.ports import LogEntry, SnapshotMark
from cluster.progress import Peers

Patch = pytest.MonkeyPatch


def two_changes_at_once(patch: Patch) -> None:
    """A change does not wait until the previous one is committed."""
    patch.setattr(Members, "_check_settled", lambda _self: None)


def change_before_own_term(patch: Patch) -> None:
    """A new leader changes the membership at once (the fault of the thesis that was corrected in 2015). Such a leader
    has no answers yet, so the rule that only voters with an answer count would also stop it. Therefore each connected
    node counts here.
    """
    patch.setattr(Members, "_check_own_term", lambda _self: None)
    patch.setattr(Peers, "acknowledging", property(lambda self: self.connected))


def effect_when_committed(patch: Patch) -> None:
    """A membership takes effect when it is committed, and not when it is appended."""
    settle = Members._settle

    def refresh(self: Members) -> None:
        self._take(self._at_commit())
        self._set_peers()
        self.tell_wire()
        self._on_change(self.current)

    def settled(self: Members) -> None:
        settle(self)
        refresh(self)

    patch.setattr(Members, "_refresh", refresh)
    patch.setattr(Members, "_settle", settled)
    patch.setattr(Members, "under_way", property(lambda self: self._raft_log.memberships.newest not in (None, self.current)))


def majority_of_the_old_set(patch: Patch) -> None:
    """The voters that a node was configured with commit entries."""

    def set_peers(self: Members) -> None:
        first = [voter for voter in self._first.voters if voter != self._settings.node_id]
        others = {*self.other_voters, *self.ids}.difference(first)
        self.core.set_voters(first)
        self._peers.set_members(first, others, self._raft_log.last_index if len(self._raft_log) else 1)

    patch.setattr(Members, "_set_peers", set_peers)


def learners_count(patch: Patch) -> None:
    """Acknowledgements of learners and read-only members count for commits."""

    def committed_index(self: Peers, own_index: int) -> int:
        held = sorted((own_index, *(peer.match_index for peer in self)), reverse=True)
        return held[(1 + sum(peer.votes for peer in self)) // 2]

    patch.setattr(Peers, "committed_index", committed_index)


def not_undone(patch: Patch) -> None:
    """A membership stays in effect when its entry is cut from the log."""
    patch.setattr(MembershipHistory, "cut_from", lambda _self, _index: False)


def not_in_snapshots(patch: Patch) -> None:
    """A snapshot does not contain the membership."""

    def mark(last: LogEntry, previous: LogEntry, _members: object) -> SnapshotMark:
        return SnapshotMark(last, previous)

    patch.setattr(captures, "SnapshotMark", mark)


MUTANTS: Mapping[str, Callable[[Patch], None]] = {
    function.__name__: function
    for function in (
        two_changes_at_once,
        change_before_own_term,
        effect_when_committed,
        majority_of_the_old_set,
        learners_count,
        not_undone,
        not_in_snapshots,
    )
}
