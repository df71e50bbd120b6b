"""What a membership is, how a change alters it, and how a log and a snapshot record it."""

from __future__ import annotations

import pytest

from cluster.membership import (
    MEMBERS_MAX,
    AddMember,
    Change,
    ChangeError,
    ChangeRefusedError,
    Member,
    Membership,
    MembershipHistory,
    PromoteMember,
    RemoveMember,
    Role,
    decode_members,
    encode_members,
)
from cluster.settings import RaftSettings

VOTERS = Membership(tuple(Member(f"n{number}", Role.VOTER, f"h{number}:1") for number in (1, 2, 3)))


def test_an_added_learner_does_not_count_before_it_is_promoted() -> None:
    added = VOTERS.changed(AddMember(Member("n4", Role.LEARNER, "h4:1", "h4:2", "h4:3")))
    assert (added.voters, added.learners, added.majority) == (("n1", "n2", "n3"), ("n4",), 2)
    promoted = added.changed(PromoteMember("n4"))
    assert (promoted.voters, promoted.learners, promoted.majority) == (("n1", "n2", "n3", "n4"), (), 3)
    assert promoted.get("n4") == Member("n4", Role.VOTER, "h4:1", "h4:2", "h4:3")


def test_a_read_only_member_never_counts() -> None:
    added = VOTERS.changed(AddMember(Member("r1", Role.READ_ONLY)))
    assert added.voters == VOTERS.voters
    assert added.learners == ()
    assert not added.have_majority(["n1", "r1"])
    assert added.have_majority(["n1", "n3"])


def test_removed_nodes_are_kept() -> None:
    left = VOTERS.changed(RemoveMember("n2"))
    assert left.voters == ("n1", "n3")
    assert left.removed == ("n2",)


@pytest.mark.parametrize(
    ("membership", "change", "error", "text"),
    [
        (VOTERS, AddMember(Member("n2", Role.LEARNER)), ChangeError.ALREADY_MEMBER, "n2 is a member already"),
        (VOTERS, AddMember(Member("n4", Role.VOTER)), ChangeError.INVALID, "role: n4 is added as learner"),
        (VOTERS, AddMember(Member("", Role.LEARNER)), ChangeError.INVALID, "node_id: '' must have 1 to 200 characters"),
        (VOTERS, AddMember(Member("n4", Role.LEARNER, "h1:1")), ChangeError.INVALID, "raft: one of .* is the address of two"),
        (VOTERS, AddMember(Member("n4", Role.LEARNER, http="x" * 301)), ChangeError.INVALID, "address of n4: more than 300"),
        (VOTERS, RemoveMember("n9"), ChangeError.UNKNOWN_MEMBER, "'n9' is no member"),
        (VOTERS.changed(RemoveMember("n2")), AddMember(Member("n2", Role.LEARNER)), ChangeError.ID_USED, "an id is used once"),
        (Membership((Member("n1", Role.VOTER),)), RemoveMember("n1"), ChangeError.LAST_VOTER, "n1 is the only voter"),
        (
            Membership(tuple(Member(f"n{number}", Role.VOTER) for number in range(MEMBERS_MAX))),
            AddMember(Member("one more", Role.LEARNER)),
            ChangeError.INVALID,
            "members: 33, 32 at most",
        ),
    ],
)
def test_a_change_that_does_not_fit_is_refused(membership: Membership, change: Change, error: ChangeError, text: str) -> None:
    with pytest.raises(ChangeRefusedError, match=text) as refused:
        membership.changed(change)
    assert refused.value.error is error


def test_an_entry_reads_as_it_was_written() -> None:
    left = VOTERS.changed(RemoveMember("n2"))
    assert decode_members(encode_members(left), 7) == Membership(left.members, ("n2",), 7)


@pytest.mark.parametrize(
    "body", [b"", b"\x93", encode_members(Membership(())), encode_members(Membership(VOTERS.members, ("n1",)))]
)
def test_bytes_that_are_no_membership_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_members(body, 7)


def test_the_first_membership_is_that_of_the_settings() -> None:
    assert RaftSettings("n1", ("n2", "n3")).first_membership.voters == ("n1", "n2", "n3")
    joining = RaftSettings("n4", ("n1", "n2"), join=True).first_membership
    assert (joining.voters, joining.learners) == (("n1", "n2"), ("n4",))


def test_the_history_goes_back_when_entries_are_cut() -> None:
    at_5, at_9 = Membership(VOTERS.members, (), 5), Membership(VOTERS.members[:2], ("n3",), 9)
    history = MembershipHistory(None)
    history.add(at_5)
    history.add(at_9)
    assert [history.at(index) for index in (4, 5, 8, 9)] == [None, at_5, at_5, at_9]
    assert history.newest is at_9
    assert not history.cut_from(10)
    history.forget_before(7)
    assert history.at(7) == at_5
    assert history.cut_from(9)
    assert history.newest == at_5


def test_a_history_may_be_empty() -> None:
    assert MembershipHistory(None).newest is None


def test_the_membership_of_the_snapshot_is_not_recorded_twice() -> None:
    base = Membership(VOTERS.members, (), 5)
    history = MembershipHistory(base)
    history.add(Membership(VOTERS.members, (), 5))
    assert not history.cut_from(6)
    assert history.newest is base
