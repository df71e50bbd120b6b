"""The judge of the feed detects missing, repeated and wrong messages."""

from __future__ import annotations

from decimal import Decimal

import pytest

from loadtest.books import Level2, Level3, Message, OrderBook, rows_of
from loadtest.errors import WrongAnswerError
from node.native.protocol import BookOrder, BookView
from statemachine.events import OrderChanged, OrderDone, OrderMatched, OrderOpened
from statemachine.types import ChangeReason, DoneReason, OrderType, Side

BOOK: Message = {"sequence": 4, "bids": [["10", "1", "a"], ["10", "2", "b"], ["9", "5", "c"]], "asks": [["12", "3", "d"]]}
EVENTS: list[Message] = [
    {"sequence": 5, "type": "received", "order_id": "e"},
    {"sequence": 6, "type": "match", "maker_order_id": "a", "size": "1"},
    {"sequence": 7, "type": "done", "order_id": "a"},
    {"sequence": 8, "type": "change", "order_id": "b", "old_size": "2", "new_size": "1.5"},
    {"sequence": 9, "type": "open", "order_id": "f", "side": "buy", "price": "10", "remaining_size": "7"},
    {"sequence": 10, "type": "change", "order_id": "not there", "old_size": "2", "new_size": "1"},
]


def test_level_3_follows_events_in_time_priority() -> None:
    rebuilt = Level3(BOOK)
    for event in [{"sequence": 4, "type": "done", "order_id": "c"}, *EVENTS]:
        rebuilt.take(event)
    bids = [(Decimal(10), Decimal("1.5"), "b"), (Decimal(10), Decimal(7), "f"), (Decimal(9), Decimal(5), "c")]
    assert rebuilt.rows() == {"bids": bids, "asks": [(Decimal(12), Decimal(3), "d")]}
    assert rebuilt.levels()["bids"] == {Decimal(10): Decimal("8.5"), Decimal(9): Decimal(5)}


def test_a_missing_event_is_seen() -> None:
    rebuilt = Level3(BOOK)
    with pytest.raises(WrongAnswerError, match="6 came after 4"):
        rebuilt.take(EVENTS[1])


def test_a_repeated_event_is_seen() -> None:
    """This includes an event that the book had when it was requested."""
    early = {"sequence": 3, "type": "received", "order_id": "c"}
    for events in ([early, early], [EVENTS[0], EVENTS[0]], [*EVENTS, EVENTS[2]]):
        rebuilt = Level3(BOOK)
        for event in events[:-1]:
            rebuilt.take(event)
        with pytest.raises(WrongAnswerError, match=f"{events[-1]['sequence']} came after"):
            rebuilt.take(events[-1])


def test_a_match_beyond_an_order_is_seen() -> None:
    with pytest.raises(WrongAnswerError, match="below zero"):
        Level3(BOOK).take({"sequence": 5, "type": "match", "maker_order_id": "a", "size": "2"})


def test_level_2_follows_its_messages() -> None:
    rebuilt = Level2()
    rebuilt.take({"type": "snapshot", "bids": [["10", "3"]], "asks": [["12", "3"]]})
    rebuilt.take({"type": "l2update", "changes": [["buy", "10", "0"], ["sell", "13", "1"]]})
    assert rebuilt.levels == {"bids": {}, "asks": {Decimal(12): Decimal(3), Decimal(13): Decimal(1)}}


def test_the_native_feed_makes_the_same_book() -> None:
    rebuilt = OrderBook()
    for event in (
        OrderOpened("BTC-USD", 1, 0, 1, "alice", Side.BUY, 10, 5),
        OrderOpened("BTC-USD", 2, 0, 2, "bob", Side.BUY, 11, 5),
        OrderMatched("BTC-USD", 3, 0, 1, 1, 9, "alice", "bob", Side.BUY, 10, 2, 0, 0),
        OrderMatched("BTC-USD", 4, 0, 2, 7, 8, "alice", "bob", Side.BUY, 10, 2, 0, 0, auction=True),
        OrderChanged("BTC-USD", 5, 0, 1, "alice", Side.BUY, 10, 3, 1, False, resting=True),
        OrderChanged("BTC-USD", 6, 0, 9, "bob", Side.SELL, 10, 3, 1, False),
        OrderDone("BTC-USD", 7, 0, 2, "bob", Side.BUY, OrderType.LIMIT, 11, 5, DoneReason.CANCELLED, True),
        OrderDone("BTC-USD", 8, 0, 9, "bob", Side.SELL, OrderType.LIMIT, 10, 1, DoneReason.CANCELLED, False),
    ):
        rebuilt.apply(event)
    assert rebuilt.rows() == rows_of(BookView("BTC-USD", 8, [], [], [BookOrder(10, 1, 1)], []))
    assert rebuilt.levels() == {"bids": {10: 1}, "asks": {}}
    with pytest.raises(WrongAnswerError, match="is not on the book"):
        rebuilt.apply(OrderMatched("BTC-USD", 9, 0, 3, 2, 9, "bob", "alice", Side.BUY, 11, 2, 0, 0))


def test_the_next_slice_of_an_iceberg_is_behind_the_others() -> None:
    rebuilt = OrderBook()
    for event in (
        OrderOpened("BTC-USD", 1, 0, 1, "alice", Side.BUY, 10, 5),
        OrderOpened("BTC-USD", 2, 0, 2, "bob", Side.BUY, 10, 7),
        OrderMatched("BTC-USD", 3, 0, 1, 1, 9, "alice", "bob", Side.BUY, 10, 5, 0, 0),
        OrderOpened("BTC-USD", 4, 0, 1, "alice", Side.BUY, 10, 3),
    ):
        rebuilt.apply(event)
    assert rebuilt.rows() == rows_of(BookView("BTC-USD", 4, [], [], [BookOrder(10, 7, 2), BookOrder(10, 3, 1)], []))


def test_an_amended_order_that_loses_its_place_leaves_the_book() -> None:
    rebuilt = OrderBook()
    rebuilt.apply(OrderOpened("BTC-USD", 1, 0, 1, "alice", Side.BUY, 10, 5))
    amended = (ChangeReason.AMENDED, 12, 0, True)
    rebuilt.apply(OrderChanged("BTC-USD", 2, 0, 1, "alice", Side.BUY, 10, 5, 2, False, True, False, *amended))
    assert rebuilt.orders == {}
