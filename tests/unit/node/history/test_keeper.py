"""The history of a log has every row exactly once, whatever happens to the process."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from node.errors import HistoryError
from node.history import keeper as keeping
from node.history.candles import STORED
from node.history.projection import LedgerKind, Row, order_row
from node.migration import cutover
from snapshots.naming import snapshot_paths
from statemachine.commands import AnyCommand
from statemachine.engine import Engine
from statemachine.events import AnyEvent, OrderMatched, OrderState, StatusChanged, TradeCorrected
from statemachine.types import DoneReason, OrderStatus
from tests.property.operators import operators, venue_flow
from tests.property.worlds import auction_command, busy_command, foundations
from tests.unit.node.history.logs import MONEY, NodeLog, busy, check_coins, snapshot_of
from tests.unit.node.history.test_candles import expected


def orders_of(engine: Engine) -> dict[int, Row]:
    """Return the orders that the engine still knows as rows without the sequence."""
    found = {}
    for name, rows in engine.tables():
        if name in ("order", "done_order"):
            for _, encoded in rows:
                row = order_row(msgspec.msgpack.decode(encoded, type=OrderState), 0)
                found[row["order_id"]] = {**row, "sequence": None}
    return found


def volumes_of(stored: dict[str, list[Row]]) -> dict[tuple[str, int, str], int]:
    """Compute what each account traded in each hour of each product from the trades."""
    found: Counter[tuple[str, int, str]] = Counter()
    for trade in stored["trades"]:
        for account_id in (trade["maker_account_id"], trade["taker_account_id"]):
            found[account_id, trade["time"] // 10**9 // 3_600 * 3_600, trade["product_id"]] += trade["size"]
    return dict(found)


@pytest.mark.parametrize("command", [busy_command, auction_command])
def test_the_rows_equal_the_engines(tmp_path: Path, command: Callable[[Random, int], AnyCommand]) -> None:
    """Orders equal the engine's, ledgers add up to its balances, and so do trades and transfers."""
    node = NodeLog(tmp_path / "cluster")
    busy(node, 1, 1_000, command)
    node.follow()
    stored = node.stored()
    assert stored["progress"][0]["sequence"] == node.engine.sequence
    assert stored["progress"][0]["log_index"] == node.applied
    assert {row["order_id"]: {**row, "sequence": None} for row in stored["orders"]} == orders_of(node.engine)
    balances: dict[tuple[str, str], int] = {}
    for entry in stored["ledger"]:
        key = entry["account_id"], entry["currency"]
        balances[key] = balances.get(key, 0) + entry["amount"]
        assert entry["balance"] == balances[key]
    for account_id in ("ann", "bob", "eve"):
        for row in node.engine.balances(account_id):
            assert balances.get((account_id, row.currency), 0) == row.available + row.hold
    assert len(stored["trades"]) == sum(product.last_trade_id for product in node.engine.products()) > 50
    fees = sum(-entry["amount"] for entry in stored["ledger"] if entry["kind"] == LedgerKind.FEE)
    assert fees == sum(currency.fees for currency in node.engine.currencies())
    assert sum(row["amount"] for row in stored["transfers"]) == sum(c.deposited - c.withdrawn for c in node.engine.currencies())
    volumes = {(row["account_id"], row["start"], row["product_id"]): row["volume"] for row in stored["volumes"]}
    assert volumes == volumes_of(stored)
    for product in node.engine.products():
        trades = [row for row in stored["trades"] if row["product_id"] == product.product_id]
        for granularity in STORED:
            bucket: Row = {"product_id": product.product_id, "granularity": granularity}
            candles = [row for row in stored["candles"] if bucket.items() <= row.items()]
            assert candles == [bucket | msgspec.structs.asdict(candle) for candle in expected(trades, granularity)]
        *_, latest = (row for row in stored["status_changes"] if row["product_id"] == product.product_id)
        assert latest["status"] == product.status
    if command is busy_command:
        usual = {DoneReason.NONE, DoneReason.FILLED, DoneReason.CANCELLED, DoneReason.EXPIRED, DoneReason.LINKED}
        assert {row["done_reason"] for row in stored["orders"]} >= usual
        assert any(row["opened_sequence"] > 0 and row["stop"] for row in stored["orders"])
        assert any(row["other_account_id"] for row in stored["transfers"])
    else:
        opened = [row for row in stored["status_changes"] if row["open_size"]]
        assert sum(row["open_size"] for row in opened) == sum(row["size"] for row in stored["trades"] if row["auction"]) > 0
    assert not stored["gaps"]


def venue(node: NodeLog, seed: int, count: int) -> list[AnyEvent]:
    """Everything that traders and operators do: options, collars, switches, calendars, corrections, users, consent."""
    random, results, events = Random(seed), list[object](), list[AnyEvent]()

    def add(commands: list[AnyCommand], seconds: float) -> None:
        applied = node.add(commands, seconds=seconds)
        results.extend([*applied.outcomes, *applied.events])
        events.extend(applied.events)

    add(foundations((1_000, 3_000), MONEY), 1)
    add(operators(), 1)
    batch: list[AnyCommand] = []
    for step, _ in venue_flow(random, count, results):
        if isinstance(step, int):
            add(batch, step)
            batch = []
        else:
            batch.append(step)
        if random.random() < 0.4:
            add(batch, random.choice([0, 0.3, 1]))
            batch = []
    add(batch, 1)
    return events


@pytest.mark.parametrize("seed", range(3))
def test_the_rows_equal_the_engines_under_commands_of_the_venue(tmp_path: Path, seed: int) -> None:
    node = NodeLog(tmp_path / "cluster")
    events = venue(node, seed, 700)
    node.follow()
    stored, engine = node.stored(), node.engine
    orders = {row["order_id"]: {**row, "sequence": None} for row in stored["orders"]}
    for order_id, row in orders_of(engine).items():
        assert orders[order_id] == row
    for account_id in ("ann", "bob", "eve"):
        for balance in engine.balances(account_id):
            own = [row for row in stored["ledger"] if (row["account_id"], row["currency"]) == (account_id, balance.currency)]
            assert sum(row["amount"] for row in own) == balance.available + balance.hold
            assert not own or own[-1]["balance"] == balance.available + balance.hold
    fees = sum(-entry["amount"] for entry in stored["ledger"] if entry["kind"] == LedgerKind.FEE)
    assert fees == sum(currency.fees for currency in engine.currencies())
    assert len(stored["trades"]) == sum(isinstance(event, OrderMatched) for event in events)
    assert len(stored["status_changes"]) == sum(isinstance(event, StatusChanged) for event in events)
    latest = {row["product_id"]: row for row in stored["product_changes"]}
    for product in engine.products():
        fields = ("min_size", "max_size", "maker_fee_ppm", "taker_fee_ppm")
        assert [latest[product.product_id][name] for name in fields] == [getattr(product, name) for name in fields]
    assert any(isinstance(event, TradeCorrected) for event in events)


@pytest.mark.parametrize("seed", range(2))
def test_every_row_is_there_once_however_often_the_process_dies(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed or stopped between any two transactions while its log moves to the archive. The database
    equals that of an uninterrupted run.
    """
    monkeypatch.setattr(keeping, "COMMANDS_PER_TRANSACTION", 40)
    calm, rough = NodeLog(tmp_path / "calm"), NodeLog(tmp_path / "rough")
    busy(calm, seed, 400)
    busy(rough, seed, 400)
    calm.follow()
    random = Random(seed)
    keeper = rough.keeper()
    deaths = 0
    while keeper.advance(rough.applied):
        choice = random.random()
        if choice < 0.2:
            keeper.write_state()
        if choice > 0.4:
            continue
        keeper.close()
        rough.log.compact_to(random.randrange(1, rough.applied))
        deaths += 1
        keeper = rough.keeper()
    keeper.close()
    assert deaths > 3
    assert rough.stored() == calm.stored()


def test_a_failing_transaction_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process stores completely what failed half-way."""
    calm, rough = NodeLog(tmp_path / "calm"), NodeLog(tmp_path / "rough")
    for node in (calm, rough):
        busy(node, 5, 300)
    calm.follow()
    keeper = rough.keeper()

    def fail(*_: object) -> None:
        raise HistoryError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("node.history.store.put_candles", fail)
        with pytest.raises(HistoryError):
            rough.drain(keeper)
    keeper.close()
    assert rough.stored()["progress"][0]["log_index"] == 0
    assert not rough.stored()["orders"]
    rough.follow()
    assert rough.stored() == calm.stored()


def test_more_orders_leave_at_once_than_the_engine_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that the engine drops within the batch in which it is done still has its row."""
    monkeypatch.setattr("statemachine.state.DONE_ORDERS_PER_ACCOUNT", 2)
    node = NodeLog(tmp_path / "cluster")
    busy(node, 11, 800)
    node.follow()
    stored = {row["order_id"]: row for row in node.stored()["orders"]}
    kept = orders_of(node.engine)
    assert len(stored) > 2 * len(kept)
    assert {order_id: {**stored[order_id], "sequence": None} for order_id in kept} == kept
    assert sorted(stored) == list(range(1, len(stored) + 1))
    retired = [row for order_id, row in stored.items() if order_id not in kept]
    assert all(row["status"] == OrderStatus.DONE and row["done_at"] for row in retired)
    trades = node.stored()["trades"]
    for row in retired:
        own = [trade for trade in trades if row["order_id"] in (trade["maker_order_id"], trade["taker_order_id"])]
        assert row["filled_size"] == sum(trade["size"] for trade in own)
        assert row["executed_value"] == sum(trade["notional"] for trade in own)


def archived(node: NodeLog) -> int:
    """Return how many segments are in the archive."""
    return len(list((node.config.data_path / cutover.ARCHIVE).glob("*.seg")))


def states(node: NodeLog) -> list[str]:
    """Return the states of the history's engine that are on disk."""
    return [path.name for path in snapshot_paths(node.config.history_path / "state")]


def test_segments_stay_in_the_archive_until_they_are_stored_and_then_go(tmp_path: Path) -> None:
    """The history deletes the archived segments that its state on disk covers, and continues from that state."""
    node = NodeLog(tmp_path / "cluster")
    busy(node, 1, 300)
    node.log.compact_to(node.applied)
    assert archived(node) > 3
    node.follow()
    assert archived(node) > 3
    node.follow(until=lambda: not archived(node))
    assert states(node) == [f"{node.applied:020d}"]
    node.add([busy_command(Random(1), 5_000)])
    node.follow()
    assert node.stored()["progress"][0]["log_index"] == node.applied
    assert node.stored()["gaps"] == []


def test_an_archive_for_audits_stays(tmp_path: Path) -> None:
    """With raft.archive_log no segment is deleted."""
    node = NodeLog(tmp_path / "cluster")
    raft = msgspec.structs.replace(node.config.raft, archive_log=True)
    node.config = msgspec.structs.replace(node.config, raft=raft)
    busy(node, 1, 100)
    node.log.compact_to(node.applied)
    before = archived(node)
    assert before > 0
    node.follow(until=lambda: bool(states(node)))
    node.follow()
    assert archived(node) == before


def test_a_history_of_another_node_is_refused(tmp_path: Path) -> None:
    """Two nodes never write to one database."""
    node = NodeLog(tmp_path / "cluster")
    busy(node, 1, 10)
    node.follow()
    node.config = msgspec.structs.replace(node.config, cluster_id="another")
    with pytest.raises(HistoryError, match="history of n1 of history, not of n1 of another"):
        node.keeper()


def test_a_history_of_another_log_is_refused(tmp_path: Path) -> None:
    """If the log leads to another number of commands than the database has, nothing is stored."""
    node, other = NodeLog(tmp_path / "cluster"), NodeLog(tmp_path / "other")
    busy(node, 1, 200)
    keeper = node.keeper()
    node.drain(keeper)
    keeper.close()
    for _ in range(node.applied + 5):
        other.add_noop()
    database = node.config.history_path / "history.sqlite"
    other.config.history_path.mkdir()
    (other.config.history_path / "history.sqlite").write_bytes(database.read_bytes())
    keeper = other.keeper()
    with pytest.raises(HistoryError, match="not the history of this node's log"):
        other.drain(keeper)
    keeper.close()


def test_entries_that_the_log_no_longer_has_are_a_gap_and_later_rows_are_right(tmp_path: Path) -> None:
    """The node takes a snapshot from another one in place of its log. Orders and balances are right again after it, and
    the gap is reported.
    """
    node = NodeLog(tmp_path / "cluster")
    busy(node, 6, 200)
    node.follow()
    before = node.stored()["progress"][0]
    busy_from = random_commands(6, 1_000, 200)
    for command in busy_from:
        node.add([command])
    snapshot_of(node)
    node.log.clear()
    for command in random_commands(7, 2_000, 100):
        node.add([command])
    node.follow()
    stored = node.stored()
    (gap,) = stored["gaps"]
    assert (gap["first_index"], gap["first_sequence"]) == (before["log_index"] + 1, before["sequence"] + 1)
    assert gap["last_sequence"] == gap["first_sequence"] + len(busy_from) - 1
    assert stored["progress"][0]["sequence"] == node.engine.sequence
    known = orders_of(node.engine)
    rows = {row["order_id"]: {**row, "sequence": None} for row in stored["orders"]}
    assert {order_id: rows[order_id] for order_id in known} == known
    assert {order_id for order_id, row in rows.items() if row["status"] == OrderStatus.OPEN} == {
        order_id for order_id, row in known.items() if row["status"] == OrderStatus.OPEN
    }
    latest = {(entry["account_id"], entry["currency"]): entry["balance"] for entry in stored["ledger"]}
    changed = {key for key in latest if any((e["account_id"], e["currency"]) == key for e in after(stored, gap))}
    for account_id, currency in changed:
        row = next(row for row in node.engine.balances(account_id) if row.currency == currency)
        assert latest[account_id, currency] == row.available + row.hold
    assert changed


def after(stored: dict[str, list[Row]], gap: Row) -> list[Row]:
    """Return the ledger's entries after the gap."""
    return [entry for entry in stored["ledger"] if entry["sequence"] > gap["last_sequence"]]


def random_commands(seed: int, first: int, count: int) -> list[AnyCommand]:
    """Draw further commands of a busy market."""
    random = Random(seed)
    return [busy_command(random, first + number) for number in range(count)]


def test_a_history_that_was_switched_on_late_begins_with_the_snapshot(tmp_path: Path) -> None:
    node = NodeLog(tmp_path / "cluster")
    busy(node, 8, 100)
    snapshot_of(node)
    node.log.clear()
    node.add([busy_command(Random(1), 5_000)])
    node.follow()
    stored = node.stored()
    assert [(gap["first_index"], gap["last_index"]) for gap in stored["gaps"]] == [(1, node.applied - 1)]
    assert len(stored["currencies"]) == 3
    assert len(stored["products"]) == 2


def test_a_lost_state_is_made_of_the_nodes_snapshot_and_the_log(tmp_path: Path) -> None:
    """No row is missing as long as the log reaches back to the snapshot."""
    node = NodeLog(tmp_path / "cluster")
    busy(node, 9, 150)
    snapshot_of(node)
    for command in random_commands(9, 1_000, 50):
        node.add([command])
    node.follow(until=lambda: bool(states(node)))
    shutil.rmtree(node.config.history_path / "state")
    node.add([busy_command(Random(2), 6_000)])
    node.follow()
    assert node.stored()["gaps"] == []
    assert node.stored()["progress"][0]["sequence"] == node.engine.sequence


def test_amounts_are_stored_in_coins(tmp_path: Path) -> None:
    """The views that people read contain every amount divided by its currency's scale, exactly."""
    node = NodeLog(tmp_path / "cluster")
    busy(node, 6, 300)
    node.follow()
    check_coins(node)
