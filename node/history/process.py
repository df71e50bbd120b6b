"""`python -m node.history.process --config node.toml`: the history of a node, until SIGTERM.

The supervisor starts it where `history.enabled` is true. It asks the engine a few times a second how far the log is
applied, and reads the log on disk itself, so it costs the engine nothing.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Sequence
from math import inf
from pathlib import Path

import click
from sqlalchemy.exc import DatabaseError, DBAPIError, SQLAlchemyError

from cluster.errors import ClusterError, MissingEntriesError
from node.config.settings import NodeConfig
from node.config.start import GaveUp, begin, config_option, pause, stop_event
from node.errors import ConnectionLost, HistoryError, QuorumbookError, RequestFailed
from node.history.database import connect, is_damaged, place, prepare
from node.history.fetching import Fetcher, FetchResult
from node.history.keeper import Keeper
from node.history.partitions import archive_days
from node.history.state import StateStore
from node.history.store import HistoryStore
from node.native.connection import NativeConnection
from node.native.protocol import MemberStatus, NodeStatus, StatusQuery
from node.system.processes import watch_parent
from snapshots.errors import SnapshotError

log = logging.getLogger(__name__)

INTERVAL = 0.03
"""Seconds between two requests to an idle engine."""

ARCHIVE_INTERVAL = 3600.0
"""Seconds between two searches for days to move to files."""

RETRY = 0.2
"""Seconds before the next attempt to reach the engine."""

ASK_AGAIN = 2.0
PATIENCE = 600.0
"""Seconds between two rounds of asking other nodes for missing entries, and the time after which an unreachable node is
not waited for.
"""

STATE_EVERY = 100_000
STATE_SECONDS = 600.0
"""See `StateStore`."""


def open_keeper(config: NodeConfig) -> Keeper:
    """Open the database, bring its schema up to date if necessary, and load the state that belongs to it.

    Raises:
        HistoryError: the database cannot be used for this node.
        sqlalchemy.exc.SQLAlchemyError, SnapshotError, OSError: it cannot be reached, or files cannot be read.
    """
    config.history_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = connect(config)
    try:
        prepare(engine, config.cluster_id, config.node_id)
        store = HistoryStore(engine, config.cluster_id, config.node_id)
        return Keeper(config, store, StateStore(config.history_path / "state", STATE_EVERY, STATE_SECONDS))
    except BaseException:
        engine.dispose()
        raise


class LogFollower:
    """Asks the engine how far it is and lets the keeper store up to there. Asks other nodes for entries that this
    node's log has not kept.
    """

    def __init__(self, config: NodeConfig, keeper: Keeper) -> None:
        self._address = f"unix:{config.engine_socket}"
        self._keeper = keeper
        self._fetcher = Fetcher(config, keeper.fetched)
        self._patience_ends = inf
        self._connection: NativeConnection | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the log until `stop` is set."""
        while not stop.is_set():
            try:
                status = await self._status()
            except (ConnectionLost, RequestFailed, OSError):
                await pause(stop, RETRY)
                continue
            try:
                self._keeper.note_start(status.engine_start)
                while not stop.is_set() and await asyncio.to_thread(self._keeper.advance, status.applied_index):
                    pass
                await pause(stop, INTERVAL)
            except MissingEntriesError as missing:
                await self._find(missing.index, status.others, stop)
        if self._connection is not None:
            await self._connection.close()

    async def _find(self, index: int, others: Sequence[MemberStatus], stop: asyncio.Event) -> None:
        """Get entry `index` from another node, or continue without it: at once if no node has it, later if a node could
        not be asked.
        """
        loop = asyncio.get_running_loop()
        fetching = asyncio.create_task(self._fetcher.fetch(index, others))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((fetching, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not fetching.done():
            fetching.cancel()
            return
        found = fetching.result()
        if found is FetchResult.PERHAPS and self._patience_ends == inf:
            self._patience_ends = loop.time() + PATIENCE
            log.warning(
                "log entry %d is not here, and not every node could be asked for it: asking again for %d s", index, PATIENCE
            )
        if found is FetchResult.PERHAPS and loop.time() < self._patience_ends:
            await pause(stop, ASK_AGAIN)
            return
        self._patience_ends = inf
        if found is not FetchResult.HERE:
            await asyncio.to_thread(self._keeper.skip, index)

    async def _status(self) -> NodeStatus:
        """Return how far the engine is, and the other nodes."""
        if self._connection is None or self._connection.closed.is_set():
            self._connection = await NativeConnection.open(self._address, client="history")
        return await self._connection.query(StatusQuery())


async def run(config: NodeConfig) -> None:
    """Keep the history until SIGTERM or SIGINT.

    Raises:
        GaveUp: the database must not be used, or is damaged.
        QuorumbookError, SnapshotError, ClusterError, SQLAlchemyError, OSError: the history cannot go on now.
    """
    try:
        await _run(config)
    except DatabaseError as error:
        if not is_damaged(error):
            raise
        raise GaveUp(
            f"the history cannot continue: {place(config)} is damaged ({error.orig}). Stop the node, move {config.history_path} away, and start "
            "it: the history is rebuilt (docs/history.md)"
        ) from error


async def _run(config: NodeConfig) -> None:
    stop = stop_event()
    try:
        keeper = open_keeper(config)
    except HistoryError as error:
        raise GaveUp(f"the history cannot start: {error}") from error
    progress = keeper.progress
    log.info("the history goes up to log entry %d, sequence %d", progress.log_index, progress.sequence)
    archiving = asyncio.create_task(_archive_daily(config))
    await LogFollower(config, keeper).run(stop)
    archiving.cancel()
    keeper.close()


async def _archive_daily(config: NodeConfig) -> None:
    """Move old days to files if the configuration says so, with a check once an hour. A failure is logged and retried."""
    while config.history.archive_days:
        before = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=config.history.archive_days - 1)
        try:
            for moved in await asyncio.to_thread(archive_days, config, before):
                log.info("%s: %d rows moved to %s", moved.table, moved.rows, moved.file)
        except (HistoryError, SQLAlchemyError, OSError) as error:
            log.error("old days stay in the database: %s", error)
        await asyncio.sleep(ARCHIVE_INTERVAL)


@click.command()
@config_option
def main(path: Path) -> None:
    """Run the history of one node."""
    watch_parent()
    try:
        config = begin(path, "history")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        asyncio.run(run(config))
    except DBAPIError as error:
        raise click.ClickException(f"the history stops: {place(config)}: {error.orig}") from None
    except (QuorumbookError, SnapshotError, ClusterError, SQLAlchemyError, OSError) as error:
        raise click.ClickException(f"the history stops: {error}") from None


if __name__ == "__main__":
    main()
