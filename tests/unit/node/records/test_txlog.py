"""Transaction logs are converted to JSON lines and back, and give the state at any command."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cluster.log import command_of, read_segments, segment_abis
from node.errors import TxlogError
from node.records import txlog
from node.records.txlog import TxEntry, Txlog, differences, of_file, rebuild, to_lines, write_log
from snapshots.levels import states
from snapshots.levels.level import OWN, V0_2_0, SetLevel, encode_level_entry
from snapshots.levels.states import encoded_migrated
from statemachine.commands import Batch, PutApiKey, decode_batch
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from tests.unit.node.fakes import WORLD, buy, sell
from tests.unit.snapshots.levels.markets import Market

NOON = 1_772_366_400_250_000_000
KEY = PutApiKey(OPERATOR, "key", "k", OPERATOR, "c2VjcmV0", "p", 15)
BATCHES = [Batch(NOON, [*WORLD, KEY]), Batch(NOON + 1, [buy(1), buy(2)]), Batch(NOON + 5, [sell(3)])]
ENTRIES = [TxEntry(index, 1, batch) for index, batch in zip((2, 5, 6), BATCHES, strict=True)]


def log() -> Txlog:
    """Return a log of three entries with commands and some without between them."""
    return Txlog(1, iter(ENTRIES))


def written(path: Path, *, secrets: bool = True) -> Path:
    """Write the log to a file."""
    path.write_bytes(b"".join(line + b"\n" for line in to_lines(log(), secrets=secrets)))
    return path


def engine_after(batches: list[Batch]) -> Engine:
    """Return an engine that has applied them."""
    engine = Engine()
    for batch in batches:
        engine.apply(batch)
    return engine


def test_lines_and_segments_hold_the_same_batches(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl")
    assert list(of_file(path).entries) == ENTRIES
    assert write_log(tmp_path / "segments", of_file(path)) == len(ENTRIES)
    entries = list(read_segments(tmp_path / "segments"))
    assert [entry.index for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert [decode_batch(payload) for entry in entries if (payload := command_of(entry)) is not None] == BATCHES
    with pytest.raises(TxlogError, match="is not empty"):
        write_log(tmp_path / "segments", of_file(path))


def test_without_secrets_all_else_is_there(tmp_path: Path) -> None:
    text = written(tmp_path / "log.jsonl", secrets=False).read_text()
    assert "c2VjcmV0" not in text
    assert not of_file(tmp_path / "log.jsonl").secrets


def test_the_state_after_each_command_has_the_clock_of_then() -> None:
    whole = rebuild(log())
    assert (whole.index, whole.clock, whole.cut) == (6, NOON + 5, False)
    assert whole.engine.full_hash() == engine_after(BATCHES).full_hash()
    before_last = rebuild(log(), whole.engine.sequence - 1)
    assert (before_last.index, before_last.clock, before_last.cut) == (5, NOON + 1, False)
    assert before_last.engine.state_hash == engine_after(BATCHES[:2]).state_hash
    within = rebuild(log(), whole.engine.sequence - 2)
    assert within.cut
    assert within.engine.orders("alice") or within.engine.orders("bob")
    assert rebuild(log(), 0).engine.sequence == 0
    assert rebuild(log(), last_index=4).index == 2


def test_commands_that_the_log_does_not_have_are_reported() -> None:
    with pytest.raises(TxlogError, match=r"the log ends with command \d+; there is no command 1000"):
        rebuild(log(), 1000)
    with pytest.raises(TxlogError, match=r"the log begins with entry 4, and entry 1 is needed: raft\.archive_log"):
        rebuild(Txlog(4, iter(ENTRIES[1:])))
    base = (2, engine_after(BATCHES[:1]))
    rebuilt = rebuild(Txlog(3, iter(ENTRIES[1:])), base=base)
    assert rebuilt.engine.full_hash() == engine_after(BATCHES).full_hash()


def test_differences_are_rows() -> None:
    lines = list(differences(engine_after(BATCHES[:2]), engine_after(BATCHES)))
    assert "# table = Order" in lines
    assert any(line.startswith("- ") and "\tbuy\t" in line for line in lines)
    assert not list(differences(engine_after(BATCHES), engine_after(BATCHES)))


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ('"format":1', '"format":9', "line 1: expected format 1 and ABI [0-9a-f]{40}, not format 9"),
        ('"format":1,', "", "line 1: expected the heading of a transaction log: .*format"),
        ('"index":5', '"index":2', "line 3: expected an index above 2, not 2"),
        ('"index":5', '"index":"x"', "line 3: Expected `int`"),
        ('"side":"buy"', '"side":"bye"', r"line 3: commands\.0\.side: expected one of buy, sell, not 'bye'"),
        ('"kind":"PutCurrency"', '"kind":"Nothing"', r'line 2: commands\.0: expected an object with "kind" one of PutCurrency, '),
        ('"time":"2026', '"time":"soon 2026', "line 2: expected a time such as"),
        ('"commands":', '"commands":' + "[" * 2_000, "line 2: "),
    ],
)
def test_a_fault_is_reported_with_its_line(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    path = written(tmp_path / "log.jsonl")
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    with pytest.raises(TxlogError, match=message):
        list(of_file(path).entries)


def test_a_file_that_is_not_text_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"format":"\xff"}\n')
    with pytest.raises(TxlogError, match="line 1: expected the heading"):
        of_file(path)


def test_entries_of_another_version_stay_marked(tmp_path: Path) -> None:
    marked = [
        msgspec.structs.replace(entry, payload=encoded_migrated(entry.batch.time, entry.batch.commands)) for entry in ENTRIES[:3]
    ]
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in to_lines(Txlog(1, iter(marked)))))
    assert list(of_file(path).entries) == marked


def test_a_progress_gets_the_number_of_applied_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(txlog, "PROGRESS_EVERY", 2)
    calls: list[int] = []
    whole = rebuild(log(), progress=calls.append)
    assert calls == sorted(calls)
    assert calls[-1] == whole.engine.sequence


def test_a_log_with_a_change_of_the_level_and_its_return(tmp_path: Path) -> None:
    """A replay of the log, its lines, a file, and segments made from it lead to the same state."""
    flow, engine, entries = Market(7), states.empty(V0_2_0), []
    batches = iter([flow.foundations(), *flow.batches(60)])
    steps: list[SetLevel | None] = [None] * 15
    steps += [SetLevel(V0_2_0, OWN), *[None] * 15, SetLevel(OWN, V0_2_0), *[None] * 15]
    for index, change in enumerate(steps, 1):
        if change is None:
            batch = next(batches)
            payload = states.encoded(states.level_of(engine).abi, batch.time, batch.commands)
            entries.append(TxEntry(index, 1, batch, payload))
        else:
            payload = encode_level_entry(change)
            entries.append(TxEntry(index, 1, Batch(0, []), b"", change))
        engine, _ = states.apply(engine, payload)

    def whole() -> Txlog:
        return Txlog(1, iter(entries), level=V0_2_0)

    for made in (rebuild(whole()), rebuild(_again(whole(), tmp_path / "log.jsonl"))):
        assert made.index == len(steps)
        assert made.engine.state_hash == engine.state_hash
    write_log(tmp_path / "segments", of_file(tmp_path / "log.jsonl"))
    assert list(segment_abis(tmp_path / "segments").values()) == [V0_2_0.abi, OWN.abi, V0_2_0.abi]
    replayed = states.empty(V0_2_0)
    for entry in read_segments(tmp_path / "segments"):
        payload_of = command_of(entry)
        assert payload_of is not None
        replayed, _ = states.apply(replayed, payload_of)
    assert replayed.state_hash == engine.state_hash


def _again(log: Txlog, path: Path) -> Txlog:
    """Write a log to a file and read it again."""
    path.write_bytes(b"".join(line + b"\n" for line in to_lines(log, secrets=True)))
    return of_file(path)
