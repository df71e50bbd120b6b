"""Rows that moved to files are in the answers as before."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet
import pytest
from sqlalchemy import select, update

from node.errors import HistoryError
from node.history import tables
from node.history.database import connect
from node.history.pages import PageRequest, TransferKind
from node.history.partitions import archive_days
from node.history.queries import HistoryReader
from tests.property.worlds import ACCOUNTS
from tests.unit.node.history.answers import NOON, all_orders, all_pages, answers
from tests.unit.node.history.logs import BEFORE, NodeLog


def test_archived_rows_are_answered_in_the_same_pages(three_days: NodeLog) -> None:
    """Every order, fill, ledger entry, transfer and trade is in the same pages, wherever it is now."""
    before = answers(three_days)
    assert archive_days(three_days.config, BEFORE)
    assert answers(three_days) == before
    answered = {question.rpartition(": ")[2] for question, answer in before.items() if answer}
    assert answered == {question.rpartition(": ")[2] for question in before}


def test_nothing_is_left_in_the_database(three_days: NodeLog) -> None:
    """Then the last trade comes from a file too."""
    assert archive_days(three_days.config, BEFORE.replace(day=10))
    assert three_days.stored()["trades"] == []
    past = HistoryReader(three_days.config)
    for product_id in ("ETH-USD", "XBT-ETH"):
        candles, last = past.minutes(product_id, 0)
        assert last is not None
        assert last.trade_id == sum(candle.trades for candle in candles)
    past.close()


def test_files_of_version_0_1_0_are_read(three_days: NodeLog) -> None:
    """They lack the columns that were added later, and their notes have no ids."""
    archive_days(three_days.config, BEFORE)
    database = connect(three_days.config)
    with database.begin() as connection:
        noted = connection.execute(select(tables.partitions)).mappings().all()
        connection.execute(update(tables.partitions).values(first_id=0, last_id=2**63 - 1))
    database.dispose()
    later = {"stop", "stop_price", "expires_at", "opened_sequence", "other_account_id", "auction"}
    for note in noted:
        path = three_days.config.history_path / note["file"]
        whole = pyarrow.parquet.read_table(path, partitioning=None)
        pyarrow.parquet.write_table(whole.drop_columns([name for name in whole.column_names if name in later]), path)
        noted_again(three_days, path)
    past = HistoryReader(three_days.config)
    for name in ACCOUNTS:
        orders = all_orders(past, name, 50)
        assert {order.opened_sequence for order in orders if order.done_at < NOON} == {0}
        assert past.transfers(name, "USD", TransferKind(incoming=True, internal=False), PageRequest())
        assert all_pages(lambda page, of=name: past.fills(of, "", 0, page), "trade_id", 50)  # type: ignore[misc]  # bound now
    past.close()


def noted_again(node: NodeLog, path: Path) -> None:
    """Note a file that a test has replaced, as if the history had written it."""
    own = tables.partitions
    file = str(path.relative_to(node.config.history_path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    database = connect(node.config)
    with database.begin() as connection:
        connection.execute(update(own).where(own.c.file == file).values(sha256=digest))
    database.dispose()


def test_a_missing_or_damaged_file_is_named(three_days: NodeLog) -> None:
    """A gateway answers 503 then, and the log says which file it is."""
    archive_days(three_days.config, BEFORE.replace(day=10))
    paths = list((three_days.config.history_path / "parquet" / "trades").glob("*/*.parquet"))
    assert paths
    past = HistoryReader(three_days.config)
    for path in paths:  # a flipped bit in a page, where it would be another number
        changed = bytearray(path.read_bytes())
        changed[len(changed) // 3] ^= 1
        path.write_bytes(changed)
    with pytest.raises(HistoryError, match=r"parquet/trades/day=.*cannot be read: its SHA-256"):
        past.trades("ETH-USD", 10, 0)
    for content in (b"", b"no parquet", b"PAR1" + bytes(100) + b"PAR1", None):
        for path in paths:
            path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(HistoryError, match=r"parquet/trades/day=.*cannot be read"):
            past.trades("ETH-USD", 10, 0)
    past.close()
