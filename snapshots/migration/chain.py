"""Chains of migration steps from one ABI to another.

From each ABI there is one step: an executable of the operator that is named after it, or else the migration whose
source it is, or else a conversion without code to the next release (or this software). A step that would lose fields or
tables without a reason is not allowed: see `losses`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from snapshots import migrations as modules
from snapshots.abi.difference import Change, difference
from snapshots.abi.releases import Releases
from snapshots.abi.schema import Schema
from snapshots.errors import MigrationError
from snapshots.migration import losses, scripts
from snapshots.migration.plan import Migration


@dataclass(frozen=True)
class Step:
    """A step from one schema to the next. `how`: automatic, module or executable. `script` is the executable."""

    source: Schema
    target: Schema
    migration: Migration
    how: str
    script: Path | None = None


def written_migrations() -> dict[str, Migration]:
    """Return the migrations in `snapshots/migrations/`, by their source ABI.

    Raises:
        ValueError: a module has no `MIGRATION`, or two begin at the same ABI.
    """
    found: dict[str, Migration] = {}
    for module in sorted(pkgutil.iter_modules(modules.__path__), key=lambda module: module.name):
        migration = getattr(importlib.import_module(f"{modules.__name__}.{module.name}"), "MIGRATION", None)
        if not isinstance(migration, Migration):
            raise ValueError(f"{modules.__name__}.{module.name}: expected a Migration named MIGRATION")
        if migration.source in found:
            raise ValueError(f"{modules.__name__}.{module.name}: another module migrates from {migration.source} already")
        found[migration.source] = migration
    return found


class Chains:
    """Finds the steps that lead from the schema of some data to a later one.

    Args:
        scripts: the directory with the operator's executables, if there is one.
    """

    def __init__(
        self, releases: Releases | None = None, migrations: Mapping[str, Migration] | None = None, scripts: Path | None = None
    ) -> None:
        self.releases = releases or Releases()
        self._migrations = written_migrations() if migrations is None else migrations
        self._scripts = scripts

    def find(self, source: str, target: str) -> list[Step]:
        """Return the steps from `source` to `target`, none if they are the same.

        Raises:
            UnknownAbiError: one of them is not known.
            MigrationError: no steps lead there, or a step would drop something without a declaration.
        """
        goal = self.releases.schema(target)
        at = self.releases.schema(source)
        steps: list[Step] = []
        seen = {at.abi}
        while at.abi != goal.abi:
            step = self._step(at, goal)
            if step.target.abi in seen:
                raise MigrationError("chain", "", f"the migrations lead in a circle at {self.releases.title(step.target.abi)}")
            seen.add(step.target.abi)
            steps.append(step)
            at = step.target
        return steps

    def _step(self, at: Schema, goal: Schema) -> Step:
        """Return the step from one schema towards the goal: an operator's executable, a migration, or an automatic
        step.
        """
        script = self._scripts / at.abi if self._scripts is not None else None
        migration = self._migrations.get(at.abi)
        if script is not None and script.is_file():
            following = self._next(at, goal)
            migration = scripts.migration_of(script, at.abi, following.abi)
            losses.check(at, following, migration, script)
            return Step(at, following, migration, "executable", script)
        if migration is not None:
            following = self.releases.schema(migration.target)
            losses.check(at, following, migration)
            return Step(at, following, migration, "module")
        following = self._next(at, goal)
        needed = [change for change in difference(at, following) if not change.automatic]
        if needed:
            raise MigrationError("chain", "", self._no_way(at, following, needed))
        return Step(at, following, Migration(at.abi, following.abi), "automatic")

    def _next(self, at: Schema, goal: Schema) -> Schema:
        """Return the schema of the release after this one. Raises MigrationError."""
        abis = self.releases.abis
        position = abis.index(at.abi) + 1
        if position == len(abis) or abis.index(goal.abi) < position:
            raise MigrationError(
                "chain", "", f"no way leads from {self.releases.title(at.abi)} back to {self.releases.title(goal.abi)}"
            )
        return self.releases.schema(abis[position])

    def _no_way(self, at: Schema, following: Schema, needed: list[Change]) -> str:
        """Return the text of the error that a migration is missing."""
        changes = "; ".join(f"{change.place}: {change.text}" for change in needed)
        gone = [loss.name for loss in losses.losses(at, following, Migration(at.abi, following.abi))]
        vanish = f" Without it these would be lost: {', '.join(gone)}." if gone else ""
        return (
            f"no migration leads from {self.releases.title(at.abi)} to {self.releases.title(following.abi)}, and data is not converted "
            f"without one: {changes}.{vanish} Write it: quorumbook migrate new {at.abi}"
        )
