"""Bad lines between the nodes: relays delay, stall, slow down and reset their Raft connections. They need no root."""

from __future__ import annotations

import asyncio

from node.config.file import change_settings
from tests.chaos.faults import Fault
from tests.chaos.relay import GOOD, Quality, RelayProcess
from tests.chaos.stage import Stage

INNER_PORT = 30
"""The port of a node behind its relay is higher by this number."""

QUALITIES = (
    Quality(delay=0.02, jitter=0.02),
    Quality(delay=0.002, stall_every=0.4, stall=0.5),
    Quality(rate=250_000.0),
    Quality(delay=0.005, jitter=0.01, reset_every=0.7),
)
"""Far away; packets lost, of which TCP shows the pauses; thin; breaking off."""

QUALITY_SECONDS = (1.0, 2.5)

CORRUPT = 40
"""One chunk in so many has a bit inverted."""


class _OverRelays(Fault):
    """The nodes are restarted behind relays, and at the end without them."""

    seconds = (0.0, 0.1)
    section = "raft"
    """Whose port the relays stand in front of."""

    def __init__(self) -> None:
        super().__init__()
        self._relays: dict[str, RelayProcess] = {}

    async def insert(self, stage: Stage, node_id: str) -> None:
        """Put a relay in front of a node."""
        outer = self._address(stage, node_id)
        inner = f"127.0.0.1:{int(outer.rpartition(':')[2]) + INNER_PORT}"
        relay = RelayProcess(outer, inner, stage.random.randrange(1 << 30), stage.inside(node_id))
        await asyncio.to_thread(stage.cluster.stop, [node_id])
        change_settings(stage.scenario.access.layout.config_paths[node_id], {f"{self.section}.listen": inner})
        stage.at_end.callback(relay.stop)
        await asyncio.to_thread(relay.start)
        self._relays[node_id] = relay
        await stage.start(node_id)
        await stage.all_vote()

    def _address(self, stage: Stage, node_id: str) -> str:
        config = stage.scenario.access.layout.configs[node_id]
        return config.raft.listen if self.section == "raft" else config.native.listen

    def set(self, quality: Quality) -> None:
        """Change the quality of every line."""
        for relay in self._relays.values():
            relay.set(quality)

    async def end(self, stage: Stage) -> None:
        self.set(GOOD)

    async def repair(self, stage: Stage) -> None:
        layout = stage.scenario.access.layout
        for node_id, relay in self._relays.items():
            await asyncio.to_thread(stage.cluster.stop, [node_id])
            await asyncio.to_thread(relay.stop)
            change_settings(layout.config_paths[node_id], {f"{self.section}.listen": self._address(stage, node_id)})
            await stage.start(node_id)
            await stage.all_vote()


class BadLines(_OverRelays):
    """Every line between nodes is late, stalls, has a low rate, and breaks, in random order. The clients' lines are
    good.
    """

    name = "bad-lines"

    async def begin(self, stage: Stage) -> None:
        self.nodes = list(stage.cluster.node_ids)
        # Nodes call those with smaller ids: nobody calls the last one.
        for node_id in self.nodes[:-1]:
            await self.insert(stage, node_id)
        for quality in stage.random.sample(QUALITIES, len(QUALITIES)):
            self.set(quality)
            await asyncio.sleep(stage.random.uniform(*QUALITY_SECONDS))
            stage.scenario.check_tasks()


class CorruptPeers(BadLines):
    """Bits flip on every line between nodes. TLS must detect each flip, and the nodes must connect again."""

    name = "corrupt-peers"

    async def begin(self, stage: Stage) -> None:
        self.nodes = list(stage.cluster.node_ids)
        for node_id in self.nodes[:-1]:
            await self.insert(stage, node_id)
        await self.spoil(stage)

    async def spoil(self, stage: Stage) -> None:
        """Flip bits for a while."""
        self.set(Quality(corrupt=CORRUPT))
        await asyncio.sleep(stage.random.uniform(2.0, 4.0))
        self.set(GOOD)
        stage.scenario.check_tasks()


class CorruptClients(CorruptPeers):
    """Bits flip on the lines from clients, and from other nodes' gateways, to one node."""

    name = "corrupt-clients"
    section = "native"

    async def begin(self, stage: Stage) -> None:
        self.nodes = [await stage.any_node()]
        await self.insert(stage, self.nodes[0])
        await stage.traded(60)
        await self.spoil(stage)
