"""`python -m node.streams.process --config node.toml`: the stream of a node, until SIGTERM.

The supervisor starts it if `streams.url` is set. If several nodes have a stream, one of them publishes. The others
watch the position at the broker, and one takes over when the position stands still although its log grows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import click

from cluster.errors import ClusterError, MissingEntriesError
from node.config.settings import NodeConfig
from node.config.start import GaveUp, begin, config_option, pause, stop_event
from node.errors import ConnectionLost, QuorumbookError, RequestFailed, StreamError
from node.history.fetching import Fetcher, FetchResult
from node.native.connection import NativeConnection
from node.native.protocol import NodeStatus, StatusQuery
from node.streams.broker import Broker, BrokerError, FencedError
from node.streams.following import NodeStream
from node.streams.records import RecordWriter
from node.system import tasks as background
from node.system.counts import Family, counts_file, keep_writing
from node.system.processes import watch_parent
from node.system.tasks import Backoff
from snapshots.errors import SnapshotError

log = logging.getLogger(__name__)

INTERVAL_S = 0.03
"""Seconds between two queries to an idle engine."""

RETRY_S = 0.2
"""Seconds before the next attempt to reach the engine."""

BROKER_PAUSE_MIN_S, BROKER_PAUSE_MAX_S = 0.2, 5.0
"""Minimum and maximum seconds before the next attempt to reach the broker. The pause doubles."""

WATCH_S = 1.0
"""Seconds between two reads of the position of another node's stream."""

ASK_AGAIN_S = 2.0

NEEDS = {"kafka": "confluent_kafka", "nats": "nats"}


def open_broker(config: NodeConfig) -> Broker:
    """Return the configured broker without connecting to it.

    Raises:
        StreamError: the client library of the broker is not installed.
    """
    streams = config.streams
    scheme, _, servers = streams.url.partition("://")
    options = dict(option.partition("=")[::2] for option in streams.options)
    topics = RecordWriter(streams.prefix, streams.format).topics
    places = f"{streams.prefix}.places"
    try:
        if scheme == "kafka":
            from node.streams.kafka import KafkaBroker

            return KafkaBroker(
                servers,
                config.cluster_id,
                places,
                topics,
                partitions=streams.partitions,
                replication=streams.replication,
                options=options,
            )
        from node.streams.jetstream import JetStreamBroker

        return JetStreamBroker(servers, config.cluster_id, streams.prefix, options=options)
    except ImportError as error:
        raise StreamError(f"{NEEDS[scheme]} is not installed: pip install 'quorumbook[{scheme}]'") from error


def families(index: int, published: int, failures: int, *, publishes: bool) -> list[Family]:
    """Return the metrics of a stream. `index` and `published` are log indexes."""
    return [
        Family("streams_publishing", "1 while this node publishes the stream, 0 while another does", {"": publishes}),
        Family("streams_log_index", "Last log entry that the broker has, as far as this node knows", {"": index}),
        Family("streams_records_published", "Records published", {"": published}, counter=True),
        Family("streams_broker_errors", "How often the broker did not take records", {"": failures}, counter=True),
    ]


class Streamer:
    """Runs a stream: follows the engine, waits for the broker, and stands by while another node streams.

    Args:
        following: the stream.
        broker: the broker of `following`.
    """

    def __init__(self, config: NodeConfig, following: NodeStream, broker: Broker) -> None:
        self._config = config
        self._following = following
        self._broker = broker
        self._fetcher = Fetcher(config, following.fetched)
        self._connection: NativeConnection | None = None
        self._backoff = Backoff(BROKER_PAUSE_MIN_S, BROKER_PAUSE_MAX_S)
        self._publishes = False
        self._failures = 0

    def figures(self) -> list[Family]:
        """Return the stream's metrics."""
        return families(self._following.position.index, self._following.published, self._failures, publishes=self._publishes)

    async def run(self, stop: asyncio.Event) -> None:
        """Stream until `stop` is set.

        Raises:
            StreamError: the stream cannot continue.
        """
        try:
            while not stop.is_set():
                try:
                    await self._take_over(stop)
                    await self._publish(stop)
                except FencedError as error:
                    self._publishes = False
                    log.info("another node streams now (%s); standing by", error)
                    await pause(stop, WATCH_S)
                except BrokerError as error:
                    self._publishes, self._failures = False, self._failures + 1
                    pause_s = self._backoff.next_s()
                    log.warning("the broker does not take the stream: %s; trying again in %.1f s", error, pause_s)
                    await pause(stop, pause_s)
        finally:
            if self._connection is not None:
                await self._connection.close()

    async def _take_over(self, stop: asyncio.Event) -> None:
        """Begin unless another node is streaming."""
        if await self._is_streamed_elsewhere(stop):
            position = await asyncio.to_thread(self._broker.standing)
            if position is not None:
                await asyncio.to_thread(self._following.stand_by, position)
            raise FencedError("its position at the broker moves on")
        await asyncio.to_thread(self._following.begin)
        self._backoff.reset()
        self._publishes = True
        log.info("streaming after log entry %d", self._following.position.index)

    async def _is_streamed_elsewhere(self, stop: asyncio.Event) -> bool:
        """Return whether another node is streaming. This waits until the broker's position moves (True), or until it
        has stood still for `streams.takeover` seconds while it was behind this node's applied index (False).
        """
        loop = asyncio.get_running_loop()
        first = await asyncio.to_thread(self._broker.standing)
        if first is None or first.node_id in ("", self._config.node_id) or self._following.undone(first) is not None:
            return False
        end = loop.time() + self._config.streams.takeover
        while loop.time() < end and not stop.is_set():
            status = await self._status()
            now = await asyncio.to_thread(self._broker.standing)
            if now != first:
                return True
            if status is not None and first.index >= status.applied_index:
                end = loop.time() + self._config.streams.takeover  # the stream is up to date, so the wait starts again
            await pause(stop, WATCH_S)
        return False

    async def _publish(self, stop: asyncio.Event) -> None:
        """Follow the engine until `stop` is set, or the broker fails."""
        while not stop.is_set():
            status = await self._status()
            if status is None:
                await pause(stop, RETRY_S)
                continue
            try:
                while not stop.is_set() and await asyncio.to_thread(self._following.advance, status.applied_index):
                    pass
                await pause(stop, INTERVAL_S)
            except MissingEntriesError as missing:
                await self._find(missing.index, status, stop)

    async def _find(self, index: int, status: NodeStatus, stop: asyncio.Event) -> None:
        """Get entry `index` from another node.

        Raises:
            StreamError: no node has the entry, so the stream has a gap that nothing can fill.
        """
        found = await self._fetcher.fetch(index, status.others)
        if found is FetchResult.PERHAPS:
            await pause(stop, ASK_AGAIN_S)
        elif found is FetchResult.NOWHERE and not await asyncio.to_thread(self._following.begin_behind_snapshot):
            raise StreamError(
                f"log entry {index} is no longer on any node, so events after entry {self._following.position.index} are lost to the stream. "
                "Begin with another streams.prefix, and have consumers read the state again"
            )

    async def _status(self) -> NodeStatus | None:
        """Return the engine's status, or None if it does not answer."""
        try:
            if self._connection is None or self._connection.closed.is_set():
                self._connection = await NativeConnection.open(f"unix:{self._config.engine_socket}", client="streams")
            return await self._connection.query(StatusQuery())
        except (ConnectionLost, RequestFailed, OSError):
            return None


async def run(config: NodeConfig, opened: Callable[[NodeConfig], Broker] = open_broker) -> None:
    """Stream until SIGTERM or SIGINT."""
    stop = stop_event()
    tasks: set[asyncio.Task[None]] = set()
    following: NodeStream | None = None
    try:
        broker = opened(config)
        config.streams_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        following = NodeStream(config, broker, RecordWriter(config.streams.prefix, config.streams.format))
        streamer = Streamer(config, following, broker)
        tasks.add(asyncio.create_task(streamer.run(stop)))
        tasks.add(asyncio.create_task(keep_writing(counts_file(config.data_path, "streams"), streamer.figures)))
        if config.streams.orders:
            from node.streams.orders import run_orders

            tasks.add(asyncio.create_task(run_orders(config, stop)))
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    except StreamError as error:
        raise GaveUp(f"the stream cannot continue: {error}") from error
    finally:
        stop.set()
        await background.cancel(tasks)
        if following is not None:
            following.close()


@click.command()
@config_option
def main(path: Path) -> None:
    """Stream one node's log to a broker."""
    watch_parent()
    try:
        config = begin(path, "streams")
        asyncio.run(run(config))
    except (QuorumbookError, SnapshotError, ClusterError, OSError) as error:
        raise click.ClickException(f"the stream stops: {error}") from None


if __name__ == "__main__":
    main()
