"""The membership of a cluster. It changes by one node at a time, through the log (Ongaro's thesis, chapter 4).

Each change is a log entry of a separate type, with the whole list. It is in force from the moment it is appended, is
undone when the entry is cut, and is in every later snapshot. So a node's membership is that of the last such entry in
its log, or else that of its newest snapshot, or else that of its settings (a cluster that was never changed).
`docs/raft.md` has the argument why that is safe.

Roles: a voter counts for majorities. A learner gets the log, and the leader makes it a voter as soon as it is caught
up. A read-only member gets the log and never votes: it serves feeds, history and queries.

An id is used once. A removed node gets a `Removed` message whenever it connects. A new node needs a new id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum

import msgspec

from cluster.errors import ClusterError

ID_MAX = 200
"""Characters of a node's id."""
ADDRESS_MAX = 300
"""Characters of an address."""
MEMBERS_MAX = 32
"""Members of a cluster: every node keeps a connection to every other."""


class Role(Enum):
    """The roles of members; see the module's text."""

    VOTER = "voter"
    LEARNER = "learner"
    READ_ONLY = "read_only"


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One node. The addresses are "host:port"; here only the wire reads one of them, `raft`."""

    node_id: str
    role: Role
    raft: str = ""
    native: str = ""
    http: str = ""


class AddMember(msgspec.Struct, frozen=True):
    """Add a node, as a learner, which becomes a voter automatically, or read-only."""

    member: Member


class RemoveMember(msgspec.Struct, frozen=True):
    """Remove a node permanently."""

    node_id: str


class PromoteMember(msgspec.Struct, frozen=True):
    """Make a learner a voter. The leader decides this; it is not requested."""

    node_id: str


Change = AddMember | RemoveMember
"""The changes that can be requested of the leader."""


class ChangeError(Enum):
    """Why a change of the membership was not made, or may not have been."""

    NOT_LEADER = "not_leader"
    """Nothing was done: ask the leader."""
    OUTCOME_UNKNOWN = "outcome_unknown"
    """Leadership was lost during the change: read the membership of the next leader."""
    UNDER_WAY = "change_under_way"
    """Nothing was done: another change is not committed yet. Try again soon."""
    NOT_READY = "leader_not_ready"
    """Nothing was done: this leader has committed nothing in its term yet. Try again soon."""
    NO_MAJORITY = "no_majority"
    """Nothing was done: no majority of the voters after the change is connected and has answered this leader that it is
    not recovering, so it could not be committed.
    """
    INVALID = "invalid_member"
    """Nothing was done: an id, a role or an address is invalid; the text says which and what was expected."""
    ALREADY_MEMBER = "already_member"
    """Nothing was done: the node is a member already."""
    ID_USED = "id_used"
    """Nothing was done: a node with this id was removed, and an id is used once."""
    UNKNOWN_MEMBER = "unknown_member"
    """Nothing was done: the node is not a member."""
    OWN_REMOVAL = "own_removal"
    """Nothing was done: a leader does not remove itself. Transfer leadership first."""
    LAST_VOTER = "last_voter"
    """Nothing was done: the node is the only voter."""


class ChangeResult(msgspec.Struct, frozen=True):
    """The result of a change. Without an error it is committed at `index`; a learner is promoted later, automatically.
    `text` explains an error.
    """

    error: ChangeError | None = None
    text: str = ""
    index: int = 0


ChangeDone = Callable[[ChangeResult], None]


class ChangeRefusedError(ClusterError):
    """A change does not fit the membership. `error` is the reason, the text explains it."""

    def __init__(self, error: ChangeError, text: str) -> None:
        super().__init__(text)
        self.error = error


class Membership(msgspec.Struct, frozen=True, array_like=True):
    """All members, the ids of removed nodes, and the index of the log entry with this list (0 for the settings)."""

    members: tuple[Member, ...]
    removed: tuple[str, ...] = ()
    index: int = 0

    def get(self, node_id: str) -> Member | None:
        """Return the member with an id, or None."""
        return next((member for member in self.members if member.node_id == node_id), None)

    @property
    def voters(self) -> tuple[str, ...]:
        """Ids of the voters."""
        return tuple(member.node_id for member in self.members if member.role is Role.VOTER)

    @property
    def learners(self) -> tuple[str, ...]:
        """The ids of the members that become voters when they are caught up."""
        return tuple(member.node_id for member in self.members if member.role is Role.LEARNER)

    @property
    def majority(self) -> int:
        """The number of voters that make a majority."""
        return len(self.voters) // 2 + 1

    def is_voter(self, node_id: str) -> bool:
        """Return whether the node is a member with a vote."""
        return node_id in self.voters

    def others(self, node_id: str) -> tuple[Member, ...]:
        """Return all members but one."""
        return tuple(member for member in self.members if member.node_id != node_id)

    def have_majority(self, node_ids: Iterable[str]) -> bool:
        """Return whether these nodes are a majority of the voters."""
        return len(set(node_ids) & set(self.voters)) >= self.majority

    def changed(self, change: Change | PromoteMember) -> Membership:
        """Return the membership after `change`; its index is still unknown (0).

        Raises:
            ChangeRefusedError: the change does not fit the membership.
        """
        if isinstance(change, AddMember):
            return self._with(change.member)
        member = self.get(change.node_id)
        if member is None:
            raise ChangeRefusedError(ChangeError.UNKNOWN_MEMBER, f"{change.node_id!r} is no member of this cluster")
        if isinstance(change, PromoteMember):
            assert member.role is Role.LEARNER, f"{member.node_id} is a {member.role.value}: only learners are promoted"
            promoted = msgspec.structs.replace(member, role=Role.VOTER)
            return Membership(tuple(promoted if each is member else each for each in self.members), self.removed)
        if self.voters == (member.node_id,):
            raise ChangeRefusedError(ChangeError.LAST_VOTER, f"{member.node_id} is the only voter: add another one first")
        return Membership(self.others(member.node_id), (*self.removed, member.node_id))

    def _with(self, member: Member) -> Membership:
        """Return the membership with one more member. Raises ChangeRefusedError."""
        if self.get(member.node_id) is not None:
            raise ChangeRefusedError(ChangeError.ALREADY_MEMBER, f"{member.node_id} is a member already")
        if member.node_id in self.removed:
            raise ChangeRefusedError(
                ChangeError.ID_USED, f"{member.node_id} was removed from this cluster, and an id is used once: take another one"
            )
        if member.role is Role.VOTER:
            raise ChangeRefusedError(
                ChangeError.INVALID, f"role: {member.node_id} is added as learner, who becomes a voter by itself, or as read_only"
            )
        added = Membership((*self.members, member), self.removed)
        try:
            added.check()
        except ValueError as error:
            raise ChangeRefusedError(ChangeError.INVALID, str(error)) from None
        return added

    def check(self) -> None:
        """Check the invariants of a membership.

        Raises:
            ValueError: an invariant is broken; the text names the field.
        """
        ids = [member.node_id for member in self.members]
        if not self.voters:
            raise ValueError("members: there must be at least one voter")
        if len(ids) > MEMBERS_MAX:
            raise ValueError(f"members: {len(ids)}, {MEMBERS_MAX} at most")
        for name in (*ids, *self.removed):
            if not 0 < len(name) <= ID_MAX:
                raise ValueError(f"node_id: {name!r} must have 1 to {ID_MAX} characters")
        if len({*ids, *self.removed}) < len(ids) + len(self.removed):
            raise ValueError(f"node_id: one of {', '.join([*ids, *self.removed])} is there twice")
        for member in self.members:
            if max(map(len, (member.raft, member.native, member.http))) > ADDRESS_MAX:
                raise ValueError(f"address of {member.node_id}: more than {ADDRESS_MAX} characters")
        addresses = [member.raft for member in self.members if member.raft]
        if len(set(addresses)) < len(addresses):
            raise ValueError(f"raft: one of {', '.join(addresses)} is the address of two members")


class MembershipHistory:
    """The memberships in a node's snapshot and log, oldest first. The newest one is in force; the others are used when
    entries are cut.
    """

    def __init__(self, base: Membership | None) -> None:
        self._named = [base] if base is not None else []

    @property
    def newest(self) -> Membership | None:
        """The membership in force; None if there is none in the snapshot and the log."""
        return self._named[-1] if self._named else None

    def at(self, index: int) -> Membership | None:
        """Return the membership after the entry at `index`, which is not older than the log's beginning."""
        return next((one for one in reversed(self._named) if one.index <= index), None)

    def add(self, membership: Membership) -> None:
        """Add the membership of an appended entry. One that the snapshot has already is skipped."""
        if not self._named or membership.index > self._named[-1].index:
            self._named.append(membership)

    def cut_from(self, index: int) -> bool:
        """Drop the memberships of the entries from `index` on, which were removed. Returns whether there were any."""
        before = len(self._named)
        self._named = [one for one in self._named if one.index < index]
        return len(self._named) < before

    def forget_before(self, index: int) -> None:
        """Drop the memberships that are only needed before `index`."""
        held = self.at(index)
        self._named = [one for one in self._named if one is held or one.index > index]


class _Body(msgspec.Struct, frozen=True, array_like=True):
    """The body of a log entry with a membership."""

    members: tuple[Member, ...]
    removed: tuple[str, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Body)


def encode_members(membership: Membership) -> bytes:
    """Return the body of the log entry with which the membership becomes this one."""
    return _encoder.encode(_Body(membership.members, membership.removed))


def decode_members(body: bytes, index: int) -> Membership:
    """Return the membership of the entry at `index`.

    Raises:
        ValueError: the entry has no membership, or an invalid one.
    """
    read = _decoder.decode(body)
    membership = Membership(read.members, read.removed, index)
    membership.check()
    return membership
