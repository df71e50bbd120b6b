"""Faults of the network. They need a network namespace for each node (`network.Network`)."""

from __future__ import annotations

import asyncio

from tests.chaos.faults import Fault
from tests.chaos.network import CLIENTS
from tests.chaos.stage import Stage

FLAPS = 6
FLAP_SECONDS = 0.35


class NetworkFault(Fault):
    """A fault that ends when the whole network is healed."""

    seconds = (0.5, 8.0)

    async def end(self, stage: Stage) -> None:
        if self.nodes:
            await asyncio.to_thread(stage.network.heal)


class CutLeader(NetworkFault):
    """No node and no client reaches the leader."""

    name = "net-cut-leader"

    async def begin(self, stage: Stage) -> None:
        network = stage.network
        self.nodes = [await stage.leader()]
        network.unplug(self.nodes[0])


class CutFollower(NetworkFault):
    """No node and no client reaches a follower."""

    name = "net-cut-follower"

    async def begin(self, stage: Stage) -> None:
        network = stage.network
        self.nodes = (await stage.followers())[:1]
        network.unplug(self.nodes[0])


class CutAll(NetworkFault):
    """No node and no client reaches any node."""

    name = "net-cut-all"
    quorum = False
    seconds = (0.5, 4.0)

    async def begin(self, stage: Stage) -> None:
        network = stage.network
        self.nodes = list(stage.cluster.node_ids)
        for node_id in self.nodes:
            network.unplug(node_id)


class CutPeers(NetworkFault):
    """The leader and the other nodes do not reach each other. Clients reach all of them."""

    name = "net-cut-peers"
    deaf = mute = True
    """Whether the leader does not hear the others, and whether they do not hear it."""

    async def begin(self, stage: Stage) -> None:
        network, others = stage.network, await stage.followers()
        self.nodes = [node_id for node_id in stage.cluster.node_ids if node_id not in others]
        for other in others:
            if self.deaf:
                network.deafen(self.nodes[0], other)
            if self.mute:
                network.deafen(other, self.nodes[0])


class CutClients(NetworkFault):
    """No client reaches the leader, and the nodes reach each other, so the leader stays. A client of the native
    protocol waits, because the other nodes only name the leader. Their gateways would forward its commands.
    """

    name = "net-cut-clients"
    quorum = False
    seconds = (0.5, 6.0)

    async def begin(self, stage: Stage) -> None:
        network = stage.network
        self.nodes = [await stage.leader()]
        network.deafen(self.nodes[0], CLIENTS)


class LeaderDeaf(CutPeers):
    """The other nodes hear the leader, and the leader does not hear them."""

    name = "net-leader-deaf"
    mute = False


class LeaderMute(CutPeers):
    """The leader hears the other nodes, and they do not hear the leader."""

    name = "net-leader-mute"
    deaf = False


class CutOneLink(NetworkFault):
    """The leader and one follower do not reach each other. The other follower reaches both."""

    name = "net-cut-link"

    async def begin(self, stage: Stage) -> None:
        network, leader, other = stage.network, await stage.leader(), (await stage.followers())[0]
        self.nodes = [leader, other]
        network.deafen(leader, other)
        network.deafen(other, leader)


class Flapping(NetworkFault):
    """A node loses its network repeatedly."""

    name = "net-flapping"
    seconds = (0.1, 0.3)

    async def begin(self, stage: Stage) -> None:
        network = stage.network
        self.nodes = [await stage.any_node()]
        for _ in range(FLAPS):
            network.unplug(self.nodes[0])
            await asyncio.sleep(FLAP_SECONDS)
            network.plug(self.nodes[0])
            await asyncio.sleep(FLAP_SECONDS)


class Slow(NetworkFault):
    """A node's network carries only 2 Mbit/s."""

    name = "net-slow"
    HOW: tuple[str, ...] = ("tbf", "rate", "2mbit", "burst", "16k", "latency", "100ms")

    async def begin(self, stage: Stage) -> None:
        network, node_id = stage.network, await stage.any_node()
        self.nodes = [node_id]
        network.disturb(node_id, *self.HOW)


class Netem(Slow):
    """A node's packets are delayed, and some are lost or out of order."""

    name = "net-delay-loss-reorder"
    HOW = ("netem", "delay", "20ms", "10ms", "loss", "2%", "reorder", "10%")
