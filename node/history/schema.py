"""A database's schema: made and brought up to date by the migrations in `migrations/versions`, its checksum stored
beside the data.

It is independent of the engine's ABI: rows hold plain columns, and a new version of the exchange needs a migration here
only where a column changes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, select
from sqlalchemy.schema import CreateSchema

from node.errors import HistoryError
from node.history import tables
from node.history.database import schema_name

MIGRATIONS = Path(__file__).with_name("migrations")


def schema_checksum() -> str:
    """Of all tables, columns and indexes as this version has them."""
    lines = []
    for table in tables.metadata.sorted_tables:
        for column in table.columns:
            flags = f"{'null' if column.nullable else 'not null'}{' key' if column.primary_key else ''}"
            lines.append(f"{table.name}.{column.name} {type(column.type).__name__} {flags}")
        lines += sorted(f"{table.name} index {index.name} {','.join(index.columns.keys())}" for index in table.indexes)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def prepare(engine: Engine, node_id: str) -> None:
    """Make the schema or bring it up to date, in one transaction, and check what is there.

    Raises:
        HistoryError: the database has the schema of a later version, or one that was changed by other means.
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
        if revision == scripts.get_current_head():
            check(connection)
            return
        command.upgrade(alembic_config(connection), "head")
        connection.execute(tables.checksum.delete())
        connection.execute(tables.checksum.insert().values(id=1, checksum=schema_checksum()))


def head() -> str:
    """The latest revision, which this version makes."""
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
            "start the version that made it, or let the history begin anew on an empty database"
        )


def is_made(engine: Engine) -> bool:
    """Whether there is a history's schema in the database. A file of SQLite's that is not there stays away."""
    if engine.url.get_backend_name() == "sqlite" and not Path(engine.url.database or "").exists():
        return False
    return bool(inspect(engine).has_table("progress"))


def _name(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration, to run the migrations on a connection."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
