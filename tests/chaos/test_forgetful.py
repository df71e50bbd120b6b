"""The file system that loses unsynced data: what it keeps after a loss of power, and that a node on it keeps what it
acknowledged.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.chaos.errors import NotPossibleError
from tests.chaos.forgetful.control import Control
from tests.chaos.forgetful.disk import ForgetfulDisk
from tests.chaos.run import Chaos, ChaosPlan


@pytest.fixture
def data(tmp_path: Path) -> Iterator[tuple[Path, ForgetfulDisk]]:
    """Make a directory with one file in it on the file system."""
    try:
        ForgetfulDisk.check()
    except NotPossibleError as error:
        pytest.skip(str(error))
    path = tmp_path / "data"
    path.mkdir()
    (path / "old").write_bytes(b"old")
    disk = ForgetfulDisk(path)
    disk.insert()
    try:
        yield path, disk
    finally:
        disk.remove()


def write(path: Path, content: bytes, *, sync: bool, append: bool = False) -> None:
    """Write a file, and sync its bytes but not its name."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else 0), 0o600)
    try:
        os.write(descriptor, content)
        if sync:
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Call fsync on a directory, which makes its names durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_bytes_that_were_not_synced_are_gone(data: tuple[Path, ForgetfulDisk]) -> None:
    path, disk = data
    write(path / "old", b"+synced", sync=True, append=True)
    write(path / "old", b"+not", sync=False, append=True)
    assert (path / "old").read_bytes() == b"old+synced+not"
    disk.lose_power(None)
    assert (path / "old").read_bytes() == b"old+synced"


def test_a_name_that_was_not_synced_is_gone(data: tuple[Path, ForgetfulDisk]) -> None:
    path, disk = data
    write(path / "kept", b"1", sync=True)
    sync_directory(path)
    write(path / "lost", b"2", sync=True)
    disk.lose_power(None)
    assert sorted(each.name for each in path.iterdir()) == ["kept", "old"]
    assert (path / "kept").read_bytes() == b"1"


def test_a_rename_over_a_file_is_undone_unless_the_directory_was_synced(data: tuple[Path, ForgetfulDisk]) -> None:
    path, disk = data
    write(path / "new", b"new", sync=True)
    (path / "new").rename(path / "old")
    assert (path / "old").read_bytes() == b"new"
    disk.lose_power(None)
    assert (path / "old").read_bytes() == b"old"
    write(path / "new", b"new", sync=True)
    (path / "new").rename(path / "old")
    sync_directory(path)
    disk.lose_power(None)
    assert (path / "old").read_bytes() == b"new"


def test_directories_and_hard_links_come_back(data: tuple[Path, ForgetfulDisk]) -> None:
    path, disk = data
    (path / "draft").mkdir()
    write(path / "draft" / "a", b"a", sync=True)
    os.link(path / "draft" / "a", path / "draft" / "b")
    sync_directory(path / "draft")
    (path / "draft").rename(path / "final")
    sync_directory(path)
    (path / "final" / "a").unlink()
    disk.lose_power(None)
    assert sorted(each.name for each in path.iterdir()) == ["final", "old"]
    assert sorted(each.name for each in (path / "final").iterdir()) == ["a", "b"]
    assert (path / "final" / "a").stat().st_nlink == 2


def test_a_torn_loss_keeps_a_prefix(data: tuple[Path, ForgetfulDisk]) -> None:
    path, disk = data
    content = os.urandom(20_000)
    write(path / "old", content, sync=False, append=True)
    disk.lose_power(Random(7))
    found = (path / "old").read_bytes()
    assert found == (b"old" + content)[: len(found)]
    assert len(found) < 20_003


def test_a_sync_can_fail_and_can_lie(data: tuple[Path, ForgetfulDisk]) -> None:
    path, disk = data
    disk.control(Control(prefix="old", failures=1))
    with pytest.raises(OSError, match="Input/output error"):
        write(path / "old", b"+", sync=True, append=True)
    disk.control(Control(prefix="old", lies=True))
    write(path / "old", b"+", sync=True, append=True)
    disk.lose_power(None)
    assert (path / "old").read_bytes() == b"old"


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_cluster_that_loses_its_power_keeps_acknowledged_commands(tmp_path: Path) -> None:
    try:
        ForgetfulDisk.check()
    except NotPossibleError as error:
        pytest.skip(str(error))
    lines: list[str] = []
    plan = ChaosPlan(seed=3, seconds=90.0, rounds=1, only=("unsynced-then-power-loss",), longest=0.2, clients=4, rate=150.0)
    result = asyncio.run(Chaos(tmp_path / "chaos", plan, lines.append).run())
    assert result.holds, lines
