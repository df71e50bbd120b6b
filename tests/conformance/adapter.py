"""The engine as `tracebook-conformance` drives it: one JSON object a line on stdin, one on stdout.

Rules of the judge that are not rules of this exchange are met here, and nowhere else:

- It lets an owner trade with itself. Each order gets an account of its own, rich enough for anything.
- It rounds a price to the nearest tick, where this exchange rejects it. The adapter rounds.
- Its `replace` gives an order another price and size under the same number. It is a `ReplaceOrder`, which gives the
  order another id.
- Its `reduce` says by how much. It is an `AmendOrder`, which says to what.
- Its market orders have a size, and what they do not find is cancelled, as here.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tracebook.conformance import (
    BookSnapshot,
    BookState,
    ConformanceConfig,
    EngineMetadata,
    Observation,
    Outcome,
    RestingOrder,
    TradeFill,
    canonical_decimal,
    serve_stdio,
)
from tracebook.core.order import OrderSide
from tracebook.core.order import OrderType as TheirType
from tracebook.events.market_replay import MarketEvent

from node.system.software import version
from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    Batch,
    CancelOrder,
    Deposit,
    NewOrder,
    OpenAccount,
    PlaceOrder,
    PutCurrency,
    PutProduct,
    ReplaceOrder,
    decode_batch,
    encode_batch,
)
from statemachine.engine import Engine
from statemachine.events import AnyOutcome, OrderMatched, OrderOpened, OrderReceived, Rejected
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, ProductStatus, Reason, Side, TimeInForce

PRICE_SCALE, SIZE_SCALE = 10, 8
"""The judge halves sizes again and again: some have seven decimal places."""
RICH = 10**17
SIZE_MAX = 10**12
"""Units of a size of ten thousand, which is far more than the judge asks for."""
TICK, TICK_UNITS = 0.01, 10**8
"""With sizes of a hundred millionth, the least notional is one unit."""

_FORCES = {TheirType.IOC: TimeInForce.IOC, TheirType.FOK: TimeInForce.FOK}
_REASONS = {
    Reason.UNKNOWN_ORDER: "ORDER_NOT_ACTIVE",
    Reason.UNKNOWN_ACCOUNT: "ORDER_NOT_ACTIVE",
    Reason.ORDER_ALREADY_DONE: "ORDER_NOT_ACTIVE",
    Reason.COMMAND_ID_REUSED: "DUPLICATE_ORDER_ID",
}


class Adapter:
    """One engine; a product a symbol, made when the symbol first appears."""

    metadata = EngineMetadata("quorumbook", version(), "Python")

    def __init__(self, config: ConformanceConfig) -> None:
        if config.matching_algorithm != "fifo" or config.self_trade_policy or config.tick_size != TICK:
            raise ValueError(f"this adapter answers for FIFO matching without self-trade prevention, with a tick of {TICK}")
        self._engine = Engine()
        self._commands = 0
        self._symbols: set[str] = set()
        self._accounts: set[str] = set()
        self._sources: dict[int, MarketEvent] = {}
        """The event of an order, by this engine's order id."""
        self._order_ids: dict[tuple[str, int], int] = {}
        """This engine's id of an order, by symbol and number; also of orders that are done."""
        self._send(PutCurrency(OPERATOR, self._id(), "USD", PRICE_SCALE))

    def apply(self, event: MarketEvent, index: int) -> Observation:
        """Carry out one event; its outcome, its trades, and the digest of all books."""
        self._prepare(event)
        outcome, trades = getattr(self, f"_{event.op}")(event)
        state = self.snapshot()
        self._engine.check()
        return Observation(index, outcome, tuple(trades), state.digest(), state.order_count)

    def snapshot(self) -> BookState:
        """Return every order in the books, in the order in which they trade."""
        return BookState(
            tuple(
                BookSnapshot(symbol, self._side(symbol, Side.BUY), self._side(symbol, Side.SELL))
                for symbol in sorted(self._symbols)
            )
        )

    def close(self) -> None:
        """Nothing is open."""

    def _side(self, symbol: str, side: Side) -> tuple[RestingOrder, ...]:
        return tuple(
            RestingOrder(
                order_id=self._sources[order_id].order_id or 0,
                price=canonical_decimal(price / 10**PRICE_SCALE, PRICE_SCALE),
                remaining_quantity=canonical_decimal(size / 10**SIZE_SCALE, SIZE_SCALE),
                owner=self._sources[order_id].owner,
                order_type="LIMIT",
            )
            for price, size, order_id in self._engine.book_orders(f"{symbol}-USD", side)
        )

    # Events

    def _new(self, event: MarketEvent) -> tuple[Outcome, list[TradeFill]]:
        assert event.side is not None
        assert event.quantity is not None
        market = event.order_type == TheirType.MARKET
        price = 0 if market else self._price(event.price)
        if not market and price <= 0:
            return Outcome("rejected", "INVALID_ORDER", "the price rounds to nothing"), []
        return self._command(
            event,
            PlaceOrder(
                self._account(event),
                self._id(),
                f"{event.symbol}-USD",
                Side.BUY if event.side == OrderSide.BUY else Side.SELL,
                OrderType.MARKET if market else OrderType.LIMIT,
                price,
                self._size(event.quantity),
                0,
                _FORCES.get(TheirType(event.order_type), TimeInForce.GTC),
                client_oid=str(event.order_id),
            ),
        )

    def _cancel(self, event: MarketEvent) -> tuple[Outcome, list[TradeFill]]:
        return self._command(event, CancelOrder(self._account(event), self._id(), self._known(event)))

    def _reduce(self, event: MarketEvent) -> tuple[Outcome, list[TradeFill]]:
        order = self._engine.order(self._known(event))
        by = self._size(event.quantity or 0)
        if order is not None and by > order.remaining:
            return Outcome("rejected", "INVALID_ORDER", "more than what remains"), []
        if order is not None and by == order.remaining:
            return self._cancel(event)
        size = order.size - by if order is not None else by
        return self._command(event, AmendOrder(self._account(event), self._id(), self._known(event), size=size))

    def _replace(self, event: MarketEvent) -> tuple[Outcome, list[TradeFill]]:
        old = self._engine.order(self._known(event))
        price = self._price(event.price) if event.price is not None else (old.price if old is not None else 0)
        size = self._size(event.quantity) if event.quantity is not None else (old.remaining if old is not None else 0)
        if old is not None and (price <= 0 or size <= 0):
            return Outcome("rejected", "INVALID_REPLACEMENT", "price and quantity must be positive"), []
        side = old.side if old is not None else Side.BUY
        order = NewOrder(f"{event.symbol}-USD", side, OrderType.LIMIT, price, size, client_oid=str(event.order_id))
        command = ReplaceOrder(self._account(event), self._id(), self._known(event), "", "", order)
        return self._command(event, command)

    def _clear(self, event: MarketEvent) -> tuple[Outcome, list[TradeFill]]:
        for side in (Side.BUY, Side.SELL):
            for _, _, order_id in self._engine.book_orders(f"{event.symbol}-USD", side):
                account = self._account(self._sources[order_id])
                self._send(CancelOrder(account, self._id(), order_id))
        return Outcome("applied"), []

    # The engine

    def _command(self, event: MarketEvent, command: AnyCommand) -> tuple[Outcome, list[TradeFill]]:
        outcome, events = self._send(command)
        trades = []
        for fact in events:
            if isinstance(fact, OrderReceived | OrderOpened) and fact.order_id not in self._sources:
                self._enter(event, fact.order_id)
            if isinstance(fact, OrderMatched):
                maker, taker = fact.maker_order_id, fact.taker_order_id
                buy, sell = (taker, maker) if fact.side == Side.SELL else (maker, taker)
                trades.append(
                    TradeFill(
                        symbol=event.symbol,
                        buy_order_id=self._sources[buy].order_id or 0,
                        sell_order_id=self._sources[sell].order_id or 0,
                        price=canonical_decimal(fact.price / 10**PRICE_SCALE, PRICE_SCALE),
                        quantity=canonical_decimal(fact.size / 10**SIZE_SCALE, SIZE_SCALE),
                    )
                )
        if isinstance(outcome, Rejected):
            reason = _REASONS.get(outcome.reason, "INVALID_REPLACEMENT" if event.op == "replace" else "INVALID_ORDER")
            return Outcome("rejected", reason, outcome.detail), []
        return Outcome("applied"), trades

    def _enter(self, event: MarketEvent, order_id: int) -> None:
        old = self._order_ids.get((event.symbol, event.order_id or 0))
        self._sources[order_id] = self._sources[old] if event.op == "replace" and old is not None else event
        self._order_ids[event.symbol, event.order_id or 0] = order_id

    def _send(self, command: AnyCommand) -> tuple[AnyOutcome, list[Any]]:
        applied = self._engine.apply(decode_batch(encode_batch(Batch(self._commands, [command]))))
        return applied.outcomes[0], list(applied.events)

    def _prepare(self, event: MarketEvent) -> None:
        """Make a product for a new symbol, and an account for a new order. A cancel of an unknown order finds neither."""
        if event.op not in ("new", "clear"):
            return
        if event.symbol not in self._symbols:
            self._symbols.add(event.symbol)
            self._send(PutCurrency(OPERATOR, self._id(), event.symbol, SIZE_SCALE))
            sizes = (TICK_UNITS, 1, 1, SIZE_MAX)
            product = (f"{event.symbol}-USD", event.symbol, "USD", *sizes, 0, 0, ProductStatus.ONLINE)
            self._send(PutProduct(OPERATOR, self._id(), *product))
        account = self._account(event)
        if account not in self._accounts:
            self._accounts.add(account)
            self._send(OpenAccount(OPERATOR, self._id(), account))
            self._send(Deposit(account, self._id(), "USD", RICH))
            self._send(Deposit(account, self._id(), event.symbol, RICH))

    def _account(self, event: MarketEvent) -> str:
        return f"{event.symbol}-{event.order_id}"

    def _known(self, event: MarketEvent) -> int:
        return self._order_ids.get((event.symbol, event.order_id or 0), 10**12)

    def _id(self) -> str:
        self._commands += 1
        return f"c{self._commands}"

    def _price(self, price: float | None) -> int:
        """In units; rounded to the nearest tick, as the judge does it."""
        return round((price or 0) / TICK) * TICK_UNITS

    def _size(self, quantity: float) -> int:
        return round(quantity * float(10**SIZE_SCALE))


if __name__ == "__main__":
    code = serve_stdio(Adapter)
    sys.stdout.flush()
    os._exit(code)  # the judge gives a candidate little time to end, and this one has nothing to close
