"""The feed of public events. It keeps the latest events of every product, and a reader may start at any sequence that
is still kept. It does the same for the accounts' report streams, which only privileged sessions can read; what is said
here of a product also holds for a report stream.

Every node applies the same commands, so every node publishes the same events with the same numbers. A reader may stop
on one node and continue on another. Each product has a ring of its last events and a list of subscriptions. A
subscription is *live* when it has been sent every event: it then gets each new frame, the same bytes as all other live
subscriptions. Otherwise it is *behind*: it is sent events from the ring as fast as its connection takes them, so a slow
reader costs no memory. When the ring has dropped the next event of a subscription, the subscription ends with TOO_OLD.

Account data is private. Sessions that are neither gateways nor operators get events with empty account ids and client
order ids, with fees of 0 (a fee divided by the notional is the account's rate), and with only the id and side of a
waiting stop order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Mapping, Sequence
from enum import Enum
from typing import Protocol

import msgspec

from node.engine.market import TAIL_KEPT, TAILS_KEPT, LatestTrades, Market, SavedProduct, array, trades_of
from node.engine.ring import BLOCK, Ring, sequence_of
from node.errors import QuorumbookError
from node.native.framing import pack
from node.native.protocol import Events
from node.statistics import Figures, Statistics
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
from statemachine.types import OrderType, StopType

EVENTS_PER_FRAME = 2_000
"""An event has at most about 400 bytes, so a frame stays below 1 MB. A busy apply makes a few hundred events."""

TRADES_KEPT = 1_000
"""Trades that `TradesQuery` can return for a product."""

STREAM_EVENTS_KEPT = 20_000
"""The least number of events kept of a report stream, unless `events_kept` is smaller. They take some 5 MB and serve
readers that reconnect.
"""

UNREAD_MAX = 1_000
"""Events of all products above which their trades are counted, although nobody asks: about 0.5 ms of work. Counting many
at once is cheaper than counting those of each entry.
"""

FRAMES_KEPT = 64
"""Encoded frames of whole blocks that are cached for readers that are behind, for all products together: some 10 MB."""


class Audience(Enum):
    """What a reader may see: everything, or events without account ids, client order ids and fees."""

    FULL = 1
    PUBLIC = 2


_PRIVATE_FIELDS: dict[type[msgspec.Struct], dict[str, object]] = {
    OrderReceived: {"account_id": "", "client_oid": ""},
    OrderOpened: {"account_id": ""},
    OrderMatched: {"maker_account_id": "", "taker_account_id": "", "maker_fee": 0, "taker_fee": 0},
    OrderChanged: {"account_id": "", "new_stop_price": 0},
    OrderDone: {"account_id": ""},
    OrderActivated: {
        "account_id": "",
        "client_oid": "",
        "order_type": OrderType.LIMIT,
        "stop": StopType.NONE,
        "stop_price": 0,
        "price": 0,
        "size": 0,
        "funds": 0,
    },
    StatusChanged: {},
    TradingSwitched: {},
    AuctionIndicated: {},
    TradeCorrected: {"buyer_account_id": "", "seller_account_id": "", "buyer_fee": 0, "seller_fee": 0},
    OrderReported: {},
    StreamNoted: {},
}


_events = msgspec.msgpack.Decoder(AnyEvent)
_trades = msgspec.msgpack.Decoder(OrderMatched)
_encode_event = msgspec.msgpack.Encoder().encode


class EncodedEvents(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """`Events` whose events are encoded already: the same bytes."""

    product_id: str
    events: msgspec.Raw


class FeedError(QuorumbookError):
    """A subscription that cannot be made; the text is for the reader."""


class TooOldError(FeedError):
    """The feed no longer keeps the first requested event."""


class Subscriber(Protocol):
    """The part of a session that the feed uses."""

    audience: Audience

    @property
    def writable(self) -> bool:
        """Whether the session accepts more frames now."""

    def send(self, frame: bytes) -> bool:
        """Write a frame. Returns False if the session accepts no more for now; the session calls `Feed.resume` when it
        has room again.
        """

    def feed_ended(self, subscription: Subscription, reason: str) -> None:
        """Called when the subscription has ended because the ring no longer holds its next event."""


class Subscription:
    """One reader's position in one product. `next_sequence` is the next event to send; it equals the ring's while the
    reader is live.
    """

    __slots__ = ("live", "next_sequence", "product_id", "request_id", "subscriber")

    def __init__(self, subscriber: Subscriber, request_id: int, product_id: str, next_sequence: int) -> None:
        self.subscriber = subscriber
        self.request_id = request_id
        self.product_id = product_id
        self.next_sequence = next_sequence
        self.live = False


class _Channel:
    """A product's ring, trades and readers. The dicts serve as ordered sets.

    `_unread` are events whose trades are not counted yet. `Feed` bounds their number.
    """

    def __init__(self, capacity: int, next_sequence: int, saved: SavedProduct | None = None) -> None:
        self.ring = Ring(capacity, next_sequence, saved.tail if saved is not None else ())
        self._trades = LatestTrades(TRADES_KEPT, _redacted, saved.trades if saved is not None else ())
        self._statistics = Statistics(saved.figures if saved is not None else None)
        self._unread: list[Sequence[bytes]] = []
        self.live: dict[Subscription, None] = {}
        self.behind: dict[Subscription, None] = {}

    def extend(self, events: Sequence[bytes]) -> None:
        """Store the events of one apply."""
        self.ring.extend(events)
        self._unread.append(events)

    @property
    def trades(self) -> LatestTrades:
        """The latest trades."""
        self.read()
        return self._trades

    @property
    def statistics(self) -> Statistics:
        """The figures of all trades."""
        self.read()
        return self._statistics

    def read(self) -> None:
        """Count the trades of the events that are not counted yet."""
        for events in self._unread:
            trades = trades_of(events)
            self._trades.extend(trades)
            for trade in trades:
                self._statistics.add(_trades.decode(trade))
        self._unread.clear()


class Feed:
    """The event feeds of all products and report streams.

    Written by the state machine: publish, restart.
    Read by sessions: subscribe, resume, unsubscribe, trades, figures.
    Saved with a snapshot: freeze.
    """

    def __init__(self, events_kept: int) -> None:
        self._events_kept = events_kept
        self._channels: dict[str, _Channel] = {}
        self._frames: OrderedDict[tuple[str, int, int, Audience], bytes] = OrderedDict()
        self._unread: dict[_Channel, None] = {}
        self._unread_count = 0
        self.frames_made = 0
        """Number of frames encoded since the start."""
        self.streams = 0
        """Number of report streams in the feed, those that have ended included."""

    def publish(self, product_ids: Sequence[str], events: Sequence[bytes]) -> None:
        """Store the events of one apply, and send them to all live readers.

        Args:
            product_ids: the product of each event, at the same place.
            events: encoded, as `statemachine.events` says.
        """
        for product_id, group in _by_product(product_ids, events):
            channel = self._of_stream(product_id, group) if is_stream(product_id) else self._channel(product_id)
            channel.extend(group)
            self._unread[channel] = None
            if channel.live:
                self._send_live(channel, product_id, group)
            if channel.behind:
                self._send_behind(channel)
        self._unread_count += len(events)
        if self._unread_count > UNREAD_MAX:
            self._read()

    def end_streams(self, left: Container[str]) -> None:
        """Forget the report streams that are not among these, and end their subscriptions."""
        for name in [name for name in self._channels if is_stream(name) and name not in left]:
            channel = self._channels.pop(name)
            for subscription in (*channel.live, *channel.behind):
                subscription.subscriber.feed_ended(subscription, "the report stream has ended")
        self.streams = sum(map(is_stream, self._channels))

    def _of_stream(self, name: str, events: Sequence[bytes]) -> _Channel:
        """Return the channel of a report stream. A new stream begins with any number, also under a name that was used
        before: then there is a gap before its first event.
        """
        channel = self._channel(name)
        first = sequence_of(events[0])
        if first > channel.ring.next_sequence:
            for subscription in list(channel.live):
                self._fall_behind(channel, subscription, channel.ring.next_sequence)
            channel.ring = Ring(self._capacity(name), first)
        return channel

    def _read(self) -> None:
        """Count the trades of the latest events."""
        for channel in self._unread:
            channel.read()
        self._unread.clear()
        self._unread_count = 0

    def restart(self, sequences: Mapping[str, int], saved: Market | None = None) -> None:
        """Restart after a snapshot replaced the state. The argument maps each product id to its last sequence in the
        snapshot. Subscriptions that would see a gap end with an error.

        Args:
            saved: the market data in the snapshot. Data that does not end at the product's last sequence is ignored.
        """
        self._read()
        old, self._channels = self._channels, {}
        self._frames.clear()
        for product_id, last in sequences.items():
            kept = (saved or {}).get(product_id)
            if kept is not None and kept.sequence != last:
                kept = None
            self._channels[product_id] = _Channel(self._capacity(product_id), last + 1, kept)
        for product_id, channel in old.items():
            for subscription in (*channel.live, *channel.behind):
                if subscription.live:
                    subscription.next_sequence = channel.ring.next_sequence
                    subscription.live = False
                self._channel(product_id).behind[subscription] = None
                self.resume(subscription)
        self.streams = sum(map(is_stream, self._channels))

    def subscribe(self, subscriber: Subscriber, request_id: int, product_id: str, from_sequence: int) -> Subscription:
        """Create a subscription. Nothing is sent yet: the caller first answers with its `next_sequence`, then calls
        `resume`.

        Raises:
            TooOldError: the feed no longer keeps `from_sequence`.
            FeedError: `from_sequence` is negative, or so far in the future that no other node can have sent it.
        """
        channel = self._channel(product_id)
        ring = channel.ring
        if from_sequence < 0 or from_sequence > ring.next_sequence + self._events_kept:
            raise FeedError(f"from_sequence {from_sequence}: the next event of {product_id} has sequence {ring.next_sequence}")
        if 0 < from_sequence < ring.first_sequence:
            raise TooOldError(f"events of {product_id} are kept from sequence {ring.first_sequence} on, not from {from_sequence}")
        subscription = Subscription(subscriber, request_id, product_id, from_sequence or ring.next_sequence)
        channel.behind[subscription] = None
        return subscription

    def resume(self, subscription: Subscription) -> None:
        """Send missing events until the reader is live or its connection accepts no more. Has no effect on a live or
        ended subscription.
        """
        channel = self._channels.get(subscription.product_id)
        if channel is None or subscription not in channel.behind:
            return
        ring, subscriber = channel.ring, subscription.subscriber
        while True:
            if subscription.next_sequence < ring.first_sequence:
                del channel.behind[subscription]
                subscriber.feed_ended(subscription, f"events before sequence {ring.first_sequence} are not kept any more")
                return
            if subscription.next_sequence >= ring.next_sequence:
                break
            start = subscription.next_sequence
            events = ring.slice(start, EVENTS_PER_FRAME)
            subscription.next_sequence += len(events)
            if not subscriber.send(self._kept_frame(subscription.product_id, start, events, subscriber.audience)):
                return
        if subscription.next_sequence == ring.next_sequence:
            del channel.behind[subscription]
            subscription.live = True
            channel.live[subscription] = None

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a reader. Calling it again has no effect."""
        channel = self._channels.get(subscription.product_id)
        if channel is not None:
            channel.live.pop(subscription, None)
            channel.behind.pop(subscription, None)

    def trades(self, product_id: str, limit: int) -> list[OrderMatched]:
        """Return the latest trades kept, newest first."""
        channel = self._channels.get(product_id)
        if channel is None:
            return []
        return [_trades.decode(trade) for trade in channel.trades.newest(limit, public=False)]

    def encoded_trades(self, product_id: str, limit: int, audience: Audience) -> msgspec.Raw:
        """Return the same trades as a msgpack list, in the form that the audience may see."""
        channel = self._channels.get(product_id)
        if channel is None:
            return msgspec.Raw(b"\x90")
        return msgspec.Raw(channel.trades.encoded(limit, public=audience is Audience.PUBLIC))

    def figures(self, product_id: str) -> Figures:
        """Rolling figures of the product's trades."""
        channel = self._channels.get(product_id)
        return channel.statistics.freeze() if channel is not None else Figures()

    def freeze(self) -> list[SavedProduct]:
        """Return the market as it is now, for a snapshot. Later events do not change the result. Only references are
        copied.
        """
        count = max(1, min(TAIL_KEPT, TAILS_KEPT // max(1, len(self._channels))))
        return [
            SavedProduct(
                product_id,
                channel.ring.next_sequence - 1,
                channel.trades.all(),
                channel.statistics.freeze(),
                channel.ring.latest(count),
            )
            for product_id, channel in sorted(self._channels.items())
        ]

    def kept(self, product_id: str, start: int, count: int) -> list[bytes]:
        """Return up to `count` encoded events of a product from sequence `start` on; an empty list if there are none
        yet.

        Raises:
            TooOldError: the feed no longer keeps `start`.
        """
        ring = self._channel(product_id).ring
        if not ring.first_sequence <= start <= ring.next_sequence:
            raise TooOldError(f"events of {product_id} are kept from sequence {ring.first_sequence} on, not from {start}")
        return ring.slice(start, count)

    def next_sequence(self, product_id: str) -> int:
        """Return the sequence of the product's next event."""
        return self._channel(product_id).ring.next_sequence

    def _channel(self, product_id: str) -> _Channel:
        channel = self._channels.get(product_id)
        if channel is None:
            self._channels[product_id] = channel = _Channel(self._capacity(product_id), 1)
            self.streams += is_stream(product_id)
        return channel

    def _capacity(self, name: str) -> int:
        return min(self._events_kept, STREAM_EVENTS_KEPT) if is_stream(name) else self._events_kept

    def _send_live(self, channel: _Channel, product_id: str, events: Sequence[bytes]) -> None:
        """Send new events to the subscriptions that have everything before them."""
        if len(events) > EVENTS_PER_FRAME:
            self._send_long(channel, len(events))
            return
        frames: dict[Audience, bytes] = {}
        full: list[Subscription] = []
        for subscription in channel.live:
            subscriber = subscription.subscriber
            frame = frames.get(subscriber.audience)
            if frame is None:
                frames[subscriber.audience] = frame = self._frame(product_id, events, subscriber.audience)
            if not subscriber.send(frame):
                full.append(subscription)
        for subscription in full:
            self._fall_behind(channel, subscription, channel.ring.next_sequence)

    def _frame(self, product_id: str, events: Sequence[bytes], audience: Audience) -> bytes:
        self.frames_made += 1
        if audience is Audience.PUBLIC:
            return pack(Events(product_id, [redact(_events.decode(event)) for event in events]))
        return pack(EncodedEvents(product_id, array(events)))

    def _kept_frame(self, product_id: str, start: int, events: Sequence[bytes], audience: Audience) -> bytes:
        """Return a frame for a reader that is behind. A whole block is encoded once for all such readers."""
        if len(events) < BLOCK // 2:  # too few to be asked for again
            return self._frame(product_id, events, audience)
        key = (product_id, start, len(events), audience)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = self._frame(product_id, events, audience)
            if len(self._frames) > FRAMES_KEPT:
                self._frames.popitem(last=False)
        else:
            self._frames.move_to_end(key)
        return frame

    def _send_long(self, channel: _Channel, count: int) -> None:
        """Send more events than one frame holds, in the same way as to readers that are behind."""
        for subscription in list(channel.live):
            self._fall_behind(channel, subscription, channel.ring.next_sequence - count)
            self.resume(subscription)

    def _fall_behind(self, channel: _Channel, subscription: Subscription, next_sequence: int) -> None:
        """Make a live subscription one that is behind, which gets its events by a replay."""
        del channel.live[subscription]
        subscription.live = False
        subscription.next_sequence = next_sequence
        channel.behind[subscription] = None

    def _send_behind(self, channel: _Channel) -> None:
        """Resume readers that are behind. This node may now have reached the position of a reader that came from a node
        ahead of it.
        """
        for subscription in list(channel.behind):
            if subscription.subscriber.writable:
                self.resume(subscription)


def is_stream(name: str) -> bool:
    """Return whether a name is that of a report stream (`statemachine.streams`), which is private to one account. Any
    other name is that of a product.
    """
    return "/" in name


def _by_product(product_ids: Sequence[str], events: Sequence[bytes]) -> Iterable[tuple[str, Sequence[bytes]]]:
    """Group events by product, in order. Nearly always there is one product."""
    if product_ids and product_ids.count(product_ids[0]) == len(product_ids):
        return [(product_ids[0], events)]
    groups: dict[str, list[bytes]] = {}
    for product_id, event in zip(product_ids, events, strict=True):
        groups.setdefault(product_id, []).append(event)
    return groups.items()


def _redacted(event: bytes) -> bytes:
    return _encode_event(redact(_events.decode(event)))


_OF_WAITING_STOP: dict[str, object] = {"price": 0, "old": 0, "new": 0, "new_price": 0}
"""Further private fields of the amendment of a waiting stop order."""


def redact(event: AnyEvent) -> AnyEvent:
    """Return the event as the public may see it."""
    if isinstance(event, OrderChanged) and event.of_waiting_stop:
        return msgspec.structs.replace(event, **_PRIVATE_FIELDS[OrderChanged], **_OF_WAITING_STOP)
    return msgspec.structs.replace(event, **_PRIVATE_FIELDS[type(event)])
