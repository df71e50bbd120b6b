"""An order's way through the book: it is accepted, enters, trades, meets its own kind, and rests or leaves.

The rules, all of them:

- Best price first; at a price, first come, first served; a trade is at the resting order's (the maker's) price.
- A fill's notional is exact. Each side's fee is notional * rate // 1_000_000, rounded down to a whole unit of the quote currency, at the
  rate that the order had at entry: the maker's rate for the resting order, the taker's for the aggressor. The buyer pays notional + fee,
  the seller gets notional - fee, and the currency's `fees` get both. So nothing appears or vanishes.
- An order that is bounded by money takes from each maker the largest whole number of lots whose cost, fee included, fits what it has
  left (a sell by funds: whose notional fits what is still to be raised). When that is less than the maker offers, it is through.
- An order by funds alone is filled when it traded and what it has left is nothing or too little for one more lot at the price it met;
  otherwise it leaves cancelled. An order with a size is filled when nothing of the size remains.
- A stop order has the place in time, at its price, of the moment when it enters the book, not of that when it was accepted (`stops`).
- Fill or kill is decided before anything changes. Own resting orders are no liquidity: with `co` they are passed over, with
  `dc`, `cn` and `cb` the first one met before the order is full means that it cannot be filled.
- Self-trade prevention, by the aggressor's choice, when the next maker is of the same account: `co` cancels the maker and goes on; `cn`
  cancels the aggressor; `cb` both; `dc` compares what remains of both, cancels the smaller and decrements the larger by it, or cancels
  both when equal. An aggressor by funds alone counts as the size that it could take from this maker, and its funds are decremented by what that
  would have cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from statemachine.admission import entry_hold, may_rest
from statemachine.book import BookSide
from statemachine.commands import PlaceOrder
from statemachine.events import OrderChanged, OrderDone, OrderMatched, OrderOpened, OrderReceived, OrderState
from statemachine.limits import EXECUTED_MAX, PPM
from statemachine.state import Account, Balance, Product, State, is_by_funds
from statemachine.types import DoneReason, OrderStatus, OrderType, SelfTradePrevention, Side, TimeInForce

# Looked up once: a member of an enumeration costs ten times as much when it is looked up in its class.
_LIMIT, _BUY, _SELL = OrderType.LIMIT, Side.BUY, Side.SELL
_OPEN, _FOK = OrderStatus.OPEN, TimeInForce.FOK
_FILLED, _CANCELLED = DoneReason.FILLED, DoneReason.CANCELLED


class End(IntEnum):
    """Why an aggressor takes no more."""

    OUT_OF_BOOK = 1
    """Nothing is left to trade with at a price that it accepts."""
    SATED = 2
    """The next maker offers more than it can take."""
    PREVENTED = 3
    """Self-trade prevention cancelled it."""


_OUT_OF_BOOK, _SATED, _PREVENTED = End


@dataclass(slots=True)
class Aggressor:
    """An order while it matches. `to_raise` is what a sell by funds still wants; `short_of_base` says that it has too little to sell."""

    order: OrderState
    base: Balance
    quote: Balance
    by_money: bool
    by_funds: bool
    to_raise: int = 0
    short_of_base: bool = False


def accept(state: State, account: Account, product: Product, command: PlaceOrder) -> OrderState:
    """Give an admitted order its id, and put its money on hold. It must `enter`, or wait for that."""
    state.last_order_id += 1
    base, quote = state.balance(account, product.base), state.balance(account, product.quote)
    paying = quote if command.side is _BUY else base
    hold = entry_hold(product, command, paying.available)
    order = OrderState(
        state.last_order_id,
        account.account_id,
        command.client_oid,
        product.product_id,
        command.side,
        command.order_type,
        command.price,
        command.size,
        command.funds,
        command.time_in_force,
        command.post_only,
        command.stp,
        state.time,
        product.maker_fee_ppm,
        product.taker_fee_ppm,
        command.size,
        hold,
    )
    if command.stop:
        order.stop, order.stop_price = command.stop, command.stop_price
    if command.cancel_after:
        order.expires_at = state.time + command.cancel_after
    paying.lock(hold)
    if command.client_oid:
        account.by_client_oid[command.client_oid] = order
    return order


def enter(state: State, account: Account, product: Product, order: OrderState) -> None:
    """Tell that an accepted order was received, and let it trade; then it rests or is done."""
    tell_received(state, product, order)
    match(state, account, product, order)


def match(state: State, account: Account, product: Product, order: OrderState) -> None:
    """Let an order trade that is on no book; then it rests or is done."""
    aggressor = aggressor_of(account, product, order)
    maker_side = product.book.opposite(order.side)
    if order.time_in_force is _FOK and not _is_fillable(maker_side, order):
        end = _OUT_OF_BOOK
    else:
        end = _take(state, product, maker_side, aggressor)
    if _is_filled(aggressor, end):
        _leave(state, product, order, _FILLED, resting=False)
    elif end is _OUT_OF_BOOK and may_rest(order):
        _rest(state, product, order)
    else:
        _leave(state, product, order, _CANCELLED, resting=False)


def take_out(state: State, order: OrderState, reason: DoneReason) -> None:
    """Take an open order from where it is, on its owner's request or because its time is over. Its account and it were touched."""
    product = state.products[order.product_id]
    if order.status is _OPEN:
        leave_side(state, product, product.book.side(order.side), order, reason)
    elif not order.stop:
        leave_side(state, product, product.collected.side(order.side), order, reason)
    else:
        product.stops.remove(order)
        _leave(state, product, order, reason, resting=False)


def aggressor_of(account: Account, product: Product, order: OrderState) -> Aggressor:
    base, quote = account.balances[product.base], account.balances[product.quote]
    if order.order_type is _LIMIT:
        return Aggressor(order, base, quote, by_money=False, by_funds=False)
    by_funds, buys = is_by_funds(order), order.side is _BUY
    return Aggressor(order, base, quote, by_funds or buys, by_funds, to_raise=order.funds if by_funds and not buys else 0)


def _rest(state: State, product: Product, order: OrderState) -> None:
    """Put what remains on the book."""
    product.sequence += 1
    if state.former != 1:
        order.opened_sequence = product.sequence
    product.book.side(order.side).add(order)
    state.keep(order)
    state.events.append(
        OrderOpened(
            product.product_id,
            product.sequence,
            state.time,
            order.order_id,
            order.account_id,
            order.side,
            order.price,
            order.remaining,
        )
    )


def _leave(state: State, product: Product, order: OrderState, reason: DoneReason, *, resting: bool) -> None:
    """An order, already off the book, is done."""
    state.finish(order, reason)
    product.sequence += 1
    state.events.append(
        OrderDone(
            product.product_id,
            product.sequence,
            state.time,
            order.order_id,
            order.account_id,
            order.side,
            order.order_type,
            order.price,
            order.remaining,
            reason,
            resting,
        )
    )


def leave_side(state: State, product: Product, side: BookSide, order: OrderState, reason: DoneReason) -> None:
    """An order is done that is on a side of the book, or of the orders that an auction collected."""
    side.remove(order)
    _leave(state, product, order, reason, resting=order.status is _OPEN)


def _take(state: State, product: Product, maker_side: BookSide, aggressor: Aggressor) -> End:
    """Trade with one maker after the other while price and size allow."""
    order = aggressor.order
    limit = maker_side.limit_key(order)
    while True:
        level = maker_side.best
        if level is None or level.key > limit:
            return _OUT_OF_BOOK
        maker = level.first
        wanted = _capacity(product, aggressor, maker.price) if aggressor.by_money else order.remaining
        if wanted == 0:
            return _SATED
        offered = maker.remaining
        if maker.account_id == order.account_id:
            if not _prevent(state, product, maker_side, aggressor, maker, wanted):
                return _PREVENTED
            continue
        size = wanted if wanted < offered else offered
        maker_side.reduce(maker, size)
        trade(state, product, aggressor, maker, size, maker.price)
        if size == offered:
            leave_side(state, product, maker_side, maker, _FILLED)
        if wanted < offered or (order.size != 0 and order.remaining == 0):
            return _SATED


def _is_filled(aggressor: Aggressor, end: End) -> bool:
    """Did the order get what it came for? See the module's rules."""
    order = aggressor.order
    if not aggressor.by_funds:
        return order.remaining == 0
    if order.filled_size == 0 or end is _PREVENTED:
        return False
    left = order.hold if order.side is _BUY else aggressor.to_raise
    return left == 0 or (end is _SATED and not aggressor.short_of_base)


def _capacity(product: Product, aggressor: Aggressor, price: int) -> int:
    """The largest size, in whole lots, that an order bounded by money can take from one maker at `price`.

    A buy: the most lots n with floor(n * lot_cost * (1 + fee)) <= budget, solved for n exactly.
    """
    order = aggressor.order
    lot_cost = product.notional(price, product.lot)
    if order.side is _BUY:
        lots = ((order.hold + 1) * PPM - 1) // (lot_cost * (PPM + order.taker_fee_ppm))
        size = lots * product.lot
        return size if aggressor.by_funds else min(size, order.remaining)
    owned, raising = order.hold // product.lot, aggressor.to_raise // lot_cost
    aggressor.short_of_base = owned < raising
    return min(owned, raising) * product.lot


def trade(
    state: State, product: Product, aggressor: Aggressor, maker: OrderState, size: int, price: int, *, auction: bool = False
) -> None:
    """One fill: money and coins change hands, the currency earns its fees, the feed is told."""
    taker = aggressor.order
    notional = price * size // product.unit
    maker_fee = notional * maker.maker_fee_ppm // PPM
    taker_fee = notional * taker.taker_fee_ppm // PPM
    account = state.accounts[maker.account_id]
    state.changes.touch(maker.account_id, account, account.memory)
    state.changes.touch_order(maker)
    balances = account.balances
    _settle(product, maker, balances[product.base], balances[product.quote], size, notional, maker_fee)
    _settle(product, taker, aggressor.base, aggressor.quote, size, notional, taker_fee)
    if aggressor.to_raise:
        aggressor.to_raise -= notional
    state.currencies[product.quote].fees += maker_fee + taker_fee
    if state.former != 1:
        product.last_price = price
    product.last_trade_id += 1
    product.sequence += 1
    state.events.append(
        OrderMatched(
            product.product_id,
            product.sequence,
            state.time,
            product.last_trade_id,
            maker.order_id,
            taker.order_id,
            maker.account_id,
            taker.account_id,
            maker.side,
            price,
            size,
            maker_fee,
            taker_fee,
            auction,
        )
    )


def _settle(product: Product, order: OrderState, base: Balance, quote: Balance, size: int, notional: int, fee: int) -> None:
    """One side of a fill. Price improvement and fee reserve that are no longer needed become available at once."""
    order.filled_size += size
    order.executed_value = min(order.executed_value + notional, EXECUTED_MAX)
    order.fill_fees += fee
    if order.size:
        order.remaining -= size
    if order.side is _SELL:
        order.hold -= size
        base.hold -= size
        quote.available += notional - fee
        return
    cost = notional + fee
    hold = product.hold_for(order) if order.order_type is _LIMIT else order.hold - cost
    freed = order.hold - hold
    order.hold = hold
    quote.hold -= freed
    quote.available += freed - cost
    base.available += size


def _prevent(state: State, product: Product, maker_side: BookSide, aggressor: Aggressor, maker: OrderState, wanted: int) -> bool:
    """Self-trade prevention. True when the aggressor goes on."""
    order = aggressor.order
    if order.stp is SelfTradePrevention.CN:
        return False
    mine = wanted if aggressor.by_funds else order.remaining
    theirs = maker.remaining
    if order.stp is SelfTradePrevention.DC and mine < theirs:
        maker_side.reduce(maker, mine)
        state.changes.touch_order(maker)
        decrement_size(state, product, maker, mine, resting=True)
        return False
    leave_side(state, product, maker_side, maker, _CANCELLED)
    if order.stp is SelfTradePrevention.CO:
        return True
    if order.stp is SelfTradePrevention.CB or mine == theirs:
        return False
    if aggressor.by_funds:
        _decrement_funds(state, product, aggressor, maker.price, theirs)
    else:
        decrement_size(state, product, order, theirs, resting=False)
    return True


def decrement_size(state: State, product: Product, order: OrderState, by: int, *, resting: bool) -> None:
    """Take `by` off what remains of an order, and off its hold what that needed."""
    old = order.remaining
    order.remaining -= by
    if order.order_type is _LIMIT or order.side is _SELL:
        state.set_hold(order, product.hold_for(order))
    tell_changed(state, product, order, old, order.remaining, resting=resting)


def _decrement_funds(state: State, product: Product, aggressor: Aggressor, price: int, size: int) -> None:
    """Take off an order by funds alone what `size` would have cost (a sell: would have raised)."""
    order = aggressor.order
    value = product.notional(price, size)
    if order.side is _BUY:
        old = order.hold
        state.set_hold(order, old - value - value * order.taker_fee_ppm // PPM)
        new = order.hold
    else:
        old, new = aggressor.to_raise, aggressor.to_raise - value
        aggressor.to_raise = new
    tell_changed(state, product, order, old, new, by_funds=True)


def _is_fillable(maker_side: BookSide, order: OrderState) -> bool:
    """Could the whole order trade at once? O(orders looked at)."""
    limit = maker_side.limit_key(order)
    missing = order.remaining
    for level in maker_side.in_order():
        if level.key > limit:
            return False
        for maker in level.orders.values():
            if maker.account_id != order.account_id:
                missing -= maker.remaining
            elif order.stp is not SelfTradePrevention.CO:
                return False
            if missing <= 0:
                return True
    return False


def tell_received(state: State, product: Product, order: OrderState) -> None:
    """An order passed every check, and matches or is collected."""
    product.sequence += 1
    state.events.append(
        OrderReceived(
            product.product_id,
            product.sequence,
            state.time,
            order.order_id,
            order.account_id,
            order.client_oid,
            order.side,
            order.order_type,
            order.price,
            order.size,
            order.funds,
        )
    )


def tell_changed(
    state: State,
    product: Product,
    order: OrderState,
    old: int,
    new: int,
    *,
    by_funds: bool = False,
    resting: bool = False,
    auction: bool = False,
) -> None:
    """An order goes on with less than it had: of its size, or (`by_funds`) of its funds."""
    product.sequence += 1
    state.events.append(
        OrderChanged(
            product.product_id,
            product.sequence,
            state.time,
            order.order_id,
            order.account_id,
            order.side,
            order.price,
            old,
            new,
            by_funds,
            resting,
            auction,
        )
    )
