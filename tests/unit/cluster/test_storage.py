"""The real disk keeps what `ports.Disk` promises, as far as a test can see without pulling the plug."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cluster.storage import RealDisk


def test_what_is_appended_is_there(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "deep" / "log")
    file = disk.open("a")
    file.append(b"one")
    file.append(b"")
    file.append(b" two")
    file.sync()
    assert disk.read("a") == b"one two"
    file.truncate(3)
    file.append(b"!")
    file.close()
    again = disk.open("a")
    again.append(b"?")
    again.close()
    assert disk.read("a") == b"one!?"


def test_a_long_write_that_the_system_takes_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:3])))
    disk = RealDisk(tmp_path)
    disk.open("a").append(b"longer than three")
    assert disk.read("a") == b"longer than three"


def test_names_are_sorted_and_leave_out_what_replace_left_behind(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    for name in ("b", "a"):
        disk.open(name).close()
    (tmp_path / "hardstate.tmp").write_bytes(b"half")
    (tmp_path / "directory").mkdir()
    assert disk.names() == ["a", "b"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RealDisk(tmp_path).read("a")


def test_replace_is_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path)
    disk.replace("a", b"old")
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        disk.replace("a", b"new")
    assert disk.read("a") == b"old"
    monkeypatch.undo()
    disk.replace("a", b"new")
    assert disk.read("a") == b"new"
    assert disk.names() == ["a"]


def fails(_fd: int) -> None:
    raise OSError(28, "no space")


def test_a_failing_sync_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RealDisk(tmp_path).open("a")
    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(OSError, match="no space"):
        file.sync()


def test_what_is_synced_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name))
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name))
    disk = RealDisk(tmp_path / "log", archive_to=tmp_path / "archive")
    assert synced == [tmp_path.name, tmp_path.name], "the directories' own entries"
    synced.clear()
    disk.replace("a", b"x")
    assert synced == ["a.tmp", "archive", "log"]
    synced.clear()
    disk.open("a").sync()
    assert synced == ["a"]


def test_without_fsync_nothing_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, fails)
    disk = RealDisk(tmp_path / "log", fsync=False)
    disk.replace("a", b"x")
    disk.open("a").sync()
    disk.sync_names()
    assert disk.read("a") == b"x"


def test_segments_go_to_the_archive_or_away(tmp_path: Path) -> None:
    for archive in (None, tmp_path / "archive"):
        disk = RealDisk(tmp_path / "log", archive_to=archive)
        disk.replace("a", b"x")
        disk.archive("a")
        assert disk.names() == []
    assert (tmp_path / "archive" / "a").read_bytes() == b"x"


def test_whether_a_segment_is_kept_is_asked_each_time(tmp_path: Path) -> None:
    answers = iter([True, False])
    disk = RealDisk(tmp_path / "log", archive_to=tmp_path / "archive", archives=lambda: next(answers))
    for name in ("a", "b"):
        disk.replace(name, b"x")
        disk.archive(name)
    assert disk.names() == []
    assert [path.name for path in (tmp_path / "archive").iterdir()] == ["a"]


def test_others_cannot_read(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "log")
    disk.open("a").close()
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "log" / "a").stat().st_mode) == 0o600


def test_remove(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.open("a").close()
    disk.remove("a")
    assert disk.names() == []
