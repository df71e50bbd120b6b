"""Addresses that contradict each other: in node.toml, in the cluster's log, and what the other nodes say of themselves.

Until the first change of the membership each node goes by its own node.toml; from then on the log counts, and node.toml does not. A wrong
address is not noticed where it stands: the others look for the node elsewhere, and commands that are sent on to it while it leads never arrive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cluster.membership import Member
from node.config.settings import NodeConfig

log = logging.getLogger(__name__)

NAMES = ("raft", "native", "http")
Places = tuple[str, str, str]
"""A node's addresses, in the order of `NAMES`."""


def own_places(config: NodeConfig) -> Places:
    """Where a node's own node.toml says that it is."""
    own = next(node for node in config.nodes if node.node_id == config.node_id)
    return own.raft, own.native, own.http


class Addresses:
    """Finds contradictions, and logs each once.

    Args:
        members: the members that count now, and the index of the log entry that says so (0: node.toml).
    """

    def __init__(self, config: NodeConfig, members: Callable[[], tuple[list[Member], int]]) -> None:
        self._config = config
        self._members = members
        self._told: dict[str, Places] = {}
        self._logged: set[str] = set()
        self._warnings: list[str] = []
        self._index = -1

    def heard(self, peer: str, places: Places) -> None:
        """A peer has said where it is."""
        if self._told.get(peer) != places:
            self._told[peer] = places
            self._index = -1

    def warnings(self, index: int) -> list[str]:
        """What contradicts what. `index`: of the log entry that says who the members are; they are looked at again when it changes."""
        if index != self._index:
            self._index = index
            self._warnings = [*self._against_log(), *self._against_peers()]
            for text in self._warnings:
                if text not in self._logged:
                    log.warning("%s", text)
            self._logged = set(self._warnings)
        return self._warnings

    def _against_log(self) -> list[str]:
        members, index = self._members()
        if not index:
            return []
        found = []
        known = {member.node_id: member for member in members}
        for node in self._config.nodes:
            member = known.get(node.node_id)
            for name in NAMES if member is not None else ():
                here, there = getattr(node, name), getattr(member, name)
                if here != there:
                    found.append(
                        f"nodes.{node.node_id}.{name} in node.toml is {here}, and {there} in the cluster's log (entry {index}), which counts. "
                        f"Put the latter into node.toml; to move the node, replace it: quorumbook cluster replace"
                    )
        return found

    def _against_peers(self) -> list[str]:
        members, index = self._members()
        found = []
        for member in members:
            told = self._told.get(member.node_id)
            for name, says in zip(NAMES, told or (), strict=False):
                used = getattr(member, name)
                if says != used:
                    source = f"the cluster's log (entry {index})" if index else "node.toml here"
                    found.append(
                        f"{member.node_id} says that its {name} address is {says}, and this node finds it at {used}, as {source} says. What is "
                        f"sent on to {member.node_id} may not arrive: make nodes.{member.node_id}.{name} the same in every node.toml"
                    )
        return found
