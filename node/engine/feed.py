"""The feed: every product's public events, kept for a while, to be read from any sequence that is still there.

A node applies the same commands as every other, so it publishes the same events with the same numbers; a reader may stop on one node
and go on at another. Per product there is a ring of the last events and the subscriptions. A subscription is *live* when it has been sent
everything: then it gets each new frame, the same bytes as everybody. It is *behind* while it is not: then it is sent from the ring as fast
as its connection takes it, so a slow reader costs no memory; when the ring has passed it by, it is told TOO_OLD and ends.

Accounts are nobody's business but their own: sessions that are not gateways or operators get the events with account ids and client
order ids left empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Protocol

import msgspec

from node.errors import QuorumbookError
from node.native.framing import pack
from node.native.protocol import Events
from statemachine.events import (
    AnyEvent,
    OrderActivated,
    OrderChanged,
    OrderDone,
    OrderMatched,
    OrderOpened,
    OrderReceived,
    StatusChanged,
)

EVENTS_PER_FRAME = 2_000
"""An event is at most about 400 bytes, so a frame stays below 1 MB; a busy apply gives a few hundred."""

TRADES_KEPT = 1_000
"""Trades a product that `TradesQuery` can see."""


class Audience(Enum):
    """Who reads: everything, or without account ids and client order ids."""

    FULL = 1
    PUBLIC = 2


_PRIVATE_FIELDS: dict[type[msgspec.Struct], dict[str, str]] = {
    OrderReceived: {"account_id": "", "client_oid": ""},
    OrderOpened: {"account_id": ""},
    OrderMatched: {"maker_account_id": "", "taker_account_id": ""},
    OrderChanged: {"account_id": ""},
    OrderDone: {"account_id": ""},
    OrderActivated: {"account_id": "", "client_oid": ""},
    StatusChanged: {},
}


class FeedError(QuorumbookError):
    """A subscription that cannot be made; the text is for the reader."""


class TooOldError(FeedError):
    """The first event asked for is not kept any more."""


class Subscriber(Protocol):
    """A session, as the feed sees it."""

    audience: Audience

    @property
    def writable(self) -> bool:
        """Whether it takes more now."""

    def send(self, frame: bytes) -> bool:
        """Write a frame. False: no more for now; `Feed.resume` is called when there is room again."""

    def feed_ended(self, subscription: Subscription, reason: str) -> None:
        """The subscription is over: the ring has passed it by."""


class Ring:
    """The last `capacity` events of a product, contiguous, in one list; any of them is found in O(1)."""

    def __init__(self, capacity: int, next_sequence: int = 1) -> None:
        assert capacity > 0
        assert next_sequence > 0
        self._capacity = capacity
        self._origin = next_sequence
        self._slots: list[AnyEvent] = []
        self.next_sequence = next_sequence

    @property
    def first_sequence(self) -> int:
        """The oldest event kept; `next_sequence` if none is."""
        return self.next_sequence - len(self._slots)

    def extend(self, events: list[AnyEvent]) -> None:
        """Add events that follow on. O(1) each."""
        assert events[0].product_sequence == self.next_sequence, "events of a product have no gap"
        assert events[-1].product_sequence == self.next_sequence + len(events) - 1, "events of a product have no gap"
        slots, capacity = self._slots, self._capacity
        for event in events:
            if len(slots) < capacity:
                slots.append(event)
            else:
                slots[(event.product_sequence - self._origin) % capacity] = event
        self.next_sequence += len(events)

    def slice(self, start: int, count: int) -> list[AnyEvent]:
        """Up to `count` events from sequence `start` on, which must be kept or be the next one."""
        assert self.first_sequence <= start <= self.next_sequence
        count = min(count, self.next_sequence - start)
        at = (start - self._origin) % self._capacity
        part = self._slots[at : at + count]
        return part if len(part) == count else part + self._slots[: count - len(part)]


class Subscription:
    """One reader's place in one product. `next_sequence` is what it is sent next; while live, that is the ring's."""

    __slots__ = ("live", "next_sequence", "product_id", "request_id", "subscriber")

    def __init__(self, subscriber: Subscriber, request_id: int, product_id: str, next_sequence: int) -> None:
        self.subscriber = subscriber
        self.request_id = request_id
        self.product_id = product_id
        self.next_sequence = next_sequence
        self.live = False


class _Channel:
    """A product: its ring, its trades, and who reads it. Dicts stand for ordered sets."""

    def __init__(self, capacity: int, next_sequence: int) -> None:
        self.ring = Ring(capacity, next_sequence)
        self.trades: deque[OrderMatched] = deque(maxlen=TRADES_KEPT)
        self.live: dict[Subscription, None] = {}
        self.behind: dict[Subscription, None] = {}


class Feed:
    """All products.

    Written by the state machine: publish, restart.
    Read by sessions: subscribe, resume, unsubscribe, trades.
    """

    def __init__(self, events_kept: int) -> None:
        self._events_kept = events_kept
        self._channels: dict[str, _Channel] = {}

    def publish(self, events: list[AnyEvent]) -> None:
        """Take the events of one apply, keep them and send them to whoever is live."""
        groups: dict[str, list[AnyEvent]] = {}
        for event in events:
            group = groups.get(event.product_id)
            if group is None:
                groups[event.product_id] = group = []
            group.append(event)
        for product_id, group in groups.items():
            channel = self._channel(product_id)
            channel.ring.extend(group)
            channel.trades.extend(event for event in group if type(event) is OrderMatched)
            if channel.live:
                self._send_live(channel, product_id, group)
            if channel.behind:
                self._send_behind(channel)

    def restart(self, sequences: Mapping[str, int]) -> None:
        """The state was replaced by a snapshot's: product id -> its last sequence there. Readers that would see a gap are told and end."""
        old, self._channels = self._channels, {}
        for product_id, last in sequences.items():
            self._channels[product_id] = _Channel(self._events_kept, last + 1)
        for product_id, channel in old.items():
            for subscription in (*channel.live, *channel.behind):
                if subscription.live:
                    subscription.next_sequence = channel.ring.next_sequence
                    subscription.live = False
                self._channel(product_id).behind[subscription] = None
                self.resume(subscription)

    def subscribe(self, subscriber: Subscriber, request_id: int, product_id: str, from_sequence: int) -> Subscription:
        """A new reader. Nothing is sent yet: answer it with its `next_sequence`, then call `resume`.

        Raises:
            TooOldError: `from_sequence` is not kept any more.
            FeedError: it is negative, or further in the future than a node can be behind another.
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
        """Send what the reader lacks, until it is live or its connection takes no more. No effect on one that is live or over."""
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
            events = ring.slice(subscription.next_sequence, EVENTS_PER_FRAME)
            subscription.next_sequence += len(events)
            if not subscriber.send(_frame(subscription.product_id, events, subscriber.audience)):
                return
        if subscription.next_sequence == ring.next_sequence:
            del channel.behind[subscription]
            subscription.live = True
            channel.live[subscription] = None

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a reader. Again: no effect."""
        channel = self._channels.get(subscription.product_id)
        if channel is not None:
            channel.live.pop(subscription, None)
            channel.behind.pop(subscription, None)

    def trades(self, product_id: str, limit: int) -> list[OrderMatched]:
        """The latest trades kept, newest first."""
        channel = self._channels.get(product_id)
        if channel is None:
            return []
        trades = channel.trades
        return [trades[-1 - place] for place in range(min(limit, len(trades)))]

    def next_sequence(self, product_id: str) -> int:
        """The sequence of the product's next event."""
        return self._channel(product_id).ring.next_sequence

    def _channel(self, product_id: str) -> _Channel:
        channel = self._channels.get(product_id)
        if channel is None:
            self._channels[product_id] = channel = _Channel(self._events_kept, 1)
        return channel

    def _send_live(self, channel: _Channel, product_id: str, events: list[AnyEvent]) -> None:
        if len(events) > EVENTS_PER_FRAME:
            self._send_long(channel, events)
            return
        frames: dict[Audience, bytes] = {}
        full: list[Subscription] = []
        for subscription in channel.live:
            subscriber = subscription.subscriber
            frame = frames.get(subscriber.audience)
            if frame is None:
                frames[subscriber.audience] = frame = _frame(product_id, events, subscriber.audience)
            if not subscriber.send(frame):
                full.append(subscription)
        for subscription in full:
            self._fall_behind(channel, subscription, channel.ring.next_sequence)

    def _send_long(self, channel: _Channel, events: list[AnyEvent]) -> None:
        """More events than a frame holds: send them as to readers that are behind by so much."""
        for subscription in list(channel.live):
            self._fall_behind(channel, subscription, events[0].product_sequence)
            self.resume(subscription)

    def _fall_behind(self, channel: _Channel, subscription: Subscription, next_sequence: int) -> None:
        del channel.live[subscription]
        subscription.live = False
        subscription.next_sequence = next_sequence
        channel.behind[subscription] = None

    def _send_behind(self, channel: _Channel) -> None:
        """Readers that came from a node that was ahead of this one may have been reached now."""
        for subscription in list(channel.behind):
            if subscription.subscriber.writable:
                self.resume(subscription)


def redact(event: AnyEvent) -> AnyEvent:
    """The event as the public may see it."""
    return msgspec.structs.replace(event, **_PRIVATE_FIELDS[type(event)])


def _frame(product_id: str, events: list[AnyEvent], audience: Audience) -> bytes:
    if audience is Audience.PUBLIC:
        events = [redact(event) for event in events]
    return pack(Events(product_id, events))
