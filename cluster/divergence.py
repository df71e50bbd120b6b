"""The divergence check: all nodes must have the same state after the same entry.

Equal logs give equal states as long as `apply` is deterministic and memory is not corrupted. Neither can be proved at
run time, so it is checked: after the first command of each block of log indexes every node sends the running hash of
its state to every other node. A difference of running hashes stays, so one comparison per block detects every earlier
error.

Each node decides for itself: a node whose hash differs from that of a majority of the voters stops. No node is stopped
by the message of one other node. A node that sees a majority against a third node forwards the hashes of the majority,
because the third node may be cut off from some of it. Without a majority the correct state is unknown: this is logged
and counted, and decided when the other nodes report.

Hashes are of committed entries, so they do not depend on terms, and only hashes at the same index are compared. A
peer's hashes count while its connection lasts; on a new connection it sends its newest ones again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from cluster.errors import DivergedError
from cluster.membership import Membership
from cluster.messages import StateDigest
from cluster.settings import RaftSettings

log = logging.getLogger(__name__)

KEPT = 256
"""Hashes that are stored of each node."""

RESENT = 4
"""Newest hashes that are sent to a peer on a new connection, because earlier messages may have been lost."""

Digests = dict[int, bytes]


def _remember(digests: Digests, index: int, digest: bytes) -> None:
    """Keep a digest, in place of the oldest one when there are too many."""
    digests.pop(index, None)
    digests[index] = digest
    if len(digests) > KEPT:
        del digests[next(iter(digests))]


class DivergenceWatch:
    """The divergence check of one node. It stores nothing on disk.

    Attributes:
        compared: digests of other nodes that were compared with this node's digest at the same index.
        differing: those of them that were different.
        undecided: judgements in which nodes differed and no majority agreed.
    """

    def __init__(self, settings: RaftSettings, term: Callable[[], int]) -> None:
        self._node_id = settings.node_id
        self._interval = settings.digest_interval
        self._term = term
        self._next = 0
        self._own: Digests = {}
        self._unsaid: list[int] = []
        self._heard: dict[str, Digests] = {}
        self._membership = settings.first_membership
        self.set_membership(self._membership)
        self._outbox: list[tuple[str, StateDigest]] = []
        self._told: set[str] = set()
        self.compared = 0
        self.differing = 0
        self.undecided = 0

    def set_membership(self, membership: Membership) -> None:
        """Set the peers, and the voters whose hashes make a majority."""
        self._membership = membership
        peers = [member.node_id for member in membership.others(self._node_id)]
        self._heard = {peer: self._heard.get(peer, {}) for peer in peers}

    # ------------------------------------------------------------------ this node's state

    def applied(self, index: int, digest: Callable[[], bytes]) -> None:
        """Note that the command at `index` was applied. `digest` is called only if this is the first command of its
        block.
        """
        if index >= self._next:
            self._begin_behind(index)
            _remember(self._own, index, digest())
            self._unsaid.append(index)

    def restored(self, index: int) -> None:
        """Note that a snapshot up to `index` replaced the state, so earlier hashes of this node are dropped."""
        self._own.clear()
        self._unsaid.clear()
        self._begin_behind(index)

    def _begin_behind(self, index: int) -> None:
        """Begin with the first block after an index."""
        self._next = (index // self._interval + 1) * self._interval

    # ------------------------------------------------------------------ the others

    def connected(self, peer: str) -> None:
        """Send the newest hashes to a peer that connected, except those that all peers are about to get."""
        for index in list(self._own)[-RESENT:]:
            if index not in self._unsaid:
                self._say(peer, self._node_id, index, self._own[index])

    def disconnected(self, peer: str) -> None:
        """Drop the hashes of a peer, because it may return with another state."""
        if peer in self._heard:
            self._heard[peer].clear()
        self._outbox = [(to, message) for to, message in self._outbox if to != peer]

    def heard(self, sender: str, message: StateDigest) -> None:
        """Record a hash of `message.node`, sent by that node or forwarded by another one. The node's own message has
        precedence.

        Raises:
            DivergedError: a majority has another hash than this node, which must stop.
        """
        digests = self._heard.get(message.node)
        if digests is None:
            return  # about this node itself, or about no member
        direct = sender == message.node
        if direct:
            _remember(digests, message.index, message.digest)
            self._count(message.index, [message.node])
        elif message.index not in digests:
            _remember(digests, message.index, message.digest)
        self._judge(message.index, pass_on=direct)

    def tick(self) -> list[tuple[str, StateDigest]]:
        """Compare hashes applied since the last call. Returns the messages to send, with their receivers.

        Raises:
            DivergedError: see `heard`.
        """
        unsaid, self._unsaid = self._unsaid, []
        for index in unsaid:
            if index not in self._own:
                continue  # after a long log was applied at once, the newest hashes cover the earlier ones
            for peer in self._heard:
                self._say(peer, self._node_id, index, self._own[index])
            self._count(index, self._heard)
            self._judge(index, pass_on=True)
        outbox, self._outbox = self._outbox, []
        return outbox

    def _say(self, peer: str, node: str, index: int, digest: bytes) -> None:
        """Queue a digest for a peer."""
        self._outbox.append((peer, StateDigest(self._term(), index, node, digest)))

    def _count(self, index: int, peers: Iterable[str]) -> None:
        """Count the comparisons of this node's digest at an index with those of peers."""
        own = self._own.get(index)
        for peer in peers:
            digest = self._heard[peer].get(index)
            if own is not None and digest is not None:
                self.compared += 1
                self.differing += digest != own

    # ------------------------------------------------------------------ judgement

    def _camps(self, index: int) -> dict[bytes, list[str]]:
        """Return the known hashes of all nodes at an index."""
        camps: dict[bytes, list[str]] = {}
        for node, digests in ((self._node_id, self._own), *self._heard.items()):
            if index in digests:
                camps.setdefault(digests[index], []).append(node)
        return camps

    def _judge(self, index: int, *, pass_on: bool) -> None:
        """Compare the known digests at an index. Raises DivergedError if a majority agrees on another digest than this
        node's.
        """
        camps = self._camps(index)
        known = sum(map(len, camps.values()))
        if len(camps) < 2:
            if known == len(self._heard) + 1:
                self._told.clear()
            return
        agreed = next((digest for digest, nodes in camps.items() if self._membership.have_majority(nodes)), None)
        if agreed is None:
            self._undecided(index, camps)
            return
        own = self._own.get(index)
        if own is not None and own != agreed:
            raise DivergedError(
                self._node_id, index=index, term=self._term(), own=own, majority=agreed, agreeing=tuple(sorted(camps[agreed]))
            )
        for digest, nodes in camps.items():
            for node in nodes:
                if digest != agreed:
                    self._differs(node, index, camps, agreed, pass_on=pass_on)

    def _differs(self, node: str, index: int, camps: dict[bytes, list[str]], agreed: bytes, *, pass_on: bool) -> None:
        """Forward the majority's hashes to a node that differs."""
        self._log_once(
            f"{node} differs", "%s has diverged and must leave service: at index %d %s", node, index, _described(camps)
        )
        if pass_on:
            for witness in camps[agreed]:
                self._say(node, witness, index, agreed)

    def _undecided(self, index: int, camps: dict[bytes, list[str]]) -> None:
        """Count and log that digests differ and no majority agrees."""
        self.undecided += 1
        silent = set(self._membership.voters).difference(*camps.values())
        hopeless = not any(self._membership.have_majority(silent.union(nodes)) for nodes in camps.values())
        advice = "no majority can come of it: stop the cluster, keep all data directories, run an audit"
        self._log_once(
            f"undecided {sorted(camps.values())} {hopeless}",
            "the nodes' states differ at index %d: %s; %s",
            index,
            _described(camps),
            advice if hopeless else "to be decided when the other nodes report",
        )

    def _log_once(self, what: str, text: str, *values: object) -> None:
        """Log a difference once, not at every block. The next one is logged after all nodes agree again."""
        if what not in self._told:
            self._told.add(what)
            log.critical(text, *values)


def _described(camps: dict[bytes, list[str]]) -> str:
    return "; ".join(f"{', '.join(sorted(nodes))}: {digest.hex()}" for digest, nodes in camps.items())
