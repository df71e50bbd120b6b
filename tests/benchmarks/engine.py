"""The cost of an order in the engines of three nodes: CPU time an order, without sockets, TLS and fsync.

    python -m tests.benchmarks.engine [--profile] [--orders N] [--together N]

Three engines run in one process. Their Raft messages go from one to the other in the next turn of the loop, and their
logs are real files that are not synced. `--together` submissions of as many accounts reach the leader in one piece, as
a gateway writes them. The next ones follow when all are answered. The figures are those of the fastest of several
rounds.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import pstats
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import click
import uvloop

from cluster.driver import RaftDriver
from cluster.messages import NO_OP
from cluster.ports import LogEntry, OnMessage, Timekeeper
from cluster.raft import Raft, open_raft
from cluster.settings import RaftSettings
from cluster.storage import RealDisk
from loadtest.compare.requests import orders
from loadtest.market import setup_commands, traders
from node.engine.feed import Feed
from node.engine.leadership import ahead_of_tick
from node.engine.native_server import NativeServer
from node.engine.replicated_engine import ReplicatedEngine, stamp_of
from node.engine.service import EngineService, NodeIdentity
from node.engine.session import Session
from node.keys.encryption import write_keys
from node.native.framing import FrameSplitter, pack
from node.native.protocol import PROTOCOL_VERSION, Failed, Hello, Submit, Welcome, response_decoder
from tests.simulation.disk import SimDisk
from tests.simulation.parts import Machine, SimSnapshots
from tests.unit.node.fakes import CLUSTER_KEYS, config_of

SEED = 1
IDS = ("n1", "n2", "n3")
FIRST = LogEntry(bytes([NO_OP]), 1, 0)


class Link:
    """A node's wire to the others in this process."""

    def __init__(self, node_id: str, all_links: dict[str, Link]) -> None:
        self.accepts_unknown = False
        self._node_id = node_id
        self._all = all_links
        self._waiting: dict[str, list[bytes]] = {}
        self._on_message: OnMessage = lambda _peer, _data, _more: None
        self.messages = 0

    def start(self, on_message: OnMessage, on_connected: Callable[[str], None], _on_disconnected: Callable[[str], None]) -> None:
        """See `ports.Wire`."""
        self._on_message = on_message
        for peer in self._all:
            if peer != self._node_id:
                on_connected(peer)

    def send(self, peer: str, message: bytes) -> bool:
        """See `ports.Wire`."""
        self.messages += 1
        self._all[peer].arrived(self._node_id, message)
        return True

    def arrived(self, sender: str, message: bytes) -> None:
        """Deliver a message in the next turn, together with later ones of this turn."""
        waiting = self._waiting.setdefault(sender, [])
        waiting.append(message)
        if len(waiting) == 1:
            asyncio.get_running_loop().call_soon(self._deliver, sender)

    def _deliver(self, sender: str) -> None:
        waiting = self._waiting.pop(sender)
        for number, message in enumerate(waiting, 1):
            self._on_message(sender, message, number < len(waiting))

    def set_peers(self, _peers: Mapping[str, str], _removed_peers: Mapping[str, bytes]) -> None:
        """See `ports.Wire`."""

    def stop(self) -> None:
        """See `ports.Wire`."""


class Node:
    """One engine."""

    def __init__(self, directory: Path, node_id: str, links: dict[str, Link]) -> None:
        config = config_of(directory / node_id, node_id)
        config.cluster_key_path.parent.mkdir(parents=True)
        write_keys(config.cluster_key_path, CLUSTER_KEYS)
        feed = Feed(config.native.events_kept)
        machine = ReplicatedEngine(feed)
        sim = SimDisk(random.Random(SEED))
        log = directory / node_id / "log"
        log.mkdir()
        self.link = links[node_id]
        self.raft: Raft = open_raft(
            RaftSettings(node_id, tuple(peer for peer in IDS if peer != node_id), snapshot_entries=10**9, heartbeat=0.07),
            machine,
            cast(Any, SimSnapshots([], Machine(), sim)),
            RealDisk(log, fsync=False),
            self.link,
            clock=time.monotonic,
            randomness=random.Random(node_id),
            timekeeper=Timekeeper(time.time_ns, stamp_of, lambda: machine.engine.time),
        )
        loop = asyncio.get_running_loop()
        self.service = EngineService(
            config,
            NodeIdentity("bench", ""),
            machine,
            feed,
            self.raft,
            later=loop.call_soon,
            after=loop.call_later,
            ahead_of_tick=ahead_of_tick(loop.call_soon, lambda: self.raft.wake()),
        )
        self.server = NativeServer(self.service, lambda _channel: None)
        self.driver = RaftDriver(self.raft)

    def start(self) -> None:
        """Connect to the others, and run."""
        self.raft.start()
        self.running = asyncio.create_task(self.driver.run())


class Gateway:
    """A gateway's end of the connection to the leader: the transport of the session. It counts answers."""

    def __init__(self, server: NativeServer) -> None:
        self.answers = 0
        self._splitter = FrameSplitter(1 << 26)
        self._session = Session(server, local=True)
        self._session.connection_made(cast(Any, self))
        self.write_frames([pack(Hello(PROTOCOL_VERSION, "bench"))])

    def write_frames(self, frames: list[bytes]) -> None:
        """Send frames in one piece."""
        self._session.data_received(b"".join(frames))

    def write(self, data: bytes) -> None:
        """Count the answers in the bytes, of which none may be a failure."""
        for body in self._splitter.feed(data):
            message = response_decoder.decode(body) if body[1] != 3 or not self.answers else None
            assert not isinstance(message, Failed), message
            self.answers += not isinstance(message, Welcome)

    def get_extra_info(self, _name: str) -> None:
        """Return nothing."""

    def set_write_buffer_limits(self, high: int) -> None:
        """Do nothing, because nothing waits."""

    def get_write_buffer_size(self) -> int:
        """Return 0, because nothing waits."""
        return 0

    def is_reading(self) -> bool:
        """Return True: the port reads always."""
        return True

    def pause_reading(self) -> None:
        """Do nothing."""

    resume_reading = pause_reading

    def is_closing(self) -> bool:
        """Return False, because it is never closed."""
        return False


async def measure(directory: Path, count: int, together: int, rounds: int, profile: bool) -> None:
    """Print the CPU microseconds of an order."""
    links: dict[str, Link] = {}
    for node_id in IDS:
        links[node_id] = Link(node_id, links)
    nodes = [Node(directory, node_id, links) for node_id in IDS]
    for node in nodes:
        node.start()
    async with asyncio.timeout(10):
        while not (leading := [node for node in nodes if node.raft.is_leader and node.raft.status().ready]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    gateway = Gateway(leading[0].server)
    people = traders(64, SEED)
    setup = setup_commands(people)
    gateway.write_frames([pack(Submit(number, [command])) for number, command in enumerate(setup)])
    while gateway.answers < len(setup):  # noqa: ASYNC110 - turns of the loop are what is measured
        await asyncio.sleep(0)
    profiler, found = cProfile.Profile() if profile else None, []
    for number in range(rounds):
        flow = orders(people, f"r{number}", SEED)
        frames = [pack(Submit(place, [next(flow)])) for place in range(count)]
        gc.collect()
        gateway.answers = 0
        entries, messages = nodes[0].raft.commit_index, sum(link.messages for link in links.values())
        if profiler is not None and number:
            profiler.enable()
        begun = time.process_time()
        for at in range(0, count, together):
            gateway.write_frames(frames[at : at + together])
            while gateway.answers < min(count, at + together):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
        found.append((time.process_time() - begun) / count * 1e6)
        if profiler is not None:
            profiler.disable()
    entries = nodes[0].raft.commit_index - entries
    messages = sum(link.messages for link in links.values()) - messages
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(50)
    print(
        f"{together} together: {min(found):.1f} us an order, three engines (median {statistics.median(found):.1f}); "
        f"{count / entries:.1f} orders an entry, {messages / entries:.1f} messages an entry"
    )
    for node in nodes:
        node.driver.stop()
        await node.running


@click.command()
@click.option("--orders", "count", default=3_000, help="Orders a round.")
@click.option("--together", default=16, help="Submissions that arrive at once.")
@click.option("--rounds", default=6)
@click.option("--profile", is_flag=True, help="Show where the time goes; the figures are then too large.")
def main(count: int, together: int, rounds: int, profile: bool) -> None:
    """Measure the CPU time that an order costs three engines."""
    with tempfile.TemporaryDirectory() as name:
        uvloop.run(measure(Path(name), count, together, rounds, profile))


if __name__ == "__main__":
    main()
