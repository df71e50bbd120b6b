"""The real disk keeps what `ports.Disk` promises, as far as a test can check without a loss of power."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.log import DurableLog, segment_name
from cluster.raft_log import RaftLog
from cluster.storage import OPEN_TRIES, RealDisk
from tests.unit.cluster.fakes import FIRST


def test_appended_bytes_are_in_the_file(tmp_path: Path) -> None:
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


def test_a_missing_file_raises(tmp_path: Path) -> None:
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


def test_a_failing_sync_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = RealDisk(tmp_path).open("a")
    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(OSError, match="no space"):
        file.sync()


def test_each_operation_syncs_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_other_users_cannot_read_the_files(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "log")
    disk.open("a").close()
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "log" / "a").stat().st_mode) == 0o600


def test_remove_deletes_the_file(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.open("a").close()
    disk.remove("a")
    assert disk.names() == []


class Calls:
    """The system calls that make data durable, in order, as "name file"."""

    NAMED = ("write", "fsync", "fdatasync", "ftruncate", "posix_fadvise")

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        for name in self.NAMED:
            patch.setattr(os, name, self._recorded(name, getattr(os, name)))
        replace = Path.replace

        def renamed(path: Path, target: Path) -> Path:
            self.made.append(f"rename {path.name}")
            return replace(path, target)

        patch.setattr(Path, "replace", renamed)

    def _recorded(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def recorded(descriptor: int, *arguments: object) -> object:
            self.made.append(f"{name} {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
            return call(descriptor, *arguments)

        return recorded


def test_replace_syncs_the_file_then_renames_it_then_syncs_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path / "log")
    calls = Calls(monkeypatch)
    disk.replace("hardstate", b"x")
    assert calls.made == ["write hardstate.tmp", "fsync hardstate.tmp", "rename hardstate.tmp", "fsync log"]


def test_settling_syncs_before_it_drops_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path / "log")
    disk.open("a").append(b"x")
    calls = Calls(monkeypatch)
    disk.settle("a")
    assert calls.made == ["fsync a", "posix_fadvise a"]


def test_bytes_of_a_killed_process_are_synced_before_the_next_process_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process is killed between the write of an entry and its sync. The bytes are in the page cache, and no sync of
    that process covers them.
    """
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from cluster.log import DurableLog; from cluster.ports import LogEntry; from cluster.storage import RealDisk\n"
        "log = DurableLog(RealDisk(Path(sys.argv[1])), node_id='n1', abi='')\n"
        "log.load(); log.append(LogEntry(b'\\x01', 1, 0)); log.append(LogEntry(b'\\x00order', 2, 1))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "log")], check=False)
    assert killed.returncode == -signal.SIGKILL
    segment = segment_name(1)
    calls = Calls(monkeypatch)
    read = RealDisk.read

    def noted(disk: RealDisk, name: str) -> bytes:
        calls.made.append(f"read {name}")
        return read(disk, name)

    monkeypatch.setattr(RealDisk, "read", noted)
    disk = RealDisk(tmp_path / "log")
    raft_log = RaftLog(disk, DurableLog(disk, node_id="n1", abi=""), None, rejoin=False)
    assert raft_log[:] == [(FIRST.payload, 1, 0), (b"\0order", 2, 1)]
    assert calls.made.index(f"fsync {segment}") < calls.made.index("fsync log") < calls.made.index(f"read {segment}")


def test_out_of_descriptors_the_reserve_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The process may open no further file, and still stores term and vote, begins a segment and syncs the directory."""
    disk = RealDisk(tmp_path / "log")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for number in range(3):
            disk.replace("hardstate", b"%d" % number)
        file = disk.open("segment")
        file.append(b"x")
        file.sync()
        disk.sync_names()
        file.close()
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert disk.read("hardstate") == b"2"
    assert disk.read("segment") == b"x"
    assert [record.levelname for record in caplog.records] == ["WARNING"], "once, not at each try"
    assert "hardstate.tmp" in caplog.text


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM])
def test_a_shortage_that_passes_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    disk = RealDisk(tmp_path)
    fail_to_open(monkeypatch, number, times=8)
    disk.replace("hardstate", b"x")
    monkeypatch.undo()
    assert disk.read("hardstate") == b"x"


def test_a_lasting_shortage_is_reported_with_the_path_and_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RealDisk(tmp_path)
    disk.replace("hardstate", b"old")
    fail_to_open(monkeypatch, errno.EMFILE, times=OPEN_TRIES)
    with pytest.raises(OSError, match=r"hardstate\.tmp"):
        disk.replace("hardstate", b"new")
    monkeypatch.undo()
    assert disk.read("hardstate") == b"old"


def test_any_other_error_of_opening_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path)
    fail_to_open(monkeypatch, errno.EACCES, times=1)
    with pytest.raises(PermissionError):
        disk.open("a")


def fail_to_open(patch: pytest.MonkeyPatch, number: int, *, times: int) -> None:
    """Let the next calls of `os.open` fail, and remove the waiting after such a failure."""
    left = [times]
    call = os.open

    def failing(path: Path, *arguments: int) -> int:
        if left[0] and str(path) != os.devnull:
            left[0] -= 1
            raise OSError(number, os.strerror(number), str(path))
        return call(path, *arguments)

    patch.setattr(time, "sleep", lambda _seconds: None)
    patch.setattr(os, "open", failing)


@pytest.mark.parametrize("name", ["write", "fdatasync", "ftruncate"])
def test_an_error_of_a_write_or_a_sync_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    file = RealDisk(tmp_path).open("log-1.seg")

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, name, full)
    actions: dict[str, Callable[[], None]] = {
        "write": lambda: file.append(b"x"),
        "fdatasync": file.sync,
        "ftruncate": lambda: file.truncate(0),
    }
    with pytest.raises(OSError, match=r"log-1\.seg") as raised:
        actions[name]()
    assert raised.value.errno == errno.ENOSPC
