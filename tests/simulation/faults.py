"""The faults of a simulated cluster: how often they happen, drawn from the seed, and how each is carried out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulation.disk import HARMS
from tests.simulation.incidents import Incident

if TYPE_CHECKING:
    from tests.simulation.world import World


SKEWS = (-86_400, -60, -8, 0, 8, 60, 80 * 365 * 86_400)
"""Seconds by which a wrong clock may be ahead."""


@dataclass(frozen=True)
class Faults:
    """The chances of faults for each step. `harm_log`: a crash after which the end of the log is older than what was
    committed, or has a flipped bit. `clock`: the clock of one node, the same one in a run, changes; it stays wrong when
    the faults end. `latency` is the mean time of a message in seconds, and `copies` a chance for each message.
    `power_loss_in_write` and `disk_error` are chances for each disk operation.
    """

    crash: float = 0.004
    power_loss_in_write: float = 0.0005
    restart: float = 0.03
    pause: float = 0.002
    cut: float = 0.006
    isolate: float = 0.002
    heal: float = 0.012
    one_way: float = 0.3
    reset: float = 0.003
    stall: float = 0.004
    lose_disk: float = 0.0
    harm_log: float = 0.0
    clock: float = 0.0
    disk_error: float = 0.0
    transfer_leadership: float = 0.001
    latency: float = 0.005
    copies: float = 0.002


class Injector:
    """Draws faults for a world, step by step, and carries out those that its script allows."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock_node = world.ids[world.seed % len(world.ids)]

    def inject(self) -> None:
        """Draw the faults of one step."""
        world, faults = self.world, self.world.faults
        self.draw_crashes()
        self.draw_network()
        running = world.running()
        for node in running:
            world.hosts[node].disk.death_chance = faults.power_loss_in_write
            world.hosts[node].disk.error_chance = faults.disk_error
        if running and self.chance(faults.pause):
            self.strike("pause", world.rng.choice(running), repr(world.rng.uniform(0.1, 2.0)))
        if self.chance(faults.transfer_leadership):
            self.strike("hand-over")
        if self.chance(faults.clock):
            self.strike("clock", self.clock_node, str(world.rng.choice(SKEWS)))
        for incident in world.script.rest():
            self.carry_out(incident)

    def chance(self, chance: float) -> bool:
        """Return True with this chance. Nothing is drawn for a chance of 0."""
        return chance > 0 and self.world.rng.random() < chance

    def draw_crashes(self) -> None:
        """Draw the starts and ends of processes."""
        world, rng, faults = self.world, self.world.rng, self.world.faults
        running = world.running()
        if running and self.chance(faults.crash):
            node = rng.choice(running)
            self.strike("power-loss" if rng.random() < 0.5 else "kill", node)
        if self.chance(faults.lose_disk) and world.all_vote():
            running = world.running()
            if running:
                self.strike("lose-disk", rng.choice(running))
        if self.chance(faults.harm_log) and world.all_vote():
            running = world.running()
            if running:
                self.strike("harm-log", rng.choice(running), rng.choice(HARMS))
        for node in world.ids:
            if world.hosts[node].process is None and self.chance(faults.restart):
                self.strike("start", node)

    def draw_network(self) -> None:
        """Draw the connections that break, stall and heal."""
        world, rng, faults = self.world, self.world.rng, self.world.faults
        if self.chance(faults.cut):
            one, other = rng.sample(world.ids, 2)
            self.strike("deaf" if rng.random() < faults.one_way else "cut", one, other)
        if self.chance(faults.isolate):
            node = rng.choice(world.ids)
            self.strike("isolate", node, rng.choice(["cut", "cut", "hears-nobody", "is-not-heard"]))
        if self.chance(faults.reset):
            self.strike("reset", *rng.sample(world.ids, 2))
        if self.chance(faults.stall):
            one, other = rng.sample(world.ids, 2)
            self.strike("stall", one, other, repr(rng.uniform(0.1, 1.5)))
        if (world.network.cut or world.network.deaf) and self.chance(faults.heal):
            self.strike("heal")

    def strike(self, kind: str, *args: str) -> None:
        """Record a drawn fault."""
        incident = self.world.script.drawn(kind, *args)
        if incident is not None:
            self.carry_out(incident)

    def carry_out(self, incident: Incident) -> None:
        """Let a fault happen if it is possible: a node that is down does not crash, and a node that is up does not
        start.
        """
        world, args = self.world, incident.args
        if incident.kind not in ("start", "kill", "power-loss", "lose-disk", "harm-log", "hand-over"):
            world.note(" ".join((incident.kind, *args)))
        match incident.kind:
            case "kill" | "power-loss" | "lose-disk":
                self._crash(incident.kind, args[0])
            case "harm-log" if world.hosts[args[0]].process is not None and world.all_vote():
                world.crash(args[0], harm=args[1])
            case "start" if world.hosts[args[0]].process is None:
                world.start(args[0])
            case "pause":
                world.hosts[args[0]].paused_until = world.now + float(args[1])
            case "hand-over":
                world.transfer_leadership()
            case "clock":
                world.hosts[args[0]].skew_ns = int(args[1]) * 10**9
            case "isolate":
                self._isolate(args[0], args[1])
            case "cut":
                world.network.cut.add(frozenset(args))
                world.disconnect(*args)
            case "deaf":
                world.network.deaf.add((args[0], args[1]))
            case "reset":
                world.disconnect(*args)
            case "stall":
                world.network.stall(args[0], args[1], float(args[2]))
            case "heal":
                world.heal()

    def _crash(self, kind: str, node: str) -> None:
        world = self.world
        if world.hosts[node].process is not None and (kind != "lose-disk" or world.all_vote()):
            world.crash(node, power_loss=kind != "kill", lose_disk=kind == "lose-disk")

    def _isolate(self, node: str, how: str) -> None:
        """Cut a node from all others. Sometimes only one direction is cut: the node hears nobody, or nobody hears it."""
        world = self.world
        for other in world.ids:
            if other == node:
                continue
            if how == "cut":
                world.network.cut.add(frozenset((node, other)))
                world.disconnect(node, other)
            else:
                world.network.deaf.add((other, node) if how == "hears-nobody" else (node, other))
