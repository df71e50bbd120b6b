"""The rollback to the level before an upgrade is killed at any moment. Either nothing has changed, or the next start
completes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from cluster import hardstate
from cluster.log import DurableLog, read_segments, segment_abis
from cluster.messages import COMMAND
from cluster.ports import LogEntry, Schemas
from cluster.storage import RealDisk
from node.config.file import load
from node.config.settings import NodeConfig
from node.deployment.setup import initialise
from node.engine import levels, process
from node.migration import cutover, keeping
from node.migration.contents import LOG, look
from node.migration.cutover import way_back
from node.migration.start import finish_interrupted
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED, OWN, V0_2_0, SetLevel, abi_behind, encode_level_entry
from statemachine.commands import Batch
from tests.unit.node.migrating import STATE, KilledError, contents, dying, entries_of, loaded, write_data
from tests.unit.snapshots.states import foundations, trading

ENTRIES = entries_of([*foundations(), *trading(5, 40)], V0_2_0)
LAST = len(ENTRIES)
"""The last entry before the change of the level, which is the next one."""

SINCE = 4
"""Entries with commands after the change."""

TERM = 9


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a cluster of one node whose level has changed. It keeps the data of the level before, and has moved the log
    of that level to its archive.
    """
    directory = tmp_path_factory.mktemp("template") / "cluster"
    initialise(directory, 1)
    data = load(directory / "n1" / "node.toml").data_path
    write_data(data, ENTRIES, LAST - 10, level=V0_2_0)
    schemas = Schemas(lambda: V0_2_0.abi, ACCEPTED, abi_behind)
    log = DurableLog(RealDisk(data / LOG, archive_to=data / cutover.ARCHIVE), node_id="n1", schemas=schemas)
    log.load()
    change = SetLevel(V0_2_0, OWN)
    log.append(LogEntry(bytes([COMMAND]) + encode_level_entry(change), LAST + 1, TERM))
    for number in range(SINCE):
        log.append(LogEntry(bytes([COMMAND]) + states.encoded(OWN.abi, 9_000 + number, []), LAST + 2 + number, TERM))
    log.sync()
    assert keeping.keep(data, "n1", change, LAST + 1)
    log.roll()
    log.append(LogEntry(bytes([COMMAND]) + states.encoded(OWN.abi, 9_900, []), LAST + 2 + SINCE, TERM))
    log.compact_to(LAST + 2 + SINCE)
    log.close()
    hardstate.store(RealDisk(data / LOG), msgspec.structs.replace(STATE, term=TERM))
    assert set(segment_abis(data / cutover.ARCHIVE).values()) == {V0_2_0.abi, OWN.abi}
    return directory


@pytest.fixture
def config(template: Path, tmp_path: Path) -> NodeConfig:
    shutil.copytree(template, tmp_path / "cluster")
    return load(tmp_path / "cluster" / "n1" / "node.toml")


def check_is_back(config: NodeConfig) -> None:
    """Check that the data is that of the level before without loss, and that readers of log and archive find each entry
    once.
    """
    data = config.data_path
    assert look(data).abi == V0_2_0.abi
    engine, entries, state = loaded(config)
    assert state is not None
    assert state.term > TERM, "beyond every term of the time that is undone"
    assert entries[-1] == ENTRIES[-1]
    plain = states.empty(V0_2_0)
    for entry in ENTRIES:
        if entry.payload[0] == COMMAND:
            plain.apply_entry(entry.payload[1:])
    assert engine.state_hash == plain.state_hash
    engine.apply(Batch(9_999, []))
    assert list(read_segments(data / cutover.ARCHIVE, data / LOG)) == ENTRIES
    assert cutover.rewinds(data) == [cutover.Rewind(LAST, TERM)]
    assert not cutover.may_go_back(data)
    names = {path.name for path in data.iterdir() if path.is_dir()}
    assert not names & {cutover.BACK, "undone", *(name + ".trash" for name in (cutover.BACK, "undone"))}


@pytest.mark.parametrize(("function", "step"), [("rename", 1), ("replace", 1), ("fsync", 2), ("unlink", 2), ("rmdir", 1)])
def test_killed_at_each_step_it_is_whole(
    function: str, step: int, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards the command is repeated if nothing has changed. Otherwise a node is started."""
    original = getattr(os, function)
    ends = set()
    for after in range(1, 60, step):
        directory = tmp_path / f"cluster-{after}"
        shutil.copytree(template, directory)
        config = load(directory / "n1" / "node.toml")
        before, archived = contents(config.data_path), segment_abis(config.data_path / cutover.ARCHIVE)
        with monkeypatch.context() as patch:
            patch.setattr(os, function, dying(original, after))
            try:
                cutover.go_back(config.data_path, way_back(config.data_path).record)
                ends.add("done")
            except KilledError:
                ends.add("killed")
        if cutover.may_go_back(config.data_path):
            assert contents(config.data_path) == before, "nothing is changed before it is certain"
            assert segment_abis(config.data_path / cutover.ARCHIVE) == archived
            assert cutover.rewinds(config.data_path) == []
            assert levels.runs_as_it_is(config.data_path)
            cutover.go_back(config.data_path, way_back(config.data_path).record)
        elif "done" not in ends:
            finish_interrupted(config)
        check_is_back(config)
        shutil.rmtree(directory)
        if "done" in ends:
            break
    assert "done" in ends
    assert "killed" in ends or function in ("unlink", "rmdir")


def test_undone_commands_can_be_exported(config: NodeConfig) -> None:
    since = [entry.index for entry in way_back(config.data_path).since()]
    assert since == list(range(LAST + 2, LAST + 3 + SINCE))
    cutover.go_back(config.data_path, way_back(config.data_path).record)
    check_is_back(config)


def test_an_engine_completes_it_before_it_reads_anything(config: NodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was killed between the snapshots and the log. Both are of levels that this software can run."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dying(os.rename, 4))
        with pytest.raises(KilledError):
            cutover.go_back(config.data_path, way_back(config.data_path).record)
    assert (config.data_path / cutover.BACK).is_dir()

    def run(coroutine: Coroutine[Any, Any, int]) -> int:
        coroutine.close()
        check_is_back(config)
        return 77

    monkeypatch.setattr(uvloop, "run", run)
    assert process._run_locked(config, rejoin=False) == 77
