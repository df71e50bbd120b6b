"""The introductions that nodes exchange when they connect: the data directory, the number of starts on it, and the
migration of the data.

This detects what no node can detect alone: an old copy of a data directory, a copy that runs beside the original, and a
migration that gave one node other data than the rest.

Addresses can contradict each other: in node.toml, in the cluster's log, and in what the other nodes say of themselves.
Until the first change of the membership each node goes by its own node.toml; from then on the log counts, and node.toml
does not. A node does not notice that its own address is wrong: the other nodes look for it elsewhere, and commands that
they forward to it while it leads never arrive. `Addresses` detects this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from cluster.errors import RaftFatalError
from cluster.introductions import Claim
from cluster.membership import Member
from node.config.settings import NodeConfig
from node.errors import DataDirectoryError
from node.system import files

log = logging.getLogger(__name__)

FILE = "peers.json"
RETIRED_MAX = 16
"""Lost data directories that are recorded for each peer."""


class StaleDataError(RaftFatalError):
    """This node runs on an old or a second copy of its data directory."""

    def __init__(self, noticed_by: str, what: str) -> None:
        super().__init__(what)
        self.noticed_by = noticed_by
        self.what = what


class MigratedOtherwiseError(RaftFatalError):
    """This node's data was migrated differently from that of a majority. No entry has been applied since the migration."""


class Migrated(msgspec.Struct, frozen=True, array_like=True):
    """The last migration of a node's data: the previous ABI, a digest of the migration steps, the log's last index, and
    the state hash at that index.
    """

    from_abi: str
    to_abi: str
    steps: str
    last_index: int
    last_term: int
    state_hash: str

    def differs(self, other: Migrated) -> bool:
        """Return whether one of the two is wrong: the steps differ, or the states differ at the same log index."""
        if (self.from_abi, self.to_abi) != (other.from_abi, other.to_abi):
            return False
        same_entry = (self.last_index, self.last_term) == (other.last_index, other.last_term)
        return self.steps != other.steps or (same_entry and self.state_hash != other.state_hash)


class Body(msgspec.Struct, frozen=True, array_like=True):
    """The introduction of a node: its data directory, the number of this start on it, a random word of this start, the
    last migration of its data, and its addresses in its own node.toml (`Places`).
    """

    incarnation: str
    starts: int
    start: str
    migrated: Migrated | None = None
    places: Places | None = None


class Objected(msgspec.Struct, frozen=True, array_like=True):
    """An objection to a peer's introduction: the latest known start on its data directory, or (`acknowledged`) the
    index that its log must reach.
    """

    incarnation: str
    starts: int
    start: str
    what: str
    acknowledged: int = 0
    retired: bool = False


class Known(msgspec.Struct, frozen=True):
    """The stored facts about a peer. `retired` are its earlier directories."""

    incarnation: str
    starts: int
    start: str
    retired: tuple[str, ...] = ()


class Introductions:
    """One node's part; see `cluster.introductions.Introductions`.

    Args:
        data: the data directory, which stores what the peers said.
        own: this node's introduction.
        last_index: the last index of this node's log.
        voters: the ids of the voters, this node included.
        place: called with the addresses that a peer states.

    Attributes:
        old_copies: how often a peer on an old or second copy was detected.
        doubt: why this node must not apply commands yet, or "".
    """

    def __init__(
        self,
        data: Path,
        node_id: str,
        own: Body,
        *,
        last_index: Callable[[], int],
        voters: Callable[[], set[str]],
        place: Callable[[str, Places], object] = lambda _peer, _places: None,
    ) -> None:
        self._path = data / FILE
        self._node_id = node_id
        self._own = own
        self._last_index = last_index
        self._voters = voters
        self._place = place
        self._known = self._read()
        self._migrations: dict[str, Migrated] = {}
        self.old_copies = 0
        self.doubt = ""

    def own(self) -> bytes:
        """See `cluster.introductions.Introductions`."""
        return msgspec.msgpack.encode(self._own)

    def heard(self, peer: str, claim: Claim) -> bytes | None:
        """See `cluster.introductions.Introductions`.

        Raises:
            MigratedOtherwiseError: the migration gave a majority other data than this node.
        """
        try:
            body = msgspec.msgpack.decode(claim.body, type=Body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None  # another build may encode it differently
        known = self._known.get(peer)
        objection = None if known is None else _objection(known, body, claim)
        if objection is not None:
            self.old_copies += 1
            log.error("%s runs on an old or a second copy of its data directory: %s", peer, objection.what)
            return msgspec.msgpack.encode(objection)
        self._store(peer, known, body)
        if body.places is not None:
            self._place(peer, body.places)
        if body.migrated is not None:
            self._migrations[peer] = body.migrated
            self._judge()
        return None

    def objected(self, peer: str, body: bytes) -> None:
        """See `cluster.introductions.Introductions`.

        Raises:
            StaleDataError: the peer shows that this node runs on an old or second copy.
        """
        objection, own = msgspec.msgpack.decode(body, type=Objected), self._own
        later = objection.starts > own.starts or (objection.starts == own.starts and objection.start != own.start)
        forgotten = objection.acknowledged > self._last_index()
        if objection.incarnation == own.incarnation and (later or objection.retired or forgotten):
            raise StaleDataError(peer, objection.what)

    # ------------------------------------------------------------------ what is stored of the peers

    def _read(self) -> dict[str, Known]:
        """Read what peers stated before. Raises DataDirectoryError."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Known])
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataDirectoryError(
                f"{self._path} is damaged: {error}. It may be deleted: the other nodes state it again"
            ) from error

    def _store(self, peer: str, known: Known | None, body: Body) -> None:
        """Store what a peer states, if it is new."""
        retired = known.retired if known is not None else ()
        if known is not None and known.incarnation != body.incarnation:
            retired = (*retired, known.incarnation)[-RETIRED_MAX:]
        now = Known(body.incarnation, body.starts, body.start, retired)
        if now != known:
            self._known[peer] = now
            files.replace(self._path, msgspec.json.format(msgspec.json.encode(self._known)) + b"\n")

    # ------------------------------------------------------------------ migrations

    def _judge(self) -> None:
        """Compare the migration of this node's data with that of its peers."""
        own = self._own.migrated
        if own is None:
            return
        others = {peer: migrated for peer, migrated in self._migrations.items() if peer in self._voters()}
        differing = {peer: migrated for peer, migrated in others.items() if own.differs(migrated)}
        self.doubt = ""
        if not differing:
            return
        majority = len(self._voters()) // 2 + 1
        for peer, migrated in differing.items():
            agreeing = [other for other in differing if other == peer or not migrated.differs(differing[other])]
            if len(agreeing) >= majority:
                raise MigratedOtherwiseError(_otherwise(own, migrated, agreeing))
        if len(others) - len(differing) + 1 < majority:
            names = ", ".join(sorted(differing))
            self.doubt = f"the data of {self._node_id} was migrated in another way than that of {names}, and no majority says which is right"
            log.critical("%s: no command is applied until another node is connected", self.doubt)
        for peer, migrated in differing.items():
            log.error("the data of %s was migrated in another way: %s", peer, _difference(migrated, own))


def _objection(known: Known, body: Body, claim: Claim) -> Objected | None:
    """Return what contradicts the stored facts in a peer's introduction."""
    if body.incarnation in known.retired:
        contradiction = "it has run on a newer data directory since, after this one was lost or replaced"
        return Objected(body.incarnation, 0, "", contradiction, retired=True)
    if body.incarnation != known.incarnation:
        return None
    if body.starts < known.starts:
        contradiction = f"this is start {body.starts} of the data directory, and start {known.starts} was met before"
    elif body.starts == known.starts and body.start != known.start:
        contradiction = f"another process was start {body.starts} of the same data directory"
    elif claim.acknowledged > claim.last_index:
        contradiction = f"it has acknowledged log entries up to {claim.acknowledged}, and its log ends with {claim.last_index}"
        return Objected(known.incarnation, 0, "", contradiction, acknowledged=claim.acknowledged)
    else:
        return None
    return Objected(known.incarnation, known.starts, known.start, contradiction)


def _difference(one: Migrated, other: Migrated) -> str:
    if one.steps != other.steps:
        return "by other steps: compare the executables in migrations/ beside node.toml, and the versions"
    return f"at log entry {one.last_index} its state has the hash {one.state_hash[:16]}, here {other.state_hash[:16]}"


def _otherwise(own: Migrated, theirs: Migrated, agreeing: list[str]) -> str:
    """Return the text of the error that this node was migrated in another way than the majority."""
    return (
        f"the data of {', '.join(sorted(agreeing))} was migrated in another way, and they are the majority ({_difference(theirs, own)}). Nothing "
        "was applied here. Go back with quorumbook rollback on this node, put right what differs, and start it again"
    )


NAMES = ("raft", "native", "http")
Places = tuple[str, str, str]
"""A node's addresses, in the order of `NAMES`."""


def own_places(config: NodeConfig) -> Places:
    """Return a node's addresses by its own node.toml."""
    own = next(node for node in config.nodes if node.node_id == config.node_id)
    return own.raft, own.native, own.http


class Addresses:
    """Finds contradictions, and logs each once.

    Args:
        members: the current members, and the index of the log entry that defines them (0: node.toml).
    """

    def __init__(self, config: NodeConfig, members: Callable[[], tuple[list[Member], int]]) -> None:
        self._config = config
        self._members = members
        self._stated: dict[str, Places] = {}
        self._logged: set[str] = set()
        self._warnings: list[str] = []
        self._index = -1

    def heard(self, peer: str, places: Places) -> None:
        """Record a peer's addresses."""
        if self._stated.get(peer) != places:
            self._stated[peer] = places
            self._index = -1

    def warnings(self, index: int) -> list[str]:
        """Return the contradictions. `index` is that of the log entry that defines the members; the check is repeated
        when it changes.
        """
        if index != self._index:
            self._index = index
            self._warnings = [*self._against_log(), *self._against_peers()]
            for text in self._warnings:
                if text not in self._logged:
                    log.warning("%s", text)
            self._logged = set(self._warnings)
        return self._warnings

    def _against_log(self) -> list[str]:
        """Compare this node's node.toml with the members in the log."""
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
        """Compare the members in use with what the peers state."""
        members, index = self._members()
        found = []
        for member in members:
            stated = self._stated.get(member.node_id)
            for name, says in zip(NAMES, stated or (), strict=False):
                used = getattr(member, name)
                if says != used:
                    source = f"the cluster's log (entry {index})" if index else "node.toml here"
                    found.append(
                        f"{member.node_id} says that its {name} address is {says}, and this node finds it at {used}, as {source} says. What is "
                        f"sent on to {member.node_id} may not arrive: make nodes.{member.node_id}.{name} the same in every node.toml"
                    )
        return found
