"""A second state, at the next level, that follows the state of the level in force. With it the entry that changes the
level takes no time.

It is made from a snapshot, in a thread, and takes over what each entry changes from then on. Once it has caught up, it
equals after every entry the result of converting the whole state. It exists in memory only. After a restart, or after a
leader's snapshot replaced the state, there is none, and the state is converted at the entry.

The order of use:  `build` (in a thread), `advance` until it returns True, `follow` after each entry, `take` at the
entry
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from snapshots.errors import SnapshotError
from snapshots.levels.level import OWN, Level
from snapshots.levels.raising import converted, first_hash
from snapshots.levels.v0_2_0 import FormerEngine
from snapshots.levels.v0_2_0_journal import Follower, Journal
from statemachine.engine import Engine
from statemachine.teardown import clear

_SAME = ("currency", "product", "account", "api_key", "balance", "order", "done_order")
"""Tables that have as many rows at the next level as before."""


class ShadowError(SnapshotError):
    """The second state cannot follow. The state is converted at the entry instead."""


class Shadow:
    """See the module. It records what the engine changes from its construction on.

    Attributes:
        engine: the state of the level in force, which it follows.
        ready: whether it has caught up, and follows entry by entry.
    """

    def __init__(self, engine: FormerEngine) -> None:
        self.engine = engine
        self.ready = False
        self._journal = Journal.of(engine.core_state)
        self._made: Engine | None = None
        self._follower: Follower | None = None
        self._steps: Iterator[None] = iter(())
        engine.changed = self._changed

    def _changed(self, products: list[str]) -> None:
        self._journal.noted.products.update(dict.fromkeys(products))

    def build(self, tables: Mapping[str, list[tuple[bytes, bytes]]]) -> None:
        """Make the state from a snapshot of `engine` that was taken after this object was made. Runs in a thread, and
        empties the tables in small steps, so that no step keeps the interpreter for long. O(everything).

        Raises:
            StateError: the rows make no state of the next level.
        """
        rows = converted(tables, bytes(16))
        clear(*tables.values())
        try:
            made = Engine.restore(rows, verified=True)
        finally:
            clear(*rows.values())
        self._follower = Follower(self.engine, self._journal, made)
        self._made = made

    def advance(self, steps: int) -> bool:
        """Take over at most `steps` steps of what changed since the snapshot. Returns whether it has caught up.

        Raises:
            ShadowError: too much changed meanwhile.
        """
        follower = self._follower
        assert follower is not None
        if self.ready:
            return True
        for _ in range(steps):
            if next(self._steps, self) is None:
                continue
            if follower.has_failed:
                raise ShadowError("more changed while the next level's state was made than can be taken over")
            if not follower.is_behind:
                self.ready = True
                return True
            self._steps = follower.steps()
        return False

    def follow(self) -> None:
        """Take over what an entry changed. O(what it changed)."""
        follower = self._follower
        if self.ready and follower is not None and follower.is_behind:
            for _ in follower.steps():
                pass

    def take(self, to: Level) -> Engine:
        """Return the state of the next level, with which its first entry begins. O(tables).

        Raises:
            ShadowError: it is not ready, or has another number of rows than the state that it follows.
        """
        follower, made = self._follower, self._made
        if not self.ready or follower is None or made is None or to.abi != OWN.abi:
            raise ShadowError("the next level's state is not ready")
        self.follow()
        expected, found = self.engine.counts(), made.patch().counts()
        different = [name for name in _SAME if expected[name] != found[name]]
        if different:
            raise ShadowError(f"the next level's state has another number of rows: {', '.join(different)}")
        follower.finish(first_hash(self.engine.state_hash, to))
        self._made = self._follower = None
        self.stop()
        return made

    def stop(self) -> Engine | None:
        """Stop following. Returns the state, which the caller releases."""
        self.ready = False
        self.engine.changed = None
        self._steps = iter(())
        made, self._made, self._follower = self._made, None, None
        self._journal.stop()
        return made
