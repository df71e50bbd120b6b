"""The feed: whatever a reader does and however slow it is, it gets every event once and in order, or an error if that
is impossible.
"""

from __future__ import annotations

import typing
from itertools import accumulate

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.engine.feed import EVENTS_PER_FRAME, UNREAD_MAX, Audience, Feed, FeedError, Subscription, TooOldError
from node.engine.market import decode, encode
from node.native.framing import FrameSplitter
from node.native.protocol import Events, response_decoder
from statemachine.applied import Pieces
from statemachine.events import (
    AnyEvent,
    AuctionIndicated,
    OrderActivated,
    OrderChanged,
    OrderDone,
    OrderMatched,
    OrderOpened,
    OrderReceived,
    OrderReported,
    StatusChanged,
    StreamNoted,
    TradeCorrected,
    TradingSwitched,
)
from statemachine.types import ChangeReason, CorrectionKind, DoneReason, OrderType, ProductStatus, Scope, Side, StopType


def opened(sequence: int, product_id: str = "BTC-USD") -> OrderOpened:
    return OrderOpened(product_id, sequence, 0, sequence, "alice", Side.BUY, 100, 5)


def matched(sequence: int, trade_id: int) -> OrderMatched:
    return OrderMatched("BTC-USD", sequence, 0, trade_id, 1, 2, "alice", "bob", Side.BUY, 100, 5, 1, 2)


def encoded(*events: AnyEvent) -> tuple[list[str], list[bytes]]:
    """Return what an apply gives: the products of its events, and the events."""
    return [event.product_id for event in events], [msgspec.msgpack.encode(event) for event in events]


class Reader:
    """A session that accepts `room` frames and then reports that it is full."""

    def __init__(self, audience: Audience = Audience.FULL, room: int = 1_000_000) -> None:
        self.audience = audience
        self.room = room
        self.frames: list[bytes] = []
        self.ended: list[str] = []

    @property
    def writable(self) -> bool:
        return self.room > 0

    def send(self, frame: bytes) -> bool:
        self.frames.append(frame)
        self.room -= 1
        return self.room > 0

    def feed_ended(self, subscription: Subscription, reason: str) -> None:
        self.ended.append(reason)

    @property
    def events(self) -> list[AnyEvent]:
        out: list[AnyEvent] = []
        for frame in self.frames:
            message = response_decoder.decode(FrameSplitter().feed(frame)[0])
            assert isinstance(message, Events)
            assert {event.product_id for event in message.events} == {message.product_id}
            out += message.events
        return out

    @property
    def sequences(self) -> list[int]:
        return [event.product_sequence for event in self.events]


def subscribe(feed: Feed, reader: Reader, from_sequence: int, product_id: str = "BTC-USD") -> Subscription:
    subscription = feed.subscribe(reader, 1, product_id, from_sequence)
    feed.resume(subscription)
    return subscription


def publish(feed: Feed, first: int, last: int) -> None:
    """Publish the events as one apply."""
    feed.publish(*encoded(*(opened(sequence) for sequence in range(first, last + 1))))


def publish_each(feed: Feed, first: int, last: int) -> None:
    """Publish each event as an apply of its own."""
    for sequence in range(first, last + 1):
        publish(feed, sequence, sequence)


class TestSubscribing:
    def test_a_subscription_begins_with_the_next_event(self) -> None:
        feed, reader = Feed(100), Reader()
        publish(feed, 1, 3)
        assert subscribe(feed, reader, 0).next_sequence == 4
        assert reader.sequences == []
        publish(feed, 4, 5)
        assert reader.sequences == [4, 5]

    def test_kept_events_come_first_then_live_ones(self) -> None:
        feed, reader = Feed(100), Reader()
        publish(feed, 1, 10)
        subscribe(feed, reader, 4)
        publish(feed, 11, 12)
        assert reader.sequences == list(range(4, 13))

    def test_a_product_without_events_can_be_subscribed(self) -> None:
        feed, reader = Feed(100), Reader()
        assert subscribe(feed, reader, 1).next_sequence == 1
        publish(feed, 1, 2)
        assert reader.sequences == [1, 2]

    def test_a_sequence_that_is_no_longer_kept_is_refused(self) -> None:
        feed = Feed(5)
        publish_each(feed, 1, 10)
        with pytest.raises(TooOldError, match="kept from sequence 6 on, not from 5"):
            feed.subscribe(Reader(), 1, "BTC-USD", 5)
        reader = Reader()
        subscribe(feed, reader, 6)
        assert reader.sequences == [6, 7, 8, 9, 10]

    @pytest.mark.parametrize("from_sequence", [-1, 12, 2**63])
    def test_an_impossible_sequence_is_refused(self, from_sequence: int) -> None:
        feed = Feed(10)
        with pytest.raises(FeedError, match=f"from_sequence {from_sequence}"):
            feed.subscribe(Reader(), 1, "BTC-USD", from_sequence)

    def test_a_reader_from_a_node_that_was_ahead_waits_to_be_reached(self) -> None:
        feed, reader = Feed(100), Reader()
        publish(feed, 1, 5)
        assert subscribe(feed, reader, 9).next_sequence == 9
        publish(feed, 6, 7)
        publish(feed, 8, 8)
        assert reader.sequences == []
        publish(feed, 9, 10)
        publish(feed, 11, 11)
        assert reader.sequences == [9, 10, 11]

    def test_subscribers_get_the_events_of_their_product_only(self) -> None:
        feed, reader, other = Feed(100), Reader(), Reader()
        subscribe(feed, reader, 0)
        subscribe(feed, other, 0, "ETH-USD")
        feed.publish(*encoded(opened(1), opened(1, "ETH-USD"), opened(2), opened(2, "ETH-USD"), opened(3)))
        assert reader.sequences == [1, 2, 3]
        assert [(event.product_id, event.product_sequence) for event in other.events] == [("ETH-USD", 1), ("ETH-USD", 2)]

    def test_unsubscribed_readers_get_nothing_more(self) -> None:
        feed, reader = Feed(100), Reader()
        subscription = subscribe(feed, reader, 0)
        publish(feed, 1, 1)
        feed.unsubscribe(subscription)
        feed.unsubscribe(subscription)
        publish(feed, 2, 2)
        feed.resume(subscription)
        assert reader.sequences == [1]


class TestSlowReaders:
    def test_one_that_is_full_is_served_from_the_ring_later(self) -> None:
        feed, reader = Feed(100), Reader(room=1)
        subscription = subscribe(feed, reader, 0)
        for sequence in range(1, 6):
            publish(feed, sequence, sequence)
        assert reader.sequences == [1]
        reader.room = 1_000
        feed.resume(subscription)
        publish(feed, 6, 6)
        assert reader.sequences == [1, 2, 3, 4, 5, 6]

    def test_a_subscriber_that_falls_out_of_the_ring_is_ended_with_a_reason(self) -> None:
        feed, reader = Feed(3), Reader(room=1)
        subscription = subscribe(feed, reader, 0)
        for sequence in range(1, 10):
            publish(feed, sequence, sequence)
        reader.room = 1_000
        feed.resume(subscription)
        assert reader.sequences == [1]
        assert reader.ended == ["events before sequence 7 are not kept any more"]
        publish(feed, 10, 10)
        assert reader.sequences == [1]

    def test_a_huge_apply_comes_in_several_frames(self) -> None:
        feed, reader, full = Feed(100_000), Reader(), Reader(room=1)
        subscribe(feed, reader, 0)
        waiting = subscribe(feed, full, 0)
        publish(feed, 1, 2 * EVENTS_PER_FRAME + 1)
        assert len(reader.frames) == 3
        assert reader.sequences == list(range(1, 2 * EVENTS_PER_FRAME + 2))
        assert len(full.frames) == 1
        full.room = 10
        feed.resume(waiting)
        assert full.sequences == reader.sequences

    @settings(max_examples=200)
    @given(
        capacity=st.integers(1, 30),
        steps=st.lists(
            st.one_of(
                st.tuples(st.just("publish"), st.integers(1, 8)),
                st.tuples(st.just("drain"), st.integers(1, 4)),
                st.tuples(st.just("restart"), st.integers(0, 20)),
            ),
            max_size=40,
        ),
        from_sequence=st.integers(0, 10),
    )
    def test_no_reader_ever_sees_a_gap_or_a_repetition(
        self, capacity: int, steps: list[tuple[str, int]], from_sequence: int
    ) -> None:
        feed, reader = Feed(capacity), Reader(room=2)
        publish(feed, 1, 4)
        last = 4
        try:
            subscription = subscribe(feed, reader, from_sequence)
        except FeedError:
            assert from_sequence > 5 + capacity
            return
        first = from_sequence or 5
        for kind, number in steps:
            if kind == "publish":
                publish(feed, last + 1, last + number)
                last += number
            elif kind == "drain":
                reader.room = number
                feed.resume(subscription)
            else:
                last += number
                feed.restart({"BTC-USD": last})
        seen = reader.sequences
        assert seen == list(range(first, first + len(seen)))
        if reader.ended:
            assert len(reader.ended) == 1
            return
        reader.room = 1_000_000
        feed.resume(subscription)
        if not reader.ended:
            assert reader.sequences == list(range(first, last + 1))


class TestRestart:
    def test_a_reader_without_a_gap_continues(self) -> None:
        feed, reader = Feed(100), Reader()
        publish(feed, 1, 5)
        subscribe(feed, reader, 0)
        feed.restart({"BTC-USD": 5})
        publish(feed, 6, 6)
        assert reader.sequences == [6]
        assert reader.ended == []

    def test_a_reader_that_would_see_a_gap_gets_an_error(self) -> None:
        feed, reader = Feed(100), Reader()
        publish(feed, 1, 5)
        subscribe(feed, reader, 0)
        feed.restart({"BTC-USD": 9})
        assert reader.ended == ["events before sequence 10 are not kept any more"]
        publish(feed, 10, 10)
        assert reader.sequences == []

    def test_the_ring_begins_again(self) -> None:
        feed = Feed(100)
        publish(feed, 1, 5)
        feed.restart({"BTC-USD": 9, "ETH-USD": 3})
        with pytest.raises(TooOldError):
            feed.subscribe(Reader(), 1, "BTC-USD", 9)
        assert feed.next_sequence("ETH-USD") == 4
        assert feed.trades("BTC-USD", 10) == []


class TestAudiences:
    def test_the_public_sees_no_accounts(self) -> None:
        feed, gateway, public = Feed(100), Reader(), Reader(Audience.PUBLIC)
        subscribe(feed, gateway, 0)
        subscribe(feed, public, 0)
        events: list[AnyEvent] = [
            OrderReceived("BTC-USD", 1, 0, 1, "alice", "mine", Side.BUY, OrderType.LIMIT, 100, 5, 0),
            matched(2, 1),
            opened(3),
            OrderDone("BTC-USD", 4, 0, 1, "alice", Side.BUY, OrderType.LIMIT, 100, 5, DoneReason.CANCELLED, True),
            OrderChanged("BTC-USD", 5, 0, 3, "alice", Side.BUY, 100, 5, 4, False),
            OrderActivated("BTC-USD", 6, 0, 4, "alice", "mine", Side.BUY, OrderType.LIMIT, StopType.ENTRY, 99, 100, 5, 0),
            StatusChanged("BTC-USD", 7, 0, ProductStatus.POST_ONLY, 0, 0),
            TradingSwitched("BTC-USD", 8, 0, Scope.PRODUCT, 4, "why"),
            AuctionIndicated("BTC-USD", 9, 0, 5, 5, 0, 0, False),
            TradeCorrected("BTC-USD", 10, 0, CorrectionKind.BUST, 1, "alice", "bob", 5, 5, 0, 0, 0),
        ]
        streams = {OrderReported, StreamNoted}  # the public cannot subscribe to them
        assert {type(event) for event in events} == set(typing.get_args(AnyEvent)) - streams, "one of each"
        feed.publish(*encoded(*events))
        assert gateway.events == events
        assert public.sequences == [event.product_sequence for event in events]
        assert not any(name in msgspec.json.encode(public.events) for name in (b"alice", b"bob", b"mine"))
        (waits,) = (event for event in public.events if isinstance(event, OrderActivated))
        assert (waits.order_id, waits.stop_price, waits.price, waits.size) == (4, 0, 0, 0), "stop prices are the owner's business"
        late = Reader(Audience.PUBLIC)
        subscribe(feed, late, 1)
        assert late.events == public.events

    def test_the_public_sees_no_fees(self) -> None:
        """A fee divided by the notional is the account's rate."""
        feed, gateway, public = Feed(100), Reader(), Reader(Audience.PUBLIC)
        subscribe(feed, gateway, 0)
        subscribe(feed, public, 0)
        trade = msgspec.structs.replace(matched(1, 1), maker_fee=-3, taker_fee=7)
        moved = TradeCorrected("BTC-USD", 2, 0, CorrectionKind.PRICE, 1, "alice", "bob", 5, 5, 6, 8, -4)
        feed.publish(*encoded(trade, moved))
        assert gateway.events == [trade, moved]
        seen, corrected = public.events
        assert isinstance(seen, OrderMatched)
        assert isinstance(corrected, TradeCorrected)
        assert (seen.maker_fee, seen.taker_fee, corrected.buyer_fee, corrected.seller_fee) == (0, 0, 0, 0)
        assert (seen.price, seen.size, corrected.new_price) == (trade.price, trade.size, 6)
        (latest,) = msgspec.msgpack.decode(feed.encoded_trades("BTC-USD", 1, Audience.PUBLIC), type=list[OrderMatched])
        assert latest == seen
        assert feed.trades("BTC-USD", 1) == [trade]

    def test_an_amended_stop_order_that_waits_stays_hidden(self) -> None:
        """Its limit is near its stop price. The amendment of an order on the book is public."""
        feed, public = Feed(100), Reader(Audience.PUBLIC)
        subscribe(feed, public, 0)
        amended = ChangeReason.AMENDED
        waits = OrderChanged("BTC-USD", 1, 0, 3, "a", Side.SELL, 100, 5, 4, False, False, False, amended, 101, 102, True)
        rests = OrderChanged("BTC-USD", 2, 0, 4, "a", Side.SELL, 100, 5, 4, False, True, False, amended, 101, 0, True)
        feed.publish(*encoded(waits, rests))
        hidden, shown = public.events
        assert isinstance(hidden, OrderChanged)
        assert isinstance(shown, OrderChanged)
        assert (hidden.order_id, hidden.price, hidden.old, hidden.new, hidden.new_price, hidden.new_stop_price) == (
            3,
            0,
            0,
            0,
            0,
            0,
        )
        assert (shown.price, shown.old, shown.new, shown.new_price) == (100, 5, 4, 101)

    def test_everybody_of_an_audience_gets_the_same_bytes(self) -> None:
        feed = Feed(100)
        readers = [Reader(), Reader(), Reader(Audience.PUBLIC), Reader(Audience.PUBLIC)]
        for reader in readers:
            subscribe(feed, reader, 0)
        publish(feed, 1, 3)
        assert readers[0].frames[0] is readers[1].frames[0]
        assert readers[2].frames[0] is readers[3].frames[0]


def test_events_that_are_not_cut_yet_are_the_same_events() -> None:
    """The engine gives the events of an apply as joined bytes, and most are never cut."""
    feeds, readers = (Feed(700), Feed(700)), [[Reader(audience) for audience in Audience] for _ in range(2)]
    for feed, pair in zip(feeds, readers, strict=True):
        for reader in pair:
            subscribe(feed, reader, 0)
    sequence = 1
    for count in (1, 3, 90, 20, 1, 1_500, 2):
        events = [matched(number, number) if number % 3 else opened(number) for number in range(sequence, sequence + count)]
        sequence += count
        products, single = encoded(*events)
        pieces = Pieces(b"".join(single), list(accumulate(map(len, single))))
        assert (list(pieces), len(pieces), pieces[-1], pieces[0], pieces[1:]) == (
            single,
            count,
            single[-1],
            single[0],
            single[1:],
        )
        assert pieces[-count] == single[0]
        feeds[0].publish(products, single)
        feeds[1].publish(products, pieces)
        assert encode(1, feeds[0].freeze()) == encode(1, feeds[1].freeze())
        late = Reader()
        for feed in feeds:
            subscribe(feed, late, max(1, sequence - 4))
        assert late.sequences == 2 * list(range(max(1, sequence - 4), sequence))
    assert [reader.frames for reader in readers[0]] == [reader.frames for reader in readers[1]]
    assert list(feeds[1].freeze()[0].tail)[-2:] == single


@pytest.mark.parametrize("asked", [False, True])
def test_trades_are_counted_once_whenever_somebody_asks(asked: bool) -> None:
    feed, count = Feed(5_000), 2 * UNREAD_MAX + 7
    for sequence in range(1, count + 1, 3):
        feed.publish(*encoded(*(matched(number, number) for number in range(sequence, min(sequence + 3, count + 1)))))
        assert not asked or feed.figures("BTC-USD").minutes[-1].volume == 5 * min(sequence + 2, count)
    assert feed.figures("BTC-USD").minutes[-1].volume == feed.freeze()[0].figures.hours[-1].volume == 5 * count
    assert [trade.trade_id for trade in feed.trades("BTC-USD", 1)] == [count]


def test_the_latest_trades_come_newest_first() -> None:
    feed = Feed(100)
    feed.publish(*encoded(matched(1, 1), opened(2), matched(3, 2), matched(4, 3)))
    assert [trade.trade_id for trade in feed.trades("BTC-USD", 2)] == [3, 2]
    assert [trade.trade_id for trade in feed.trades("BTC-USD", 100)] == [3, 2, 1]
    assert feed.trades("ETH-USD", 100) == []


class TestOneLargeApply:
    def test_no_reader_is_cut_off_by_a_large_batch(self) -> None:
        """Formerly a cascade of stop orders gave 120,000 events at once while 100,000 were kept, and every reader of
        every node lost events.
        """
        feed, quick, full = Feed(1_000), Reader(), Reader(room=1)
        subscribe(feed, quick, 0)
        waiting = subscribe(feed, full, 0)
        publish(feed, 1, 12_000)
        publish(feed, 12_001, 12_010)
        assert quick.sequences == list(range(1, 12_011))
        while full.sequences[-1] < 12_010:
            full.room = 1
            feed.resume(waiting)
        assert full.sequences == quick.sequences
        assert full.ended == []

    def test_readers_share_its_frames(self) -> None:
        feed, readers = Feed(20_000), [Reader() for _ in range(20)]
        for reader in readers:
            subscribe(feed, reader, 0)
        publish(feed, 1, 10_000)
        assert feed.frames_made == 10_000 // EVENTS_PER_FRAME
        assert all(reader.sequences == list(range(1, 10_001)) for reader in readers[:2])

    def test_a_feed_without_readers_makes_no_frames(self) -> None:
        feed = Feed(1_000)
        publish(feed, 1, 5_000)
        publish_each(feed, 5_001, 5_100)
        assert feed.frames_made == 0


class TestSaved:
    def test_a_feed_continues_from_the_events_of_a_snapshot(self) -> None:
        feed = Feed(1_000)
        events = [matched(number, number // 2 + 1) if number % 2 else opened(number) for number in range(1, 50)]
        feed.publish(*encoded(*events))
        file = encode(7, feed.freeze())
        again = Feed(1_000)
        again.restart({"BTC-USD": 49, "ETH-USD": 3}, decode(file, 7))
        for one in (feed, again):
            one.publish(*encoded(matched(50, 100), opened(51)))
        assert again.trades("BTC-USD", 100) == feed.trades("BTC-USD", 100)
        assert again.figures("BTC-USD") == feed.figures("BTC-USD")
        reader, other = Reader(), Reader()
        subscribe(feed, reader, 1)
        subscribe(again, other, 1)
        assert other.events == reader.events

    def test_a_market_file_of_another_log_index_is_ignored(self) -> None:
        feed = Feed(1_000)
        publish(feed, 1, 5)
        file = encode(7, feed.freeze())
        assert decode(file, 8) == {}
        assert decode(b"\xc1", 7) == {}
        again = Feed(1_000)
        again.restart({"BTC-USD": 6}, decode(file, 7))
        with pytest.raises(TooOldError):
            again.subscribe(Reader(), 1, "BTC-USD", 5)

    def test_a_reader_continues_where_a_snapshot_brings_the_events_that_it_lacks(self) -> None:
        ahead, behind, reader = Feed(1_000), Feed(1_000), Reader()
        publish(ahead, 1, 9)
        publish(behind, 1, 4)
        subscribe(behind, reader, 0)
        behind.restart({"BTC-USD": 9}, decode(encode(3, ahead.freeze()), 3))
        publish(behind, 10, 10)
        assert reader.sequences == [5, 6, 7, 8, 9, 10]
        assert reader.ended == []
