"""A history identifies its place in the log by term and digest. What a rollback undid is removed, and a history of
another log never answers.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from node.errors import HistoryError
from node.history import tables
from node.history.cutting import _free_schema, cut
from node.history.database import connect
from node.history.partitions import archive_days, up_to
from node.history.store import HistoryProgress
from statemachine.commands import Batch, decode_batch
from statemachine.engine import Engine
from tests.unit.node.history.logs import BEFORE, NodeLog, begun, entries_of, gone_back, market, rows


@pytest.mark.parametrize(("undone", "instead"), [(3, 3), (3, 1)], ids=["as many commands", "other numbers of commands"])
@pytest.mark.parametrize("written", [False, True], ids=["", "state on disk"])
def test_undone_orders_are_deleted_and_later_ones_are_stored(undone: int, instead: int, written: bool, tmp_path: Path) -> None:
    """There are 10 orders, 20 undone ones and 30 others. Counts alone do not show the difference, and once the 20 were
    shown.
    """
    node, calm = begun(tmp_path / "node"), begun(tmp_path / "calm")
    at = node.applied
    node.follow()
    market(node, 2, 8, undone, 1_000)
    node.follow(until=(lambda: bool(list((node.config.history_path / "state").glob("0*")))) if written else None)
    assert node.stored()["progress"][0]["log_index"] == at + 8
    gone_back(node, at)
    for each in (node, calm):
        market(each, 3, 12, instead, 2_000)
    calm.follow()
    node.follow()
    assert rows(node) == rows(calm)
    assert node.stored()["progress"][0]["log_index"] == node.applied


def test_a_history_is_cut_back_before_the_log_is_as_long_again(tmp_path: Path) -> None:
    node, calm = begun(tmp_path / "node"), begun(tmp_path / "calm")
    at = node.applied
    market(node, 2, 8, 2, 1_000)
    node.follow()
    gone_back(node, at)
    node.follow()
    calm.follow()
    assert rows(node) == rows(calm)


def test_a_history_of_another_log_is_set_aside_and_a_new_one_begins(tmp_path: Path) -> None:
    """No note says where the other log begins. The old history answers nothing, and nothing of it is deleted."""
    node, calm = begun(tmp_path / "node"), begun(tmp_path / "calm")
    at = node.applied
    market(node, 2, 8, 1, 1_000)
    node.follow()
    had = node.stored()
    gone_back(node, at, noted=False)
    for each in (node, calm):
        market(each, 3, 12, 1, 2_000)
    with pytest.raises(HistoryError, match=r"not the history of this node's log: .*set aside .*of-another-log"):
        node.follow()
    (aside,) = node.config.history_path.glob("history.sqlite.of-another-log-*")
    node.follow()
    calm.follow()
    assert rows(node) == rows(calm)
    aside.rename(node.config.history_path / "history.sqlite")
    assert node.stored() == had


def test_a_second_history_that_is_set_aside_has_a_name_of_its_own() -> None:
    """Formerly PostgreSQL refused the name of the first one, and the history ended at each start."""
    names: list[str] = []
    for _ in range(3):
        names.append(_free_schema("quorumbook_" + "n" * 32 + "_of_another_log_123456", names))
    assert len(set(names)) == 3
    assert {len(name) for name in names} == {63}


def test_a_history_from_before_terms_were_stored_is_compared_by_its_orders(tmp_path: Path) -> None:
    """Version 0.2.0 stored it from a log that is not this one, although the numbers of commands are equal."""
    node = begun(tmp_path / "node")
    at = node.applied
    market(node, 2, 8, 1, 1_000)
    node.follow()
    database = connect(node.config)
    with database.begin() as connection:
        connection.exec_driver_sql("update progress set term = 0, digest = '', abi = '', confirmed_by = ''")
    database.dispose()
    node.follow()
    assert node.stored()["progress"][0]["term"] == 1
    database = connect(node.config)
    with database.begin() as connection:
        connection.exec_driver_sql("update progress set term = 0, digest = '', abi = '', confirmed_by = ''")
    database.dispose()
    gone_back(node, at, noted=False)
    market(node, 3, 8, 1, 2_000)
    with pytest.raises(HistoryError, match="other orders are open than the history has"):
        node.follow()


def test_only_the_start_that_confirmed_it_may_be_answered(tmp_path: Path) -> None:
    node = begun(tmp_path / "node")
    keeper = node.keeper()
    keeper.note_start("first")
    node.drain(keeper)
    assert node.stored()["progress"][0]["confirmed_by"] == "first"
    keeper.note_start("second")
    assert not keeper.advance(node.applied - 1), "the log does not go that far: nothing can be compared yet"
    assert node.stored()["progress"][0]["confirmed_by"] == "first"
    node.drain(keeper)
    assert node.stored()["progress"][0]["confirmed_by"] == "second"
    keeper.close()


@pytest.mark.parametrize("archived", [False, True], ids=["", "days in files"])
@pytest.mark.parametrize("seed", range(4))
def test_a_history_cut_anywhere_equals_one_that_never_went_further(
    seed: int, archived: bool, three_days: NodeLog, tmp_path: Path
) -> None:
    """It is cut at a random entry. Every row of every table is that of a history which has just reached that entry."""
    at = Random(seed).randrange(2, three_days.applied)
    early = NodeLog(tmp_path / "early")
    state = Engine()
    for entry in entries_of(three_days)[:at]:
        batch: Batch = decode_batch(entry.payload[1:])
        state.apply(batch)
        early.add(batch.commands, seconds=(batch.time - early.time) / 10**9)
    early.follow()
    if archived:
        assert archive_days(three_days.config, BEFORE)
    (place,) = early.stored()["progress"]
    progress = HistoryProgress(**{name: place[name] for name in HistoryProgress.__struct_fields__})
    database, home = connect(three_days.config), three_days.config.history_path
    cut(database, home, state, progress)
    database.dispose()
    found, expected = three_days.stored(), early.stored()
    for note in found.pop("partitions"):
        found[note["table_name"]] += [dict(row) for row in up_to(home, note, tables.metadata.tables[note["table_name"]], 2**62)]
    assert expected.pop("partitions") == []
    for name in ("trades", "ledger", "transfers", "orders"):
        keys = [column.name for column in tables.metadata.tables[name].primary_key]
        found[name].sort(key=lambda row, keys=keys: [row[key] for key in keys])  # type: ignore[misc] # bound now
    assert found == expected
    three_days.follow()
    assert three_days.stored()["progress"][0]["log_index"] == three_days.applied
