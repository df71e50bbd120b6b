"""Recorded behaviour: entries of the log, and a digest of everything that came of each. One file for each released
rules number, for ever.

    python -m tests.golden.behaviour.corpus record VERSION    at a release, by the core that the release freezes
    python -m tests.golden.behaviour.corpus reach             which lines of the core the newest corpus reaches, and which it does not

A digest covers outcomes, events and the running hash, byte for byte, so texts of refusals and defaults as well.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec
import pytest

from snapshots.levels import states
from snapshots.levels.level import Level, by_version
from snapshots.levels.narrowing import NotAtLevelError
from statemachine.applied import AppliedBatch
from statemachine.commands import AnyCommand, Batch
from statemachine.engine import Engine
from tests.golden.write import flow
from tests.interaction import script
from tests.unit.snapshots.levels.markets import Market
from tests.unit.snapshots.states import trading

DIRECTORY = Path(__file__).parent
SCRIPTS = Path(script.__file__).parent
SEEDS = range(31, 36)
MARKETS = range(101, 104)
STEP = 1_000_000
"""Nanoseconds between two parts of the flow."""


class Corpus(msgspec.Struct, frozen=True):
    """Entries as they are in the log, and their digests (hex). `starts`: the places of entries, beside the first,
    before which the state is empty again.
    """

    rules: int
    abi: str
    entries: list[bytes]
    digests: list[str]
    starts: list[int] = []

    def chapters(self) -> Iterator[list[bytes]]:
        """Yield the entries from one empty state to the next."""
        for start, end in pairwise([0, *self.starts, len(self.entries)]):
            yield self.entries[start:end]


def path_of(rules: int) -> Path:
    """Return the path of the corpus of a rules number."""
    return DIRECTORY / f"rules-{rules}.msgpack"


def recorded() -> list[Corpus]:
    """Return all corpora, oldest first."""
    paths = sorted(DIRECTORY.glob("rules-*.msgpack"), key=lambda path: int(path.stem.partition("-")[2]))
    return [msgspec.msgpack.decode(path.read_bytes(), type=Corpus) for path in paths]


def all_digests(corpus: Corpus, level: Level) -> list[str]:
    """Return one digest for each entry of a corpus, applied at a level. It covers the outcomes, the events and the state."""
    return [each for entries in corpus.chapters() for each in digests(states.empty(level), entries)]


def digests(engine: Engine, entries: list[bytes]) -> list[str]:
    """Apply the entries, and return for each a digest of its outcomes, its events and the state."""
    found = []
    for entry in entries:
        applied = engine.apply_entry(entry)
        made = blake2b(digest_size=12)
        for part in (*applied.encoded_outcomes, b"|", *applied.encoded_events, b"|", engine.state_hash):
            made.update(part)
        found.append(made.hexdigest())
    return found


def chapters() -> Iterator[list[Batch]]:
    """Return the entries to record, each part from an empty state: every command and every choice of an order, then
    markets that trade; random markets with auctions, stop orders and transfers; every script of `tests/interaction`.
    """
    yield list(first_chapter())
    for seed in MARKETS:
        market = Market(seed)
        yield [market.foundations(), *market.batches(200)]
    for path in sorted(SCRIPTS.glob("*.txt")):
        yield of_script(path.read_text(encoding="utf-8"))


def of_script(text: str) -> list[Batch]:
    """Return the entries that a script of `tests/interaction` sends."""
    sent: list[Batch] = []

    class Recorder(Engine):
        def apply(self, batch: Batch) -> AppliedBatch:
            sent.append(batch)
            return super().apply(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "Engine", Recorder)
        script.Script().run(text)
    return sent


def first_chapter() -> Iterator[Batch]:
    """Yield every command of 0.2.0 and every choice of an order, then markets that trade."""
    last = 0
    for batch in flow():
        last = batch.time
        yield batch
    for seed in SEEDS:
        for batch in trading(seed, 300, seed * 10_000):
            last += STEP
            yield msgspec.structs.replace(batch, time=last)


def record(level: Level) -> Corpus:
    """Record the flow at a level; what the level cannot say is left out."""
    entries: list[bytes] = []
    starts: list[int] = []
    for batches in chapters():
        starts.append(len(entries))
        entries += [states.encoded(level.abi, batch.time, _at(level, batch)) for batch in batches]
    made = Corpus(level.rules, level.abi, entries, [], starts[1:])
    return msgspec.structs.replace(made, digests=all_digests(made, level))


def _at(level: Level, batch: Batch) -> list[AnyCommand]:
    """Return the commands of a batch that a level has."""
    kept = []
    for command in batch.commands:
        try:
            states.check_commands(level.abi, [command])
        except NotAtLevelError:
            continue
        kept.append(command)
    return kept


def reach(run: Callable[[], object], prefix: str) -> dict[str, tuple[set[int], set[int]]]:
    """Return by module (whose name begins with `prefix`) the lines that run and all lines that there are."""
    reached: dict[str, set[int]] = {}

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(prefix):
            return None
        if event == "line":
            reached.setdefault(name, set()).add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(None)
    found = {}
    for name, lines in sorted(reached.items()):
        path = Path(str(sys.modules[name].__file__))
        found[name] = lines, _lines(compile(path.read_text(), str(path), "exec"))
    return found


def _lines(code: CodeType) -> set[int]:
    """Return the lines of functions. Those of the module itself run at the import."""
    found: set[int] = set()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_name != "<module>" and constant.co_flags & 0x2:
                found |= {line for _, line in dis.findlinestarts(constant) if line and line != constant.co_firstlineno}
            found |= _lines(constant)
    return found


def main() -> int:
    """Run the program. Returns its exit code."""
    if sys.argv[1] == "record":
        level = by_version(sys.argv[2])
        assert level is not None, f"{sys.argv[2]} is not a level of this software"
        path = path_of(level.rules)
        assert not path.exists(), f"{path} is there already, and a corpus never changes"
        path.write_bytes(msgspec.msgpack.encode(record(level)))
        sys.stdout.write(f"{path}\n")
        return 0
    parts = [*chapters()]

    def run() -> None:
        for batches in parts:
            engine = states.empty()
            for batch in batches:
                engine.apply(batch)

    reached_all = there_all = 0
    for name, (reached, there) in reach(run, "statemachine").items():
        missed = sorted(there - reached)
        reached_all, there_all = reached_all + len(there & reached), there_all + len(there)
        sys.stdout.write(f"{name}: {len(there & reached)} of {len(there)} lines reached; not {missed[:40]}\n")
    sys.stdout.write(f"all: {reached_all} of {there_all} lines, {len(parts)} parts, {sum(map(len, parts))} entries\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
