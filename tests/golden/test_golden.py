"""Data of every released version starts in this one, by the way that a node takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from node.config.file import load
from node.deployment.setup import initialise
from node.migration.found import LOG, SNAPSHOTS
from node.migration.start import at_start
from snapshots.abi.releases import Releases
from tests.golden.write import DIRECTORY, EXPECTED, Expected, expected_of
from tests.unit.node.migrating import loaded
from tests.unit.snapshots.states import trading

KEPT = sorted(path.parent for path in DIRECTORY.glob(f"*/{EXPECTED}"))


def test_every_released_abi_has_data() -> None:
    versions = Releases().versions
    assert {path.name for path in KEPT} == {f"{version}-{abi}" for abi, version in versions.items()}
    assert KEPT


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name[:18])
def test_it_loads_and_trades_on(kept: Path, tmp_path: Path) -> None:
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
