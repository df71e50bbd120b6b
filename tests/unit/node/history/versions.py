"""Databases as earlier versions made them."""

from __future__ import annotations

from alembic import command
from sqlalchemy import MetaData, insert
from sqlalchemy.schema import CreateSchema

from node.history import tables
from node.history.database import alembic_config, connect, schema_name
from node.history.projection import Row
from tests.unit.node.history.logs import NodeLog


def known_to_0001(stored: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Return what a database of version 0.1.0 could know of these rows, in today's columns."""
    known = stored | {
        "status_changes": [],
        "operations": [],
        "transfers": [row for row in stored["transfers"] if not row["other_account_id"]],
    }
    known["ledger"] = [row | {"other_account_id": ""} for row in stored["ledger"]]
    later = dict.fromkeys(("stop", "stop_price", "expires_at", "opened_sequence"), 0) | {"terms": ""}
    known["trades"] = [row | {"auction": False} for row in stored["trades"]]
    known["orders"] = [row | later for row in stored["orders"]]
    return known


def make_0001(node: NodeLog, of: NodeLog) -> None:
    """Write the database that version 0.1.0 would have made of what `of` has stored."""
    node.config.history_path.mkdir(exist_ok=True)
    database = connect(node.config)
    stored = known_to_0001(of.stored())
    with database.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(CreateSchema(schema_name(node.config.node_id)))
        command.upgrade(alembic_config(connection), "0001")
        earlier = MetaData()
        earlier.reflect(connection)
        for name in set(stored) & set(earlier.tables):
            table = earlier.tables[name]
            known = tables.metadata.tables[name].columns
            for column in table.columns:
                column.type = known[column.name].type
            names = [column.name for column in table.columns]
            rows = [{column: row[column] for column in names} for row in stored[name]]
            if rows:
                connection.execute(insert(table), rows)
    database.dispose()
