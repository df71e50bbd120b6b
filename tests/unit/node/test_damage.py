"""One byte of a stopped node's files is changed, or a file is shorter. The start reports that and names the file, or
nothing was lost. The tests do so with log, hard state, snapshot, identity and configuration. Damage is never reported
as data of another version.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from random import Random

import msgspec
import pytest

from cluster import hardstate
from cluster.errors import ClusterError, LogDamagedError
from cluster.ports import LogEntry
from cluster.storage import RealDisk
from node import exit_codes
from node.config.file import load
from node.data_directory import identity
from node.deployment.setup import initialise
from node.engine import failures
from node.engine.modes import Modes
from node.engine.parts import build
from node.errors import QuorumbookError
from node.migration.start import at_start
from snapshots.errors import SnapshotError
from tests.unit.node.migrating import STATE, entries_of, write_data
from tests.unit.snapshots.states import foundations, trading

ENTRIES = entries_of([*foundations(), *trading(5, 40)])
CUT = 25
FAULTS = 60


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a stopped node with a snapshot in the middle of its log."""
    directory = tmp_path_factory.mktemp("template") / "cluster"
    config = load(initialise(directory, 1)[0])
    write_data(config.data_path, ENTRIES, CUT, log_from=CUT - 10)
    identity.mark_started(config, identity.read(config))
    return directory


class Begun:
    """What a start makes of the files."""

    def __init__(self, path: Path) -> None:
        self.config = load(path)
        known = identity.read(self.config)
        at_start(self.config)
        asyncio.run(self._read(known))

    async def _read(self, known: identity.DirectoryIdentity) -> None:
        parts = build(self.config, known, Modes(self.config.node_id))
        raft_log = parts.raft._raft_log
        self.log = [LogEntry(*entry) for entry in raft_log[:]]
        self.recovering = raft_log.recovering
        self.state = parts.machine.engine.full_hash()
        parts.raft.stop()


def files_of(node: Path, part: str) -> list[Path]:
    """Return the files of a node that are not empty."""
    where = {
        "log": sorted((node / "data" / "log").glob("log-*.seg")),
        "hard state": [node / "data" / "log" / "hardstate"],
        "snapshot": sorted(
            path for path in (node / "data" / "snapshots").rglob("*") if path.stat().st_size and path.parent.name.isdigit()
        ),
        "identity": [node / "data" / "identity.json"],
        "configuration": [node / "node.toml"],
    }
    return where[part]


def damage(path: Path, random: Random) -> str:
    """Flip a bit, zero some bytes, or cut the end. Returns what was done."""
    data = bytearray(path.read_bytes())
    at = random.choice([random.randrange(len(data)), max(0, len(data) - 1 - random.randrange(100))])
    kind = random.choice(["flip", "flip", "zero", "cut"])
    if kind == "flip":
        data[at] ^= 1 << random.randrange(8)
    elif kind == "zero":
        data[at : at + 16] = bytes(len(data[at : at + 16]))
    else:
        del data[at:]
    path.write_bytes(data)
    return f"{kind} at {at} of {path.name}"


@pytest.mark.parametrize("part", ["log", "hard state", "snapshot", "identity", "configuration"])
def test_a_damaged_file_is_refused_by_name_or_nothing_is_lost(part: str, template: Path, tmp_path: Path) -> None:
    good = Begun(template / "n1" / "node.toml")
    random = Random(part)
    refused = 0
    for number in range(FAULTS):
        node = tmp_path / str(number) / "n1"
        shutil.copytree(template, node.parent)
        path = random.choice(files_of(node, part))
        done = damage(path, random)
        try:
            begun = Begun(node / "node.toml")
        except (QuorumbookError, ClusterError, SnapshotError, OSError) as error:
            config = load(template / "n1" / "node.toml")
            diagnosis = failures.diagnosis_of_start(config, error)
            text = "\n".join(diagnosis.lines)
            assert diagnosis.code == exit_codes.CANNOT_START, (done, text)
            assert "the version that wrote it" not in text, (done, text)
            if part in ("log", "hard state", "snapshot"):
                assert path.name in text, (done, text)
                assert "damaged" in text, (done, text)
            refused += 1
        else:
            assert begun.state == good.state, done
            if begun.log != good.log:
                # What ends behind the last known commit looks like a write that a crash has torn. The other nodes notice
                # that (`stale`).
                torn = not done.startswith("flip") and begun.log[-1].index >= STATE.commit_index
                assert begun.recovering or torn, f"{done}: entries are gone, and the node would vote"
                assert begun.log == good.log[: len(begun.log)], done
        shutil.rmtree(node.parent)
    assert refused > FAULTS // 10


@pytest.mark.parametrize("part", ["log", "hardstate"])
def test_files_of_another_node_are_refused(part: str, template: Path, tmp_path: Path) -> None:
    """The files of two nodes of one cluster are swapped. Their entries are equal, but the votes and acknowledgements in
    them are another node's.
    """
    Begun(template / "n1" / "node.toml")
    shutil.copytree(template, tmp_path / "cluster")
    log = tmp_path / "cluster" / "n1" / "data" / "log"
    if part == "log":
        state = (log / "hardstate").read_bytes()
        shutil.rmtree(log)
        write_data(log.parent, ENTRIES, 0, log_from=CUT - 10, node_id="n3")
        (log / "hardstate").write_bytes(state)
    else:
        disk = RealDisk(log, fsync=False)
        hardstate.store(disk, msgspec.structs.replace(STATE, node_id="n3"))
    with pytest.raises(LogDamagedError, match="of n3, and this is n1") as caught:
        Begun(tmp_path / "cluster" / "n1" / "node.toml")
    assert failures.diagnosis_of_start(load(template / "n1" / "node.toml"), caught.value).code == exit_codes.CANNOT_START


def test_damaged_data_of_another_version_is_reported_as_damage(template: Path) -> None:
    """Formerly a flipped byte was reported with exit code 3 and "the version that wrote it can still start on it"."""
    from snapshots.errors import MigrationError, SnapshotDamagedError

    config = load(template / "n1" / "node.toml")
    for error, code, parts in (
        (LogDamagedError("log-1.seg: offset 5: bad"), exit_codes.CANNOT_START, ("damaged", "log-1.seg: offset 5", "--rejoin")),
        (SnapshotDamagedError("/x/000004.sst", "differs"), exit_codes.CANNOT_START, ("damaged", "/x/000004.sst", "--rejoin")),
        (MigrationError("money is conserved", "", "no"), exit_codes.NOT_MIGRATED, ("intact and unchanged",)),
    ):
        diagnosis = failures.diagnosis_of_start(config, error)
        text = "\n".join(diagnosis.lines)
        assert diagnosis.code == code
        assert all(part in text for part in parts), text
        assert "copy" not in text or "must not take its place" in text


def test_a_full_disk_is_named(template: Path) -> None:
    config = load(template / "n1" / "node.toml")
    error = OSError(28, "No space left on device", str(config.data_path / "log" / "log-1.seg"))
    (line,) = failures.diagnosis_of_start(config, error).lines
    assert "the disk is full" in line
    assert "log-1.seg" in line
    assert "MB free" in line
