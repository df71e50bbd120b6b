"""A state is written as text and read again: the hash is the same, and a second writing gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.tsv import read_tables, write_tables
from statemachine.commands import AnyCommand, Batch, PutApiKey
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from tests.property import worlds


def busy_engine(seed: int, length: int) -> Engine:
    """Make a market with open and done orders, holds, rejects and cached commands."""
    random = Random(seed)
    engine = Engine()
    keys = [PutApiKey(OPERATOR, f"k:{name}", f"key-{name}", name, "c2VjcmV0", "pass\tphrase\\#", 7) for name in worlds.ACCOUNTS]
    engine.apply(Batch(1_700_000_000_000_000_000, [*worlds.foundations((1_000, 3_000), 100_000), *keys]))
    for number in range(0, length, 10):
        time = 1_700_000_000_000_000_000 + number * worlds.SECOND // 5
        engine.apply(Batch(time, [worlds.busy_command(random, number + each) for each in range(10)]))
    return engine


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file of a directory with its bytes."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 400))
def test_a_state_comes_back_from_text_with_the_same_hash(seed: int, length: int) -> None:
    engine = busy_engine(seed, length)
    with TemporaryDirectory() as place:
        first, second = Path(place, "first"), Path(place, "second")
        write_tables(first, dict(engine.tables()))
        restored = Engine.restore(read_tables(first))
        write_tables(second, dict(restored.tables()))
        assert restored.full_hash() == engine.full_hash()
        assert contents(first) == contents(second)


@settings(max_examples=25, deadline=None)
@given(st.lists(worlds.commands, max_size=40))
def test_any_commands_leave_a_state_that_text_can_carry(commands: list[AnyCommand]) -> None:
    engine = Engine()
    engine.apply(Batch(5, [*worlds.foundations((1_000, 3_000), 1_000), *commands]))
    with TemporaryDirectory() as place:
        write_tables(Path(place), dict(engine.tables()))
        assert Engine.restore(read_tables(Path(place))).full_hash() == engine.full_hash()
