"""The file of a history: it is read again and judged, and a part of a history is judged as a part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from loadtest.errors import RecordError
from loadtest.history import History, operations
from loadtest.linearizability import Operation, Read, Write, body_of
from loadtest.recorder import Recorder
from loadtest.verdict import linearizable
from node.native.protocol import ANSWER_TYPES, AnyQuery, BalancesQuery, BookQuery, OrderQuery, OrdersQuery
from statemachine.commands import AnyCommand, CancelOrder, Deposit
from statemachine.types import Side
from tests.unit.loadtest.test_linearizability import SETUP, Exchange
from tests.unit.statemachine.market import PRODUCT, limit

TRADING: list[AnyCommand] = [
    Deposit("ann", "d-ann", "USD", 10_000),
    Deposit("bob", "d-bob", "XBT", 100),
    limit("ann", "a1", Side.BUY, 5, 10, oid="a1"),
    limit("bob", "b1", Side.SELL, 3, 9, oid="b1"),
    CancelOrder("ann", "x1", 0, "a1"),
    CancelOrder("ann", "x2", 0, "never"),
]
QUERIES: list[AnyQuery] = [
    BalancesQuery("ann"),
    OrdersQuery("ann", done=True),
    BookQuery(PRODUCT, 2),
    BookQuery(PRODUCT, 3),
    OrderQuery("bob", 0, "b1"),
]


def traded() -> Exchange:
    exchange = Exchange()
    exchange.send(*SETUP)
    for command in TRADING:
        exchange.send(command)
        for query in QUERIES:
            exchange.read(query)
    return exchange


def written(path: Path, history: Sequence[Operation], most: int = 1000) -> History:
    kept = History(path, most)
    for operation in history:
        kept.add(operation)
    kept.close()
    return kept


def test_a_written_history_is_read_again_and_is_linearizable(tmp_path: Path) -> None:
    exchange = traded()
    kept = written(tmp_path / "history", exchange.history)
    assert list(operations(kept.path)) == exchange.history
    check = linearizable(kept, exchange.log)
    assert check.holds, check
    assert check.detail == "11 answers, 30 reads, 0 commands without an answer"


def test_an_answer_that_was_never_given_is_noticed(tmp_path: Path) -> None:
    exchange = traded()
    check = linearizable(written(tmp_path / "history", exchange.history[: -len(QUERIES)]), exchange.log[:-1])
    assert not check.holds
    assert "lost: CancelOrder x2 of ann" in check.detail


def test_a_part_is_judged_as_a_part(tmp_path: Path) -> None:
    exchange = traded()
    kept = written(tmp_path / "history", exchange.history, most=20)
    assert not kept.complete
    sequences = [one.outcome.sequence for one in exchange.history[:20] if isinstance(one, Write) and one.outcome is not None]
    assert kept.last_sequence == max(sequences)
    check = linearizable(kept, exchange.log)
    assert check.holds, check
    assert check.detail.endswith("the first 20 operations")


def test_a_line_that_is_not_a_record_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "history", traded().history).path
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RecordError, match="line 41"):
        list(operations(path))


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: type(query).__name__)
def test_an_answer_encoded_again_is_the_same(query: AnyQuery) -> None:
    """Clients get decoded answers and record them encoded again."""
    body = body_of(traded().engine, query, {})
    assert body is not None
    assert msgspec.msgpack.encode(msgspec.msgpack.decode(body, type=ANSWER_TYPES[type(query)])) == body


def test_a_recorder_keeps_the_unanswered_too(tmp_path: Path) -> None:
    exchange = traded()
    history = History(tmp_path / "history", 100)
    with Recorder(tmp_path / "acks", history) as recorder:
        first = next(one for one in exchange.history if isinstance(one, Write))
        assert first.outcome is not None
        recorder.sent([first.command, TRADING[-1]], 0.5)
        recorder.answered([first.command], [first.outcome], 0.5, 2.0)
        recorder.read(QUERIES[0], None, 2.0, 3.0)
    assert list(operations(history.path)) == [
        Write(first.command, 0.5, 2.0, first.outcome),
        Read(QUERIES[0], 2.0, 3.0, None),
        Write(TRADING[-1], 0.5),
    ]
