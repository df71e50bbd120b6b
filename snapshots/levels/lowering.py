"""Conversion of a state to the level before, for a state in which nothing is in use that the earlier version lacks.

The result depends on the state alone, so equal states stay equal. What the step drops is named in the module of the
earlier version (`v0_2_0_back`). The money of every account is the same before and after, and the frozen core checks all
that it requires of a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from snapshots.errors import SnapshotError
from snapshots.levels.level import OWN, V0_2_0, Level
from snapshots.levels.obstacles import Obstacles, Row
from snapshots.levels.raising import first_hash
from statemachine.engine import Engine
from statemachine.errors import StateError
from statemachine.teardown import clear

if TYPE_CHECKING:
    from snapshots.levels.v0_2_0 import FormerEngine
    from snapshots.levels.v0_2_0_back import Lowering

OBSTACLES_SHOWN = 20
"""How many obstacles an error lists: a table and field is one, whatever the number of its rows."""


class LossError(SnapshotError):
    """A state cannot return to an earlier level without loss. `obstacles`: what is in use there that the level lacks."""

    def __init__(self, to: Level, obstacles: Sequence[str]) -> None:
        super().__init__(f"the state cannot return to level {to.version} without loss: {'; '.join(obstacles)}")
        self.obstacles = list(obstacles)


def lowered(engine: Engine, to: Level) -> Engine:
    """Return the state of this software's level at the level before. O(everything); `engine` is not changed.

    Raises:
        LossError: something would be lost.
    """
    return lowered_rows(dict(engine.tables()), engine.state_hash, to)


def lowered_rows(
    tables: Mapping[str, Iterable[Row]], state_hash: bytes, to: Level, lowering: Lowering | None = None
) -> FormerEngine:
    """Return the state at the level before, from the tables of a state of this software's level, and its running hash.
    Raises as `lowered`.

    Args:
        lowering: converts the rows. It can convert those that change later.
    """
    from snapshots.levels import v0_2_0, v0_2_0_back  # imported here, because reading the core from the archive takes time

    assert to == V0_2_0, f"a state of {OWN} returns to {V0_2_0}"
    lowering = lowering if lowering is not None else v0_2_0_back.Lowering(Obstacles())
    made = v0_2_0_back.lowered(tables, first_hash(state_hash, to), lowering)
    try:
        if lowering.obstacles:
            raise refusal(to, lowering.obstacles)
        return v0_2_0.FormerEngine.restore(made, verified=True)
    except StateError as error:
        raise broken(to, error) from error
    finally:
        clear(*made.values())


def broken(to: Level, error: Exception) -> LossError:
    """Return the error for a state that the earlier version does not accept."""
    return LossError(to, [f"the state breaks an invariant of version {to.version}: {error}"])


def refusal(to: Level, found: Obstacles) -> LossError:
    """Return the error that names these obstacles."""
    obstacles = found.texts()
    more = len(obstacles) - OBSTACLES_SHOWN
    return LossError(to, obstacles[:OBSTACLES_SHOWN] + ([f"and {more} more"] if more > 0 else []))
