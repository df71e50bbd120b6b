"""A history gets from other nodes' logs what its node's log no longer has, and equals a history that had the whole log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from struct import pack
from typing import Any
from zlib import crc32

import msgspec
import pytest

from cluster.errors import LogDamagedError
from cluster.log import MAGIC, scan
from node.engine import queries
from node.engine.queries import LogChunks
from node.errors import ConnectionLost, RequestFailed
from node.history import fetching, process
from node.history.fetching import cut
from node.history.keeper import Keeper
from node.history.process import LogFollower
from node.migration import cutover
from node.migration.contents import LOG
from node.native.protocol import FailCode, LogChunk, LogQuery, MemberStatus
from tests.property.worlds import busy_command
from tests.unit.node.history.logs import DEADLINE, NodeLog, busy, engine_status, snapshot_of
from tests.waiting import until


class Peer:
    """A connection to a node that is only a log. `applied` is the index up to which that node reports to be."""

    def __init__(self, node: NodeLog) -> None:
        self.node = node
        self.applied = node.applied
        self.asked = 0
        self.before_answer: Callable[[int], None] = lambda _: None
        self._chunks = LogChunks(node.config)
        self.closed = asyncio.Event()

    async def query(self, query: Any) -> Any:
        if not isinstance(query, LogQuery):
            others = [MemberStatus(name, True, 0, native=name) for name in ("own", "first", "second")]
            return engine_status(self.node.applied, others)
        self.asked += 1
        self.before_answer(self.asked)
        found: asyncio.Future[LogChunk | RequestFailed] = asyncio.get_running_loop().create_future()
        self._chunks.read(query, self.applied, found.set_result)
        chunk = await found
        if isinstance(chunk, RequestFailed):
            raise chunk
        return chunk

    async def close(self) -> None:
        """Do nothing: no connection is open."""


class Nodes:
    """Connections by address. A node that does not exist refuses the connection."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer] = {}

    async def open(self, address: str, **_: object) -> Peer:
        name = "own" if address.startswith("unix:") else address
        if name not in self.peers:
            raise ConnectionLost(f"{name} is away")
        return self.peers[name]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """Return connections without nodes yet. Pieces are small, and no copy waits for the sake of others."""
    made = Nodes()
    monkeypatch.setattr(queries, "CHUNK_BYTES", 700)
    monkeypatch.setattr(fetching, "BYTES_PER_SECOND", 10**9)
    monkeypatch.setattr(fetching, "CHUNK_RETRY_S", 0.001)
    monkeypatch.setattr(process, "ASK_AGAIN", 0.01)
    for module in (process, fetching):
        monkeypatch.setattr(module, "NativeConnection", made)
    return made


LATER = 150
AFTER = 30


@pytest.fixture
def whole(tmp_path: Path) -> NodeLog:
    """Return a node that has its whole log, some of it in the archive."""
    node = NodeLog(tmp_path / "whole")
    live(node)
    node.log.compact_to(node.applied - 100)
    return node


@pytest.fixture
def away(tmp_path: Path) -> NodeLog:
    """Return a node with the same state that was down: its history ends early, and it never had the log after that up
    to a snapshot.
    """
    node = NodeLog(tmp_path / "away")
    live(node, back=True)
    return node


def live(node: NodeLog, *, back: bool = False) -> None:
    """Apply on a node the commands that every node gets. With `back` it was down for most of them."""
    busy(node, 21, 200)
    if back:
        node.follow()
        node.log.roll()
        node.log.compact_to(node.applied + 1)
    random = Random(22)
    for number in range(LATER + AFTER):
        if back and number == LATER:
            snapshot_of(node)
            node.log.clear()
        node.add([busy_command(random, 2_000 + number)])


async def followed(node: NodeLog) -> Keeper:
    """Return the history once it has all that the node has applied."""
    keeper = node.keeper()
    stop = asyncio.Event()
    running = asyncio.create_task(LogFollower(node.config, keeper).run(stop))
    deadline = time.monotonic() + DEADLINE
    while keeper.progress.log_index < node.applied and not running.done():
        assert time.monotonic() < deadline, "the history has not caught up in time"
        await asyncio.sleep(0.005)
    stop.set()
    await running
    return keeper


async def test_the_history_equals_one_without_the_interruption(
    nodes: Nodes, whole: NodeLog, away: NodeLog, tmp_path: Path
) -> None:
    """Missing segments come from the node that has them in its archive and its log. The other node has none. At the end
    what was fetched is removed.
    """
    nodes.peers = {"own": Peer(away), "first": Peer(NodeLog(tmp_path / "empty")), "second": Peer(whole)}
    nodes.peers["first"].applied = whole.applied
    keeper = await followed(away)
    whole.follow()
    assert away.stored() == whole.stored()
    assert away.stored()["gaps"] == []
    assert nodes.peers["second"].asked > 10
    assert list(keeper.fetched.glob("*"))
    keeper.close()
    away.follow(until=lambda: not list(keeper.fetched.glob("*")))


@pytest.mark.parametrize("bytes_here", [2_000, 10**6])
async def test_segments_of_other_nodes_begin_elsewhere(nodes: Nodes, tmp_path: Path, bytes_here: int) -> None:
    """One has the name of a segment that is here and ends earlier, or begins before it."""
    away, whole = NodeLog(tmp_path / "away", segment_bytes=bytes_here), NodeLog(tmp_path / "whole", segment_bytes=10**6)
    live(away, back=True)
    live(whole)
    assert list((away.config.data_path / cutover.ARCHIVE).glob("*.seg"))
    nodes.peers = {"own": Peer(away), "first": Peer(whole)}
    (await followed(away)).close()
    whole.follow()
    assert away.stored() == whole.stored()


async def test_damaged_segments_come_from_another_node(nodes: Nodes, whole: NodeLog, away: NodeLog) -> None:
    """The header, the first entry or a later one is damaged in the archive. The history gets these entries and goes on."""
    segments = sorted((away.config.data_path / cutover.ARCHIVE).glob("*.seg"))
    for path, at in zip(segments, (3, 40, 75, 500), strict=False):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
    nodes.peers = {"own": Peer(away), "first": Peer(whole)}
    async with asyncio.timeout(DEADLINE):
        (await followed(away)).close()
    whole.follow()
    assert away.stored() == whole.stored()


async def test_a_node_that_is_away_is_waited_for(nodes: Nodes, whole: NodeLog, away: NodeLog, tmp_path: Path) -> None:
    """It may have what the others lack. So may a node that has not applied it yet, which sends what it has applied."""
    nodes.peers = {"own": Peer(away), "first": Peer(whole)}
    nodes.peers["first"].applied = away.stored()["progress"][0]["log_index"] + 20
    running = asyncio.create_task(followed(away))
    await until(lambda: nodes.peers["first"].asked >= 10, seconds=DEADLINE)
    nodes.peers["first"].applied = whole.applied
    (await running).close()
    whole.follow()
    assert away.stored() == whole.stored()


async def test_entries_that_no_node_has_are_a_gap(nodes: Nodes, away: NodeLog, tmp_path: Path) -> None:
    empty = Peer(NodeLog(tmp_path / "empty"))
    empty.applied = away.applied
    nodes.peers = {"own": Peer(away), "first": empty, "second": empty}
    (await followed(away)).close()
    (gap,) = away.stored()["gaps"]
    assert gap["last_index"] == away.applied - AFTER
    assert gap["reason"] == "no node has kept them"


async def test_a_log_of_another_schema_is_of_no_use(
    nodes: Nodes, whole: NodeLog, away: NodeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history detects that without a copy of the whole log."""
    monkeypatch.setattr(fetching, "ACCEPTED", frozenset({"another"}))
    peer = Peer(whole)
    nodes.peers = {"own": Peer(away), "first": peer, "second": peer}
    keeper = await followed(away)
    keeper.close()
    assert len(away.stored()["gaps"]) == 1
    assert peer.asked == 2
    assert not keeper.fetched.exists()


async def test_a_node_that_stays_away_is_given_up(nodes: Nodes, away: NodeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history does not wait without end for a node that stays down."""
    monkeypatch.setattr(process, "PATIENCE", 0.05)
    nodes.peers = {"own": Peer(away)}
    (await followed(away)).close()
    assert len(away.stored()["gaps"]) == 1


async def test_a_segment_that_is_removed_while_it_is_copied_comes_from_another_node(
    nodes: Nodes, whole: NodeLog, away: NodeLog, tmp_path: Path
) -> None:
    """No partial copy is left, and none is read."""
    other = NodeLog(tmp_path / "other")
    live(other)
    forgets, keeps = Peer(other), Peer(whole)
    nodes.peers = {"own": Peer(away), "first": forgets, "second": keeps}

    def forget(asked: int) -> None:
        if asked == 10:
            for directory in (LOG, cutover.ARCHIVE):
                for path in (other.config.data_path / directory).glob("*.seg"):
                    path.unlink()

    forgets.before_answer = forget
    (await followed(away)).close()
    assert forgets.asked > 10
    whole.follow()
    assert away.stored() == whole.stored()
    assert not list((away.config.history_path / "log").glob("*.tmp"))
    assert keeps.asked > 10


def test_entries_that_were_not_applied_are_cut(whole: NodeLog) -> None:
    """Another leader's entries may replace it. An entry that is cut does not exist, and neither does one that was not
    requested.
    """
    random = Random(23)
    for number in range(10):  # the last segment may have just begun
        whole.add([busy_command(random, 5_000 + number)])
    last = max((whole.config.data_path / LOG).glob("*.seg"))
    assert not cut(last, whole.applied - 2, whole.applied - 1)
    assert cut(last, whole.applied - 1, whole.applied - 2)
    header, entries, *_ = scan(last.name, last.read_bytes(), last=True)
    assert header is not None
    assert header.first_index == whole.applied - 2
    assert [entry.index for entry in entries] == [whole.applied - 2, whole.applied - 1]
    last.write_bytes(b"no segment at all, but long enough to have a header")
    with pytest.raises(LogDamagedError):
        cut(last, 10, 10)


def bad_header() -> bytes:
    """Return a header whose checksum is right and whose contents are none of a header."""
    front, body = MAGIC + pack("<I", 1), b"\xc0"
    return front + pack("<I", crc32(front)) + body + pack("<I", crc32(body))


async def test_a_log_part_that_is_invalid_is_fetched_from_another_node(
    nodes: Nodes, whole: NodeLog, away: NodeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a node sends, the history asks the next one."""
    liar = Peer(whole)
    nodes.peers = {"own": Peer(away), "first": liar, "second": Peer(whole)}
    lies: list[object] = [
        LogChunk(whole.applied, 1, 10**15, b"no segment at all, but long enough to have a header"),
        LogChunk(whole.applied, 1, 10**15, bad_header()),
        LogChunk(whole.applied, 10**6, 100, b""),
        LogChunk(2**63, -5, -1, b"\0" * 100),
        msgspec.ValidationError("Expected `int`, got `str`"),
    ]

    lies_sent = 0

    async def lie(_: Any) -> object:
        nonlocal lies_sent
        lie = lies[lies_sent % len(lies)]
        lies_sent += 1
        if isinstance(lie, Exception):
            raise lie
        return lie

    monkeypatch.setattr(liar, "query", lie)
    (await followed(away)).close()
    whole.follow()
    assert away.stored() == whole.stored()
    assert lies_sent >= len(lies)


async def test_a_node_that_is_read_by_others_is_asked_again(nodes: Nodes, whole: NodeLog, away: NodeLog) -> None:
    """However often it answers so, the copy continues where it was."""
    peer = Peer(whole)
    nodes.peers = {"own": Peer(away), "first": peer}
    refused = 0

    def busy_elsewhere(asked: int) -> None:
        nonlocal refused
        if asked % 3:
            refused += 1
            raise RequestFailed(FailCode.OVERLOADED, "another chunk of the log is being read")

    peer.before_answer = busy_elsewhere
    (await followed(away)).close()
    whole.follow()
    assert away.stored() == whole.stored()
    assert refused


async def test_pieces_are_read_one_at_a_time(whole: NodeLog) -> None:
    """A concurrent reader gets OVERLOADED, a malformed request is refused, and entries that were not applied are not
    read.
    """
    pieces = LogChunks(whole.config)
    answers: list[LogChunk | RequestFailed] = []
    for query in (LogQuery(1), LogQuery(1), LogQuery(0), LogQuery(whole.applied + 1)):
        pieces.read(query, whole.applied, answers.append)
    await until(lambda: len(answers) == 4)
    overloaded, nonsense, early, chunk = answers
    assert isinstance(overloaded, RequestFailed)
    assert overloaded.code is FailCode.OVERLOADED
    assert isinstance(nonsense, RequestFailed)
    assert nonsense.code is FailCode.BAD_REQUEST
    assert early == LogChunk(whole.applied)
    assert isinstance(chunk, LogChunk)
    assert (chunk.first_index, chunk.applied_index) == (1, whole.applied)
    assert len(chunk.data) == chunk.size
