"""Membership changes with one rule switched off at a time: what the simulation must notice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import cast

import pytest

from cluster import raft as raft_module
from cluster.members import Members
from cluster.membership import MembershipHistory
from cluster.ports import LogEntry, SnapshotMark
from cluster.seams import Core

Patch = pytest.MonkeyPatch


def _members(core: Core) -> Members:
    return cast(raft_module.Raft, core._hooks)._members


def two_changes_at_once(patch: Patch) -> None:
    """A change does not wait until the one before is committed."""
    patch.setattr(Members, "_check_settled", lambda _self: None)


def change_before_own_term(patch: Patch) -> None:
    """A new leader changes the membership at once (the fault of the thesis that was corrected in 2015)."""
    patch.setattr(Members, "_check_own_term", lambda _self: None)


def effect_when_committed(patch: Patch) -> None:
    """A membership counts only from its commit on."""
    settle = Members._settle

    def refresh(self: Members) -> None:
        self._take(self._at_commit())
        self.core.set_peers(self.other_voters, [each for each in sorted(self.ids) if each not in self.other_voters])
        self.tell_wire()
        self.on_change()

    def settled(self: Members) -> None:
        settle(self)
        refresh(self)

    patch.setattr(Members, "_refresh", refresh)
    patch.setattr(Members, "_settle", settled)
    patch.setattr(Members, "under_way", property(lambda self: self._raft_log.memberships.newest not in (None, self.current)))


def majority_of_the_old_set(patch: Patch) -> None:
    """Entries are committed by the voters that a node was configured with."""
    original = Core.set_peers

    def set_peers(self: Core, voters: Iterable[str], others: Iterable[str]) -> None:
        members = _members(self)
        first = [voter for voter in members._first.voters if voter != members._settings.node_id]
        now = {*voters, *others}
        original(self, first, sorted(now.difference(first)))

    patch.setattr(Core, "set_peers", set_peers)


def learners_count(patch: Patch) -> None:
    """What learners and read-only members acknowledge counts when entries are committed."""
    original = Core.tick

    def tick(self: Core) -> None:
        members = _members(self)
        if self.role == "leader":
            held = sorted([self._SyncObj__raftLog[-1][1], *map(self.match_index, members.ids)], reverse=True)
            commit = held[members.current.majority - 1]
            if commit > self.raftCommitIndex and commit >= self.no_op_index:
                self._SyncObj__raftCommitIndex = commit
                self._SyncObj__raftLog.setRaftCommitIndex(commit)
        original(self)

    patch.setattr(Core, "tick", tick)


def not_undone(patch: Patch) -> None:
    """A membership stays when its entry is cut from the log."""
    patch.setattr(MembershipHistory, "cut_from", lambda _self, _index: False)


def not_in_snapshots(patch: Patch) -> None:
    """A snapshot does not carry the membership."""

    def mark(last: LogEntry, previous: LogEntry, _members: object) -> SnapshotMark:
        return SnapshotMark(last, previous)

    patch.setattr(raft_module, "SnapshotMark", mark)


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
