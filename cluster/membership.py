"""Who belongs to a cluster, and how that changes: one node at a time, through the log (Ongaro's thesis, chapter 4).

Each change is a log entry with the whole list, of a type of its own. It counts from the moment it is appended, is
undone when the entry is cut, and is in every snapshot behind it. So a node's membership is that of the last such entry
in its log, else that of its newest snapshot, else that of its settings (a cluster that was never changed).
`docs/raft.md` has the argument why that is safe.

Roles: a voter counts for majorities. A learner gets the log, and the leader makes it a voter by itself as soon as it is
level. A read-only member gets the log for good and never votes: it is there for feeds, history and queries.

An id is used once. A node that was removed is told so whenever it calls, for ever, and a new node needs a new id.
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
    """What a member does; see the module's text."""

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
    """Add a node, as a learner (who becomes a voter by itself) or read-only."""

    member: Member


class RemoveMember(msgspec.Struct, frozen=True):
    """Remove a node for good."""

    node_id: str


class PromoteMember(msgspec.Struct, frozen=True):
    """Make a learner a voter. The leader's own decision: nobody asks for it."""

    node_id: str


Change = AddMember | RemoveMember
"""What can be asked of the leader."""


class ChangeError(Enum):
    """Why a change of the membership was not made, or may not have been."""

    NOT_LEADER = "not_leader"
    """Nothing was done: ask the leader."""
    OUTCOME_UNKNOWN = "outcome_unknown"
    """Leadership was lost under way: look at the membership of the next leader."""
    UNDER_WAY = "change_under_way"
    """Nothing was done: another change is not committed yet. Try again soon."""
    NOT_READY = "leader_not_ready"
    """Nothing was done: this leader has committed nothing in its term yet. Try again soon."""
    NO_MAJORITY = "no_majority"
    """Nothing was done: of the voters after the change no majority is connected and has its disk, so it could not be
    committed.
    """
    INVALID = "invalid_member"
    """Nothing was done: an id, a role or an address is not possible; the text says which and what was expected."""
    ALREADY_MEMBER = "already_member"
    """Nothing was done: it is a member."""
    ID_USED = "id_used"
    """Nothing was done: a node with this id was removed, and an id is used once."""
    UNKNOWN_MEMBER = "unknown_member"
    """Nothing was done: it is no member."""
    OWN_REMOVAL = "own_removal"
    """Nothing was done: a leader does not remove itself. Hand leadership over first."""
    LAST_VOTER = "last_voter"
    """Nothing was done: it is the only voter."""


class ChangeResult(msgspec.Struct, frozen=True):
    """What became of a change. Without error it is committed at `index`; a learner is promoted later, by itself. `text`
    explains an error.
    """

    error: ChangeError | None = None
    text: str = ""
    index: int = 0


ChangeDone = Callable[[ChangeResult], None]


class ChangeRefusedError(ClusterError):
    """A change that does not fit the membership. `error` says why in one word, the text in a sentence."""

    def __init__(self, error: ChangeError, text: str) -> None:
        super().__init__(text)
        self.error = error


class Membership(msgspec.Struct, frozen=True, array_like=True):
    """All members, the ids of those that were removed, and the index of the log entry that says so (0: the settings)."""

    members: tuple[Member, ...]
    removed: tuple[str, ...] = ()
    index: int = 0

    def get(self, node_id: str) -> Member | None:
        """The member of that id, None when it is none."""
        return next((member for member in self.members if member.node_id == node_id), None)

    @property
    def voters(self) -> tuple[str, ...]:
        """Ids of the voters."""
        return tuple(member.node_id for member in self.members if member.role is Role.VOTER)

    @property
    def learners(self) -> tuple[str, ...]:
        """Ids of those that become voters when they are level."""
        return tuple(member.node_id for member in self.members if member.role is Role.LEARNER)

    @property
    def majority(self) -> int:
        """How many voters decide."""
        return len(self.voters) // 2 + 1

    def is_voter(self, node_id: str) -> bool:
        """Whether the node is a member with a vote."""
        return node_id in self.voters

    def others(self, node_id: str) -> tuple[Member, ...]:
        """All members but one."""
        return tuple(member for member in self.members if member.node_id != node_id)

    def have_majority(self, node_ids: Iterable[str]) -> bool:
        """Whether these nodes are a majority of the voters."""
        return len(set(node_ids) & set(self.voters)) >= self.majority

    def changed(self, change: Change | PromoteMember) -> Membership:
        """The membership after `change`; its index is still unknown (0).

        Raises:
            ChangeRefusedError: the change does not fit.
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
        """State what holds for every membership.

        Raises:
            ValueError: it does not; the text names the field.
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
    """The memberships that a node's snapshot and log name, oldest first: the newest one counts, the others are there to
    go back to.
    """

    def __init__(self, base: Membership | None) -> None:
        self._named = [base] if base is not None else []

    @property
    def newest(self) -> Membership | None:
        """The one that counts; None when none is named."""
        return self._named[-1] if self._named else None

    def at(self, index: int) -> Membership | None:
        """The one after the entry at `index`, which is not older than the log's beginning."""
        return next((one for one in reversed(self._named) if one.index <= index), None)

    def add(self, membership: Membership) -> None:
        """An entry that names one was appended. What the snapshot names already is passed over."""
        if not self._named or membership.index > self._named[-1].index:
            self._named.append(membership)

    def cut_from(self, index: int) -> bool:
        """The entries from `index` on were removed. Whether any of them named one."""
        before = len(self._named)
        self._named = [one for one in self._named if one.index < index]
        return len(self._named) < before

    def forget_before(self, index: int) -> None:
        """Nobody will ask for a point before `index`."""
        held = self.at(index)
        self._named = [one for one in self._named if one is held or one.index > index]


class _Body(msgspec.Struct, frozen=True, array_like=True):
    """What a log entry says."""

    members: tuple[Member, ...]
    removed: tuple[str, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Body)


def encode_members(membership: Membership) -> bytes:
    """The body of the log entry with which the membership becomes this one."""
    return _encoder.encode(_Body(membership.members, membership.removed))


def decode_members(body: bytes, index: int) -> Membership:
    """The membership of the entry at `index`.

    Raises:
        ValueError: it is none, or not a possible one.
    """
    read = _decoder.decode(body)
    membership = Membership(read.members, read.removed, index)
    membership.check()
    return membership
