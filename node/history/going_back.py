"""The market database on the way back to the version before: cut where the log will end, in the schema that the earlier
version knows.

The earlier version's software cannot do that itself, so it is done before the node's data goes back. Until then nothing
is lost: started again, this version brings the schema up to date and goes on from the log.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from alembic import command
from alembic.runtime.migration import MigrationContext

from node.config.settings import NodeConfig
from node.history import tables
from node.history.cutting import cut
from node.history.database import connect
from node.history.keeper import FETCHED
from node.history.schema import alembic_config, head, is_made
from node.history.store import HistoryStore, Progress
from node.migration import switch
from node.migration.build import Builder
from node.migration.found import look
from node.migration.start import chains
from snapshots import durable
from snapshots.abi.releases import Releases
from snapshots.errors import MigrationError
from statemachine.engine import Engine

KNOWN = {
    "0.1.0": ("0001", "fb85a1c11d8eaf339f8ceae43976c7893cfe26105e4d404c54e8a5cdc8e9c109"),
    "0.2.0": ("0002", "0c057a71f339f13461cedd0559bfa43f602bc742d8361fb4bcfdc8eace5d7546"),
}
"""The schema that an earlier version knows, and the checksum that it compares. Later versions know the present one."""


def go_back(config: NodeConfig, record: switch.Record) -> str:
    """Make the node's history one that the version before can go on with. What was done, for a person; "" where there
    is no history.

    Raises:
        HistoryError: the database is not this node's, or another process uses it.
        MigrationError: the state at the end of the former log cannot be made.
        sqlalchemy.exc.SQLAlchemyError, OSError: the database cannot be used; nothing was changed.
    """
    database = connect(config)
    try:
        if not is_made(database):
            return ""
        done = []
        with database.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
        if revision == head():  # an older one was not written to since the migration
            store = HistoryStore(database, config.cluster_id, config.node_id)
            behind = store.progress.log_index - record.last_index
            if behind > 0:
                state = _state_before(config, record)
                progress = Progress(record.last_index, state.sequence, state.time)
                cut(database, config.history_path, state, progress)
                done.append(f"cut back by {behind:,} log entries to sequence {state.sequence:,}")
        wanted, checksum = KNOWN.get(Releases().versions.get(record.from_abi, ""), (head(), ""))
        if revision is not None and wanted < revision:
            with database.begin() as connection:
                command.downgrade(alembic_config(connection), wanted)
                connection.execute(tables.checksum.update().values(checksum=checksum))
            done.append(f"schema {revision} is {wanted} again")
        for own in ("state", FETCHED):
            durable.remove(config.history_path / own)
        return "; ".join(done) or "nothing to undo"
    finally:
        database.dispose()


def _state_before(config: NodeConfig, record: switch.Record) -> Engine:
    """The exchange at the end of the former log, as the migration made it."""
    known = chains(config)
    found = look(config.data_path / switch.FORMER / record.from_abi)
    if found.abi is None:
        return Engine()
    steps = known.find(found.abi, record.to_abi)
    with tempfile.TemporaryDirectory(prefix="quorumbook-rollback-") as name:
        builder = Builder(found, Path(name) / "data", steps, known.releases, config.node_id, logging.getLogger(__name__).debug)
        builder.build()
    if builder.engine is None:
        raise MigrationError("the state before is made", str(found.data), f"it is not of ABI {record.to_abi}")
    return builder.engine
