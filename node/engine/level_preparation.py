"""Prepares this node's state at the next level beside its normal work, so that the entry that changes the level takes
no time (`snapshots.levels.shadow`).

A thread makes the second state from a snapshot. Then the event loop takes over what changed since the snapshot, in
small steps, until the second state has caught up. From then on the node's state machine updates it with every entry. It
exists in memory only: after a restart, or after a snapshot from the leader, it is gone, and the leader asks for it
again before it proposes the entry. A node without it converts its state at the entry, which is safe but slow.

Memory: a second state, of the same number of rows, until the entry or for `KEEP_SECONDS`.

For an earlier level a node writes a snapshot, and converts it in a thread. Further snapshots, which are incremental,
bring the result up to date (`snapshots.levels.returning`). What changed after the last of them is converted at the
entry that checks the level, while commands are held back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from cluster.raft import Raft
from node.engine.replicated_engine import ReplicatedEngine
from node.engine.snapshot_port import SnapshotPort, collector_off
from node.errors import RequestFailed
from node.native.protocol import FailCode
from snapshots.errors import SnapshotError
from snapshots.levels.level import Level, is_earlier
from snapshots.levels.lowering import LossError
from snapshots.levels.states import follow, level_with, prepare_return
from snapshots.store import SnapshotStore
from statemachine.errors import StateError
from statemachine.teardown import clear

if TYPE_CHECKING:
    from snapshots.levels.returning import PreparedReturn
    from snapshots.levels.shadow import Shadow
    from snapshots.manifest import Manifest

log = logging.getLogger(__name__)

SNAPSHOT_SECONDS = 300.0
"""Seconds for the snapshot from which the new state is made."""

KEEP_SECONDS = 900.0
"""Seconds for which a prepared state is kept up without an entry that changes the level. The members of a cluster are
prepared within minutes of each other; an abandoned change must not use the memory permanently.
"""

SLICE_SECONDS = 0.003
"""Seconds for which the event loop takes over changes before it does other work."""

STEPS = 16
"""Steps between two readings of the clock. A step takes some microseconds."""

FOLLOW_ROUNDS = 4
"""Snapshots in succession that bring a state of the level before up to date."""

FOLLOWED_ROWS = 5_000
"""Changed rows after which no further snapshot is needed. To convert them takes a fraction of a second."""

POLL = 0.02


class Preparation:
    """Prepares one state at a time. Several requests for the same level share one preparation."""

    def __init__(self, raft: Raft, machine: ReplicatedEngine, store: SnapshotStore, port: SnapshotPort) -> None:
        self._raft = raft
        self._machine = machine
        self._store = store
        self._port = port
        self._running: asyncio.Task[None] | None = None
        self._end: asyncio.TimerHandle | None = None
        self._one_return = asyncio.Lock()

    async def prepare(self, abi: str) -> None:
        """Prepare the state. Returns when it follows entry by entry, or at once if it already does. For an earlier
        level it returns when few changed rows are left to be converted.

        Raises:
            RequestFailed: BAD_REQUEST: this node does not know the level. CONFLICT: the state cannot be prepared.
        """
        try:
            to = level_with(abi)
        except SnapshotError as error:
            raise RequestFailed(FailCode.BAD_REQUEST, str(error)) from error
        if to.abi == self._machine.level.abi:
            return
        if is_earlier(to, self._machine.level):
            obstacles = await self.obstacles(abi, keep=True)
            if obstacles:
                raise RequestFailed(FailCode.CONFLICT, "; ".join(obstacles))
            return
        if not self._machine.is_prepared:
            if self._running is None or self._running.done():
                self._running = asyncio.get_running_loop().create_task(self._prepare(str(to)))
            await asyncio.shield(self._running)
        self._keep()

    async def obstacles(self, abi: str, *, keep: bool) -> list[str]:
        """Return what prevents the return of this node's state to an earlier level: what the level lacks and the state
        uses. Writes a snapshot, and converts it in a thread.

        Args:
            keep: keep the converted state ready for the return.

        Raises:
            RequestFailed: CONFLICT: the state cannot be read or converted.
        """
        try:
            async with self._one_return:
                await self._prepare_return(level_with(abi))
        except LossError as error:
            keep = False
            return error.obstacles
        except (SnapshotError, StateError, OSError) as error:
            keep = False
            raise RequestFailed(FailCode.CONFLICT, str(error)) from error
        finally:
            if keep:
                self._keep()
            else:
                self._machine.prepare_return(None)
        return []

    async def _prepare_return(self, to: Level) -> None:
        """Make the state of an earlier level, if there is none, and bring it up to date.

        Raises:
            LossError: something would be lost.
            SnapshotError, StateError, OSError: it cannot be made.
        """
        returning = self._machine.returning
        if returning is None or not returning.ready:
            began = time.monotonic()
            await self._snapshot()
            manifest = await self._base()
            returning = prepare_return(self._machine.engine, to)
            self._machine.prepare_return(returning)
            await asyncio.to_thread(self._build_return, returning, manifest)
            log.info("the state of level %s is prepared; it took %.1f s", to, time.monotonic() - began)
        for _ in range(FOLLOW_ROUNDS):
            await self._snapshot()
            if await asyncio.to_thread(returning.follow) < FOLLOWED_ROWS:
                return

    def _build_return(self, returning: PreparedReturn, manifest: Manifest) -> None:
        """Build the returning state from a snapshot. Runs in a thread."""
        with collector_off():
            tables = self._store.load(manifest)
            try:
                returning.build(tables)
            finally:
                clear(*tables.values())

    async def _base(self) -> Manifest:
        """Return the newest snapshot, from which the changes of the state count.

        Raises:
            SnapshotError: there is none, because the latest one could not be written.
        """
        failed = self._port.failed
        async with asyncio.timeout(SNAPSHOT_SECONDS):
            while True:
                manifest = self._store.newest()
                if manifest is not None and manifest.index == self._port.base:
                    return manifest
                if self._port.failed > failed:
                    raise SnapshotError(f"its snapshot cannot be written: {self._port.failure}: mend that, and try again")
                await asyncio.sleep(POLL)

    async def _prepare(self, title: str) -> None:
        """Make a second state at the next level, and let it follow the present one."""
        began = time.monotonic()
        shadow = follow(self._machine.engine)
        self._machine.prepare(shadow)
        try:
            await self._snapshot()
            await asyncio.to_thread(self._build, shadow)
            while self._machine.shadow is shadow and not self._advanced(shadow):  # noqa: ASYNC110  # this is the work itself
                await asyncio.sleep(0)  # let other work run
            if not self._machine.is_prepared:
                raise RequestFailed(FailCode.CONFLICT, "a snapshot of the leader has replaced its state: try again")
        except (SnapshotError, StateError, OSError) as error:
            raise RequestFailed(FailCode.CONFLICT, str(error)) from error
        finally:
            if not shadow.ready:
                self._drop(shadow)
        log.info("the state of level %s is prepared; it took %.1f s", title, time.monotonic() - began)

    def _drop(self, shadow: Shadow) -> None:
        """Drop a second state."""
        if self._machine.shadow is shadow:
            self._machine.prepare(None)
        made = shadow.stop()
        if made is not None:
            self._machine.let_go(made)

    async def _snapshot(self) -> None:
        """Write a snapshot of the present state, or of a later one.

        Raises:
            SnapshotError: it cannot be written, for example because the disk is full.
            RequestFailed: CONFLICT: it was not written in time.
        """
        wanted, failed = self._raft.status().applied_index, self._port.failed
        self._raft.request_snapshot()
        try:
            async with asyncio.timeout(SNAPSHOT_SECONDS):
                while self._raft.status().snapshot_index < wanted:
                    if self._port.failed > failed:
                        raise SnapshotError(f"its snapshot cannot be written: {self._port.failure}: mend that, and try again")
                    await asyncio.sleep(POLL)
        except TimeoutError as error:
            raise RequestFailed(FailCode.CONFLICT, "it wrote no snapshot in time: see its log") from error

    def _build(self, shadow: Shadow) -> None:
        """Build the second state from the newest snapshot. Runs in a thread."""
        manifest = self._store.newest()
        if manifest is None or self._machine.shadow is not shadow:
            return
        with collector_off():
            shadow.build(self._store.load(manifest))

    def _advanced(self, shadow: Shadow) -> bool:
        """Take over changes for `SLICE_SECONDS`. Returns whether the second state has caught up."""
        end = time.monotonic() + SLICE_SECONDS
        while not shadow.advance(STEPS):
            if time.monotonic() > end:
                return False
        return True

    def _keep(self) -> None:
        """Keep the state for `KEEP_SECONDS` from now on."""
        if self._end is not None:
            self._end.cancel()
        self._end = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._give_up)

    def _give_up(self) -> None:
        """Drop prepared states that were not used in time."""
        if self._machine.returning is not None:
            log.warning("the level did not return within %.0f s; the prepared state is dropped", KEEP_SECONDS)
            self._machine.prepare_return(None)
        if self._machine.is_prepared:
            log.warning("the level did not change within %.0f s; the prepared state is dropped", KEEP_SECONDS)
            self._machine.prepare(None)
