"""The divergence alarm gets digests made by hand. There is one watch, and the test plays its peers."""

from __future__ import annotations

import logging

import pytest

from cluster.divergence import KEPT, RESENT, DivergenceWatch
from cluster.errors import DivergedError, RaftFatalError
from cluster.messages import StateDigest
from cluster.settings import RaftSettings
from tests.unit.cluster.fakes import Node, chunk_of, command, stored

GOOD, BAD, WORSE = b"good", b"bad!", b"worse"
TERM = 7


def watch_of(nodes: int = 3, interval: int = 64) -> DivergenceWatch:
    """Return the watch of n1, with all peers connected."""
    peers = tuple(f"n{number}" for number in range(2, nodes + 1))
    return DivergenceWatch(RaftSettings("n1", peers, digest_interval=interval), lambda: TERM)


def own(watch: DivergenceWatch, index: int, digest: bytes) -> list[tuple[str, StateDigest]]:
    """Have this node apply a command that begins a block. Returns what the watch reports."""
    watch.applied(index, lambda: digest)
    return watch.tick()


def says(watch: DivergenceWatch, node: str, index: int, digest: bytes, *, sender: str = "") -> list[tuple[str, StateDigest]]:
    """Receive a digest of `node` from `sender`, by default from the node itself. Returns what the watch reports."""
    watch.heard(sender or node, StateDigest(TERM, index, node, digest))
    return watch.tick()


def counts(watch: DivergenceWatch) -> tuple[int, int, int]:
    return watch.compared, watch.differing, watch.undecided


class TestWhatIsSaid:
    def test_the_digest_of_each_blocks_first_command_is_sent_to_everybody(self) -> None:
        watch = watch_of()
        reports: list[tuple[str, int]] = []
        for index in [2, 3, 60, 63, 66, 67, 127, 300, 319, 320]:
            reports += [(peer, message.index) for peer, message in own(watch, index, GOOD)]
        assert reports == [(peer, index) for index in (2, 66, 300, 320) for peer in ("n2", "n3")]

    def test_a_digest_names_its_term_and_node(self) -> None:
        assert own(watch_of(), 2, GOOD)[0] == ("n2", StateDigest(TERM, 2, "n1", GOOD))

    def test_a_digest_is_made_only_when_it_is_needed(self) -> None:
        watch = watch_of()
        own(watch, 2, GOOD)

        def never() -> bytes:
            raise AssertionError

        watch.applied(3, never)

    def test_after_a_snapshot_the_next_block_is_the_first(self) -> None:
        watch = watch_of()
        own(watch, 2, GOOD)
        watch.restored(640)
        assert own(watch, 641, GOOD) == []
        assert own(watch, 703, GOOD) == []
        assert [message.index for _, message in own(watch, 705, GOOD)] == [705, 705]

    def test_a_new_connection_gets_the_newest_digest(self) -> None:
        watch = watch_of()
        for block in range(10):
            own(watch, block * 64 + 2, b"%d" % block)
        watch.connected("n3")
        reports = watch.tick()
        assert [(peer, message.index) for peer, message in reports] == [
            ("n3", block * 64 + 2) for block in range(10 - RESENT, 10)
        ]

    def test_a_lost_connection_gets_nothing(self) -> None:
        watch = watch_of()
        own(watch, 2, GOOD)
        watch.connected("n3")
        watch.disconnected("n3")
        assert watch.tick() == []

    def test_the_digests_of_a_long_log_applied_at_once_are_bounded(self) -> None:
        watch = watch_of()
        for block in range(KEPT + 50):
            watch.applied(block * 64 + 2, lambda: GOOD)
        assert len(watch.tick()) == 2 * KEPT


class TestThreeNodes:
    def test_nodes_with_equal_digests_continue(self) -> None:
        watch = watch_of()
        own(watch, 640, GOOD)
        assert says(watch, "n2", 640, GOOD) == says(watch, "n3", 640, GOOD) == []
        assert counts(watch) == (2, 0, 0)

    def test_a_node_that_differs_from_both_others_leaves_service(self) -> None:
        watch = watch_of()
        own(watch, 640, BAD)
        says(watch, "n2", 640, GOOD)
        with pytest.raises(DivergedError) as caught:
            says(watch, "n3", 640, GOOD)
        error = caught.value
        assert isinstance(error, RaftFatalError)
        assert (error.node_id, error.index, error.term) == ("n1", 640, TERM)
        assert (error.own, error.majority, error.agreeing) == (BAD, GOOD, ("n2", "n3"))
        for part in ("index 640", BAD.hex(), GOOD.hex(), "n2, n3", "evidence", "quorumbook audit", "--rejoin"):
            assert part in str(error)

    def test_a_diverged_node_leaves_also_if_the_others_sent_first(self) -> None:
        watch = watch_of()
        says(watch, "n2", 640, GOOD)
        says(watch, "n3", 640, GOOD)
        with pytest.raises(DivergedError):
            own(watch, 640, BAD)
        assert watch.differing == 2

    def test_a_node_that_differs_from_one_waits_for_the_third(self) -> None:
        watch = watch_of()
        own(watch, 640, BAD)
        says(watch, "n2", 640, GOOD)
        assert counts(watch) == (1, 1, 1)
        with pytest.raises(DivergedError):
            says(watch, "n3", 640, GOOD)

    def test_a_node_that_agrees_with_the_third_stays(self) -> None:
        watch = watch_of()
        own(watch, 640, GOOD)
        says(watch, "n2", 640, BAD)
        says(watch, "n3", 640, GOOD)
        assert counts(watch) == (2, 1, 1)

    def test_the_node_that_differs_learns_the_digests_of_the_others(self) -> None:
        watch = watch_of()
        own(watch, 640, GOOD)
        says(watch, "n3", 640, GOOD)
        assert says(watch, "n2", 640, BAD) == [("n2", StateDigest(TERM, 640, node, GOOD)) for node in ("n1", "n3")]

    def test_a_node_cut_off_from_the_third_leaves_by_a_forwarded_digest(self) -> None:
        watch = watch_of()
        watch.disconnected("n3")
        own(watch, 640, BAD)
        says(watch, "n2", 640, GOOD)
        with pytest.raises(DivergedError):
            says(watch, "n3", 640, GOOD, sender="n2")

    def test_a_forwarded_digest_is_not_forwarded_again(self) -> None:
        watch = watch_of()
        own(watch, 640, GOOD)
        says(watch, "n3", 640, GOOD)
        assert says(watch, "n2", 640, BAD, sender="n3") == []

    def test_a_nodes_own_digest_counts_more_than_a_forwarded_one(self) -> None:
        watch = watch_of()
        own(watch, 640, BAD)
        says(watch, "n3", 640, BAD)
        says(watch, "n2", 640, GOOD)
        says(watch, "n3", 640, GOOD, sender="n2")
        assert watch.undecided == 0

    @pytest.mark.parametrize("node", ["n1", "n9"])
    def test_digests_that_others_report_of_this_or_an_unknown_node_do_not_count(self, node: str) -> None:
        watch = watch_of()
        own(watch, 640, GOOD)
        says(watch, "n2", 640, BAD)
        says(watch, node, 640, BAD, sender="n2")
        assert counts(watch) == (1, 1, 1)

    def test_other_indexes_are_not_compared(self) -> None:
        watch = watch_of()
        own(watch, 640, BAD)
        says(watch, "n2", 641, GOOD)
        says(watch, "n3", 641, GOOD)
        assert counts(watch) == (0, 0, 0)

    def test_digests_of_a_peer_count_no_longer_than_its_connection(self) -> None:
        watch = watch_of()
        own(watch, 640, BAD)
        says(watch, "n2", 640, GOOD)
        watch.disconnected("n2")
        says(watch, "n3", 640, GOOD)
        assert watch.undecided == 2

    def test_a_restored_node_is_not_judged_by_the_state_it_had(self) -> None:
        watch = watch_of()
        own(watch, 640, BAD)
        watch.restored(700)
        says(watch, "n2", 640, GOOD)
        says(watch, "n3", 640, GOOD)
        assert counts(watch) == (0, 0, 0)

    def test_a_restored_node_that_goes_wrong_leaves(self) -> None:
        watch = watch_of()
        watch.restored(700)
        says(watch, "n2", 710, GOOD)
        says(watch, "n3", 710, GOOD)
        with pytest.raises(DivergedError):
            own(watch, 710, BAD)

    def test_the_number_of_kept_digests_is_bounded(self) -> None:
        watch = watch_of()
        for index in range(0, 64 * KEPT + 64, 64):
            own(watch, index, GOOD)
            says(watch, "n2", index, GOOD)
        before = watch.compared
        says(watch, "n3", 0, BAD)
        says(watch, "n3", 64, GOOD)
        assert watch.compared == before + 1


class TestFiveNodes:
    def test_two_nodes_that_differ_from_three_leave(self) -> None:
        watch = watch_of(5)
        own(watch, 640, GOOD)
        for node, digest in (("n2", BAD), ("n3", BAD), ("n4", GOOD)):
            assert says(watch, node, 640, digest) == []
        announced = says(watch, "n5", 640, GOOD)
        assert announced == [(to, StateDigest(TERM, 640, node, GOOD)) for to in ("n2", "n3") for node in ("n1", "n4", "n5")]

    def test_one_of_two_against_three_leaves(self) -> None:
        watch = watch_of(5)
        own(watch, 640, BAD)
        for node, digest in (("n2", BAD), ("n3", GOOD), ("n4", GOOD)):
            says(watch, node, 640, digest)
        with pytest.raises(DivergedError) as caught:
            says(watch, "n5", 640, GOOD)
        assert caught.value.agreeing == ("n3", "n4", "n5")

    def test_two_nodes_that_differ_from_two_wait(self) -> None:
        watch = watch_of(5)
        own(watch, 640, BAD)
        for node, digest in (("n2", BAD), ("n3", GOOD), ("n4", GOOD)):
            says(watch, node, 640, digest)
        assert watch.undecided == 2

    def test_three_nodes_that_differ_among_themselves_are_no_majority(self) -> None:
        watch = watch_of(5)
        own(watch, 640, GOOD)
        for node, digest in (("n2", GOOD), ("n3", BAD), ("n4", BAD), ("n5", WORSE)):
            says(watch, node, 640, digest)
        assert watch.undecided == 3


def test_a_single_node_compares_no_digests() -> None:
    watch = watch_of(1)
    assert own(watch, 2, GOOD) == []
    assert counts(watch) == (0, 0, 0)


class TestTheLog:
    def criticals(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]

    def test_a_difference_is_logged_once_with_index_and_hashes(self, caplog: pytest.LogCaptureFixture) -> None:
        watch = watch_of()
        for index in (640, 704, 768):
            own(watch, index, GOOD)
            says(watch, "n2", index, BAD)
        (text,) = self.criticals(caplog)
        for part in ("index 640", f"n1: {GOOD.hex()}", f"n2: {BAD.hex()}", "to be decided when the other nodes report"):
            assert part in text
        assert watch.undecided == 3

    def test_a_divergence_is_logged_again_after_all_nodes_agreed(self, caplog: pytest.LogCaptureFixture) -> None:
        watch = watch_of()
        for index, digest in ((640, BAD), (704, GOOD), (768, BAD)):
            own(watch, index, GOOD)
            says(watch, "n3", index, GOOD)
            says(watch, "n2", index, digest)
        assert [text[:42] for text in self.criticals(caplog)] == ["n2 has diverged and must leave service: at"] * 2

    def test_a_node_does_not_wait_if_all_nodes_differ(self, caplog: pytest.LogCaptureFixture) -> None:
        watch = watch_of()
        own(watch, 640, GOOD)
        says(watch, "n2", 640, BAD)
        says(watch, "n3", 640, WORSE)
        assert "no majority can come of it: stop the cluster" in self.criticals(caplog)[-1]


class TestInTheNode:
    """The alarm in Raft: what is applied is announced, and what is received can stop the node."""

    ENTRIES = tuple(command(index, 1) for index in range(2, 6))

    def follower(self) -> Node:
        node = Node()
        node.connect()
        node.append("n2", 1, *self.ENTRIES, commit=5)
        node.pass_time(0.02)
        return node

    def test_both_peers_get_the_digest_of_an_applied_command(self) -> None:
        node = self.follower()
        assert [(to, reports.index) for to, reports in node.wire.sent if isinstance(reports, StateDigest)] == [
            ("n2", 2),
            ("n3", 2),
        ]

    def test_a_peer_that_is_not_connected_gets_nothing(self) -> None:
        node = Node()
        node.connect("n2")
        node.append("n2", 1, *self.ENTRIES, commit=5)
        node.pass_time(0.02)
        assert {to for to, reports in node.wire.sent if isinstance(reports, StateDigest)} == {"n2"}

    def test_two_others_stop_it_for_good(self) -> None:
        node = self.follower()
        node.hear("n2", StateDigest(1, 2, "n2", GOOD))
        assert node.raft.status().digests_undecided == 1
        with pytest.raises(DivergedError):
            node.hear("n3", StateDigest(1, 2, "n3", GOOD))
        with pytest.raises(RaftFatalError, match=r"has failed and must stop.*diverged"):
            node.raft.tick()
        status = node.raft.status()
        assert (status.digests_compared, status.digests_differing) == (2, 2)

    def test_a_leader_answers_nothing_more(self) -> None:
        node = Node()
        node.elect()
        node.acknowledge()
        node.propose(b"first")
        node.acknowledge()
        (index, _) = node.machine.commands[-1]
        node.propose(b"second")
        node.hear("n2", StateDigest(1, index, "n2", GOOD))
        with pytest.raises(DivergedError):
            node.hear("n3", StateDigest(1, index, "n3", GOOD))
        node.raft.stop()
        assert [result.error is None for result in node.results] == [True, False]

    def test_an_installed_snapshot_begins_again(self) -> None:
        node = self.follower()
        node.hear("n2", chunk_of(stored(100, 1, commands=50), 1))
        node.raft.tick()
        node.hear("n2", StateDigest(1, 2, "n2", GOOD))
        node.hear("n3", StateDigest(1, 2, "n3", GOOD))
        assert node.raft.status().digests_compared == 0
