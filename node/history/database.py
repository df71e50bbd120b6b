"""The connection to a history's database: SQLite in the data directory, or PostgreSQL where the configuration names
one.

PostgreSQL has a schema for each node, `quorumbook_<node id>`, so that all nodes may be given the same database.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from node.config.settings import NodeConfig

CONNECT_TIMEOUT = 5
"""Seconds until a PostgreSQL server that does not answer counts as down."""

BUSY_TIMEOUT = 300.0
"""Seconds for which SQLite waits for another writer: old days leave the database in one transaction each."""


def connect(config: NodeConfig, *, read_only: bool = False) -> Engine:
    """The database; nothing is opened before it is used. With `read_only` every attempt to write fails."""
    url = database_url(config)
    if url.get_backend_name() == "sqlite":
        made = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT, "check_same_thread": False})
        event.listen(made, "connect", _sqlite_reader if read_only else _sqlite_writer)
        event.listen(made, "begin", _sqlite_begin)
        return made
    options = f"-csearch_path={schema_name(config.node_id)}"
    if read_only:
        options += " -cdefault_transaction_read_only=on"
    # What a reader asks in one transaction is of one moment, as in SQLite.
    isolation = "REPEATABLE READ" if read_only else "READ COMMITTED"
    return create_engine(
        url, connect_args={"options": options, "connect_timeout": CONNECT_TIMEOUT}, pool_pre_ping=True, isolation_level=isolation
    )


def database_url(config: NodeConfig) -> URL:
    """Where the database is."""
    if not config.history.database:
        return URL.create("sqlite", database=str(config.history_path / "history.sqlite"))
    url = make_url(config.history.database)
    return url.set(drivername="postgresql+psycopg") if url.get_backend_name() == "postgresql" else url


def schema_name(node_id: str) -> str:
    """PostgreSQL's schema of a node."""
    return f"quorumbook_{node_id.lower().replace('-', '_')}"


def _sqlite_writer(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    _pragmas(connection, "journal_mode = WAL", "synchronous = FULL")


def _sqlite_reader(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    _pragmas(connection, "query_only = ON")


def _sqlite_begin(connection: Connection) -> None:
    # Python's sqlite3 begins a transaction by itself before INSERT, and none before CREATE TABLE: a migration would be
    # half there after a kill.
    connection.exec_driver_sql("BEGIN")


def _pragmas(connection: DBAPIConnection, *settings: str) -> None:
    connection.isolation_level = None
    cursor: Any = connection.cursor()
    for setting in settings:
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()
