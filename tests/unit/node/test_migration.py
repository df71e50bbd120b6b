"""A start on another version's data migrates it whole or not at all, at whatever moment it is killed. The tests also
cover the rollback.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from cluster import hardstate
from cluster.log import DurableLog
from cluster.messages import COMMAND
from cluster.ports import LogEntry
from cluster.storage import RealDisk, RealFile
from node.config.file import load
from node.config.settings import NodeConfig
from node.data_directory.marks import mark_of
from node.deployment.setup import initialise
from node.errors import DataDirectoryError, DirectoryError
from node.migration import cutover
from node.migration.contents import LOG, SNAPSHOTS, check_known, look
from node.migration.cutover import way_back, ways_back
from node.migration.rehearsal import places, rehearse
from node.migration.start import at_start, finish_interrupted
from node.system import software
from snapshots.abi import ABI
from snapshots.abi.releases import Releases
from snapshots.errors import MigrationError, SnapshotDamagedError, UnknownAbiError
from snapshots.levels.level import BROUGHT_TO
from snapshots.migration.chain import Chains, Step
from snapshots.migration.checks import MIGRATED_HASH
from snapshots.migration.codec import Values
from snapshots.migration.scripts import run
from snapshots.store import SnapshotStore
from statemachine.commands import Batch, CancelAll
from tests.unit.node.migrating import STATE, KilledError, contents, dying, engine_at, entries_of, loaded, write_data, write_former
from tests.unit.snapshots.states import encoded, foundations, trading
from tests.unit.snapshots.versions import FOUR, ONE, THREE, THREE_TO_FOUR, chains, with_changes

ENTRIES = entries_of([*foundations(), *trading(5, 40)], BROUGHT_TO)
END = len(ENTRIES)
CUT = 25


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a cluster of one node, and beside it data of version 1 with a snapshot in the middle of the log."""
    directory = tmp_path_factory.mktemp("template")
    initialise(directory / "cluster", 1)
    write_former(directory / "data", ENTRIES, CUT, directory / "versions")
    return directory


@pytest.fixture
def config(template: Path, tmp_path: Path) -> NodeConfig:
    return new_node(template, tmp_path / "cluster")


def new_node(template: Path, directory: Path) -> NodeConfig:
    shutil.copytree(template / "cluster", directory)
    return load(directory / "n1" / "node.toml")


@pytest.fixture
def known(tmp_path: Path) -> Chains:
    return chains(tmp_path / "released")


@pytest.fixture
def old(config: NodeConfig, template: Path) -> dict[str, bytes]:
    """Give the node the data of version 1. Returns the contents of its files."""
    return with_data(config, template)


def with_data(config: NodeConfig, template: Path) -> dict[str, bytes]:
    shutil.copytree(template / "data", config.data_path, dirs_exist_ok=True)
    return contents(config.data_path)


def check_migrated(config: NodeConfig) -> None:
    engine, entries, state = loaded(config)
    assert [(entry.index, entry.term) for entry in entries] == [(entry.index, entry.term) for entry in ENTRIES]
    assert state == STATE
    plain = engine_at(ENTRIES, END, BROUGHT_TO, migrated=True)
    assert (engine.sequence, engine.state_hash) == (plain.sequence, MIGRATED_HASH)
    for batch in trading(6, 20, 500):
        assert engine.apply(batch) == plain.apply(batch)
    engine.check()


def test_a_start_migrates_snapshot_log_and_votes(config: NodeConfig, old: dict[str, bytes], known: Chains) -> None:
    built = at_start(config, known)
    assert built is not None
    check_migrated(config)
    assert at_start(config, known) is None, "the next start finds nothing to do"
    newest = SnapshotStore(config.data_path / SNAPSHOTS).newest()
    assert newest is not None
    _, entries, _ = loaded(config)
    mark = mark_of(newest)
    assert [mark.previous, mark.last] == entries[CUT - 2 : CUT], "followers may ask for the last two entries of a snapshot"
    former = config.data_path / cutover.FORMER / ONE.abi
    assert contents(former) == old, "the former data is as it was"
    assert (built.snapshot_index, built.last_index, built.report.entries) == (CUT, END, END - 2)


@pytest.mark.parametrize("cut", [0, END])
def test_wherever_the_snapshot_is_the_state_is_the_same(
    cut: int, config: NodeConfig, known: Chains, template: Path, tmp_path: Path
) -> None:
    """Two nodes have the same log and different snapshots. They agree from the first batch of this version on."""
    write_former(config.data_path, ENTRIES, cut, tmp_path / "versions", log_from=max(1, cut - 5))
    at_start(config, known)
    other = new_node(template, tmp_path / "other")
    with_data(other, template)
    at_start(other, known)
    assert _next_hash(config) == _next_hash(other)


def _next_hash(config: NodeConfig) -> bytes:
    """Return the running hash after one entry that was not migrated."""
    engine, _, _ = loaded(config)
    engine.apply(Batch(9_999, []))
    return engine.state_hash


def test_a_node_without_data_has_nothing_to_migrate(config: NodeConfig, known: Chains) -> None:
    assert at_start(config, known) is None


def test_data_of_this_version_is_left_alone(config: NodeConfig, known: Chains) -> None:
    write_data(config.data_path, entries_of([*foundations(), *trading(5, 40)]), CUT)
    before = contents(config.data_path)
    assert at_start(config, known) is None
    assert contents(config.data_path) == before


@pytest.mark.parametrize(("function", "step"), [("rename", 1), ("fsync", 3)])
def test_killed_anywhere_the_next_start_has_it_whole(
    function: str, step: int, config: NodeConfig, old: dict[str, bytes], known: Chains, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(os, function)
    ends = set()
    for after in range(1, 60, step):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, dying(original, after))
            try:
                at_start(config, known)
                ends.add("done")
                break
            except KilledError:
                ends.add("killed")
        if not (config.data_path / cutover.READY).exists() and (config.data_path / cutover.FORMER).exists():
            assert look(config.data_path).abi == BROUGHT_TO.abi
        elif not (config.data_path / cutover.READY).exists():
            assert contents(config.data_path) == old, "nothing is changed before the conversion is complete"
    assert ends == {"killed", "done"}
    at_start(config, known)
    check_migrated(config)
    assert sorted(path.name for path in config.data_path.iterdir() if path.is_dir()) == [cutover.FORMER, LOG, SNAPSHOTS]


# ---------------------------------------------------------------------- what is refused


def _raises(_row: Values) -> Values:
    raise ZeroDivisionError("a rule that does not hold")


def test_a_failing_check_changes_nothing(config: NodeConfig, old: dict[str, bytes], tmp_path: Path) -> None:
    bad = chains(
        tmp_path / "released", with_changes(THREE_TO_FOUR, rows={"balance": lambda row: {**row, "hold": row["hold"] + 1}})
    )
    with pytest.raises(MigrationError, match="money is conserved: currency BTC") as caught:
        at_start(config, bad)
    assert caught.value.check == "money is conserved"
    assert contents(config.data_path) == old
    at_start(config, chains(tmp_path / "released"))
    check_migrated(config)


def test_a_full_disk_changes_nothing(
    config: NodeConfig, old: dict[str, bytes], known: Chains, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: RealFile, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RealFile, "append", full)
        with pytest.raises(MigrationError, match=r"the migrated data is written: .*No space left"):
            at_start(config, known)
    assert contents(config.data_path) == old
    assert not (config.data_path / cutover.DRAFT).exists()
    at_start(config, known)
    check_migrated(config)


def test_a_disk_that_takes_no_snapshot_changes_nothing(config: NodeConfig, old: dict[str, bytes], tmp_path: Path) -> None:
    """A process of its own writes the snapshot. A limit on the size of files makes its database fail."""
    code = (
        "import resource, sys; from pathlib import Path; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "from node.config.file import load; from node.migration.start import at_start; from tests.unit.snapshots.versions import chains\n"
        "at_start(load(Path(sys.argv[1])), chains(Path(sys.argv[2])))"
    )
    path = Path(config.directory) / "node.toml"
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "released")]
    chains(tmp_path / "released")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == 1
    assert "MigrationError: migration: the snapshot is written" in done.stderr or "File too large" in done.stderr
    assert contents(config.data_path) == old


def test_too_little_room_is_reported_before_anything_is_written(
    config: NodeConfig, old: dict[str, bytes], known: Chains, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=10_000))
    with pytest.raises(MigrationError, match=r"the disk has room: .*: expected \d\.\d MB free, found 0\.0 MB"):
        at_start(config, known)
    with pytest.raises(MigrationError, match="the disk has room"):
        rehearse(places(Path(config.directory).parent)[0], known=known)
    assert contents(config.data_path) == old
    assert not (config.data_path / cutover.DRAFT).exists()


def test_a_flipped_bit_is_refused_before_anything_else(config: NodeConfig, old: dict[str, bytes], known: Chains) -> None:
    victim = next(path for path in sorted((config.data_path / SNAPSHOTS).rglob("*.sst")))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
    with pytest.raises(SnapshotDamagedError, match="is not what was written"):
        at_start(config, known)
    assert look(config.data_path).abi == ONE.abi


def test_an_abi_that_is_newer_or_unknown_is_refused(config: NodeConfig, old: dict[str, bytes]) -> None:
    found = look(config.data_path)
    assert found.manifest is not None
    prefix = f"ABI {ONE.abi} is not known to this software: "
    with pytest.raises(
        UnknownAbiError, match=prefix + f"version {software.version()}, a build that was never released, not later"
    ):
        at_start(config)
    later = replace(found, manifest=msgspec.structs.replace(found.manifest, software="0.10.0"))
    with pytest.raises(UnknownAbiError, match=prefix + r"version 0\.10\.0, later than this one \(0\.9\), wrote it"):
        check_known(later, Releases(), "0.9")
    with pytest.raises(UnknownAbiError, match=prefix + "a later version or one that was never released"):
        check_known(replace(found, manifest=None), Releases(), "0.9")
    assert contents(config.data_path) == old


def test_snapshot_and_log_of_two_abis_are_refused(
    config: NodeConfig, old: dict[str, bytes], known: Chains, tmp_path: Path
) -> None:
    write_data(tmp_path / "other", ENTRIES, 0)
    for path in (config.data_path / LOG).iterdir():
        path.unlink()
    for path in (tmp_path / "other" / LOG).iterdir():
        path.rename(config.data_path / LOG / path.name)
    with pytest.raises(DataDirectoryError, match="snapshot and log are of different ABIs"):
        at_start(config, known)


def test_the_process_says_what_failed_and_ends_with_its_own_code(config: NodeConfig, old: dict[str, bytes]) -> None:
    command = [sys.executable, "-m", "node.engine.process", "--config", str(Path(config.directory) / "node.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == 3
    first, *_, complaint, advice = done.stderr.splitlines()
    assert f"quorumbook {software.version()}" in first
    assert f"ABI {ABI}" in first
    assert f"ABI {ONE.abi} is not known" in complaint
    assert "the version that wrote it can still start on it" in advice
    assert contents(config.data_path) == old


# ---------------------------------------------------------------------- rehearsal


def test_a_rehearsal_changes_nothing_and_reports_everything(config: NodeConfig, old: dict[str, bytes], known: Chains) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(config.data_path.rglob("*"))}
    (place,) = places(Path(config.directory).parent)
    rehearsal = rehearse(place, known=known)
    assert {path: path.stat().st_mtime_ns for path in sorted(config.data_path.rglob("*"))} == before
    assert contents(config.data_path) == old
    built = rehearsal.built
    assert built is not None
    assert [step.how for step in built.report.steps] == ["automatic", "module", "module"]
    assert built.behind == END - CUT
    assert built.bytes_after > 0
    differences = {each.table: each for each in rehearsal.differences()}
    assert [(column.name, column.samples) for column in differences["product"].columns_removed] == [
        ("pair", ["BTC/USD", "ETH/USD"])
    ]
    assert (differences["product"].same, differences["product"].lines) == (2, [])


def test_a_rehearsal_may_end_at_another_version(config: NodeConfig, old: dict[str, bytes], known: Chains) -> None:
    built = rehearse(places(config.data_path)[0], THREE.abi[:10], known=known).built
    assert built is not None
    assert (built.report.target, built.report.checks) == (THREE.abi, [])


def test_an_empty_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="neither a cluster's, nor a node's"):
        places(tmp_path)


# ---------------------------------------------------------------------- the way back


def append(config: NodeConfig, *batches: Batch, first: int = END + 1) -> None:
    """Continue to trade after the migration."""
    disk = RealDisk(config.data_path / LOG, fsync=False)
    log = DurableLog(disk, node_id="n1", abi=BROUGHT_TO.abi)
    log.load()
    for index, batch in enumerate(batches, first):
        log.append(LogEntry(bytes([COMMAND]) + encoded(batch), index, 9))
    log.close()
    hardstate.store(disk, msgspec.structs.replace(STATE, term=9))


def test_the_way_back_exports_later_commands(config: NodeConfig, old: dict[str, bytes], known: Chains) -> None:
    at_start(config, known)
    since = [Batch(8_000 + number, [CancelAll("ann", f"s{number}")]) for number in range(3)]
    append(config, *since)
    way = way_back(config.data_path)
    assert [(entry.index, entry.batch) for entry in way.since()] == list(enumerate(since, END + 1))
    cutover.go_back(config.data_path, way.record)
    now = contents(config.data_path)
    assert {name: data for name, data in now.items() if name != "log/hardstate"} == {
        name: data for name, data in old.items() if name != "log/hardstate"
    }
    state = hardstate.load(RealDisk(config.data_path / LOG))
    assert state == msgspec.structs.replace(STATE, term=10, voted_for=None), "beyond every term of the time that is undone"
    with pytest.raises(DataDirectoryError, match="no migration that could be undone"):
        way_back(config.data_path)
    at_start(config, known)
    assert look(config.data_path).abi == BROUGHT_TO.abi, "and forth again"


@pytest.mark.parametrize("function", ["rename", "fsync"])
def test_killed_on_the_way_back_the_next_start_finishes_it(
    function: str, config: NodeConfig, old: dict[str, bytes], known: Chains, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_start(config, known)
    original = getattr(os, function)
    for after in range(1, 30):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, dying(original, after))
            try:
                if not cutover.finish(config.data_path) and look(config.data_path).abi == BROUGHT_TO.abi:
                    cutover.go_back(config.data_path, way_back(config.data_path).record)
                break
            except KilledError:
                continue
    assert {name for name in contents(config.data_path) if name != "log/hardstate"} == {
        name for name in old if name != "log/hardstate"
    }
    assert look(config.data_path).abi == ONE.abi


def test_a_gap_in_the_entries_since_the_migration_is_reported(config: NodeConfig, old: dict[str, bytes], known: Chains) -> None:
    at_start(config, known)
    for path in (config.data_path / LOG).glob("log-*.seg"):
        path.unlink()
    append(config, Batch(8_000, [CancelAll("ann", "s1")]), first=END + 11)
    with pytest.raises(
        DataDirectoryError, match=f"log entries {END + 1} to {END + 10}, applied since the migration, are not on this node"
    ):
        list(way_back(config.data_path).since())


def test_a_final_migration_cannot_be_rolled_back(config: NodeConfig, old: dict[str, bytes], known: Chains) -> None:
    at_start(config, known)
    kept = config.data_path / cutover.ARCHIVE / "log-00000000000000000001.seg"
    kept.parent.mkdir()
    kept.write_bytes(b"x")
    assert cutover.may_go_back(config.data_path)
    assert cutover.finalize(config.data_path, keep_archive=False) == 1
    assert cutover.former(config.data_path) == []
    assert not cutover.may_go_back(config.data_path)
    assert not kept.exists()
    assert kept.parent.is_dir(), "a running node may be about to move a segment there"
    kept.write_bytes(b"x")
    assert cutover.finalize(config.data_path, keep_archive=False) == 0
    assert kept.exists(), "without a finalized migration the files belong to an archive"
    with pytest.raises(DataDirectoryError, match="it was finalized"):
        way_back(config.data_path)
    check_migrated(config)


@pytest.mark.parametrize("name", [cutover.READY, cutover.BACK])
def test_an_unfinished_cutover_is_not_made_final(name: str, config: NodeConfig, old: dict[str, bytes], known: Chains) -> None:
    at_start(config, known)
    (config.data_path / name).mkdir()
    with pytest.raises(DataDirectoryError, match="a switch between former and migrated data is under way"):
        cutover.finalize(config.data_path, keep_archive=False)
    assert len(cutover.former(config.data_path)) == 1


def migrated_nodes(template: Path, directory: Path, known: Chains) -> list[Path]:
    for config in (configs := [new_node(template, directory / name) for name in ("first", "second")]):
        with_data(config, template)
        at_start(config, known)
    return [config.data_path for config in configs]


def test_a_way_back_that_was_interrupted_between_two_nodes_continues(template: Path, tmp_path: Path, known: Chains) -> None:
    first, second = directories = migrated_nodes(template, tmp_path, known)
    ways = ways_back(directories)
    assert list(ways) == directories
    cutover.go_back(first, ways[first].record)
    assert list(ways_back(directories)) == [second]


def test_a_node_that_cannot_go_back_holds_up_the_others(template: Path, tmp_path: Path, known: Chains) -> None:
    directories = migrated_nodes(template, tmp_path, known)
    cutover.finalize(directories[1], keep_archive=False)
    with pytest.raises(DataDirectoryError, match=f"{directories[1]}: .* it was finalized"):
        ways_back(directories)


SCRIPT = """#!{python}
import sys
from pathlib import Path
before, after = map(Path, sys.argv[1:])
for path in before.glob("*.tsv"):
    text = path.read_text()
    if path.stem == "Member":
        text = text.replace("# table = Member", "# table = Account")
    (after / path.name.replace("Member", "Account")).write_text({text})
"""


def _script(config: NodeConfig, text: str) -> Path:
    directory = Path(config.directory) / "migrations"
    directory.mkdir()
    script = directory / THREE.abi
    script.write_text(SCRIPT.format(python=sys.executable, text=text))
    script.chmod(0o755)
    script.with_name(f"{script.name}.toml").write_text('[removed_tables]\nmember = "is account now"\n')
    return directory


def test_an_executable_named_after_the_source_abi_takes_the_place_of_a_module(
    config: NodeConfig, old: dict[str, bytes], tmp_path: Path
) -> None:
    scripts = _script(config, "text")
    built = at_start(config, chains(tmp_path / "released", scripts=scripts))
    assert built is not None
    assert [step.how for step in built.report.steps] == ["automatic", "module", "executable"]
    check_migrated(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('text.replace("100000", "99999") if path.stem == "Balance" else text', "money is conserved|the engine takes"),
        ("text.replace('Account', 'Nobody')", "the executable's tables can be read"),
        ("1 / 0", "the executable runs: .*exit code 1: .*ZeroDivisionError"),
    ],
)
def test_each_mistake_of_an_executable_is_reported(
    text: str, message: str, config: NodeConfig, old: dict[str, bytes], tmp_path: Path
) -> None:
    scripts = _script(config, text)
    with pytest.raises(MigrationError, match=f"(?s){message}"):
        at_start(config, chains(tmp_path / "released", scripts=scripts))
    assert contents(config.data_path) == old


def test_a_file_that_cannot_be_executed_is_reported_with_what_to_do(config: NodeConfig, tmp_path: Path) -> None:
    scripts = _script(config, "text")
    known = chains(tmp_path / "released", scripts=scripts)
    (step,) = known.find(THREE.abi, FOUR.abi)
    assert step.script is not None
    step.script.chmod(0o644)
    with pytest.raises(MigrationError, match=r"is not executable: chmod \+x"):
        scripts_run(step)
    step.script.chmod(0o755)
    for first, message in (("", "whose first line names its interpreter"), ("#!/no/such/python\n", "is not on this machine")):
        step.script.write_text(first + "exit 0\n")
        with pytest.raises(MigrationError, match=message):
            scripts_run(step)


def scripts_run(step: Step) -> None:
    assert step.script is not None
    run(step.script, {table.name: [] for table in step.source.tables}, step.source, step.target)


def test_the_output_of_an_executable_is_logged_and_what_it_drops_must_be_declared(
    config: NodeConfig, old: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scripts = _script(config, "text")
    script, consent = scripts / THREE.abi, scripts / f"{THREE.abi}.toml"
    script.write_text(script.read_text() + 'print("accounts moved")\n')
    known = chains(tmp_path / "released", scripts=scripts)
    for text, message in (
        (None, r"every removed value has a reason.*\.toml gives no reason: member \(the table"),
        ("[removed_table]\n", "the executable's declarations can be read: .*removed_table"),
        ("removed = ", "the executable's declarations can be read"),
    ):
        consent.unlink(missing_ok=True)
        if text is not None:
            consent.write_text(text)
        with pytest.raises(MigrationError, match=message):
            at_start(config, known)
        assert contents(config.data_path) == old
    consent.write_text('[removed_tables]\nmember = "is account now"\n')
    with caplog.at_level("INFO"):
        assert at_start(config, known) is not None
    assert "accounts moved" in caplog.text


def test_an_unreadable_record_of_a_migration_is_reported(config: NodeConfig, old: dict[str, bytes], known: Chains) -> None:
    at_start(config, known)
    record = config.data_path / cutover.FORMER / ONE.abi / cutover.RECORD
    assert json.loads(record.read_bytes())["to_abi"] == FOUR.abi
    for content in (b"{}", b'{"from_abi":"\xff"}'):
        record.write_bytes(content)
        with pytest.raises(DataDirectoryError, match="not the record of a migration"):
            way_back(config.data_path)
    for directory, name, what in ((cutover.READY, cutover.RECORD, "a migration"), (cutover.BACK, "rewind.json", "a rollback")):
        (config.data_path / directory).mkdir()
        (config.data_path / directory / name).write_bytes(b"{")
        with pytest.raises(DataDirectoryError, match=f"{name}: not the record of {what}"):
            finish_interrupted(config)
        shutil.rmtree(config.data_path / directory)
