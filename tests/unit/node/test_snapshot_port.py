"""Snapshots between Raft, the engine and the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cluster.ports import CaptureState, LogEntry, SnapshotMark, SnapshotRefusedError
from node.feed import Feed
from node.replicated_engine import ReplicatedEngine
from node.snapshot_port import SnapshotPort, check_money
from snapshots.store import SnapshotStore
from statemachine.commands import AnyCommand, Batch, encode_batch
from statemachine.tables import BalanceRow, CurrencyRow
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


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path / "a")
    node.apply(*WORLD, buy(1), buy(2), sell(3))
    return node


def test_nothing_taken_yet(node: Node) -> None:
    assert node.port.newest() is None
    assert node.port.poll() is CaptureState.IDLE


def test_captured_state_is_that_of_the_capture_and_comes_back(node: Node, tmp_path: Path) -> None:
    expected, sequence = node.machine.engine.full_hash(), node.machine.engine.sequence
    node.port.capture(MARK)
    node.apply(buy(4))
    assert wait(node.port.poll) is CaptureState.DONE
    assert node.port.poll() is CaptureState.IDLE, "told once"
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
    assert sink.finish() == MARK
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
        _take(sink.write, sink.finish, bytes(data))
    assert other.port.newest() is None


def _take(write: Callable[[bytes], None], finish: Callable[[], SnapshotMark], data: bytes) -> None:
    write(data)
    finish()


def test_a_cancelled_capture_leaves_nothing_half_done(node: Node, tmp_path: Path) -> None:
    node.port.capture(MARK)
    node.port.cancel()
    assert node.port.poll() is CaptureState.IDLE
    assert Node(tmp_path / "a").port.newest() in (None, MARK)


def test_money_that_does_not_add_up_is_never_written(node: Node) -> None:
    tables = dict(node.machine.engine.tables())
    check_money(tables)
    key, row = tables["balance"][0]
    balance = msgspec.msgpack.decode(row, type=BalanceRow)
    wrong = msgspec.structs.replace(balance, available=balance.available + 1)
    tables["balance"][0] = (key, msgspec.msgpack.encode(wrong))
    with pytest.raises(AssertionError, match="in balances and fees"):
        check_money(tables)


def test_balances_in_no_currency_are_noticed() -> None:
    rows = [(b"", msgspec.msgpack.encode(BalanceRow("alice", "XXX", 1, 0)))]
    with pytest.raises(AssertionError, match="currencies that do not exist"):
        check_money({"balance": rows, "currency": []})
    fees = [(b"", msgspec.msgpack.encode(CurrencyRow("XXX", 2, deposited=3, withdrawn=1, fees=1)))]
    check_money({"balance": rows, "currency": fees})
