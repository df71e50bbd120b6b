"""Recorded behaviour: entries of the log, and a digest of everything that came of each. One file for each released rules number, for ever.

    python -m tests.golden.behaviour.corpus record VERSION    at a release, by the core that the release freezes
    python -m tests.golden.behaviour.corpus reach             which lines of the core the newest corpus reaches, and which it does not

A digest covers outcomes, events and the running hash, byte for byte, so texts of refusals and defaults as well.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec

from snapshots.levels import states
from snapshots.levels.level import Level, by_version
from snapshots.levels.narrowing import NotAtLevelError
from statemachine.commands import Batch
from statemachine.engine import Engine
from tests.golden.write import flow
from tests.unit.snapshots.states import trading

DIRECTORY = Path(__file__).parent
SEEDS = range(31, 36)
STEP = 1_000_000
"""Nanoseconds between two parts of the flow."""


class Corpus(msgspec.Struct, frozen=True):
    """Entries as they are in the log, and their digests (hex)."""

    rules: int
    abi: str
    entries: list[bytes]
    digests: list[str]


def path_of(rules: int) -> Path:
    """Where the corpus of a rules number is."""
    return DIRECTORY / f"rules-{rules}.msgpack"


def recorded() -> list[Corpus]:
    """All corpora, oldest first."""
    paths = sorted(DIRECTORY.glob("rules-*.msgpack"), key=lambda path: int(path.stem.partition("-")[2]))
    return [msgspec.msgpack.decode(path.read_bytes(), type=Corpus) for path in paths]


def digests(engine: Engine, entries: list[bytes]) -> list[str]:
    """What comes of the entries, one digest each."""
    found = []
    for entry in entries:
        applied = engine.apply_entry(entry)
        made = blake2b(digest_size=12)
        for part in (*applied.encoded_outcomes, b"|", *applied.encoded_events, b"|", engine.state_hash):
            made.update(part)
        found.append(made.hexdigest())
    return found


def batches() -> Iterator[Batch]:
    """The flow that is recorded: every command and every choice of an order, then markets that trade."""
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
    entries = []
    for batch in batches():
        kept = []
        for command in batch.commands:
            try:
                states.check_commands(level.abi, [command])
            except NotAtLevelError:
                continue
            kept.append(command)
        entries.append(states.encoded(level.abi, batch.time, kept))
    return Corpus(level.rules, level.abi, entries, digests(states.empty(level), entries))


def reach(run: Callable[[], object], prefix: str) -> dict[str, tuple[set[int], set[int]]]:
    """Which lines run in modules whose names begin with `prefix`: by module, those reached and all that there are."""
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
    """The lines of functions; those of the module itself run at the import."""
    found: set[int] = set()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_name != "<module>" and constant.co_flags & 0x2:
                found |= {line for _, line in dis.findlinestarts(constant) if line and line != constant.co_firstlineno}
            found |= _lines(constant)
    return found


def main() -> int:
    """The program. Returns its exit code."""
    if sys.argv[1] == "record":
        level = by_version(sys.argv[2])
        assert level is not None, f"{sys.argv[2]} is no level of this software"
        path = path_of(level.rules)
        assert not path.exists(), f"{path} is there already, and a corpus never changes"
        path.write_bytes(msgspec.msgpack.encode(record(level)))
        sys.stdout.write(f"{path}\n")
        return 0
    engine, flow_batches = states.empty(), [*batches()]
    for name, (reached, there) in reach(lambda: [engine.apply(batch) for batch in flow_batches], "statemachine").items():
        missed = sorted(there - reached)
        sys.stdout.write(f"{name}: {len(there & reached)} of {len(there)} lines reached; not {missed[:40]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
