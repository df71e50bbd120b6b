"""The database's schema: the migrations make what the tables declare, and a database that does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text, update

from node.errors import HistoryError
from node.history import tables
from node.history.database import alembic_config, connect
from tests.unit.node.history.logs import NodeLog, busy
from tests.unit.node.history.versions import known_to_0001, make_0001


def change(node: NodeLog, statement: str) -> None:
    """Change the database without the history."""
    database = connect(node.config)
    with database.begin() as connection:
        connection.execute(text(statement))
    database.dispose()


@pytest.fixture
def node(tmp_path: Path) -> NodeLog:
    """Return a node with an empty history."""
    made = NodeLog(tmp_path / "cluster")
    made.keeper().close()
    return made


def test_the_migrations_make_the_tables(node: NodeLog) -> None:
    database = connect(node.config)
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, tables.metadata)
    database.dispose()
    assert differences == []


def test_a_database_of_a_later_version_is_refused(node: NodeLog) -> None:
    change(node, "update alembic_version set version_num = '9999'")
    with pytest.raises(HistoryError, match="schema 9999, which this version does not know"):
        node.keeper()


def test_a_checksum_that_differs_is_refused(node: NodeLog) -> None:
    """Both the writer and readers refuse it."""
    database = connect(node.config)
    with database.begin() as connection:
        connection.execute(update(tables.checksum).values(checksum="f" * 64))
    database.dispose()
    with pytest.raises(HistoryError, match="checksum is ffffffffffff, this version has"):
        node.keeper()


def test_a_database_of_version_0_1_0_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows stay, and the tables that were added later get what can be computed of the past. If it fails half-way, the
    database is as before.
    """
    whole, earlier = NodeLog(tmp_path / "whole"), NodeLog(tmp_path / "earlier")
    for each in (whole, earlier):
        busy(each, 3, 300)
    whole.follow()
    make_0001(earlier, whole)
    own, earlier.config = earlier.config, msgspec.structs.replace(earlier.config, cluster_id="another")
    with pytest.raises(HistoryError, match="is the history of n1 of history, not of n1 of another"):
        earlier.keeper()  # whose software may not know this version's schema, so it stays as it is
    earlier.config = own
    assert "operations" not in inspect(connect(own)).get_table_names()

    def fail(*_: object) -> None:
        raise HistoryError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("node.history.database.schema_checksum", fail)
        with pytest.raises(HistoryError, match="the disk is full"):
            earlier.keeper()
    earlier.follow()
    assert earlier.stored() == known_to_0001(whole.stored())
    assert earlier.stored()["volumes"]


def test_a_migration_to_the_schema_of_0_1_0_and_back_keeps_its_columns(tmp_path: Path) -> None:
    """`quorumbook rollback` migrates to it if the version before was 0.1.0."""
    whole, earlier = NodeLog(tmp_path / "whole"), NodeLog(tmp_path / "earlier")
    for each in (whole, earlier):
        busy(each, 3, 200)
    whole.follow()
    make_0001(earlier, whole)
    database = connect(earlier.config)
    with database.connect() as connection:
        made = {
            table: connection.exec_driver_sql(f"select * from {table}").mappings().all()
            for table in ("orders", "transfers", "trades")
        }
    earlier.follow()
    with database.begin() as connection:
        command.downgrade(alembic_config(connection), "0001")
    with database.connect() as connection:
        for table, rows in made.items():
            found = connection.exec_driver_sql(f"select * from {table}").mappings().all()
            assert [dict(row) for row in found] == [dict(row) for row in rows], table
    database.dispose()
    earlier.follow()
    assert earlier.stored()["orders"] == known_to_0001(whole.stored())["orders"]
