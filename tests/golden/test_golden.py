"""This version starts on the data of every released version, as a node does."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from node.config.file import load
from node.deployment.setup import initialise
from node.migration.contents import LOG, SNAPSHOTS
from node.migration.rehearsal import places, rehearse
from node.migration.start import at_start
from snapshots.abi.releases import Releases
from snapshots.levels.level import ACCEPTED
from tests.golden.write import DIRECTORY, EXPECTED, Expected, expected_of
from tests.unit.node.migrating import loaded
from tests.unit.snapshots.states import trading

KEPT = sorted(path.parent for path in DIRECTORY.glob(f"*/{EXPECTED}"))


def test_every_released_abi_has_data() -> None:
    versions = Releases().versions
    assert {path.name for path in KEPT} == {f"{version}-{abi}" for abi, version in versions.items()}
    assert KEPT


CONVERTED = {"counter": {"state_hash"}, "outcome": {"fingerprint"}}
"""Columns that a migration writes again: the running hash restarts, and only ids distinguish commands of another encoding."""


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name[:18])
def test_a_migration_changes_no_row_except_for_added_columns(kept: Path) -> None:
    """This compares every cell of every table, cached outcomes included."""
    (place,) = places(kept)
    rehearsal = rehearse(place)
    for table in rehearsal.differences():
        assert (table.gone, table.came) == (0, 0), table.table
        assert table.columns_removed == []
        assert table.columns_changed.keys() <= CONVERTED.get(table.table, set()), table.lines[:6]
        assert [column.name for column in table.columns_added if column.values > 1] == []


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name[:18])
def test_a_snapshot_with_its_log_and_the_log_alone_migrate_to_the_same_state(kept: Path, tmp_path: Path) -> None:
    """Nodes have their snapshots at different indexes, so a snapshot and the log after it must give the same state as
    the log alone.
    """
    alone = tmp_path / "alone"
    shutil.copytree(kept / LOG, alone / LOG)
    hashes = set()
    for directory in (kept, alone):
        (place,) = places(directory)
        built = rehearse(place).built
        if built is not None:
            hashes.add(built.state_hash)
    assert len(hashes) == (0 if kept.name[-40:] in ACCEPTED else 1), "data that a level can run is not migrated"


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name[:18])
def test_migrated_data_loads_and_trades(kept: Path, tmp_path: Path) -> None:
    config = load(initialise(tmp_path / "cluster", 1)[0])
    for part in (SNAPSHOTS, LOG):
        shutil.copytree(kept / part, config.data_path / part)
    at_start(config)
    engine, entries, _ = loaded(config)
    expected = msgspec.json.decode((kept / EXPECTED).read_bytes(), type=Expected)
    found = expected_of(engine)
    assert msgspec.structs.replace(found, abi=expected.abi) == expected
    assert entries
    for batch in trading(13, 20, 1_000):
        engine.apply(batch)
    engine.check()
