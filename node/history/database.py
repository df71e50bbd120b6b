"""A history's database: the connection and the schema.

The database is SQLite in the data directory, or PostgreSQL where the configuration names a server. In PostgreSQL each
node has a schema of its own, `quorumbook_<node id>`, so that all nodes can share one database.

The migrations in `migrations/versions` make the schema and bring it up to date. Its checksum is stored beside the data.
The schema is independent of the engine's ABI: rows hold plain columns, so a new version of the exchange needs a
migration here only where a column changes."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateSchema

from node.config.settings import NodeConfig
from node.errors import HistoryError
from node.history import tables

CONNECT_TIMEOUT = 5
"""Seconds until a PostgreSQL server that does not answer counts as down."""

BUSY_TIMEOUT = 300.0
"""Seconds that SQLite waits for another writer. A whole day of rows leaves the database in one transaction."""


def connect(config: NodeConfig, *, read_only: bool = False) -> Engine:
    """Return the database. No connection opens before the first use. With `read_only` every attempt to write fails.

    Raises:
        HistoryError: PostgreSQL's client library is not installed.
    """
    url = database_url(config)
    if url.get_backend_name() == "sqlite":
        made = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT, "check_same_thread": False})
        event.listen(made, "connect", _sqlite_reader if read_only else _sqlite_writer)
        event.listen(made, "begin", _sqlite_begin)
        return made
    options = f"-csearch_path={schema_name(config.node_id)}"
    if read_only:
        options += " -cdefault_transaction_read_only=on"
    # All reads of one transaction see the same moment, as in SQLite.
    isolation = "REPEATABLE READ" if read_only else "READ COMMITTED"
    arguments = {"options": options, "connect_timeout": CONNECT_TIMEOUT}
    try:
        return create_engine(url, connect_args=arguments, pool_pre_ping=True, isolation_level=isolation)
    except ImportError as error:
        raise HistoryError(
            f"history.database is PostgreSQL's, whose library cannot be used ({error}): pip install 'quorumbook[postgresql]'"
        ) from None


def database_url(config: NodeConfig) -> URL:
    """Return the URL of the database."""
    if not config.history.database:
        return URL.create("sqlite", database=str(config.history_path / "history.sqlite"))
    url = make_url(config.history.database)
    return url.set(drivername="postgresql+psycopg") if url.get_backend_name() == "postgresql" else url


def place(config: NodeConfig) -> str:
    """Return the database's URL without a password, for a person."""
    return database_url(config).render_as_string(hide_password=True)


def is_damaged(error: DatabaseError) -> bool:
    """Return whether an error says that the file of SQLite is damaged. Another attempt changes nothing then."""
    # sqlite3 raises the base class for SQLITE_CORRUPT and SQLITE_NOTADB, and a subclass for a full disk or a lock.
    return type(error.orig) is sqlite3.DatabaseError


def schema_name(node_id: str) -> str:
    """Return the name of a node's PostgreSQL schema."""
    return f"quorumbook_{node_id.lower().replace('-', '_')}"


def _sqlite_writer(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    _pragmas(connection, "journal_mode = WAL", "synchronous = FULL")


def _sqlite_reader(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    _pragmas(connection, "query_only = ON")


def _sqlite_begin(connection: Connection) -> None:
    # Python's sqlite3 starts a transaction before INSERT but not before CREATE TABLE, so a kill could leave half a
    # migration.
    connection.exec_driver_sql("BEGIN")


def _pragmas(connection: DBAPIConnection, *settings: str) -> None:
    """Set pragmas of SQLite on a new connection."""
    connection.isolation_level = None
    cursor: Any = connection.cursor()
    for setting in settings:
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


MIGRATIONS = Path(__file__).with_name("migrations")


def schema_checksum() -> str:
    """Return a checksum over all tables, columns and indexes of this version."""
    lines = []
    for table in tables.metadata.sorted_tables:
        for column in table.columns:
            flags = f"{'null' if column.nullable else 'not null'}{' key' if column.primary_key else ''}"
            lines.append(f"{table.name}.{column.name} {type(column.type).__name__} {flags}")
        lines += sorted(f"{table.name} index {index.name} {','.join(index.columns.keys())}" for index in table.indexes)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def prepare(engine: Engine, cluster_id: str, node_id: str) -> None:
    """Create the schema or bring it up to date in one transaction, and check the result.

    Raises:
        HistoryError: the database is the history of another node, whose software may not know the new schema, or it has the
            schema of a later version, or one that was changed by other means.
        sqlalchemy.exc.SQLAlchemyError: the database cannot be used.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(CreateSchema(schema_name(node_id), if_not_exists=True))
        scripts = ScriptDirectory.from_config(alembic_config(connection))
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision is not None and revision not in {script.revision for script in scripts.walk_revisions()}:
            raise HistoryError(
                f"{_name(engine)} has schema {revision}, which this version does not know: a later version made it"
            )
        own = tables.progress.c
        owner = connection.execute(select(own.cluster_id, own.node_id)).first() if revision is not None else None
        if owner is not None:
            check_owner(*owner, cluster_id, node_id)
        if revision == scripts.get_current_head():
            check(connection)
            return
        command.upgrade(alembic_config(connection), "head")
        connection.execute(tables.checksum.delete())
        connection.execute(tables.checksum.insert().values(id=1, checksum=schema_checksum()))


def check_owner(found_cluster: str, found_node: str, cluster_id: str, node_id: str) -> None:
    """Check that a database is the history of a node.

    Raises:
        HistoryError: it is that of another one.
    """
    if (found_cluster, found_node) != (cluster_id, node_id):
        raise HistoryError(
            f"the database is the history of {found_node} of {found_cluster}, not of {node_id} of {cluster_id}: "
            "give each node a database of its own"
        )


def head() -> str:
    """Return the latest revision, which this version creates."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    latest = ScriptDirectory.from_config(config).get_current_head()
    assert latest is not None
    return latest


def check(connection: Connection) -> None:
    """Compare the checksum stored beside the data with that of this version.

    Raises:
        HistoryError: they differ.
    """
    stored = connection.execute(select(tables.checksum.c.checksum)).scalar()
    if stored != schema_checksum():
        raise HistoryError(
            f"{_name(connection.engine)}: the schema's checksum is {str(stored)[:12]}, this version has {schema_checksum()[:12]}: "
            "start the version that made it, or begin a new history on an empty database"
        )


def is_made(engine: Engine) -> bool:
    """Return whether the database has a history's schema. A missing SQLite file is not created."""
    if engine.url.get_backend_name() == "sqlite" and not Path(engine.url.database or "").exists():
        return False
    return bool(inspect(engine).has_table("progress"))


def _name(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def alembic_config(connection: Connection) -> Config:
    """Return Alembic's configuration to run the migrations on a connection."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
