"""A frozen view is the state of its moment, whatever is applied later."""

from __future__ import annotations

from random import Random

import pytest

from statemachine.commands import Batch
from statemachine.engine import Engine
from statemachine.tables import TABLES
from tests.property.worlds import busy_command, foundations


def trade(engine: Engine, random: Random, times: range) -> None:
    for time in times:
        engine.apply(Batch(time, [busy_command(random, time * 10 + n) for n in range(10)]))


@pytest.mark.parametrize("seed", range(5))
def test_what_was_frozen_does_not_change(seed: int) -> None:
    engine, random = Engine(), Random(seed)
    engine.apply(Batch(1, foundations((1_000, 3_000), 5_000)))
    trade(engine, random, range(2, 60))
    expected = dict(engine.tables())
    frozen = engine.freeze()
    trade(engine, random, range(60, 120))
    assert dict(engine.tables()) != expected
    assert {name: len(rows) for name, rows in frozen.items()} == {name: len(rows) for name, rows in expected.items()}
    assert {name: list(rows) for name, rows in frozen.items()} == expected
    assert expected["outcome"][0] in frozen["outcome"]
    assert (b"", b"") not in frozen["outcome"]


def test_rows_come_in_the_order_of_their_keys() -> None:
    engine, random = Engine(), Random(3)
    engine.apply(Batch(1, foundations((1_000, 3_000), 5_000)))
    trade(engine, random, range(2, 80))
    tables = engine.freeze()
    assert list(tables) == list(TABLES)
    for name, rows in tables.items():
        keys = [key for key, _ in rows]
        assert keys == sorted(keys), name
    assert len(tables["order"]) > 1
    assert len(tables["outcome"]) > 300
