"""Snapshots pass between Raft, the engine and the store."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from cluster.ports import (
    CaptureState,
    LogEntry,
    SnapshotMark,
    SnapshotRefusedError,
    SnapshotSink,
    SnapshotUnreadableError,
)
from node.engine.feed import Audience, Feed
from node.engine.queries import Views
from node.engine.replicated_engine import ReplicatedEngine
from node.engine.snapshot_port import IncomingSnapshot, SnapshotPort
from node.native.protocol import MarketQuery, MarketView
from snapshots.manifest import Manifest
from snapshots.seal import read_seal, seal_directory
from snapshots.store import SnapshotStore
from statemachine.commands import AnyCommand, Batch, encode_batch
from statemachine.engine import Engine
from tests.unit.node.engine.test_feed import Reader
from tests.unit.node.fakes import WORLD, buy, sell

MARK = SnapshotMark(LogEntry(b"\x00last", 12, 3), LogEntry(b"\x00before", 11, 3))


class Node:
    """An engine with a snapshot port in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.feed = Feed(100)
        self.machine = ReplicatedEngine(self.feed)
        self.port = SnapshotPort(SnapshotStore(directory), self.machine, software="test", now_ns=lambda: 7)

    def apply(self, *commands: AnyCommand) -> None:
        self.machine.apply(1, encode_batch(Batch(1, list(commands))))

    def capture(self, mark: SnapshotMark = MARK) -> CaptureState:
        self.port.capture(mark)
        return wait(self.port.poll)


def wait(poll: Callable[[], CaptureState]) -> CaptureState:
    deadline = time.monotonic() + 30
    while (state := poll()) is CaptureState.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return state


def finished(sink: SnapshotSink) -> SnapshotMark:
    sink.finish()
    deadline = time.monotonic() + 30
    while (found := sink.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def sent(node: Node, other: Node) -> SnapshotSink:
    """Write a node's newest snapshot to another node's sink."""
    source, sink = node.port.open_source(), other.port.open_sink()
    sink.write(source.read(0, source.size))
    source.close()
    return sink


def install(node: Node, other: Node) -> None:
    """Put a node's newest snapshot in the place of another node's state."""
    other.port.restore(finished(sent(node, other)))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path / "a")
    node.apply(*WORLD, buy(1), buy(2), sell(3))
    return node


def test_a_node_without_a_snapshot_has_no_newest_one(node: Node) -> None:
    assert node.port.newest() is None
    assert node.port.poll() is CaptureState.IDLE


def test_captured_state_is_that_of_the_capture_and_comes_back(node: Node, tmp_path: Path) -> None:
    expected, sequence = node.machine.engine.full_hash(), node.machine.engine.sequence
    node.port.capture(MARK)
    node.apply(buy(4))
    assert wait(node.port.poll) is CaptureState.DONE
    assert node.port.poll() is CaptureState.IDLE, "reported once"
    assert node.port.counters()["snapshots_taken"] == 1
    again = Node(tmp_path / "a")
    assert again.port.newest() == MARK
    again.port.restore(MARK)
    assert again.machine.engine.full_hash() == expected
    assert again.machine.engine.sequence == sequence
    assert again.feed.next_sequence("BTC-USD") == again.machine.engine.product_sequence("BTC-USD") + 1


def test_a_snapshot_travels_to_another_node(node: Node, tmp_path: Path) -> None:
    assert node.capture() is CaptureState.DONE
    source = node.port.open_source()
    assert source.mark == MARK
    other = Node(tmp_path / "b")
    sink = other.port.open_sink()
    for offset in range(0, source.size, 1_000):
        sink.write(source.read(offset, 1_000))
    source.close()
    assert finished(sink) == MARK
    other.port.restore(MARK)
    assert other.machine.engine.full_hash() == node.machine.engine.full_hash()


def test_a_damaged_one_is_refused_in_the_clusters_words(node: Node, tmp_path: Path) -> None:
    assert node.capture() is CaptureState.DONE
    source = node.port.open_source()
    data = bytearray(source.read(0, source.size))
    source.close()
    data[-1] ^= 1
    other = Node(tmp_path / "b")
    sink = other.port.open_sink()
    with pytest.raises(SnapshotRefusedError):
        _take(sink, bytes(data))
    assert other.port.newest() is None


def _take(sink: SnapshotSink, data: bytes) -> None:
    sink.write(data)
    finished(sink)


def test_rows_that_make_no_state_are_refused_before_the_snapshot_has_its_name(node: Node, tmp_path: Path) -> None:
    node.machine.engine._state.last_order_id = 0
    assert node.capture() is CaptureState.DONE
    other = Node(tmp_path / "b")
    sink = sent(node, other)
    with pytest.raises(SnapshotRefusedError, match="its rows make no state: "):
        finished(sink)
    assert Node(tmp_path / "b").port.newest() is None


def test_the_thread_has_made_the_state_before_it_is_restored(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.capture() is CaptureState.DONE
    other = Node(tmp_path / "b")
    sink = sent(node, other)
    assert finished(sink) == MARK
    monkeypatch.setattr(SnapshotStore, "load", lambda *_: pytest.fail("read again"))
    other.port.restore(MARK)
    assert other.machine.engine.full_hash() == node.machine.engine.full_hash()


def test_a_check_that_is_given_up_leaves_nothing(node: Node, tmp_path: Path) -> None:
    assert node.capture() is CaptureState.DONE
    source = node.port.open_source()
    data = source.read(0, source.size)
    source.close()
    other = Node(tmp_path / "b")
    sink = other.port.open_sink()
    sink.write(data)
    sink.finish()
    sink.abort()
    again = other.port.open_sink()
    again.write(data)
    assert finished(again) == MARK, "the next one waits for the first"
    assert [path.name for path in (tmp_path / "b").iterdir() if path.is_dir()] == [f"{12:020d}"]


def test_a_cancelled_capture_leaves_nothing_half_done(node: Node, tmp_path: Path) -> None:
    node.port.capture(MARK)
    node.port.cancel()
    assert node.port.poll() is CaptureState.IDLE
    assert Node(tmp_path / "a").port.newest() in (None, MARK)


def mark(index: int) -> SnapshotMark:
    return SnapshotMark(LogEntry(b"\x00last", index, 3), LogEntry(b"\x00before", index - 1, 3))


def restored_hash(directory: Path, at: SnapshotMark) -> bytes:
    """Return the hash of a node that starts on the directory."""
    again = Node(directory)
    assert again.port.newest() == at
    again.port.restore(at)
    return again.machine.engine.full_hash()


def tables_of(directory: Path, index: int) -> set[tuple[str, int]]:
    """Return the files with the rows of a snapshot. A shared file has the same name and inode; the inode alone may be
    that of a deleted file.
    """
    return {(path.name, path.stat().st_ino) for path in (directory / f"{index:020d}").glob("*.sst")}


def test_each_snapshot_is_made_of_what_changed_since_the_one_before(node: Node, tmp_path: Path) -> None:
    assert node.capture(mark(12)) is CaptureState.DONE
    before = tables_of(tmp_path / "a", 12)
    for index in range(13, 16):
        node.apply(buy(index), sell(100 + index))
        assert node.capture(mark(index)) is CaptureState.DONE
        assert restored_hash(tmp_path / "a", mark(index)) == node.machine.engine.full_hash()
    kept = before & tables_of(tmp_path / "a", 15)
    assert len(kept) == len(before) - 1, "unchanged rows stay in the files of the snapshot before, all but the manifest"


def test_a_restarted_node_continues_with_the_chain(node: Node, tmp_path: Path) -> None:
    assert node.capture(mark(12)) is CaptureState.DONE
    again = Node(tmp_path / "a")
    again.port.restore(mark(12))
    for each in (node, again):
        each.apply(buy(4), sell(5))
    assert again.capture(mark(13)) is CaptureState.DONE
    assert (tmp_path / "a" / f"{13:020d}" / "SEAL").exists()
    assert restored_hash(tmp_path / "a", mark(13)) == node.machine.engine.full_hash()


def test_after_one_that_failed_the_next_is_whole(node: Node, tmp_path: Path) -> None:
    assert node.capture(mark(12)) is CaptureState.DONE
    node.apply(buy(4))
    node.port.capture(mark(13))
    node.port.cancel()
    node.apply(sell(5))
    assert node.capture(mark(14)) is CaptureState.DONE
    assert not tables_of(tmp_path / "a", 12) & tables_of(tmp_path / "a", 14)
    assert restored_hash(tmp_path / "a", mark(14)) == node.machine.engine.full_hash()


def flip(directory: Path, index: int) -> None:
    """Flip a bit in a snapshot's largest file."""
    table = max((directory / f"{index:020d}").glob("*.sst"), key=lambda path: path.stat().st_size)
    data = bytearray(table.read_bytes())
    data[len(data) // 3] ^= 1
    table.write_bytes(data)


def test_a_base_that_was_damaged_fails_the_snapshot_and_is_not_passed_on(node: Node, tmp_path: Path) -> None:
    assert node.capture(mark(12)) is CaptureState.DONE
    flip(tmp_path / "a", 12)
    node.apply(buy(4))
    assert node.capture(mark(13)) is CaptureState.FAILED
    assert node.capture(mark(14)) is CaptureState.DONE
    assert restored_hash(tmp_path / "a", mark(14)) == node.machine.engine.full_hash()


def looked_at(node: Node) -> bool:
    """Return whether an examination of the newest snapshot finds it damaged."""
    node.port.examine()
    look = node.port._look
    assert look is not None
    look.result(30)
    return node.port.damaged


def test_a_damaged_snapshot_is_found_and_the_next_shares_nothing_with_it(node: Node, tmp_path: Path) -> None:
    assert node.capture() is CaptureState.DONE
    assert not looked_at(node)
    flip(tmp_path / "a", 12)
    assert not node.port.damaged, "nobody has looked"
    assert looked_at(node)
    node.apply(buy(4))
    assert node.capture(mark(13)) is CaptureState.DONE
    assert not node.port.damaged
    assert not looked_at(node)
    assert restored_hash(tmp_path / "a", mark(13)) == node.machine.engine.full_hash()


def test_a_snapshot_that_is_pruned_during_its_check_is_not_reported_as_damaged(
    node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert node.capture(mark(12)) is CaptureState.DONE
    go_on = threading.Event()
    waiting = node.port._executor.submit(go_on.wait, 60)
    node.port.examine()
    for index in range(13, 15):
        assert node.capture(mark(index)) is CaptureState.DONE
    assert not (tmp_path / "a" / f"{12:020d}").exists()
    go_on.set()
    assert waiting.result(30)
    assert node.port._look is not None
    node.port._look.result(30)
    assert not node.port.damaged
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_one_that_cannot_be_read_is_reported_in_the_clusters_words(node: Node, tmp_path: Path) -> None:
    assert node.capture() is CaptureState.DONE
    source = node.port.open_source()
    table = next((tmp_path / "a").glob("*/*.sst"))
    table.write_bytes(b"")
    with pytest.raises(SnapshotUnreadableError, match="has become shorter"):
        source.read(0, source.size)
    source.close()
    table.unlink()
    with pytest.raises(SnapshotUnreadableError, match="cannot be read"):
        node.port.open_source()
    assert looked_at(node)


def test_a_snapshot_installed_meanwhile_is_the_next_ones_base(node: Node, tmp_path: Path) -> None:
    assert node.capture(mark(12)) is CaptureState.DONE
    other = Node(tmp_path / "b")
    other.apply(*WORLD)
    other.port.capture(mark(3))
    install(node, other)
    assert wait(other.port.poll) in (CaptureState.DONE, CaptureState.FAILED)
    other.apply(buy(4))
    node.apply(buy(4))
    assert other.capture(mark(13)) is CaptureState.DONE
    assert restored_hash(tmp_path / "b", mark(13)) == node.machine.engine.full_hash()


def gone(port: SnapshotPort, engine: weakref.ref[Engine]) -> bool:
    """Return whether an engine has been freed, once the thread for it has no more work."""
    port._executor.submit(int).result(30)
    return engine() is None


def test_the_state_that_a_snapshot_replaces_is_let_go(node: Node, tmp_path: Path) -> None:
    """This also holds if it was captured before, when it and the view of it refer to each other."""
    assert node.capture(mark(12)) is CaptureState.DONE
    other = Node(tmp_path / "b")
    other.apply(*WORLD, buy(1))
    assert other.capture(mark(11)) is CaptureState.DONE
    state, engine = weakref.ref(other.machine.engine._state), weakref.ref(other.machine.engine)
    install(node, other)
    assert gone(other.port, engine)
    assert state() is None


def test_a_state_that_is_replaced_while_it_is_written_is_let_go_when_that_is_done(node: Node, tmp_path: Path) -> None:
    assert node.capture(mark(12)) is CaptureState.DONE
    other = Node(tmp_path / "b")
    other.apply(*WORLD, buy(1))
    engine = weakref.ref(other.machine.engine)
    other.port.capture(mark(11))
    install(node, other)
    assert not gone(other.port, engine)
    assert wait(other.port.poll) is CaptureState.DONE
    assert gone(other.port, engine)


def test_a_state_that_was_made_and_is_not_wanted_is_let_go(node: Node, tmp_path: Path) -> None:
    assert node.capture() is CaptureState.DONE
    other = Node(tmp_path / "b")
    sink = sent(node, other)
    assert isinstance(sink, IncomingSnapshot)
    sink.finish()
    assert sink._state is not None
    engine = weakref.ref(sink._state.result(30)[0])
    assert engine() is not None
    sink.abort()
    assert gone(other.port, engine)


def test_money_that_does_not_add_up_stops_the_node(node: Node) -> None:
    state = node.machine.engine._state
    state.currencies["USD"].fees += 1
    node.port.capture(MARK)
    with pytest.raises(AssertionError, match=r"the state contradicts itself: .* in balances and fees"):
        wait(node.port.poll)
    assert node.port.newest() is None


def market_of(node: Node) -> tuple[object, ...]:
    """Return what a node's feed says of the market."""
    reader = Reader()
    subscription = node.feed.subscribe(reader, 1, "BTC-USD", 1)
    node.feed.resume(subscription)
    return node.feed.trades("BTC-USD", 1_000), node.feed.figures("BTC-USD"), reader.events


def test_the_market_is_there_after_a_restart_and_on_a_node_that_was_brought_up_from_a_snapshot(tmp_path: Path) -> None:
    """It has the last trades, the figures and the tail of the feed, and each node continues with them like one that
    never stopped.
    """
    node = Node(tmp_path / "a")
    node.apply(*WORLD, *(sell(number) for number in range(4)), *(buy(number) for number in range(10, 12)))
    assert node.capture() is CaptureState.DONE
    again, other = Node(tmp_path / "a"), Node(tmp_path / "b")
    again.port.restore(MARK)
    install(node, other)
    for each in (node, again, other):
        each.apply(buy(13), sell(14))
    trades, _, events = market_of(node)
    assert isinstance(trades, list)
    assert len(trades) == 3
    assert events
    assert market_of(again) == market_of(other) == market_of(node)
    view = Views(again.feed).answer(again.machine.engine, MarketQuery("BTC-USD"), Audience.FULL)
    market = msgspec.msgpack.decode(view, type=MarketView)
    assert (market.last_trade_id, len(market.trades)) == (3, 3)


def test_each_snapshot_has_the_market_of_its_own_moment(tmp_path: Path) -> None:
    """The file is not shared with the snapshot before, as the files of tables are."""
    node = Node(tmp_path)
    node.apply(*WORLD, sell(1), buy(2))
    assert node.capture() is CaptureState.DONE
    node.apply(sell(3), buy(4))
    later = replace(MARK, last=LogEntry(b"\x00later", 13, 3))
    assert node.capture(later) is CaptureState.DONE
    again = Node(tmp_path)
    again.port.restore(later)
    assert market_of(again) == market_of(node)


def test_a_snapshot_without_a_market_is_as_good(tmp_path: Path) -> None:
    """The state's own row contains the last trade."""
    node = Node(tmp_path)
    node.apply(*WORLD, sell(1), buy(2))
    assert node.capture() is CaptureState.DONE
    (path,) = (each for each in tmp_path.iterdir() if each.is_dir())
    (path / "MARKET").unlink()
    seal_directory(path, read_seal_without(path))
    again = Node(tmp_path)
    again.port.restore(MARK)
    view = Views(again.feed).answer(again.machine.engine, MarketQuery("BTC-USD"), Audience.FULL)
    market = msgspec.msgpack.decode(view, type=MarketView)
    assert (market.last_trade_id, market.trades) == (1, [])
    assert market.last_price > 0


def read_seal_without(path: Path) -> Manifest:
    """Return the manifest of a snapshot, and remove its seal."""
    manifest = read_seal(path).manifest
    (path / "SEAL").unlink()
    return manifest
