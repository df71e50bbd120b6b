"""The engine as Raft's state machine: log entries in, outcomes to the proposer, events to the feed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from node.engine.feed import Feed
from node.engine.market import Market, SavedProduct
from node.system.durations import EngineDurations
from snapshots.errors import LevelError, SnapshotError
from snapshots.levels.level import (
    ENTRY_MARK,
    CheckLevel,
    Level,
    LevelEntry,
    SetLevel,
    decode_level_entry,
    is_earlier,
    is_level_entry,
)
from snapshots.levels.lowering import LossError
from snapshots.levels.states import apply, converted, empty, level_of, takes_effect
from statemachine.engine import Engine
from statemachine.limits import STREAMS

if TYPE_CHECKING:
    from snapshots.levels.returning import PreparedReturn
    from snapshots.levels.shadow import Shadow
    from statemachine.freezing import Frozen

log = logging.getLogger(__name__)


def stamp_of(entry: bytes) -> int:
    """Return the time in the first bytes of an encoded `Batch`, or 0 if the bytes are not a batch or the time is one
    that no present clock shows.

    The encoding is msgpack: an array of up to 15 elements, the first of them an unsigned integer of 64 bits.
    """
    if len(entry) >= 10 and entry[0] & 0xF0 == 0x90 and entry[1] == 0xCF:
        return int.from_bytes(entry[2:10], "big")
    return 0


class _Conversion:
    """A conversion of the state to the level that an entry names, in a thread.

    Args:
        prepared: the state at the level before, if it is prepared.
    """

    def __init__(self, engine: Engine, entry: LevelEntry, prepared: PreparedReturn | None) -> None:
        self.engine = engine
        self.to = entry.to
        self._entry = entry
        self._prepared = prepared
        self._made: Engine | None = None
        self._error: Exception | None = None
        self.over = False

    def run(self) -> None:
        """Convert the state. Runs in the thread."""
        began = time.monotonic()
        try:
            self._made = self._from_prepared() or converted(self.engine, self._entry.old, self.to)
            log.info("the state is ready for level %s; it took %.1f s", self.to, time.monotonic() - began)
        except Exception as error:  # noqa: BLE001  # it is raised when the entry is applied, and the node stops
            self._error = error
        self.over = True

    def _from_prepared(self) -> Engine | None:
        """Return the prepared state, after it took over what changed last; None if it cannot be used."""
        prepared = self._prepared
        if prepared is None or prepared.engine is not self.engine or prepared.to != self.to:
            return None
        if not prepared.ready:
            log.warning("the state that was prepared cannot be used: %s", prepared.failure or "it is not made yet")
            return None
        try:
            return prepared.take()
        except LossError:
            raise
        except Exception as error:  # noqa: BLE001  # the whole state is converted instead
            log.error("the state that was prepared cannot be used, the present one is converted: %s", error)
            return None

    def result(self) -> Engine:
        """Return the converted state. Raises the exception of a failed conversion."""
        if self._error is not None:
            raise self._error
        assert self._made is not None
        return self._made

    def take(self) -> Engine | None:
        """Return the converted state, if there is one, to be released."""
        made, self._made = self._made, None
        return made


class ReplicatedEngine:
    """See `cluster.ports.StateMachine`. `engine` is replaced whole when a snapshot is restored.

    Attributes:
        keys_changed: called with the ids of API keys that were put. An empty list means that any key may have changed.
        let_go: called with the old engine when a change of the level has replaced it.
        beside: runs work in a thread, and resumes applying entries at the end. With None the state is converted when
            the entry is applied.
        level_changed: called with the entry that changed the level, and its index.
        durations: the histograms of the process.
        apply_began: `time.perf_counter` when the latest entry began to be applied.
    """

    def __init__(self, feed: Feed, engine: Engine | None = None) -> None:
        self.durations = EngineDurations()
        self.apply_began = 0.0
        self.engine = engine if engine is not None else Engine()
        self._feed = feed
        self.applied_entries = 0
        self.keys_changed: Callable[[list[str]], None] = lambda _key_ids: None
        self.level_changed: Callable[[SetLevel, int], None] = lambda _change, _index: None
        self.beside: Callable[[Callable[[], None]], object] | None = None
        self.let_go: Callable[[Engine], None] = lambda _engine: None
        self._conversion: _Conversion | None = None
        """The conversion of the present state to the level that an entry names, until the next entry with commands."""
        self.shadow: Shadow | None = None
        """The state of the next level, while it is prepared or follows."""
        self.returning: PreparedReturn | None = None
        """The state of the level before, while it is kept ready for a return."""

    @property
    def is_prepared(self) -> bool:
        """Whether the state of the next level is ready, so that the entry that changes the level takes no time."""
        return self.shadow is not None and self.shadow.ready and self.shadow.engine is self.engine

    def prepare(self, shadow: Shadow | None) -> None:
        """Let a state of the next level follow the present one; None ends this."""
        old, self.shadow = self.shadow, shadow
        made = old.stop() if old is not None else None
        if made is not None:
            self.let_go(made)

    def prepare_return(self, returning: PreparedReturn | None) -> None:
        """Keep a state of the level before ready for a return; None ends this."""
        old, self.returning = self.returning, returning
        made = old.stop() if old is not None else None
        if made is not None:
            self.let_go(made)

    def freeze(self, *, whole: bool) -> Frozen:
        """Freeze the state for a snapshot. See `Engine.freeze`."""
        if self.returning is not None and self.returning.engine is self.engine:
            return self.returning.freeze(whole=whole)
        return self.engine.freeze(whole=whole)

    @property
    def level(self) -> Level:
        """The level of the state."""
        return level_of(self.engine)

    def begin_at(self, level: Level) -> None:
        """Set the level. Only allowed before the first entry is applied."""
        assert self.engine.sequence == 0, "the level of a state changes by a log entry"
        self.engine = empty(level)

    def apply(self, index: int, payload: bytes) -> object:
        """Apply a batch, and publish its events. Returns a function that gives the encoded outcomes, one per command,
        in order.
        """
        self.apply_began = time.perf_counter()
        if payload[:1] == ENTRY_MARK:
            return self._apply_level_entry(index, payload)
        if self._conversion is not None:
            self._drop_conversion()
        applied = self.engine.apply_entry(payload)
        if self.shadow is not None:
            self._follow(self.shadow)
        self.durations.apply.observe(time.perf_counter() - self.apply_began)
        self.applied_entries += 1
        if applied.keys_put:
            self.keys_changed(applied.keys_put)
        if applied.event_products:
            self._feed.publish(applied.event_products, applied.packed_events)
            if self._feed.streams > STREAMS:
                self._feed.end_streams(self.engine.sequences())
        return lambda: [msgspec.Raw(outcome) for outcome in applied.encoded_outcomes]

    def may_apply(self, payload: bytes) -> bool:
        """Return whether an entry can be applied now. An entry that changes or checks the level first starts a
        conversion of the state in a thread. Nothing is applied during the conversion, so the state does not change;
        reads and heartbeats continue.
        """
        if self.beside is None or not is_level_entry(payload) or self.is_prepared:
            return True
        try:
            entry = decode_level_entry(payload)
            if entry is None or not self._needs_conversion(entry):
                return True
        except (LevelError, msgspec.DecodeError):
            return True  # to be raised by `apply`
        conversion = self._conversion_for(entry.to)
        if conversion is None:
            self._conversion = conversion = _Conversion(self.engine, entry, self.returning)
            self.beside(conversion.run)
        return conversion.over

    def _needs_conversion(self, entry: LevelEntry) -> bool:
        """Return whether an entry about the level needs a converted state."""
        if isinstance(entry, CheckLevel):
            return entry.old.abi == self.level.abi and is_earlier(entry.to, self.level)
        return takes_effect(self.engine, entry)

    def _conversion_for(self, to: Level) -> _Conversion | None:
        """Return the conversion of the present state to a level, if one was begun. An entry with commands ends it."""
        conversion = self._conversion
        return conversion if conversion is not None and conversion.engine is self.engine and conversion.to == to else None

    def _drop_conversion(self) -> None:
        """Drop a converted state that no entry needed."""
        conversion, self._conversion = self._conversion, None
        made = conversion.take() if conversion is not None else None
        if made is not None:
            self.let_go(made)

    def _converted(self, engine: Engine, old: Level, to: Level) -> Engine:
        """Return the state at another level: the prepared one, the one that the thread converted, or else one that is
        converted now."""
        conversion = self._conversion_for(to)
        self._conversion = None
        if self.shadow is not None and self.is_prepared:
            try:
                return self.shadow.take(to)
            except SnapshotError as error:
                log.error("the state that was prepared cannot be used, the present one is converted: %s", error)
        return converted(engine, old, to) if conversion is None else conversion.result()

    def _follow(self, shadow: Shadow) -> None:
        """Let the next level's state take over what an entry changed."""
        try:
            shadow.follow()
        except Exception:  # no exception here affects the node's own state
            log.exception(
                "the state of the next level cannot follow; the state will be converted at the entry that changes the level"
            )
            self.prepare(None)

    def _apply_level_entry(self, index: int, payload: bytes) -> bool | list[str]:
        """Change or check the level. Returns whether the level is different now, or the obstacles that the check found."""
        entry = decode_level_entry(payload)
        if isinstance(entry, CheckLevel):
            return self._check_level(entry)
        assert entry is not None
        before = self.engine
        began = time.monotonic()
        self.engine, _ = apply(before, payload, self._converted)
        if self.engine is before:
            return False
        log.warning("the level is %s from here on; the entry took %.0f ms", self.level, (time.monotonic() - began) * 1e3)
        self.prepare(None)
        self.prepare_return(None)
        self.level_changed(entry, index)
        self.let_go(before)
        return True

    def _check_level(self, entry: CheckLevel) -> list[str]:
        """Return what prevents the return to an earlier level. The result depends on the state alone, so it is the same
        on all nodes. If it is empty, the converted state is kept for the next entry.
        """
        if not self._needs_conversion(entry):
            return [f"the level is {self.level.version}, and {entry.to.version} is not the one before"]
        conversion = self._conversion_for(entry.to)
        if conversion is None:
            self._conversion = conversion = _Conversion(self.engine, entry, self.returning)
            conversion.run()
        self.prepare_return(None)
        try:
            conversion.result()
        except LossError as error:
            obstacles = error.obstacles
        except Exception as error:  # the check changes nothing, so no failure of it stops the node
            log.exception("the state cannot be converted to level %s", entry.to)
            obstacles = [f"the state cannot be converted: {error}"]
        else:
            return []
        self._conversion = None
        return obstacles

    def digest(self) -> bytes:
        """Return the engine's running hash, which covers commands, outcomes and events."""
        return self.engine.state_hash

    def market(self) -> list[SavedProduct]:
        """Return the market data that a snapshot of this moment keeps."""
        return self._feed.freeze()

    def replace(self, engine: Engine, market: Market | None = None) -> None:
        """Replace the state. Feed subscriptions that would see a gap end with an error.

        Args:
            market: the market data in the snapshot, or None.
        """
        self.prepare(None)
        self.prepare_return(None)
        self._conversion = None
        self.engine = engine
        self._feed.restart(engine.sequences(), market)
        self.keys_changed([])
