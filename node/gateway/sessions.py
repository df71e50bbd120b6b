"""One WebSocket connection: its subscriptions, and the bounded queue of its messages.

For each product a connection follows one feed with a set of channels. It keeps the sequence of the last event that it
sent, so no event is sent twice, in whatever order channels are subscribed. A reader that resumes first gets the kept
events from a separate source at its own pace, and joins the feed when it has caught up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from node.budget import caller_of
from node.errors import QuorumbookError, RequestFailed
from node.gateway import channels
from node.gateway.auth import Identity
from node.gateway.channels import CANDLES, EVENT_CHANNELS, Frame, parties
from node.gateway.feeds import Feeds, ProductFeed
from node.gateway.limits import SocketLimits, TurnRefusedError
from node.gateway.metrics import Metrics
from node.gateway.values import account_text
from node.native.protocol import FailCode
from statemachine.events import AnyEvent, OrderMatched
from statemachine.types import Permission, Side

log = logging.getLogger(__name__)

QUEUE_MAX = 20_000
"""Messages that may wait for a reader. A reader with more is cut off."""
QUEUE_BYTES_MAX = 16 * 1024 * 1024
WRITE_STALL = 10.0
"""Seconds that the writing of one message may take. A reader that accepts nothing for longer is cut off."""

BEHIND = 4_000
"""Messages that may wait for a reader that gets events as they arrive. A reader with more gets the kept events instead,
as fast as it reads.
"""

CATCH_UP_QUEUE = 1_000
"""Messages that may wait while a reader catches up. A reader with more releases its source, and queues for one again
when it has read them.
"""
CATCH_UP_STALL = 15.0
"""Seconds that a reader may take to read down to `CATCH_UP_QUEUE`. Then it is cut off."""
CATCH_UP_TURN = 1.0
"""Seconds for which a reader keeps a source while others wait for one."""

LEVEL2_BATCH_SECONDS = 0.05
TICKER_BATCH_TICKS = 5
"""Intervals of the channels `level2_batch`, in seconds, and `ticker_batch`, in ticks of one second."""

SLOW, RESTART = 1013, 1012
"""Close codes: try again later, and service restart."""


@dataclass
class Following:
    """A connection's place in one product's feed.

    Attributes:
        after: the sequence of the last event sent to the event channels.
        touched: the price levels whose change `level2_batch` has not sent yet, each with the size that the reader
            knows.
        touched_at: the time of the last of these changes, in nanoseconds since the epoch.
        flush: the timer that sends them.
        traded: whether `ticker_batch` has a message to send.
        candles: whether the candle channels have messages to send.
        best: price and size of the best bid and ask that `level1` sent last.
    """

    feed: ProductFeed
    channels: set[str] = field(default_factory=set)
    after: int = 0
    catching_up: asyncio.Task[None] | None = None
    touched: dict[tuple[Side, int], int] = field(default_factory=dict)
    touched_at: int = 0
    flush: asyncio.TimerHandle | None = None
    traded: bool = False
    best: tuple[tuple[int, int], tuple[int, int]] | None = None
    candles: bool = False


class Subscriptions:
    """The subscriptions and the queue of one connection from `address`. `on_end` is called once, with a close code and
    a reason, when the server ends the connection.
    """

    def __init__(
        self, feeds: Feeds, metrics: Metrics, limits: SocketLimits, address: str, on_end: Callable[[int, str], None]
    ) -> None:
        self.identity: Identity | None = None
        self.status_wanted = False
        self.balance_sent: dict[str, tuple[int, int]] = {}
        self.following: dict[str, Following] = {}
        self._feeds = feeds
        self._metrics = metrics
        self._limits = limits
        self._address = address
        self._on_end = on_end
        self._knows_schema = False
        self._writing_since: float | None = None
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._ticks = 0
        self.ended = False
        feeds.join(self)

    @property
    def enough(self) -> int:
        """See `auth.Signed`."""
        return Permission.VIEW

    # The queue

    def send(self, message: bytes) -> None:
        """Queue a message. A reader whose queue is full is cut off."""
        if self.ended:
            return
        self._queue.append(message)
        self._queued_bytes += len(message)
        self._limits.waiting += len(message)
        self._metrics.sent.inc()
        self._changed.set()
        too_many = len(self._queue) > QUEUE_MAX or (self._queued_bytes > QUEUE_BYTES_MAX and len(self._queue) > 1)
        if too_many or self._limits.overfull(self._queued_bytes):
            self._cut_off_slow()

    def _cut_off_slow(self) -> None:
        self._metrics.cut_off("slow")
        self.end(SLOW, "slow consumer: too many messages wait for this connection")

    async def next_message(self) -> bytes:
        """Return the next message to write. The caller has written the previous one."""
        self._writing_since = None
        while not self._queue:
            self._changed.clear()
            await self._changed.wait()
        message = self._queue.popleft()
        self._queued_bytes -= len(message)
        self._limits.waiting -= len(message)
        if len(self._queue) < CATCH_UP_QUEUE:
            self._room.set()
        self._writing_since = asyncio.get_running_loop().time()
        return message

    @property
    def _full(self) -> bool:
        """Whether a source must stop sending for the moment."""
        return len(self._queue) >= CATCH_UP_QUEUE

    async def _wait_for_room(self) -> None:
        """Wait until the queue has room. A reader that is too slow is cut off."""
        try:
            async with asyncio.timeout(CATCH_UP_STALL):
                while self._full:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            self._cut_off_slow()

    def _cut_off_stalled(self) -> None:
        """Close a connection that has not accepted a message for too long."""
        since = self._writing_since
        if since is not None and asyncio.get_running_loop().time() - since > WRITE_STALL:
            self._cut_off_slow()

    def end(self, code: int, reason: str) -> None:
        """Drop all subscriptions and close the connection. Calling it again has no effect."""
        if self.ended:
            return
        self.ended = True
        self._feeds.leave(self)
        for product_id in list(self.following):
            self._leave(product_id)
        self.balance_sent.clear()
        self._queue.clear()
        self._limits.waiting -= self._queued_bytes
        self._queued_bytes = 0
        self._on_end(code, reason)

    # Subscriptions

    @property
    def pairs(self) -> int:
        """The number of subscribed (channel, product) pairs. The size of a `subscriptions` message grows with it."""
        return sum(len(following.channels) for following in self.following.values())

    def subscribe(self, wanted: dict[str, list[ProductFeed]], resume: dict[str, int], currencies: Iterable[str] = ()) -> None:
        """Add channels, each with its feeds, and `balance` of these currencies. Then send the answer, and the first
        messages of each new channel.
        """
        beginnings: list[bytes] = []
        resuming: list[tuple[Following, int]] = []
        for currency in currencies:
            self.balance_sent.setdefault(currency, (-1, -1))
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
        """Remove channels of the named products, or of all products if none is named, and send the answer."""
        for channel, product_ids in wanted.items():
            if channel == "status":
                self.status_wanted = False
            if channel == "balance":
                self.balance_sent.clear()
            for product_id in product_ids or list(self.following):
                following = self.following.get(product_id)
                if following is not None:
                    following.channels.discard(channel)
                    self._settle(following)
        self.acknowledge()

    def lose_identity(self, key_id: str) -> None:
        """See `auth.Signed`."""
        self.identity = None
        self.balance_sent.clear()
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
        """Send all current subscriptions."""
        listed: dict[str, list[str]] = {"status": []} if self.status_wanted else {}
        for product_id, following in sorted(self.following.items()):
            for channel in following.channels:
                listed.setdefault(channel, []).append(product_id)
        rows: list[dict[str, object]] = [
            {"name": name, "product_ids": listed[name]} for name in channels.CHANNELS if name in listed
        ]
        if self.balance_sent and self.identity is not None:
            account_ids = [account_text(self.identity.account_id, currency) for currency in self.balance_sent]
            rows.append({"name": "balance", "product_ids": [], "account_ids": account_ids})
        self.send(channels.encode({"type": "subscriptions", "channels": rows}))

    def _join(self, feed: ProductFeed) -> Following:
        """Begin to follow a product, unless it is followed already."""
        following = self.following.get(feed.product_id)
        if following is None:
            following = self.following[feed.product_id] = Following(feed)
            feed.readers[self] = None
        return following

    def _settle(self, following: Following) -> None:
        """After channels were removed, stop catching up without event channels, and leave feeds without channels."""
        if not following.channels & EVENT_CHANNELS and following.catching_up is not None:
            following.catching_up.cancel()
            following.catching_up = None
        if not following.channels:
            self._leave(following.feed.product_id)

    def _leave(self, product_id: str) -> None:
        """Stop following a product."""
        following = self.following.pop(product_id)
        following.feed.readers.pop(self, None)
        if following.catching_up is not None:
            following.catching_up.cancel()
        if following.flush is not None:
            following.flush.cancel()

    def _beginning(self, channel: str, feed: ProductFeed, resumes: bool) -> list[bytes]:
        """Return the first messages of a channel."""
        trade = feed.last
        match channel:
            case "level2" | "level2_batch":
                self._forget_touched(feed.product_id)
                return [feed.snapshot()]
            case "level3" if not self._knows_schema:
                self._knows_schema = True
                return [channels.LEVEL3_SCHEMA]
            case "ticker" | "ticker_batch" if trade is not None:
                return [channels.encode(channels.ticker_json(feed.product, feed))]
            case "level1":
                self.following[feed.product_id].best = feed.book.best(Side.BUY), feed.book.best(Side.SELL)
                return [channels.level1(feed.product, feed.book, feed.sequence, time.time_ns())]
            case _ if channel in CANDLES and trade is not None:
                return [feed.candle(CANDLES[channel])]
            case "auction" if feed.indicative:
                return [feed.indicative]
            case "matches" if trade is not None and not resumes:
                return [channels.last_match(trade, feed.product)]
            case _:
                return []

    def _forget_touched(self, product_id: str) -> None:
        """Discard pending changes of `level2_batch`: the snapshot that follows includes them."""
        following = self.following[product_id]
        following.touched = {}
        if following.flush is not None:
            following.flush.cancel()
            following.flush = None

    # Delivery

    def deliver(self, feed: ProductFeed, frame: Frame) -> None:
        """See `feeds.Reader`."""
        following = self.following.get(feed.product_id)
        if following is None:
            return
        if following.channels & EVENT_CHANNELS and following.catching_up is None:
            if len(self._queue) > BEHIND:
                following.catching_up = asyncio.create_task(self._catch_up(following))
            else:
                for event in frame.events:
                    self._pass(following, event, frame)
        for channel, render in (("level2", frame.level_changes), ("ticker", frame.ticker)):
            if channel in following.channels:
                rendered = render()
                if rendered:
                    self.send(rendered)
        if "auction" in following.channels:
            for message in frame.auction:
                self.send(message)
        if "level1" in following.channels:
            best = feed.book.best(Side.BUY), feed.book.best(Side.SELL)
            if best != following.best:
                following.best = best
                self.send(frame.level1())
        for channel, ended in frame.candles:
            if channel in following.channels:
                self.send(ended)
        self._note(following, frame)

    def _note(self, following: Following, frame: Frame) -> None:
        """Record what the batched channels must send. A reader of `level2` gets no `level2_batch` changes as well."""
        if frame.traded:
            following.traded |= "ticker_batch" in following.channels
            following.candles |= not CANDLES.keys().isdisjoint(following.channels)
        if following.channels & {"level2", "level2_batch"} != {"level2_batch"} or not frame.touched:
            return
        for level, before in frame.touched.items():
            following.touched.setdefault(level, before)
        following.touched_at = frame.time
        if following.flush is None:
            following.flush = asyncio.get_running_loop().call_later(LEVEL2_BATCH_SECONDS, self._flush, following)

    def _flush(self, following: Following) -> None:
        """Send the changed price levels to `level2_batch`."""
        feed, touched = following.feed, following.touched
        following.flush, following.touched = None, {}
        if "level2_batch" in following.channels:
            changes = channels.level_changes(feed.product, feed.book, touched, following.touched_at)
            if changes:
                self.send(changes)

    def _pass(self, following: Following, event: AnyEvent, frame: Frame) -> None:
        """Send an event if it is new to the reader and belongs to a subscribed channel."""
        if event.product_sequence <= following.after:
            return
        following.after = event.product_sequence
        mine = self.identity.own(parties(event)) if self.identity is not None else ()
        wanted = following.channels
        if "full" in wanted or (mine and "user" in wanted) or ("matches" in wanted and isinstance(event, OrderMatched)):
            full = "full" in wanted
            self.send(frame.own(event, mine, full) if mine and wanted & {"full", "user"} else frame.public(event, full))
        if "level3" in wanted:
            self.send(frame.compact(event))

    def gap(self, feed: ProductFeed) -> None:
        """See `feeds.Reader`."""
        self._metrics.cut_off("gap")
        self.end(RESTART, f"events of {feed.product_id} were lost here: connect again and take a new book")

    def tick(self) -> None:
        """See `feeds.SocketSession`."""
        self._cut_off_stalled()
        self._ticks += 1
        for following in list(self.following.values()):
            feed = following.feed
            if "heartbeat" in following.channels:
                self.send(self._feeds.heartbeat(feed))
            if "auction" in following.channels and feed.indicative:
                self.send(feed.indicative)
            if following.candles:
                following.candles = False
                for channel in following.channels & CANDLES.keys():
                    self.send(feed.candle(CANDLES[channel]))
            if following.traded and self._ticks % TICKER_BATCH_TICKS == 0:
                following.traded = False
                if following.channels & {"ticker", "ticker_batch"} == {"ticker_batch"}:
                    self.send(channels.encode(channels.ticker_json(feed.product, feed)))

    def send_status(self, message: bytes) -> None:
        """See `feeds.SocketSession`."""
        if self.status_wanted:
            self.send(message)

    # Resuming

    async def _catch_up(self, following: Following) -> None:
        """Send the kept events after `following.after` until the reader has caught up with the feed.

        This process keeps the latest events. For older ones there are few sources, which the addresses use in turn: a
        reader that is slow, or takes long while others wait, releases its source.
        """
        try:
            await self._wait_for_room()
            while following.catching_up is not None:
                frames = following.feed.kept_behind(following.after)
                if frames is not None:
                    self._send_kept(following, frames)
                else:
                    async with self._limits.resumes.turn(caller_of(self._address)):
                        await self._replay(following)
                await self._wait_for_room()
        except TurnRefusedError as refusal:
            self._give_up(following, "cannot resume", f"too many resumes at a time: {refusal}")
        except RequestFailed as failure:
            too_old = failure.code is FailCode.TOO_OLD
            self._give_up(following, "sequence too old" if too_old else "cannot resume", failure.message)
        except QuorumbookError as error:
            self._give_up(following, "cannot resume", str(error))

    def _send_kept(self, following: Following, frames: Iterable[Frame]) -> None:
        """Send the events of these frames until the queue is full or all are sent. Then `catching_up` is None."""
        for frame in frames:
            if self._full:
                return
            for event in frame.events:
                self._pass(following, event, frame)
        following.catching_up = None

    async def _replay(self, following: Following) -> None:
        """Send older events for one turn. It ends when the reader has caught up (`catching_up` is None then), when the
        queue is full, or when the time is over and others wait.
        """
        feed, loop = following.feed, asyncio.get_running_loop()
        until = loop.time() + CATCH_UP_TURN
        async with self._feeds.replay(feed.product_id, following.after + 1) as batches:
            async for events in batches:
                frame = Frame(events, feed.product, feed)
                for event in events:
                    self._pass(following, event, frame)
                if following.after >= feed.sequence:
                    following.catching_up = None
                if following.catching_up is None or self._full:
                    return
                if loop.time() >= until and self._limits.resumes.waited_for:
                    return

    def _give_up(self, following: Following, message: str, reason: str) -> None:
        """Tell the client that it cannot resume, and remove the product's event channels."""
        following.catching_up = None
        following.channels -= EVENT_CHANNELS
        self._settle(following)
        product_id = following.feed.product_id
        self.send(channels.error(f"{product_id}: {message}: take the book at level 3 and subscribe without resume", reason))
        self.acknowledge()
