"""`python -m node.history.process --config node.toml`: the history of a node, until SIGTERM.

Started by the supervisor where `history.enabled` is true. It asks the engine how far it has applied the log, a few times a second, and reads the
log itself: the engine does nothing for it.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import signal
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from cluster.errors import ClusterError
from node.config.file import load
from node.config.settings import NodeConfig
from node.errors import ConnectionLost, HistoryError, QuorumbookError, RequestFailed
from node.history.database import connect
from node.history.keeper import Keeper
from node.history.partitions import archive_days
from node.history.schema import prepare
from node.history.state import StateStore
from node.history.store import HistoryStore
from node.native.connection import NativeConnection
from node.native.protocol import StatusQuery
from node.system import logs
from node.system.parent_watch import watch_parent
from snapshots.errors import SnapshotError

log = logging.getLogger(__name__)

INTERVAL = 0.03
"""Seconds between two questions to an idle engine."""

ARCHIVE_INTERVAL = 3600.0
"""Seconds between two looks for days to move to files."""

RETRY = 0.2
"""Seconds before the engine is looked for again."""


def open_keeper(config: NodeConfig) -> Keeper:
    """Open the database, made and brought up to date if need be, and the state that belongs to it.

    Raises:
        HistoryError: the database cannot be used for this node.
        sqlalchemy.exc.SQLAlchemyError, SnapshotError, OSError: it cannot be reached, or files cannot be read.
    """
    config.history_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = connect(config)
    try:
        prepare(engine, config.node_id)
        store = HistoryStore(engine, config.cluster_id, config.node_id)
        return Keeper(config, store, StateStore(config.history_path / "state"))
    except BaseException:
        engine.dispose()
        raise


class Follower:
    """Asks the engine how far it is, and lets the keeper store up to there."""

    def __init__(self, config: NodeConfig, keeper: Keeper) -> None:
        self._address = f"unix:{config.engine_socket}"
        self._keeper = keeper
        self._connection: NativeConnection | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop` is set."""
        while not stop.is_set():
            try:
                applied = await self._applied()
            except (ConnectionLost, RequestFailed, OSError):
                await _pause(stop, RETRY)
                continue
            while not stop.is_set() and await asyncio.to_thread(self._keeper.advance, applied):
                pass
            await _pause(stop, INTERVAL)
        if self._connection is not None:
            await self._connection.close()

    async def _applied(self) -> int:
        """The last log entry that the engine has applied."""
        if self._connection is None or self._connection.closed.is_set():
            self._connection = await NativeConnection.open(self._address, client="history")
        status = await self._connection.query(StatusQuery())
        return status.applied_index


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


async def run(config: NodeConfig) -> None:
    """Keep the history until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    keeper = open_keeper(config)
    progress = keeper.progress
    log.info("the history goes up to log entry %d, sequence %d", progress.log_index, progress.sequence)
    archiving = asyncio.create_task(_archive_daily(config))
    await Follower(config, keeper).run(stop)
    archiving.cancel()
    keeper.close()


async def _archive_daily(config: NodeConfig) -> None:
    """Move old days to files, if so configured; looks once an hour. A failure is told and tried again."""
    while config.history.archive_days:
        before = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=config.history.archive_days - 1)
        try:
            for moved in await asyncio.to_thread(archive_days, config, before):
                log.info("%s: %d rows moved to %s", moved.table, moved.rows, moved.file)
        except (HistoryError, SQLAlchemyError, OSError) as error:
            log.error("old days stay in the database: %s", error)
        await asyncio.sleep(ARCHIVE_INTERVAL)


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The node's TOML file.")
def main(path: Path) -> None:
    """Keep the history of one node."""
    watch_parent()
    try:
        config = load(path)
        logs.set_up(config.log_level, f"{config.node_id} history")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        asyncio.run(run(config))
    except (QuorumbookError, SnapshotError, ClusterError, SQLAlchemyError, OSError) as error:
        raise click.ClickException(f"the history stops: {error}") from None


if __name__ == "__main__":
    main()
