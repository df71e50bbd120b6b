"""One WebSocket connection: what it has subscribed to, and the bounded queue of what it is sent.

Per product a connection follows at most one feed with a set of channels, and keeps the sequence of the last event it has passed, so no event is
sent twice, whatever is subscribed in which order. A reader that resumes is first sent the kept events from a source of its own, at its own
pace, and joins the feed at the moment when it has reached it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from node.errors import QuorumbookError, RequestFailed
from node.gateway import channels
from node.gateway.auth import Identity
from node.gateway.channels import EVENT_CHANNELS, Frame, parties
from node.gateway.feeds import Feeds, ProductFeed
from node.gateway.metrics import Metrics
from node.native.protocol import FailCode
from statemachine.events import AnyEvent, OrderMatched
from statemachine.types import Side

log = logging.getLogger(__name__)

QUEUE_MAX = 20_000
"""Messages that may wait for a reader; one with more is cut off."""
QUEUE_BYTES_MAX = 16 * 1024 * 1024
CATCH_UP_QUEUE = 1_000
"""Messages that may wait while a reader catches up: its source then waits for it."""
CATCH_UP_STALL = 15.0
"""Seconds for which the source waits; there are only a few of them, and other readers want one."""

LEVEL2_BATCH_SECONDS = 0.05
TICKER_BATCH_TICKS = 5
"""How often the batched channels tell what has changed; a tick is a second."""

SLOW, RESTART = 1013, 1012
"""Close codes: try again later, and service restart."""


@dataclass
class Following:
    """A connection's place in one product's feed. `after` is the last event passed to the event channels.

    `touched` are the levels that `level2_batch` has not told of, `touched_at` the time of the last change, `flush` when it will;
    `traded`: `ticker_batch` has something to tell.
    """

    feed: ProductFeed
    channels: set[str] = field(default_factory=set)
    after: int = 0
    catching_up: asyncio.Task[None] | None = None
    touched: dict[tuple[Side, int], None] = field(default_factory=dict)
    touched_at: int = 0
    flush: asyncio.TimerHandle | None = None
    traded: bool = False


class Subscriber:
    """The subscriptions and the queue of one connection. `on_end` is called once, with a close code and a reason, when we end it."""

    def __init__(self, feeds: Feeds, metrics: Metrics, on_end: Callable[[int, str], None]) -> None:
        self.identity: Identity | None = None
        self.status_wanted = False
        self.following: dict[str, Following] = {}
        self._feeds = feeds
        self._metrics = metrics
        self._on_end = on_end
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._ticks = 0
        self.ended = False
        feeds.sessions[self] = None

    # The queue

    def send(self, message: bytes) -> None:
        """Queue a message. A reader whose queue is full is cut off."""
        if self.ended:
            return
        self._queue.append(message)
        self._queued_bytes += len(message)
        self._metrics.sent.inc()
        self._changed.set()
        if len(self._queue) > QUEUE_MAX or self._queued_bytes > QUEUE_BYTES_MAX:
            self._cut_off_slow()

    def _cut_off_slow(self) -> None:
        self._metrics.cut_off("slow")
        self.end(SLOW, "slow consumer: too many messages wait for this connection")

    async def next_message(self) -> bytes:
        """The next message to write."""
        while not self._queue:
            self._changed.clear()
            await self._changed.wait()
        message = self._queue.popleft()
        self._queued_bytes -= len(message)
        if len(self._queue) < CATCH_UP_QUEUE:
            self._room.set()
        return message

    async def _wait_for_room(self) -> None:
        while len(self._queue) >= CATCH_UP_QUEUE:
            self._room.clear()
            try:
                async with asyncio.timeout(CATCH_UP_STALL):
                    await self._room.wait()
            except TimeoutError:
                self._cut_off_slow()
                return

    def end(self, code: int, reason: str) -> None:
        """Forget everything and have the connection closed. Again: no effect."""
        if self.ended:
            return
        self.ended = True
        self._feeds.sessions.pop(self, None)
        for product_id in list(self.following):
            self._leave(product_id)
        self._queue.clear()
        self._on_end(code, reason)

    # Subscriptions

    def subscribe(self, wanted: dict[str, list[ProductFeed]], resume: dict[str, int]) -> None:
        """Add channels, each with its feeds; then the answer, then what each new channel begins with."""
        beginnings: list[bytes] = []
        resuming: list[tuple[Following, int]] = []
        for channel, feeds in wanted.items():
            if channel == "status":
                self.status_wanted = True
            for feed in feeds:
                following = self._join(feed)
                if channel in following.channels:
                    continue
                first = not following.channels & EVENT_CHANNELS
                following.channels.add(channel)
                if channel in EVENT_CHANNELS and first:
                    following.after = resume.get(feed.product_id, feed.sequence)
                    if feed.product_id in resume:
                        resuming.append((following, following.after))
                beginnings += self._beginning(channel, feed, feed.product_id in resume)
        self.acknowledge()
        for message in beginnings:
            self.send(message)
        for following, after in resuming:
            if after < following.feed.sequence:
                following.catching_up = asyncio.create_task(self._catch_up(following))

    def unsubscribe(self, wanted: dict[str, list[str]]) -> None:
        """Take channels away, of the products named (none: of all); then the answer."""
        for channel, product_ids in wanted.items():
            if channel == "status":
                self.status_wanted = False
            for product_id in product_ids or list(self.following):
                following = self.following.get(product_id)
                if following is not None:
                    following.channels.discard(channel)
                    self._settle(following)
        self.acknowledge()

    def lose_identity(self, key_id: str) -> None:
        """See `revocation.Signed`."""
        self.identity = None
        for following in list(self.following.values()):
            following.channels.discard("user")
            self._settle(following)
        self.send(
            channels.error(
                "the API key is not valid any more", f"{key_id} was revoked or changed: subscribe again with a valid key"
            )
        )
        self.acknowledge()

    def acknowledge(self) -> None:
        """Send the whole current set."""
        listed: dict[str, list[str]] = {"status": []} if self.status_wanted else {}
        for product_id, following in sorted(self.following.items()):
            for channel in following.channels:
                listed.setdefault(channel, []).append(product_id)
        rows = [{"name": name, "product_ids": listed[name]} for name in channels.CHANNELS if name in listed]
        self.send(channels.encode({"type": "subscriptions", "channels": rows}))

    def _join(self, feed: ProductFeed) -> Following:
        following = self.following.get(feed.product_id)
        if following is None:
            following = self.following[feed.product_id] = Following(feed)
            feed.readers[self] = None
        return following

    def _settle(self, following: Following) -> None:
        """After channels went: stop catching up for none, leave a feed without any."""
        if not following.channels & EVENT_CHANNELS and following.catching_up is not None:
            following.catching_up.cancel()
            following.catching_up = None
        if not following.channels:
            self._leave(following.feed.product_id)

    def _leave(self, product_id: str) -> None:
        following = self.following.pop(product_id)
        following.feed.readers.pop(self, None)
        if following.catching_up is not None:
            following.catching_up.cancel()
        if following.flush is not None:
            following.flush.cancel()

    def _beginning(self, channel: str, feed: ProductFeed, resumes: bool) -> list[bytes]:
        """What a channel begins with."""
        trade = feed.stats.last
        match channel:
            case "level2" | "level2_batch":
                return [channels.snapshot(feed.product, feed.book)]
            case "ticker" | "ticker_batch" if trade is not None:
                return [channels.encode(channels.ticker_json(feed.product, feed.book, feed.stats))]
            case "auction" if feed.indicative:
                return [feed.indicative]
            case "matches" if trade is not None and not resumes:
                return [channels.last_match(trade, feed.product)]
            case _:
                return []

    # Delivery

    def deliver(self, feed: ProductFeed, frame: Frame) -> None:
        """See `feeds.Reader`."""
        following = self.following.get(feed.product_id)
        if following is None:
            return
        if following.channels & EVENT_CHANNELS and following.catching_up is None:
            for event in frame.events:
                self._pass(following, event, frame)
        for channel, message in (("level2", frame.level_changes), ("ticker", frame.ticker)):
            if channel in following.channels:
                rendered = message()
                if rendered:
                    self.send(rendered)
        if "auction" in following.channels:
            for told in frame.auction:
                self.send(told)
        self._note(following, frame)

    def _note(self, following: Following, frame: Frame) -> None:
        """Keep what the batched channels will tell. One that has the channel itself is told nothing twice."""
        following.traded |= "ticker_batch" in following.channels and frame.traded
        if following.channels & {"level2", "level2_batch"} != {"level2_batch"} or not frame.touched:
            return
        following.touched |= frame.touched
        following.touched_at = frame.time
        if following.flush is None:
            following.flush = asyncio.get_running_loop().call_later(LEVEL2_BATCH_SECONDS, self._flush, following)

    def _flush(self, following: Following) -> None:
        feed, touched = following.feed, following.touched
        following.flush, following.touched = None, {}
        if "level2_batch" in following.channels:
            self.send(channels.level_changes(feed.product, feed.book, touched, following.touched_at))

    def _pass(self, following: Following, event: AnyEvent, frame: Frame) -> None:
        """Send an event if it is news and of a channel."""
        if event.product_sequence <= following.after:
            return
        following.after = event.product_sequence
        mine = self.identity is not None and self.identity.account_id in parties(event)
        wanted = following.channels
        if "full" in wanted or (mine and "user" in wanted) or ("matches" in wanted and isinstance(event, OrderMatched)):
            own = mine and self.identity is not None and bool(wanted & {"full", "user"})
            full = "full" in wanted
            self.send(frame.own(event, self.identity.account_id, full) if own and self.identity else frame.public(event, full))

    def gap(self, feed: ProductFeed) -> None:
        """See `feeds.Reader`."""
        self._metrics.cut_off("gap")
        self.end(RESTART, f"events of {feed.product_id} were lost here: connect again and take a new book")

    def tick(self) -> None:
        """See `feeds.Session`."""
        self._ticks += 1
        for following in list(self.following.values()):
            feed = following.feed
            if "heartbeat" in following.channels:
                self.send(self._feeds.heartbeat(feed))
            if "auction" in following.channels and feed.indicative:
                self.send(feed.indicative)
            if following.traded and self._ticks % TICKER_BATCH_TICKS == 0:
                following.traded = False
                if following.channels & {"ticker", "ticker_batch"} == {"ticker_batch"}:
                    self.send(channels.encode(channels.ticker_json(feed.product, feed.book, feed.stats)))

    def tell_status(self, message: bytes) -> None:
        """See `feeds.Session`."""
        if self.status_wanted:
            self.send(message)

    # Resuming

    async def _catch_up(self, following: Following) -> None:
        """Send the kept events behind `after` until the feed is reached, then let the feed go on."""
        feed = following.feed
        try:
            async with self._feeds.replay(feed.product_id, following.after + 1) as batches:
                async for events in batches:
                    frame = Frame(events, feed.product, feed.book, feed.stats)
                    for event in events:
                        self._pass(following, event, frame)
                    if following.after >= feed.sequence:
                        following.catching_up = None
                        return
                    await self._wait_for_room()
        except RequestFailed as failure:
            too_old = failure.code is FailCode.TOO_OLD
            self._give_up(following, "sequence too old" if too_old else "cannot resume", failure.message)
        except QuorumbookError as error:
            self._give_up(following, "cannot resume", str(error))

    def _give_up(self, following: Following, message: str, reason: str) -> None:
        """Tell the client that it cannot resume, and take the product's event channels away."""
        following.catching_up = None
        following.channels -= EVENT_CHANNELS
        self._settle(following)
        product_id = following.feed.product_id
        self.send(channels.error(f"{product_id}: {message}: take the book at level 3 and subscribe without resume", reason))
        self.acknowledge()
