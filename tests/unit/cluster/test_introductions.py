"""What a node sends first on a connection, and how it gets the owner's verdict on the greetings of others."""

from __future__ import annotations

from cluster import messages as m
from cluster.introductions import Claim
from tests.unit.cluster.fakes import Node


class Owner:
    """Records claims and objections, and returns the answer that the test sets."""

    def __init__(self) -> None:
        self.claims: list[tuple[str, Claim]] = []
        self.objections: list[bytes] = []
        self.answer: bytes | None = None

    def own(self) -> bytes:
        return b"this is n1"

    def heard(self, peer: str, claim: Claim) -> bytes | None:
        self.claims.append((peer, claim))
        return self.answer

    def objected(self, _peer: str, body: bytes) -> None:
        self.objections.append(body)


def introduced() -> tuple[Node, Owner]:
    node, owner = Node(), Owner()
    node.raft.introduce(owner)
    return node, owner


def test_an_introduction_is_the_first_message_on_every_connection() -> None:
    node, _ = introduced()
    node.connect("n2")
    assert node.wire.sent[0] == ("n2", m.Introduction(0, 1, True, b"this is n1"))
    node.guard.on_disconnected("n2")
    node.forget_sent_messages()
    node.connect("n2")
    assert isinstance(node.wire.sent[0][1], m.Introduction)


def test_a_leader_reports_to_its_owner_what_the_peer_has_acknowledged() -> None:
    """It does not report it if the peer knows a later term, in which the end of its log may have been replaced, or if
    the peer has lost its disk.
    """
    node, owner = introduced()
    term = node.elect()
    node.acknowledge()
    reached = node.raft_log.last_index
    assert reached > 1
    for claimed, acknowledged in (
        (m.Introduction(term, 1, True, b"x"), reached),
        (m.Introduction(0, 1, True, b"x"), reached),
        (m.Introduction(term + 1, 1, True, b"x"), 0),
        (m.Introduction(term, 1, False, b"x"), 0),
    ):
        assert node.hear("n2", claimed) == []
        assert owner.claims[-1] == ("n2", Claim(b"x", 1, acknowledged))


def test_a_follower_knows_of_no_acknowledgements() -> None:
    node, owner = introduced()
    node.connect()
    node.hear("n2", m.Introduction(5, 7, True, b"x"))
    assert owner.claims == [("n2", Claim(b"x", 7, 0))]


def test_objections_are_sent_and_received() -> None:
    node, owner = introduced()
    node.connect()
    owner.answer = b"you are a copy"
    assert node.hear("n2", m.Introduction(0, 1, True, b"x")) == [m.Objection(0, b"you are a copy")]
    node.hear("n3", m.Objection(0, b"so are you"))
    assert owner.objections == [b"so are you"]


def test_a_node_without_an_owner_sends_no_introduction() -> None:
    node = Node()
    node.connect()
    assert node.hear("n2", m.Introduction(0, 1, True, b"x")) == []
    assert node.hear("n2", m.Objection(0, b"x")) == []
    assert node.sent_messages(m.Introduction) == []
