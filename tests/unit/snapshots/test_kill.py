"""At whatever moment the writer is killed, a snapshot is there whole or not at all."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from snapshots.frames import End
from snapshots.job import JobState
from snapshots.store import SnapshotStore
from snapshots.writer import EXIT_INPUT_ENDED, InputEnded, write
from tests.unit.snapshots.making import (
    Tables,
    as_bytes,
    as_change_bytes,
    check_whole_or_absent,
    differences,
    fields,
    made,
    names,
    tables,
)
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]

KILLED_AT = """
import os, pathlib, shutil, signal, sys
from snapshots import durable, rocks, seal, writer

calls = 0
last = 0

def counted(function):
    def wrapper(*args, **kwargs):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper

for owner, name in (
    (os, "fsync"), (os, "rename"), (shutil, "rmtree"), (pathlib.Path, "write_bytes"), (os, "link"),
    *((rocks.RocksWriter, name) for name in ("add", "delete", "purge", "settle", "read", "close")), (writer, "check_manifest"),
):
    setattr(owner, name, counted(getattr(owner, name)))

requests, source = sys.stdin, sys.argv[1]
for request in requests:
    directory, last = request.rstrip().split("\\t")
    last = int(last)
    child = os.fork()
    if not child:
        sys.argv[1], sys.stdin, sys.stdout = directory, open(source), open(os.devnull, "w")
        os._exit(writer.main())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Writers that kill themselves at their n-th step: those that change the disk, and those that mark a stage. Each is a
process of its own, forked off one that has imported everything: that is what takes time."""


class Writers:
    """Starts writers of the same changes one after the other."""

    def __init__(self, source: Path) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", KILLED_AT, str(source)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_: object) -> None:
        with self._parent:
            assert self._parent.stdin is not None
            self._parent.stdin.close()

    def run(self, directory: Path, *, killed_at: int) -> int:
        """Run a writer and kill it at a step. Returns its exit code. It is not killed if it has fewer steps."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(f"{directory}\t{killed_at}\n")
        self._parent.stdin.flush()
        code = int(self._parent.stdout.readline())
        assert code in (0, -signal.SIGKILL)
        return code


@pytest.mark.parametrize(
    ("replaced", "base"),
    [(4, 0), (5, 0), (4, 4)],
    ids=["beside an older one", "in the place of one", "made of an older one"],
)
def test_a_writer_killed_at_any_step_leaves_a_whole_snapshot_or_none(tmp_path: Path, replaced: int, base: int) -> None:
    old, new = tables(salt="old"), tables(rows=40, salt="new")
    source, before = tmp_path / "changes", tmp_path / "before"
    source.write_bytes(as_change_bytes(5, base, new, differences(old, new)) if base else as_bytes(5, new))
    made(before, replaced, old)
    codes = []
    with Writers(source) as writers:
        for step in range(1, 200):
            directory = tmp_path / str(step)
            shutil.copytree(before, directory)
            code = writers.run(directory, killed_at=step)
            if replaced != 5:
                assert contents(before).items() <= contents(directory).items(), "the older one is as it was"
            codes.append((code, holds_new(directory, replaced, old, new)))
            if code == 0:
                break
    assert codes[-1] == (0, True)
    assert codes[0][1] is False
    killed = [whole for code, whole in codes if code != 0]
    assert len(killed) > 15
    # Once the snapshot exists, it stays.
    assert killed == sorted(killed)
    if replaced == 5:
        assert True in killed


def holds_new(directory: Path, replaced: int, old: Tables, new: Tables) -> bool:
    """Return whether the newest snapshot holds the new tables. If not, it holds all the old ones."""
    store = SnapshotStore(directory)
    newest = store.newest()
    assert newest is not None
    found = store.load(newest)
    assert found in (old, new)
    assert (found == new) >= (newest.index > replaced)
    return found == new


def contents(directory: Path) -> dict[Path, bytes]:
    """Return every file in the snapshots' directories."""
    return {path.relative_to(directory): path.read_bytes() for path in directory.glob("*/*") if path.is_file()}


def test_input_that_ends_early_makes_nothing(tmp_path: Path) -> None:
    data = as_bytes(5, tables(200))
    cuts = sorted({0, 1, 3, 4, 5, len(data) - 1, len(data) - 6, *range(0, len(data), len(data) // 12)})
    for cut in cuts:
        with pytest.raises(InputEnded):
            write(tmp_path, io.BytesIO(data[:cut]))
        assert names(tmp_path) == []
    write(tmp_path, io.BytesIO(data))
    assert names(tmp_path) == [f"{5:020d}"]


END = 4 + len(msgspec.msgpack.encode(End({name: len(rows) for name, rows in tables().items()})))
"""Bytes of the last frame."""


@pytest.mark.parametrize(
    "garbage",
    [b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x02\x91\x04", as_bytes(5, tables())[:-END] + b"\x00\x00\x00\x02\x91\x09", b"x" * 99],
)
def test_invalid_input_makes_no_snapshot(tmp_path: Path, garbage: bytes) -> None:
    with pytest.raises((ValueError, InputEnded)):
        write(tmp_path, io.BytesIO(garbage))
    assert names(tmp_path) == []


@pytest.mark.parametrize("stage", ["", f"{5:020d}.tmp", f"{5:020d}.tmp/SEAL"], ids=["begun", "database", "sealed"])
def test_a_parent_that_dies_takes_its_writer_along(tmp_path: Path, stage: str) -> None:
    """The writer notices the end of its input. The next parent finds no snapshot or a whole one."""
    code = """
import os, signal, sys
from pathlib import Path
from snapshots.store import SnapshotStore
from tests.unit.snapshots.making import fields, tables
job = SnapshotStore(Path(sys.argv[1])).begin(fields(5), tables(60_000))
print(job.pid, flush=True)
sys.stdin.read(1)
"""
    content = tables(60_000)
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with parent:
        assert parent.stdout is not None
        writer = int(parent.stdout.readline())
        wait_until(lambda: (tmp_path / stage).exists() or not lives(writer))
        parent.kill()
    check_whole_or_absent(tmp_path, {5: content})
    wait_until(lambda: not lives(writer))
    check_whole_or_absent(tmp_path, {5: content})


def lives(pid: int) -> bool:
    """Return whether a process runs. A process that ended and has not been waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def test_a_writer_cancelled_at_any_moment_leaves_a_whole_snapshot_or_none(tmp_path: Path) -> None:
    randomness = random.Random(7)
    expected = {index: tables(3_000, str(index)) for index in range(1, 9)}
    store = SnapshotStore(tmp_path)
    newest = 0
    for index, content in expected.items():
        job = store.begin(fields(index), content)
        until = time.monotonic() + randomness.uniform(0.0, 0.5)
        while job.poll() is JobState.RUNNING and time.monotonic() < until:
            time.sleep(0.001)
        job.cancel()
        found = check_whole_or_absent(tmp_path, expected)
        assert found == (index if job.poll() is JobState.DONE else found)
        assert found >= newest
        newest = found


def test_the_exit_code_says_that_the_input_ended(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "snapshots.writer", str(tmp_path)],
        input=as_bytes(5, tables())[:-1],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == EXIT_INPUT_ENDED
    assert process.stderr == b"the input ended before the last frame\n"
