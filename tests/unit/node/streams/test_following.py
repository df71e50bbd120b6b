"""A stream follows the log: the broker gets each entry once, whatever fails meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from cluster.errors import MissingEntriesError
from cluster.log import DurableLog, command_of, read_segments
from cluster.messages import COMMAND
from cluster.ports import LogEntry, Schemas
from cluster.storage import RealDisk
from node.config.file import load
from node.config.settings import NodeConfig, StreamsConfig
from node.deployment.setup import initialise
from node.errors import StreamError
from node.migration import cutover
from node.streams import following as module
from node.streams.broker import BrokerError, FencedError, Record, StreamProgress
from node.streams.following import NodeStream
from node.streams.records import RecordWriter
from snapshots import durable
from snapshots.abi import ABI
from snapshots.job import JobState
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED, OWN, V0_2_0, CheckLevel, LevelEntry, SetLevel, abi_behind, encode_level_entry
from snapshots.manifest import SnapshotFields
from snapshots.store import SnapshotStore
from statemachine.commands import AnyCommand, Batch, PutCurrency, encode_batch
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from tests.unit.snapshots.levels.markets import Market
from tests.waiting import wait_until

ENTRIES = 40


class MemoryBroker:
    """A broker that keeps what was published. The next calls to `publish` raise `failures`; True means that the batch
    becomes visible nevertheless.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.position: StreamProgress | None = None
        self.failures: list[tuple[BrokerError, bool]] = []
        self.begun = 0
        self.cuts: list[tuple[int, Record]] = []
        """Each with how many records were there before it."""

    def cut(self, records: Sequence[Record], position: StreamProgress) -> None:
        if self.failures:
            raise self.failures.pop(0)[0]
        self.cuts += [(len(self.records), record) for record in records]
        self.position = position

    def begin(self) -> StreamProgress | None:
        self.begun += 1
        return self.position

    def publish(self, records: Sequence[Record], position: StreamProgress) -> None:
        failure = self.failures.pop(0) if self.failures else None
        if failure is None or failure[1]:
            self.records += records
            self.position = position
        if failure is not None:
            raise failure[0]

    def standing(self) -> StreamProgress | None:
        return self.position

    def close(self) -> None:
        pass

    @property
    def sequences(self) -> list[int]:
        return [record.sequence for record in self.records if record.topic == "qb.commands"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeConfig:
    """Return a node whose log has some entries with one command each. Every tenth is a no-op."""
    monkeypatch.setattr(module, "RECORDS_PER_BATCH", 5)
    path = initialise(tmp_path / "exchange", 1, cluster_id="trial")[0]
    made = msgspec.structs.replace(load(path), streams=StreamsConfig(url="kafka://127.0.0.1:1"))
    made.streams_path.mkdir(parents=True)
    write_log(made, ENTRIES)
    return made


def write_log(config: NodeConfig, last: int, undone_after: int = ENTRIES, new_term: int = 0) -> None:
    """Write entries up to `last`. Those behind `undone_after` have other commands, and the term `new_term`."""
    log = DurableLog(RealDisk(config.data_path / "log"), node_id="n1", abi=ABI)
    log.load()
    for index in range(1, last + 1):
        name, term = (f"C{index}", 1 + index // 20) if index <= undone_after else (f"D{index}", new_term)
        commands: list[AnyCommand] = [PutCurrency(OPERATOR, f"c{name}", name, 2)]
        payload = bytes([COMMAND]) + (b"" if index % 10 == 0 else encode_batch(Batch(index * 10**9, commands)))
        log.append(LogEntry(payload, index, term))
    log.close()


def stream(config: NodeConfig, broker: MemoryBroker) -> NodeStream:
    following = NodeStream(config, broker, RecordWriter("qb", "json"))
    following.begin()
    return following


def drain(following: NodeStream, applied: int = ENTRIES) -> None:
    while following.advance(applied):
        pass


EXPECTED = list(range(1, ENTRIES - ENTRIES // 10 + 1))


def test_all_is_published_once(config: NodeConfig) -> None:
    broker = MemoryBroker()
    following = stream(config, broker)
    drain(following, 17)
    assert broker.position == StreamProgress("trial", 17, 1, "n1")
    drain(following)
    assert broker.sequences == EXPECTED
    assert broker.position == StreamProgress("trial", ENTRIES, 3, "n1")
    following.close()


def test_a_restart_continues_after_the_position(config: NodeConfig) -> None:
    broker = MemoryBroker()
    first = stream(config, broker)
    for _ in range(2):
        first.advance(ENTRIES)
    first.close()
    second = stream(config, broker)
    drain(second)
    assert broker.sequences == EXPECTED
    second.close()


@pytest.mark.parametrize("visible", [False, True])
def test_a_batch_whose_answer_is_lost_is_published_once(config: NodeConfig, visible: bool) -> None:
    broker = MemoryBroker()
    following = stream(config, broker)
    following.advance(ENTRIES)
    broker.failures = [(BrokerError("away"), visible)]
    with pytest.raises(BrokerError):
        following.advance(ENTRIES)
    following.begin()
    drain(following)
    assert broker.sequences == EXPECTED
    following.close()


def test_an_outage_keeps_the_batch_and_applies_nothing_twice(config: NodeConfig) -> None:
    broker = MemoryBroker()
    following = stream(config, broker)
    broker.failures = [(BrokerError("away"), False)] * 3
    for _ in range(3):
        with pytest.raises(BrokerError):
            following.advance(ENTRIES)
        following.begin()
    drain(following)
    assert broker.sequences == EXPECTED
    following.close()


def test_two_streams_publish_each_entry_once_between_them(config: NodeConfig) -> None:
    broker = MemoryBroker()
    first, second = stream(config, broker), stream(config, broker)
    first.advance(ENTRIES)
    second.begin()
    second.advance(ENTRIES)
    broker.failures = [(FencedError("another"), False)]
    with pytest.raises(FencedError):
        first.advance(ENTRIES)
    first.begin()
    drain(first)
    assert broker.sequences == EXPECTED
    second.begin()
    assert not second.advance(ENTRIES)
    for following in (first, second):
        following.close()


def test_a_place_of_another_cluster_or_another_log_is_refused(config: NodeConfig) -> None:
    broker = MemoryBroker()
    broker.position = StreamProgress("other", 5, 1)
    with pytest.raises(StreamError, match="set another"):
        stream(config, broker)
    broker.position = StreamProgress("trial", 25, 1)
    following = stream(config, broker)
    with pytest.raises(StreamError, match="a rollback undid"):
        drain(following)
    following.close()


def roll_back(config: NodeConfig, last_index: int, until: int, term: int) -> None:
    """Change the log as a rollback to `last_index` does: other commands of a later term follow it."""
    for path in (config.data_path / "log").glob("*.seg"):
        path.unlink()
    write_log(config, until, last_index, term)
    (config.data_path / "rewinds.json").write_bytes(msgspec.json.encode([cutover.Rewind(last_index, term - 1)]))


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_rollback_the_stream_is_cut_back_and_continues(config: NodeConfig, fails: bool) -> None:
    broker = MemoryBroker()
    before = stream(config, broker)
    drain(before)
    before.write_state()
    while before._state.index == 0:
        before._poll_state()
    before.close()
    roll_back(config, 12, 30, 9)
    after = stream(config, broker)
    assert after.undone(StreamProgress("trial", ENTRIES, 3)) == 12
    if fails:
        broker.failures = [(BrokerError("away"), False)]
        with pytest.raises(BrokerError):
            after.advance(30)
        after.begin()
    drain(after, 30)
    after.close()
    assert [record.topic for _, record in broker.cuts] == ["qb.events", "qb.commands", "qb.accounts"]
    at, cut = broker.cuts[1]
    assert (cut.kind, cut.index, cut.sequence) == ("cut_back", 12, 11)
    assert msgspec.json.decode(cut.value)["sequence"] == "11"
    commands = [record for record in broker.records if record.topic == "qb.commands"]
    kept = [record for record in broker.records[:at] if record.index <= 12] + broker.records[at:]
    assert [record.sequence for record in kept if record.topic == "qb.commands"] == list(range(1, 28))
    assert b"D13" in next(record for record in commands if record.index == 13 and record in broker.records[at:]).value
    assert broker.position == StreamProgress("trial", 30, 9, "n1")
    again = stream(config, broker)
    assert not again.advance(30)
    assert len(broker.cuts) == 3, "once"
    again.close()


def test_a_log_that_does_not_go_as_far_as_the_cut_is_waited_for(config: NodeConfig) -> None:
    broker = MemoryBroker()
    before = stream(config, broker)
    drain(before)
    before.close()
    roll_back(config, 12, 30, 9)
    after = stream(config, broker)
    assert not after.advance(10)
    assert not broker.cuts
    drain(after, 30)
    assert len(broker.cuts) == 3
    after.close()


def test_missing_entries_are_reported(config: NodeConfig) -> None:
    for path in (config.data_path / "log").glob("*.seg"):
        path.unlink()
    following = stream(config, MemoryBroker())
    with pytest.raises(MissingEntriesError):
        following.advance(ENTRIES)
    assert not following.begin_behind_snapshot(), "there is no snapshot to begin behind"
    following.close()


def test_the_state_on_disk_saves_a_start_the_log(config: NodeConfig) -> None:
    broker = MemoryBroker()
    following = stream(config, broker)
    drain(following)
    following.write_state()
    while following._state.index == 0:
        following._poll_state()
    following.close()
    again = stream(config, broker)
    assert again._index == ENTRIES
    again.close()


def test_a_stream_continues_over_a_change_of_the_level_and_its_return(config: NodeConfig) -> None:
    """It is also begun again around each change, with a state of the level of that entry."""
    shutil.rmtree(config.data_path / "log")
    schemas = Schemas(lambda: V0_2_0.abi, ACCEPTED, abi_behind)
    log = DurableLog(RealDisk(config.data_path / "log"), node_id="n1", schemas=schemas)
    log.load()
    changes: list[int] = []
    engine = states.empty(V0_2_0)
    flow = Market(3)
    batches = iter([flow.foundations(), *flow.batches(60)])
    steps: list[LevelEntry | None] = [None] * 15
    steps += [SetLevel(V0_2_0, OWN), *[None] * 15, CheckLevel(OWN, V0_2_0), SetLevel(OWN, V0_2_0), *[None] * 15]
    for index, step in enumerate(steps, 1):
        if step is None:
            batch = next(batches)
            payload = states.encoded(states.level_of(engine).abi, batch.time, batch.commands)
        else:
            payload = encode_level_entry(step)
            changes.append(index)
        log.append(LogEntry(bytes([COMMAND]) + payload, index, 1))
        engine, _ = states.apply(engine, payload)
    log.close()
    assert states.level_of(engine) is V0_2_0

    whole, again = MemoryBroker(), MemoryBroker()
    following = stream(config, whole)
    drain(following, len(steps))
    following.close()
    assert whole.sequences == list(range(1, engine.sequence + 1))
    durable.remove(config.streams_path / module.STATE)
    for end in sorted({*changes, *(index - 1 for index in changes), len(steps)}):
        following = stream(config, again)
        drain(following, end)
        following.close()
    assert again.records == whole.records
    assert again.position == whole.position == StreamProgress("trial", len(steps), 1, "n1")


def archived(config: NodeConfig, snapshot_index: int) -> Path:
    """Let the node have a snapshot at an entry, and the log before it in the archive. Returns the archive."""
    data = config.data_path
    entries = list(read_segments(data / "log"))
    shutil.rmtree(data / "log")
    log = DurableLog(RealDisk(data / "log", archive_to=data / cutover.ARCHIVE), node_id="n1", abi=ABI, segment_bytes=300)
    log.load()
    engine = Engine()
    for entry in entries:
        log.append(entry)
        payload = command_of(entry)
        if payload is not None and entry.index <= snapshot_index:
            engine.apply_entry(payload)
    log.compact_to(snapshot_index)
    log.close()
    store = SnapshotStore(data / "snapshots")
    fields = SnapshotFields(snapshot_index, 1, b"", engine.sequence, "0", engine.time)
    job = store.begin(fields, {name: list(rows) for name, rows in engine.tables()})
    wait_until(lambda: job.poll() is not JobState.RUNNING, "the snapshot is written")
    assert job.poll() is JobState.DONE, job.reason
    return data / cutover.ARCHIVE


@pytest.mark.parametrize("published_before", [False, True])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_standby_stream_releases_the_log_and_can_take_over(config: NodeConfig, published_before: bool, restarts: bool) -> None:
    """Else the archive of a node that never publishes would grow for ever."""
    archive = archived(config, 20)
    broker = MemoryBroker()
    following = NodeStream(config, broker, RecordWriter("qb", "json"))
    if published_before:
        following.begin()
        drain(following, 5)
    segments = sorted(archive.iterdir())
    assert len(segments) > 3
    following.stand_by(StreamProgress("trial", 19, 1, "n2"))
    assert sorted(archive.iterdir()) == segments, "the snapshot goes beyond the position"
    broker.position = StreamProgress("trial", 25, 2, "n2")
    for _ in range(2):
        following.stand_by(broker.position)
    assert not list(archive.iterdir())
    shutil.rmtree(config.data_path / "snapshots")  # the node has pruned it
    broker.records.clear()
    if restarts:
        following.close()
        following = NodeStream(config, broker, RecordWriter("qb", "json"))
    following.begin()
    drain(following)
    assert broker.sequences == [sequence for sequence in EXPECTED if sequence > 25 - 2]
    following.close()
