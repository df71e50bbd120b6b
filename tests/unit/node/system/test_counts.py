"""Figures of a process for /metrics: the files are whole, and a process that stopped has none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from node.system import counts
from node.system.counts import Family, counts_file, keep_writing, read, write
from tests.waiting import until

FIGURES = [Family("fix_sessions", "Sessions", {"orders": 2.0}, label="service")]


def test_written_figures_are_read_back(tmp_path: Path) -> None:
    path = counts_file(tmp_path, "fix")
    assert read(path) is None
    write(path, FIGURES)
    assert read(path) == FIGURES


def test_old_figures_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = counts_file(tmp_path, "fix")
    write(path, FIGURES)
    monkeypatch.setattr(counts, "STALE_S", 0.0)
    assert read(path) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff", b'{"written_at": 1, "families": [{"name": "\xff"}]}', b'{"written_at": 1e99, "families": []}'],
)
def test_a_damaged_file_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = counts_file(tmp_path, "fix")
    path.write_bytes(content)
    assert read(path) is None


async def test_a_process_that_ends_leaves_no_file(tmp_path: Path) -> None:
    path = counts_file(tmp_path, "fix")
    task = asyncio.create_task(keep_writing(path, lambda: FIGURES))
    await until(lambda: read(path) is not None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not path.exists()


async def test_a_directory_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    task = asyncio.create_task(keep_writing(counts_file(tmp_path / "none", "fix"), lambda: FIGURES))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
