"""The verdict fails for each thing that can be wrong."""

from __future__ import annotations

import io
import ssl

import msgspec
import pytest
from rich.console import Console

from loadtest.reader import FeedChecker, FeedTally
from loadtest.verdict import Verdict, caught_up, feed_whole, hashes_equal
from node.keys.credentials import Credentials
from node.native.protocol import NodeStatus
from node.records.audit import AuditCheck
from statemachine.events import OrderOpened
from statemachine.types import Side

NAMES = ("n1", "n2", "n3")


def status(node_id: str, sequence: int = 100, state_hash: str = "aa", **changes: object) -> NodeStatus:
    base = NodeStatus(
        node_id, "c", "follower", "n1", 3, 50, 50, 50, 1, 0, sequence, state_hash, True, True, True, 5.0, "0", "abi", []
    )
    return msgspec.structs.replace(base, **changes)


def opened(sequence: int, order_id: int = 1) -> OrderOpened:
    return OrderOpened("BTC-USD", sequence, 0, order_id, "alice", Side.BUY, 1, 1)


def reader(*sequences: int, visited: int = 3) -> FeedChecker:
    made = FeedChecker("BTC-USD", {}, "n1", tls=ssl.create_default_context(), credentials=Credentials("k", "", ""))
    for sequence in sequences:
        made.tally.add(opened(sequence))
    made.visited = list(NAMES[:visited])
    return made


def test_an_empty_verdict_does_not_hold() -> None:
    assert not Verdict().holds


def test_one_wrong_line_is_enough() -> None:
    right = AuditCheck("a", True, "")
    verdict = Verdict([right, AuditCheck("b", False, "because")])
    assert Verdict([right]).holds
    assert not verdict.holds
    text = io.StringIO()
    verdict.print(Console(file=text, width=120))
    assert "FAILS" in text.getvalue()
    assert "because" in text.getvalue()
    assert "\x1b" not in text.getvalue()


def test_the_verdict_compares_hashes() -> None:
    assert hashes_equal({name: status(name) for name in NAMES}).holds
    assert not hashes_equal({"n1": status("n1"), "n2": status("n2", state_hash="bb")}).holds
    assert not hashes_equal({"n1": status("n1"), "n2": status("n2", sequence=99)}).holds
    assert not hashes_equal({"n1": status("n1"), "n2": None}).holds
    assert not hashes_equal({"n1": status("n1", sequence=0)}).holds


@pytest.mark.parametrize(
    ("seen", "holds"),
    [
        (status("n2"), True),
        (None, False),
        (status("n2", sequence=99), False),
        (status("n2", ready=False), False),
        (status("n2", voter=False), False),
    ],
)
def test_the_verdict_says_whether_a_node_has_caught_up(seen: NodeStatus | None, holds: bool) -> None:
    assert caught_up({"n1": status("n1"), "n2": seen}, "n2", 60).holds is holds


def test_a_kill_without_commands_after_it_fails_the_verdict() -> None:
    assert not caught_up({"n1": status("n1"), "n2": status("n2")}, "n2", 100).holds


@pytest.mark.parametrize(
    ("sequences", "visited", "holds"),
    [
        ((1, 2, 3), 3, True),
        ((1, 3), 3, False),
        ((1, 2, 2, 3), 3, False),
        ((1, 2), 3, False),
        ((1, 2, 3), 2, False),
        ((2, 3), 3, False),
    ],
)
def test_the_verdict_says_whether_a_feed_is_whole(sequences: tuple[int, ...], visited: int, holds: bool) -> None:
    assert feed_whole([reader(*sequences, visited=visited)], {"BTC-USD": 3}, 3).holds is holds


def test_readers_that_saw_different_events_fail_the_verdict() -> None:
    one, other = reader(1, 2), reader(1)
    other.tally.add(opened(2, order_id=9))
    assert not feed_whole([one, other], {"BTC-USD": 2}, 1).holds


def test_a_feed_without_events_proves_nothing() -> None:
    assert not feed_whole([reader()], {"BTC-USD": 0}, 1).holds


def test_a_tally_counts_events() -> None:
    tally = FeedTally()
    for sequence in (1, 2, 2, 5, 4):
        tally.add(opened(sequence))
    assert (tally.events, tally.missing, tally.repeated, tally.last_sequence) == (3, 2, 2, 5)
