"""Pid files, and what the system knows of processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from node.errors import NodeRunningError
from node.system.processes import PidFile, alive, descendants, locked_pid, reap


def test_a_pid_file_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "node.pid"
    held = PidFile.acquire(path)
    assert locked_pid(path) == os.getpid()
    with pytest.raises(NodeRunningError, match=rf"runs on this data directory already \(pid {os.getpid()}\)"):
        PidFile.acquire(path)
    held.release()
    assert locked_pid(path) is None
    PidFile.acquire(path).release()


def test_the_pid_of_a_process_that_is_gone_is_history(tmp_path: Path) -> None:
    path = tmp_path / "node.pid"
    code = "import os, sys; from pathlib import Path; from node.system.processes import PidFile; PidFile.acquire(Path(sys.argv[1])); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
    assert path.read_text().strip().isdigit()
    assert locked_pid(path) is None


def test_without_a_pid_file_no_process_runs(tmp_path: Path) -> None:
    assert locked_pid(tmp_path / "node.pid") is None


def test_a_zombie_does_not_live() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not alive(pid)
    reap(pid)
    assert not Path(f"/proc/{pid}").exists()
    reap(pid)


def test_descendants_are_found_over_generations() -> None:
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); sys.stdin.read(); p.kill(); p.wait()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        found = descendants(os.getpid())
        assert found.count(child.pid) == found.count(grandchild) == 1
        assert found.index(child.pid) < found.index(grandchild), "nearest first"
        assert descendants(child.pid) == [grandchild]
        assert alive(grandchild)
        child.communicate(b"")
    assert not alive(grandchild)


def test_checking_a_lock_does_not_prevent_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "node.pid"
    path.touch()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            locked_pid(path)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(2_000):
            PidFile.acquire(path).release()
    finally:
        stop.set()
        thread.join()


def test_a_pid_file_on_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly a start on a full disk said "No space left on device", and not where."""

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*node\.pid'"):
            PidFile.acquire(tmp_path / "node.pid")
    PidFile.acquire(tmp_path / "node.pid").release()
