"""The judge of the feed sees what it must: missing, repeated and wrong messages."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.feed_books import Level2, Level3, Message

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
    rebuilt = Level3.of(BOOK)
    for event in [{"sequence": 4, "type": "done", "order_id": "c"}, *EVENTS]:
        rebuilt.apply(event)
    bids = [(Decimal(10), Decimal("1.5"), "b"), (Decimal(10), Decimal(7), "f"), (Decimal(9), Decimal(5), "c")]
    assert rebuilt.rows() == {"bids": bids, "asks": [(Decimal(12), Decimal(3), "d")]}
    assert rebuilt.levels()["bids"] == {Decimal(10): Decimal("8.5"), Decimal(9): Decimal(5)}


def test_a_missing_event_is_seen() -> None:
    rebuilt = Level3.of(BOOK)
    with pytest.raises(AssertionError, match="6 came after 4"):
        rebuilt.apply(EVENTS[1])


def test_a_match_beyond_an_order_is_seen() -> None:
    with pytest.raises(AssertionError, match="below zero"):
        Level3.of(BOOK).apply({"sequence": 5, "type": "match", "maker_order_id": "a", "size": "2"})


def test_level_2_follows_its_messages() -> None:
    rebuilt = Level2()
    rebuilt.apply({"type": "snapshot", "bids": [["10", "3"]], "asks": [["12", "3"]]})
    rebuilt.apply({"type": "l2update", "changes": [["buy", "10", "0"], ["sell", "13", "1"]]})
    assert rebuilt.levels == {"bids": {}, "asks": {Decimal(12): Decimal(3), Decimal(13): Decimal(1)}}
