"""Old days move to Parquet files. Another program can read them, and every row is in one place, even if the move is
interrupted.
"""

from __future__ import annotations

import datetime
from random import Random
from typing import Any

import msgspec
import pytest

from node.errors import HistoryError
from node.history import partitions
from node.history.partitions import archive_days
from statemachine.events import OrderState
from statemachine.types import OrderStatus
from tests.property.worlds import busy_command
from tests.unit.node.history.logs import BEFORE, KEYS, NodeLog, asked, read, snapshot_of, whole


def test_rows_are_in_the_database_or_in_a_file(three_days: NodeLog) -> None:
    before = three_days.stored()
    moved = archive_days(three_days.config, BEFORE)
    assert {each.table for each in moved} == set(KEYS)
    for table, key in KEYS.items():
        whole(before[table], key, three_days, table)
    after = three_days.stored()
    assert min(trade["time"] for trade in after["trades"]) >= 1_767_398_400 * 10**9
    assert after["candles"] == before["candles"]
    assert all(row["status"] != OrderStatus.DONE or row["done_at"] >= 1_767_398_400 * 10**9 for row in after["orders"])
    assert [row["rows"] for row in after["partitions"]] == [rows_in(three_days, row["file"]) for row in after["partitions"]]
    assert archive_days(three_days.config, BEFORE) == []
    three_days.add([busy_command(Random(9), 10_000 + place) for place in range(50)])
    three_days.follow()
    assert three_days.stored()["progress"][0]["log_index"] == three_days.applied


def test_the_days_that_have_moved_are_listed(three_days: NodeLog) -> None:
    stages: list[tuple[str, int, int]] = []
    moved = archive_days(three_days.config, BEFORE, lambda *stage: stages.append(stage))
    assert len(stages) == len(moved)
    assert stages[:2] == [("the days of the table trades move", 0, 2), ("the days of the table trades move", 1, 2)]
    assert {stage.split()[-2] for stage, _, _ in stages} == set(KEYS)


def rows_in(node: NodeLog, file: str) -> int:
    """Return how many rows one file has."""
    (found,) = asked(f"select count(*) as rows from read_parquet('{node.config.history_path / file}')")
    return int(found["rows"])


def test_days_can_be_asked_for_as_a_column(three_days: NodeLog) -> None:
    archive_days(three_days.config, BEFORE)
    tree = three_days.config.history_path / "parquet" / "trades" / "*" / "*.parquet"
    question = f"select day, count(*), sum(size) from read_parquet('{tree}', hive_partitioning = true) group by day order by day"
    assert [str(row["day"]) for row in asked(question)] == ["2026-01-01", "2026-01-02"]


def test_an_interrupted_move_is_made_again(three_days: NodeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed when a file is written and its rows are still in the database. At the end no row is there
    twice.
    """
    before = three_days.stored()

    class KilledError(Exception):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(partitions, "insert", killed)
        with pytest.raises(KilledError):
            archive_days(three_days.config, BEFORE)
    assert three_days.stored() == before
    archive_days(three_days.config, BEFORE)
    for table, key in KEYS.items():
        whole(before[table], key, three_days, table)


def test_moving_days_to_files_and_storing_new_rows_do_not_wait_for_each_other(
    three_days: NodeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy market is stored several times a second, and a day's file takes longer. Neither waits for the other."""
    before = three_days.stored()
    keeper = three_days.keeper()
    written = 0
    real = partitions._write

    def slowly(*given: Any) -> int:
        nonlocal written
        rows = real(*given)
        three_days.add([busy_command(Random(9), 10_000 + written)])
        three_days.drain(keeper)
        written += 1
        return rows

    monkeypatch.setattr(partitions, "_write", slowly)
    moved = archive_days(three_days.config, BEFORE)
    keeper.close()
    assert written == len(moved) > 4
    assert three_days.stored()["progress"][0]["log_index"] == three_days.applied
    last = before["progress"][0]["sequence"]
    for table, key in KEYS.items():
        rows = [row for row in read(three_days, table) + three_days.stored()[table] if row["sequence"] <= last]
        assert sorted([row[name] for name in key] for row in rows) == [[row[name] for name in key] for row in before[table]]


def test_a_gap_brings_nothing_back_that_moved(three_days: NodeLog) -> None:
    """The state after the gap has old orders too. Those that are in files already are not stored again."""
    archive_days(three_days.config, BEFORE)
    moved = {row["order_id"] for row in read(three_days, "orders")}
    random = Random(9)
    three_days.add([busy_command(random, 10_000 + place) for place in range(100)])
    snapshot_of(three_days)
    three_days.log.clear()
    three_days.add([busy_command(random, 20_000)])
    three_days.follow()
    after = three_days.stored()
    assert len(after["gaps"]) == 1
    assert not moved & {row["order_id"] for row in after["orders"]}
    kept = {row["order_id"]: (row["status"], row["done_at"]) for row in after["orders"]}
    for name, found in three_days.engine.tables():
        for _, encoded in found if name in ("order", "done_order") else ():
            order = msgspec.msgpack.decode(encoded, type=OrderState)
            assert order.order_id in moved or kept[order.order_id] == (order.status, order.done_at)


def test_one_process_at_a_time_moves_days(three_days: NodeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes would write the same files."""
    refused = []
    real = partitions._write

    def another(*given: Any) -> int:
        with pytest.raises(HistoryError, match="another process is moving old days"):
            archive_days(three_days.config, BEFORE)
        refused.append(given)
        return real(*given)

    monkeypatch.setattr(partitions, "_write", another)
    assert len(archive_days(three_days.config, BEFORE)) == len(refused)


def test_the_latest_days_stay(three_days: NodeLog) -> None:
    tomorrow = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
    with pytest.raises(HistoryError, match="the latest 2 days stay"):
        archive_days(three_days.config, tomorrow)
