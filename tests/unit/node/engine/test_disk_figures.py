"""The figures of the disk in the status are not read from the disk for each status."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.engine.parts import DISK_LOOK_S, DiskFigures
from tests.unit.snapshots.making import made, tables


def test_the_disk_is_read_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "snapshots").mkdir()
    made(tmp_path / "snapshots", 5, tables(3))
    reads, statvfs, now = [], os.statvfs, 100.0

    def counted(path: Path) -> object:
        reads.append(path)
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", counted)
    figures = DiskFigures(tmp_path, lambda: now)
    first = figures.now()
    assert first["snapshot_timestamp_seconds"] > 0
    assert 0 < first["disk_free_bytes"] <= first["disk_size_bytes"]
    for _ in range(10):
        now += DISK_LOOK_S / 20
        assert figures.now() == first
    assert len(reads) == 1
    now += DISK_LOOK_S
    figures.now()
    assert len(reads) == 2


def test_disk_figures_that_cannot_be_read_are_zero(tmp_path: Path) -> None:
    assert set(DiskFigures(tmp_path / "none").now().values()) == {0}
