"""The messages of the feed, and the channels that carry them.

The channels `full`, `user` and `matches` carry events of the exchange with their product sequence. A connection that
subscribes to several of them gets each event once. `level3` carries the same events in a compact form. `ticker`,
`level1`, `level2` and the candles are derived from events; `heartbeat` and `status` are sent by a timer. `ticker_batch`
and `level2_batch` carry the same data as `ticker` and `level2`, less often. `auction` carries the state of a product's
auction every second while orders are collected, and at its opening.

There is one channel of candles for each granularity of the REST API. A candle is made from the minutes that
`Statistics` keeps, so it is exact even if the gateway began to follow the product in the middle of the bucket. The
minutes go back 24 hours, which is the longest bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

import msgspec

from node.gateway.book import Book
from node.gateway.catalogue import Product
from node.gateway.values import DONE_WORDS, ORDER_TYPE_WORDS, SIDE_WORDS, STOP_WORDS, account_text, iso, order_text, rate
from node.history.candles import GRANULARITIES, MINUTE, bucket
from node.native.protocol import AuctionView
from node.statistics import Statistics
from statemachine.decimals import to_text
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
from statemachine.limits import SECOND_NS
from statemachine.tables import CurrencyRow
from statemachine.types import ChangeReason, CorrectionKind, DoneReason, OrderType, Side, StatusCause, Switch

CANDLES = {f"candles_{granularity}": granularity for granularity in GRANULARITIES}
"""The channels of candles, and the seconds of their buckets."""
CHANNELS = (
    "heartbeat",
    "status",
    "auction",
    "level1",
    "ticker",
    "ticker_batch",
    "level2",
    "level2_batch",
    "level3",
    "matches",
    "full",
    "user",
    "balance",
    *CANDLES,
)
ALIASES = {
    "ticker_1000": "ticker_batch",
    "level2_50": "level2_batch",
    "auctionfeed": "auction",
    "candles": "candles_300",
    "bbo": "level1",
}
"""Other names of channels: those that Coinbase's exchanges use or used, and `bbo`. Clients may subscribe by them."""
EVENT_CHANNELS = frozenset({"matches", "full", "user", "level3"})
"""Channels that carry every event, or every event of one kind, with its sequence. A reader can resume them."""
PPM = 1_000_000

encode = msgspec.json.Encoder().encode


Json = dict[str, object]


class AuctionJson(msgspec.Struct, kw_only=True):
    """The result of an auction if it opened now. `can_open` is "yes" if something would trade, else "no".
    `imbalance_side` (`buy`, `sell` or `none`) is the side with the larger size at the opening price, and
    `imbalance_size` is the difference.
    """

    auction_state: str
    open_price: str
    open_size: str
    best_bid_price: str
    best_bid_size: str
    best_ask_price: str
    best_ask_size: str
    can_open: str
    imbalance_side: str
    imbalance_size: str
    timestamp: str

    @classmethod
    def of(cls, view: AuctionView, product: Product, state: str) -> Self:
        """Return the object of an auction. `state` is collection, opening or complete."""
        return cls(
            auction_state=state,
            open_price=product.price(view.open_price),
            open_size=product.size(view.open_size),
            best_bid_price=product.price(view.best_bid),
            best_bid_size=product.size(view.best_bid_size),
            best_ask_price=product.price(view.best_ask),
            best_ask_size=product.size(view.best_ask_size),
            can_open="yes" if view.open_size else "no",
            imbalance_side="buy" if view.surplus > 0 else "sell" if view.surplus else "none",
            imbalance_size=product.size(abs(view.surplus)),
            timestamp=iso(view.time),
        )


_CONTROLLED = {DoneReason.KILLED: "kill switch", DoneReason.COLLARED: "price collar"}
"""Why the operator's controls cancelled an order."""


def parties(event: AnyEvent) -> tuple[str, ...]:
    """Return the accounts that are parties to an event."""
    if isinstance(event, OrderMatched):
        return event.maker_account_id, event.taker_account_id
    if isinstance(event, TradeCorrected):
        return event.buyer_account_id, event.seller_account_id
    return (
        ()
        if isinstance(event, StatusChanged | TradingSwitched | AuctionIndicated | OrderReported | StreamNoted)
        else (event.account_id,)
    )


def event_json(event: AnyEvent, product: Product) -> Json:
    """Return the public form of a product's event."""
    assert not isinstance(event, OrderReported | StreamNoted), "no event of a product"
    body: Json = {
        "type": "",
        "product_id": event.product_id,
        "sequence": event.product_sequence,
        "time": iso(event.time),
    }
    if isinstance(event, StatusChanged):
        return body | _status(event, product)
    if isinstance(event, TradingSwitched | AuctionIndicated | TradeCorrected):
        return body | _control(event, product)
    body["side"] = SIDE_WORDS[event.side]
    match event:
        case OrderActivated():
            return body | _activate(event)
        case OrderReceived():
            return body | _received(event, product)
        case OrderOpened():
            rest = {"price": product.price(event.price), "remaining_size": product.size(event.remaining)}
            return body | {"type": "open", "order_id": order_text(event.order_id)} | rest
        case OrderMatched():
            return body | _match(event, product)
        case OrderChanged():
            return body | _change(event, product)
        case OrderDone():
            done: Json = {"type": "done", "order_id": order_text(event.order_id), "reason": DONE_WORDS[event.reason]}
            if event.resting:
                done |= {"price": product.price(event.price), "remaining_size": product.size(event.remaining)}
            return body | done


def _status(event: StatusChanged, product: Product) -> Json:
    """Return the message about a change of status."""
    body: Json = {"type": "status_change", "status": event.status.name.lower()}
    if event.open_size:
        body |= {"open_price": product.price(event.open_price), "open_size": product.size(event.open_size)}
    if event.cause is not StatusCause.OPERATOR:
        body["cause"] = event.cause.name.lower()
    return body | ({"until": iso(event.until)} if event.until else {})


def _control(event: TradingSwitched | AuctionIndicated | TradeCorrected, product: Product) -> Json:
    """Return the fields of an action of the operator, or of a rule that the operator set."""
    match event:
        case TradingSwitched():
            switches = [switch.name.lower() for switch in Switch if event.switches & switch]
            return {"type": "trading_switch", "scope": event.scope.name.lower(), "switches": switches, "message": event.note}
        case AuctionIndicated():
            body: Json = {"type": "auction_imbalance", "extended": event.extended}
            if event.size:
                surplus = {
                    "imbalance_side": "buy" if event.surplus > 0 else "sell",
                    "imbalance_size": product.size(abs(event.surplus)),
                }
                body |= {
                    "price": product.price(event.price),
                    "size": product.size(event.size),
                    **(surplus if event.surplus else {}),
                }
            return body | ({"until": iso(event.until)} if event.until else {})
        case TradeCorrected():
            body = {"type": "trade_bust" if event.kind is CorrectionKind.BUST else "trade_correction", "trade_id": event.trade_id}
            body |= {"size": product.size(event.size), "price": product.price(event.old_price)}
            return body | ({"new_price": product.price(event.new_price)} if event.new_price else {})


def _activate(event: OrderActivated) -> Json:
    """Return the public fields of a stop order that waits for its trigger. Only the owner sees its price and size
    (`_stop`), because others could use them to move the market to the stop price.
    """
    seconds, rest = divmod(event.time, 1_000_000_000)
    return {"type": "activate", "timestamp": f"{seconds}.{rest // 1_000:06d}", "order_id": order_text(event.order_id)}


def _stop(event: OrderActivated, product: Product) -> Json:
    stop = {"stop_type": STOP_WORDS[event.stop], "stop_price": product.price(event.stop_price)}
    return {**stop, **_as_placed(event, product), "private": True}


def _received(event: OrderReceived, product: Product) -> Json:
    return {"type": "received", **_as_placed(event, product)}


def _as_placed(event: OrderReceived | OrderActivated, product: Product) -> Json:
    """Return the fields of an order as it was placed."""
    body: Json = {"order_id": order_text(event.order_id), "order_type": ORDER_TYPE_WORDS[event.order_type]}
    if event.order_type is OrderType.LIMIT:
        body["price"] = product.price(event.price)
    if event.size:
        body["size"] = product.size(event.size)
    if event.funds:
        body["funds"] = product.price(event.funds)
    return body


def _match(event: OrderMatched, product: Product) -> Json:
    """Return the message about a trade."""
    return {
        "type": "match",
        "trade_id": event.trade_id,
        "maker_order_id": order_text(event.maker_order_id),
        "taker_order_id": order_text(event.taker_order_id),
        "size": product.size(event.size),
        "price": product.price(event.price),
    }


_CHANGE_REASONS = {
    ChangeReason.SELF_TRADE: "STP",
    ChangeReason.AUCTION: "auction",
    ChangeReason.AMENDED: "modify_order",
    ChangeReason.TRAILED: "trailing_stop",
    ChangeReason.REPRICED: "price_collar",
}


def _change(event: OrderChanged, product: Product) -> Json:
    body: Json = {"type": "change", "order_id": order_text(event.order_id), "reason": _CHANGE_REASONS[event.reason]}
    if event.reason is ChangeReason.TRAILED or event.of_waiting_stop:
        return body
    return body | _changes(event, product)


def _changes(event: OrderChanged, product: Product) -> Json:
    """Return the prices and sizes of a change."""
    body: Json = {}
    if event.price:
        body["price"] = product.price(event.price)
    if event.reason in (ChangeReason.AMENDED, ChangeReason.REPRICED):
        body |= {"old_price": product.price(event.price), "new_price": product.price(event.new_price), "requeued": event.requeued}
    if event.by_funds:
        return body | {"old_funds": product.price(event.old), "new_funds": product.price(event.new)}
    return body | {"old_size": product.size(event.old), "new_size": product.size(event.new)}


def own_json(event: AnyEvent, product: Product, accounts: tuple[str, ...]) -> Json:
    """Return an event as its parties see it. `accounts` are the parties that the reader may see, at least one."""
    body = event_json(event, product) | {"user_id": accounts[0], "profile_id": accounts[0]}
    if isinstance(event, OrderReceived | OrderActivated) and event.client_oid:
        body["client_oid"] = event.client_oid
    if isinstance(event, OrderActivated):
        body |= _stop(event, product)
    if isinstance(event, OrderChanged) and event.of_waiting_stop:
        body |= _changes(event, product)
    if isinstance(event, OrderChanged) and (event.reason is ChangeReason.TRAILED or event.of_waiting_stop):
        body["new_stop_price"] = product.price(event.new_stop_price)
    if isinstance(event, OrderDone) and event.reason is DoneReason.EXPIRED:
        body["cancel_reason"] = "101:Time In Force"
    if isinstance(event, OrderDone) and event.reason in (DoneReason.KILLED, DoneReason.COLLARED):
        body["cancel_reason"] = _CONTROLLED[event.reason]
    if isinstance(event, OrderMatched):
        taker, maker = event.taker_account_id, event.maker_account_id
        if taker in accounts:
            body |= {"taker_user_id": taker, "taker_profile_id": taker, "taker_fee": product.price(event.taker_fee)}
            body["taker_fee_rate"] = _fee_rate(event, event.taker_fee, product.row.taker_fee_ppm, product)
        if maker in accounts:
            body |= {"maker_user_id": maker, "maker_profile_id": maker, "maker_fee": product.price(event.maker_fee)}
            body["maker_fee_rate"] = _fee_rate(event, event.maker_fee, product.row.maker_fee_ppm, product)
    return body


def _fee_rate(event: OrderMatched, fee: int, ppm: int, product: Product) -> str:
    """Return the rate that yields `fee`: the product's current rate (`ppm`), or the highest rate that yields the fee if
    another one applied when the order entered.

    The fees of an order are rounded up together, so the fee of one fill may be one unit below its own rounded-up fee.
    """
    notional = event.price * event.size // 10**product.base_scale
    if notional and -(-notional * ppm // PPM) - fee not in (0, 1):
        ppm = fee * PPM // notional
    return rate(ppm)


def for_books(event: AnyEvent, body: Json) -> Json:
    """Return a message in the form of the channel `full`, from which a reader can rebuild the book.

    A trade of an auction's opening has the type `auction_match`. Software that rebuilds a book assumes that a `match`
    reduces the best order at its price, but these orders may be elsewhere in the book or never have rested. The book's
    changes are in the `change` and `done` messages.
    """
    return body | {"type": "auction_match"} if isinstance(event, OrderMatched) and event.auction else body


class FeedState(Protocol):
    """The current state of a product's feed, as far as messages contain it."""

    @property
    def book(self) -> Book: ...
    @property
    def stats(self) -> Statistics: ...
    @property
    def last(self) -> OrderMatched | None: ...


class Frame:
    """Events of one product that arrived together at `source`. Each message is rendered once, on first use.

    Attributes:
        auction: the messages of the channel `auction`.
        candles: the messages of candles that have ended, each with its channel.
    """

    def __init__(self, events: list[AnyEvent], product: Product, source: FeedState) -> None:
        self.events = events
        self._product = product
        self._source = source
        self._public: dict[tuple[int, bool], bytes] = {}
        self._own: dict[tuple[int, tuple[str, ...], bool], bytes] = {}
        self._compact: dict[int, bytes] = {}
        self._levels: bytes | None = None
        self._ticker: bytes | None = None
        self._level1: bytes | None = None
        self.touched: dict[tuple[Side, int], int] = {}
        """The price levels that changed, each with its size before the frame."""
        self.auction: list[bytes] = []
        self.candles: list[tuple[str, bytes]] = []

    def public(self, event: AnyEvent, full: bool) -> bytes:
        """Return the public message of an event; `full` selects the form of the channel `full`."""
        key = (event.product_sequence, full)
        message = self._public.get(key)
        if message is None:
            body = event_json(event, self._product)
            message = self._public[key] = encode(for_books(event, body) if full else body)
        return message

    def own(self, event: AnyEvent, accounts: tuple[str, ...], full: bool) -> bytes:
        """Return the message for a reader who may see `accounts`; `full` selects the form of the channel `full`."""
        key = (event.product_sequence, accounts, full)
        message = self._own.get(key)
        if message is None:
            body = own_json(event, self._product, accounts)
            message = self._own[key] = encode(for_books(event, body) if full else body)
        return message

    def level_changes(self) -> bytes:
        """Return the `l2update` of the whole frame, or b"" if no level changed."""
        if self._levels is None:
            self._levels = level_changes(self._product, self._source.book, self.touched, self.time)
        return self._levels

    def compact(self, event: AnyEvent) -> bytes:
        """Return the message of an event in the channel `level3`."""
        message = self._compact.get(event.product_sequence)
        if message is None:
            message = self._compact[event.product_sequence] = encode(compact(event, self._product))
        return message

    @property
    def time(self) -> int:
        """The time of the last event, in nanoseconds since the epoch."""
        return self.events[-1].time

    @property
    def traded(self) -> bool:
        """Whether the events include a trade."""
        return any(isinstance(event, OrderMatched) for event in self.events)

    def ticker(self) -> bytes:
        """Return the `ticker` message after the frame's last trade, or b"" if the frame has no trade."""
        if self._ticker is None:
            self._ticker = encode(ticker_json(self._product, self._source)) if self.traded else b""
        return self._ticker

    def level1(self) -> bytes:
        """Return the `level1` message after the frame."""
        if self._level1 is None:
            self._level1 = level1(self._product, self._source.book, self.events[-1].product_sequence, self.time)
        return self._level1


def level_changes(product: Product, book: Book, before: Mapping[tuple[Side, int], int], time: int) -> bytes:
    """Return the `l2update` with the current sizes of these levels, or b"" if none differs from the size that the
    reader knows (`before`).

    A level that appeared and disappeared in between is left out. `time` is the time of the last change, in nanoseconds
    since the epoch.
    """
    changes = []
    for (side, price), known in before.items():
        size = book.size_at(side, price)
        if size != known:
            changes.append([SIDE_WORDS[side], product.price(price), product.size(size)])
    if not changes:
        return b""
    return encode({"type": "l2update", "product_id": product.row.product_id, "time": iso(time), "changes": changes})


LEVEL3_SCHEMA = encode(
    {
        "type": "level3",
        "schema": {
            "change": ["type", "product_id", "sequence", "order_id", "price", "size", "time"],
            "done": ["type", "product_id", "sequence", "order_id", "time"],
            "match": ["type", "product_id", "sequence", "maker_order_id", "taker_order_id", "price", "size", "time"],
            "noop": ["type", "product_id", "sequence", "time"],
            "open": ["type", "product_id", "sequence", "order_id", "side", "price", "size", "time"],
        },
    }
)
"""The first message of the channel `level3`: the fields of its messages, in order."""


def compact(event: AnyEvent, product: Product) -> list[str]:
    """Return the row of texts that represents an event in the channel `level3`. An event that does not change the book
    is a `noop`, so that sequences stay contiguous.
    """
    head, tail = [event.product_id, str(event.product_sequence)], [iso(event.time)]
    match event:
        case OrderOpened():
            side, price, size = SIDE_WORDS[event.side], product.price(event.price), product.size(event.remaining)
            return ["open", *head, order_text(event.order_id), side, price, size, *tail]
        case OrderMatched() if not event.auction:
            orders = [order_text(event.maker_order_id), order_text(event.taker_order_id)]
            return ["match", *head, *orders, product.price(event.price), product.size(event.size), *tail]
        case OrderChanged() if event.resting and event.requeued:
            return ["done", *head, order_text(event.order_id), *tail]
        case OrderChanged() if event.resting:
            return ["change", *head, order_text(event.order_id), product.price(event.price), product.size(event.new), *tail]
        case OrderDone() if event.resting:
            return ["done", *head, order_text(event.order_id), *tail]
        case _:
            return ["noop", *head, *tail]


def ticker_json(product: Product, source: FeedState) -> Json:
    """Return the `ticker` message. The product must have a last trade."""
    trade, book, stats = source.last, source.book, source.stats
    assert trade is not None, "a ticker needs a last trade"
    day = stats.day(trade.time)
    (bid, bid_size), (ask, ask_size) = book.best(Side.BUY), book.best(Side.SELL)
    return {
        "type": "ticker",
        "sequence": trade.product_sequence,
        "product_id": trade.product_id,
        "price": product.price(trade.price),
        "open_24h": product.price(day.open),
        "volume_24h": product.size(day.volume),
        "low_24h": product.price(day.low),
        "high_24h": product.price(day.high),
        "volume_30d": product.size(stats.month_volume(trade.time)),
        "best_bid": product.price(bid),
        "best_bid_size": product.size(bid_size),
        "best_ask": product.price(ask),
        "best_ask_size": product.size(ask_size),
        "side": "sell" if trade.side is Side.BUY else "buy",
        "time": iso(trade.time),
        "trade_id": trade.trade_id,
        "last_size": product.size(trade.size),
    }


def level1(product: Product, book: Book, sequence: int, time: int) -> bytes:
    """Return the `level1` message: the best prices after event `sequence`, or zeros for an empty side. `time` is in
    nanoseconds since the epoch.
    """
    (bid, bid_size), (ask, ask_size) = book.best(Side.BUY), book.best(Side.SELL)
    return encode(
        {
            "type": "level1",
            "product_id": product.row.product_id,
            "sequence": sequence,
            "time": iso(time),
            "best_bid": product.price(bid),
            "best_bid_size": product.size(bid_size),
            "best_ask": product.price(ask),
            "best_ask_size": product.size(ask_size),
        }
    )


def auction(product: Product, view: AuctionView, state: str) -> bytes:
    """Return an `auction` message. `state` is collection, opening or complete."""
    body: Json = {"type": "auction", "product_id": product.row.product_id, "sequence": view.product_sequence}
    return encode(body | msgspec.structs.asdict(AuctionJson.of(view, product, state)))


def opened(product: Product, event: StatusChanged, book: Book) -> list[bytes]:
    """Return the `auction` messages of an opening; `book` is the book after it."""
    best = (*book.best(Side.BUY), *book.best(Side.SELL))
    view = AuctionView(event.product_sequence, event.open_price, event.open_size, *best, event.time)
    return [auction(product, view, state) for state in ("opening", "complete")]


def last_match(trade: OrderMatched, product: Product) -> bytes:
    """Return the `last_match` message with which the channel `matches` begins."""
    return encode(event_json(trade, product) | {"type": "last_match"})


def heartbeat(product: Product, sequence: int, last_trade_id: int, now: int) -> bytes:
    """Return a `heartbeat` message; `now` is in nanoseconds since the epoch."""
    body = {"type": "heartbeat", "last_trade_id": last_trade_id, "product_id": product.row.product_id}
    return encode(body | {"sequence": sequence, "time": iso(now)})


def balance(account_id: str, currency: CurrencyRow, available: int, hold: int, now: int) -> bytes:
    """Return a `balance` message. `now` is when the change was seen, in nanoseconds since the epoch."""
    return encode(
        {
            "type": "balance",
            "account_id": account_text(account_id, currency.currency),
            "currency": currency.currency,
            "holds": to_text(hold, currency.scale),
            "available": to_text(available, currency.scale),
            "updated": iso(now),
            "timestamp": iso(now),
        }
    )


def error(message: str, reason: str = "") -> bytes:
    """Return an `error` message."""
    return encode({"type": "error", "message": message, "reason": reason or message})


def authentication_failed(why: str) -> bytes:
    """Return the `error` that Coinbase Exchange sends here. Clients recognise its `message`; its `reason` is JSON text."""
    return error("Authentication Failed", encode({"message": why}).decode())


def candle(product: Product, stats: Statistics, last: OrderMatched, granularity: int) -> bytes:
    """Return the message with the candle of `granularity` seconds of the latest trade, `last`, which is also the latest
    in `stats`.
    """
    start = bucket(last.time // SECOND_NS, granularity)
    span = stats.since(start // MINUTE)
    prices = (span.low, span.high, span.open, last.price)
    row = [start, *(product.price(price) for price in prices), product.size(span.volume)]
    return msgspec.json.encode(
        {
            "type": "candles",
            "product_id": last.product_id,
            "granularity": granularity,
            "sequence": last.product_sequence,
            "time": iso(last.time),
            "candles": [row],
        }
    )


def finished(product: Product, stats: Statistics, last: OrderMatched | None, trade: OrderMatched) -> dict[str, bytes]:
    """Return the candles that `trade` ends, by channel, in their final form. `last` is the trade before it and the
    latest in `stats`.
    """
    if last is None or last.time // (MINUTE * SECOND_NS) == trade.time // (MINUTE * SECOND_NS):
        return {}
    before, now = last.time // SECOND_NS, trade.time // SECOND_NS
    return {
        channel: candle(product, stats, last, granularity)
        for channel, granularity in CANDLES.items()
        if bucket(before, granularity) != bucket(now, granularity)
    }
