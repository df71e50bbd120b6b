"""A node whose clock jumps by an hour, and back: `jumping.sitecustomize` changes the time of day in that node's processes.
The monotonic clock does not jump, as on a machine whose time of day is set.

Nothing may stop or be lost, and the exchange's time, which is in every outcome, must never go back, although the stamps
of the batches do.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from loadtest.history import operations
from loadtest.linearizability import Write
from node.records.committed_log import committed_batches
from tests.chaos.errors import UnsafeError
from tests.chaos.faults import Fault
from tests.chaos.stage import Stage
from tests.chaos.system import environment

HOUR = 3600
JUMPING = Path(__file__).with_name("jumping")
STAMP_SECONDS = 20.0
TRADED = 150


class ClockBehind(Fault):
    """The leader's clock jumps back by an hour. The leader is then stopped gracefully, another node leads with the
    right time, and the first one comes back.
    """

    name = "clock-behind"
    seconds = (0.0, 0.1)
    offset = -HOUR

    async def begin(self, stage: Stage) -> None:
        leader = await self._jump(stage)
        await self._stamped(stage, wrong=True)
        await self._goes_on_without(stage, leader)

    async def _jump(self, stage: Stage) -> str:
        """Let the leader's clock jump, and return the leader's id."""
        leader = await stage.leader()
        for node_id in (*(name for name in stage.cluster.node_ids if name != leader), leader):
            await self._restart(stage, node_id)
        leader = await stage.leader()
        self.nodes = [leader]
        set_clock(_clock(stage, leader), self.offset)
        return leader

    async def _goes_on_without(self, stage: Stage, leader: str) -> None:
        await stage.traded(TRADED)
        await asyncio.to_thread(stage.cluster.stop, [leader])
        await self._stamped(stage, wrong=False)
        await stage.traded(TRADED)

    async def _restart(self, stage: Stage, node_id: str) -> None:
        """Restart a node with a clock that can jump."""
        clock = _clock(stage, node_id)
        set_clock(clock, 0)
        search = os.pathsep.join([str(JUMPING), *filter(None, [os.environ.get("PYTHONPATH")])])
        await asyncio.to_thread(stage.cluster.stop, [node_id])
        with environment(PYTHONPATH=search, JUMPING_CLOCK=str(clock)):
            await stage.start(node_id)
        await stage.all_vote()

    async def _stamped(self, stage: Stage, *, wrong: bool) -> None:
        """Wait until the newest batch in the logs has a stamp that is wrong by about the jump, or right."""
        end = time.monotonic() + STAMP_SECONDS
        while time.monotonic() < end:
            await stage.traded(20)
            batches = await asyncio.to_thread(committed_batches, stage.scenario.access.directory)
            by = batches[-1].time / 1e9 - time.time()
            if (abs(by - self.offset) < HOUR / 2) if wrong else (abs(by) < HOUR / 2):
                return
        raise UnsafeError(f"the newest batch is stamped {by:+.0f} s from now, expected {self.offset if wrong else 0:+d} s")

    async def repair(self, stage: Stage) -> None:
        await super().repair(stage)
        await stage.all_vote()
        await stage.traded(TRADED)
        stage.scenario.recorder.flush()
        history = stage.scenario.history
        assert history is not None, "the scenario keeps one"
        never_back(await asyncio.to_thread(_recorded_times, history.path))


class ClockAhead(ClockBehind):
    """The leader's clock jumps ahead by an hour. The followers refuse its entries, and another node leads with the
    right time.
    """

    name = "clock-ahead"
    offset = HOUR

    async def begin(self, stage: Stage) -> None:
        leader = await self._jump(stage)
        end = time.monotonic() + STAMP_SECONDS
        while await stage.leader() == leader:
            if time.monotonic() > end:
                raise UnsafeError(f"{leader} still leads, with a clock that is an hour ahead")
            await stage.traded(1)
        await self._goes_on_without(stage, leader)
        batches = await asyncio.to_thread(committed_batches, stage.scenario.access.directory)
        ahead = max(batch.time for batch in batches) / 1e9 - time.time()
        if ahead > HOUR / 2:
            raise UnsafeError(f"a batch was committed that is stamped {ahead:+.0f} s from now")


def _clock(stage: Stage, node_id: str) -> Path:
    """Return the path of the file with the offset of a node's clock."""
    return stage.data(node_id).parent / "clock"


def set_clock(clock: Path, offset: int) -> None:
    """Let a clock differ by `offset` seconds. A reader sees either the old or the new offset."""
    other = clock.with_suffix(".next")
    other.write_text(f"{offset:+d}\n", encoding="ascii")
    other.replace(clock)


def _recorded_times(path: Path) -> list[int]:
    """Return the times of all outcomes that clients received, in the order of their sequences."""
    outcomes = [one.outcome for one in operations(path) if isinstance(one, Write) and one.outcome is not None]
    return [outcome.time for outcome in sorted(outcomes, key=lambda outcome: outcome.sequence)]


def never_back(times: Sequence[int]) -> None:
    """Raise `UnsafeError` if a time, in nanoseconds, is before its predecessor."""
    for before, after in pairwise(times):
        if after < before:
            raise UnsafeError(f"the exchange's time ran back by {(before - after) / 1e9:.3f} s, to {after / 1e9:.3f}")
