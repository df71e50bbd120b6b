"""The status of a node's Raft."""

from __future__ import annotations

import msgspec

from cluster.membership import Member


class MemberState(msgspec.Struct, frozen=True):
    """A member as this node sees it; this node as well.

    `match_index`: up to where its log is known to be equal and durable; of others only on the leader, else 0.
    `snapshot`: bytes acknowledged and in all of the snapshot that this leader is sending to it; None when it sends
    none. `clock_skew`: seconds by which its clock is ahead of this node's, negative if behind; followers know the
    leader's only.
    """

    member: Member
    connected: bool
    match_index: int
    snapshot: tuple[int, int] | None
    clock_skew: float | None = None


class RaftStatus(msgspec.Struct, frozen=True):
    """The status of this node at one moment.

    `voter`: whether this node may vote: it is a voter, and not recovering. `quorum`: whether a majority of the voters
    is connected, this node included and followers that refuse this leader's stamps excluded. `members_index`: the log
    entry that says who belongs, 0 for the configuration; `change_under_way`: that entry is not known to be committed.
    `snapshots_refused`: snapshots of a leader that this node refused. The wire counts its refusals itself.
    `snapshots_not_taken`: snapshots of this leader that a peer did not install. `entries_from_future`: entries that
    this node did not append (`clocks.py`). `digests_...`: see `DivergenceWatch`.
    """

    role: str
    leader_id: str
    term: int
    commit_index: int
    applied_index: int
    last_log_index: int
    first_log_index: int
    snapshot_index: int
    voter: bool
    ready: bool
    quorum: bool
    snapshots_refused: int
    digests_compared: int = 0
    digests_differing: int = 0
    digests_undecided: int = 0
    members: list[MemberState] = []
    members_index: int = 0
    change_under_way: bool = False
    snapshots_not_taken: int = 0
    entries_from_future: int = 0
