"""The engine as Raft's state machine: log entries in, outcomes to the proposer, events to the feed."""

from __future__ import annotations

from node.engine.feed import Feed
from statemachine.commands import decode_batch
from statemachine.engine import Engine


class ReplicatedEngine:
    """See `cluster.ports.StateMachine`. `engine` is replaced whole when a snapshot is restored."""

    def __init__(self, feed: Feed) -> None:
        self.engine = Engine()
        self._feed = feed
        self.applied_entries = 0

    def apply(self, _index: int, payload: bytes) -> object:
        """Apply a batch; its outcomes, one a command, in order. Publishes its events."""
        applied = self.engine.apply(decode_batch(payload))
        self.applied_entries += 1
        if applied.events:
            self._feed.publish(applied.events)
        return applied.outcomes

    def digest(self) -> bytes:
        """The engine's running hash, which covers commands, outcomes and events."""
        return self.engine.state_hash

    def replace(self, engine: Engine) -> None:
        """Go on from another state. Feed readers that would see a gap are told so."""
        self.engine = engine
        self._feed.restart({product.product_id: product.product_sequence for product in engine.products()})
