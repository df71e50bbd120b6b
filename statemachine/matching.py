"""Matching: an order is accepted, enters, trades or meets orders of its own account, and rests or is done.

The rules:

- The best price trades first; at one price, the earliest order. A trade is at the price of the resting order, the
  maker.
- A fill's notional is exact. Fees are cumulative by order: after each fill an order has paid the sum of its notionals,
  each at the rate of that fill, rounded up once to a whole unit of the quote currency. So an order in many fills pays
  no more than in one, and many small orders never pay less than one large one. The rates are those that the order had
  at entry: the maker's for the resting order, the taker's for the taker. The buyer pays notional + fee, the seller gets
  notional - fee, and the currency's `fees` get both fees. So the sum of money does not change. A maker's fee
  may be negative: a rebate, which is at most the taker's fee of the fill (`fees`).
- An order that is bounded by money takes from each maker the largest whole number of lots whose cost, fee included,
  fits its remaining funds (a sell by funds: whose notional fits the amount it still wants). If that is less than the
  maker offers, the order is complete.
- An order by funds alone is filled when it traded and its remaining funds do not buy one more lot at the maker's price;
  otherwise it is cancelled. An order with a size is filled when nothing of the size remains.
- A stop order has the place in time, at its price, of the moment when it enters the book, not of that when it was
  accepted (`stops`).
- Fill or kill is decided before anything changes. Resting orders of the same account are not liquidity: `co` skips
  them; with `dc`, `cn` and `cb` the order is not filled if it would meet one of them before it is full.
- An order trades up to the product's price collar; `collars` handles the remainder.
- An order meets at most `limits.MAKERS_PER_ORDER` resting orders, those of its own account included. Then its remainder
  is cancelled. A fill-or-kill order that would have to meet more is not filled.
- Self-trade prevention, by the taker's choice, when the next maker is of the same account: `co` cancels the maker and
  goes on; `cn` cancels the taker; `cb` both; `dc` compares what remains of both, cancels the smaller and decrements the
  larger by it, or cancels both when equal. A taker by funds alone counts as the size that it could take from this
  maker, and its funds are decremented by the cost of that size.
"""

from __future__ import annotations

from statemachine import collars, fees, risk
from statemachine.book import BookSide
from statemachine.emit import order_changed, order_done, order_matched, order_opened, order_received
from statemachine.entities import Account, Balance, Order, Placing, Product
from statemachine.exact import credit_after, executed, fee, most_lots, notional
from statemachine.icebergs import decrease, refresh, slices_met, split
from statemachine.limits import LOOKS_PER_UNIT, PPM
from statemachine.order_index import new_order
from statemachine.state import State
from statemachine.types import DoneReason, OrderStatus, OrderType, SelfTradePrevention, Side, TimeInForce
from statemachine.validation import can_rest, entry_hold

# Plain integers: the compiled core keeps them as such, and a member of an enumeration is slow to look up in its class.
_LIMIT: int = OrderType.LIMIT
_BUY: int = Side.BUY
_SELL: int = Side.SELL
_OPEN: int = OrderStatus.OPEN
_FOK: int = TimeInForce.FOK
_DC: int = SelfTradePrevention.DC
_CO: int = SelfTradePrevention.CO
_CN: int = SelfTradePrevention.CN
_CB: int = SelfTradePrevention.CB
_FILLED: int = DoneReason.FILLED
_CANCELLED: int = DoneReason.CANCELLED
_MAKERS_MAX: int = DoneReason.MAKERS_MAX
_LOOKS_PER_UNIT: int = LOOKS_PER_UNIT
_CREDIT_MAX: int = PPM - 1

# Reasons why a taker stops.
_END_BOOK_EMPTY = 1
"""No resting order is left at a price that it accepts."""
_END_ENOUGH = 2
"""The next maker offers more than it can take."""
_END_SELF_TRADE = 3
"""Self-trade prevention cancelled it."""
_END_MAKERS_MAX = 4
"""It met the largest number of resting orders that one order may meet."""


class Taker:
    """An order during matching. `to_raise` is the amount that a sell by funds still wants. `short_of_base` says that
    the order has too little base currency to sell.
    """

    __slots__ = ("base", "by_funds", "by_money", "order", "quote", "short_of_base", "to_raise")

    def __init__(self, order: Order, base: Balance, quote: Balance) -> None:
        self.order = order
        self.base = base
        self.quote = quote
        self.by_money = False
        self.by_funds = False
        self.to_raise = 0
        self.short_of_base = False
        if order.order_type != _LIMIT:
            self.by_funds = order.is_by_funds()
            self.by_money = self.by_funds or order.side == _BUY
            if self.by_funds and order.side == _SELL:
                self.to_raise = order.funds


def taker_of(state: State, order: Order) -> Taker:
    """Return an order that begins to match, with its account's balances."""
    account = order.account
    state.pair(account, order.product)
    return Taker(order, account.base, account.quote)


def accept(state: State, account: Account, product: Product, command: Placing) -> Order:
    """Give a validated order its id, and put its money on hold. The caller lets it `enter` or wait."""
    state.last_order_id += 1
    state.pair(account, product)
    paying = account.quote if command.side == _BUY else account.base
    hold = entry_hold(product, command, paying.available)
    order = new_order(state.last_order_id, account, product)
    order.client_oid = command.client_oid
    order.side = command.side
    order.order_type = command.order_type
    order.price = command.price
    order.size = command.size
    order.funds = command.funds
    order.time_in_force = command.time_in_force
    order.post_only = command.post_only
    order.stp = command.stp
    order.created_at = state.time
    order.maker_fee_ppm = command.maker_fee_ppm
    order.taker_fee_ppm = command.taker_fee_ppm
    order.remaining = command.size
    order.hold = hold
    if command.stop:
        order.stop, order.stop_price = command.stop, command.stop_price
    if command.cancel_after:
        order.expires_at = state.time + command.cancel_after
    paying.lock(hold)
    if command.client_oid:
        by_oid = account.by_client_oid
        by_oid.put(order)
    return order


def enter(state: State, product: Product, order: Order) -> None:
    """Emit that an accepted order was received, and match it; then it rests or is done."""
    order_received(state, product, order)
    match(state, product, order)


def match(state: State, product: Product, order: Order) -> None:
    """Match an order that is on no book; then it rests or is done."""
    maker_side = product.opposite(order.side)
    state.work += 1
    if product.controls is not None:
        collars.begin(product)
    if order.order_type == _LIMIT and not maker_side.crosses(order.price):
        _stay_or_leave(state, product, order)
    else:
        _match(state, product, maker_side, taker_of(state, order))


def _match(state: State, product: Product, maker_side: BookSide, taker: Taker) -> None:
    """Match an order that crosses the book."""
    order = taker.order
    own_limit = limit = maker_side.limit_key(order)
    if product.controls is not None:
        limit = collars.limit_key(product, maker_side, own_limit)
    end = _fillable(state, maker_side, order, limit) if order.time_in_force == _FOK else _END_ENOUGH
    if end == _END_ENOUGH:
        end = _take(state, product, maker_side, taker, limit)
    level = maker_side.best
    if _is_filled(taker, end):
        close(state, product, order, _FILLED, False)
    elif end == _END_BOOK_EMPTY and level is not None and limit < level.key and level.key <= own_limit:
        from statemachine.volatility import interrupt

        interrupt(state, product, order)
    elif end == _END_BOOK_EMPTY:
        _stay_or_leave(state, product, order)
    else:
        close(state, product, order, _MAKERS_MAX if end == _END_MAKERS_MAX else _CANCELLED, False)


def _stay_or_leave(state: State, product: Product, order: Order) -> None:
    """Let the remainder of an order rest, or cancel it."""
    if not can_rest(order.order_type, order.time_in_force):
        close(state, product, order, _CANCELLED, False)
    elif product.controls is None or not _held_at_collar(state, product, order):
        rest(state, product, order)


def _held_at_collar(state: State, product: Product, order: Order) -> bool:
    """See `limit_states.holds`."""
    from statemachine.limit_states import holds

    return holds(state, product, order)


def close_order(state: State, order: Order, reason: int) -> None:
    """Remove an open order, on its owner's request or because it expired. The caller has recorded its account
    (`Changes.touch`).
    """
    product, resting = order.product, order.status == _OPEN
    state.work += 1
    state.changes.touch_order(order)
    detach(product, order)
    close(state, product, order, reason, resting)


def detach(product: Product, order: Order) -> None:
    """Remove an open order from the order book, the auction book, a queue, or the waiting stop orders."""
    if order.status == _OPEN:
        product.side(order.side).remove(order)
    elif order.queued:
        del (product.triggered if order.stop else product.arrivals)[order.order_id]
        order.queued = 0
    elif not order.stop:
        product.collected(order.side).remove(order)
        product.collection.remove(order)
    else:
        product.stops.remove(order)


def rest(state: State, product: Product, order: Order) -> None:
    """Put the remainder on the book."""
    side = product.side(order.side)
    if order.terms is not None:
        split(order)
    side.add(order)
    state.keep(order)
    order_opened(state, product, order)
    order.opened_sequence = product.sequence


def close(state: State, product: Product, order: Order, reason: int, resting: bool) -> None:
    """Finish an order that is not on the book."""
    state.finish(order, reason)
    order_done(state, product, order, reason, resting)


def close_on_side(state: State, product: Product, side: BookSide, order: Order, reason: int) -> None:
    """Finish an order that is on a side of the order book or the auction book."""
    side.remove(order)
    if order.status != _OPEN:
        product.collection.remove(order)
    close(state, product, order, reason, order.status == _OPEN)


def _take(state: State, product: Product, maker_side: BookSide, taker: Taker, limit: int) -> int:
    """Trade with one maker after the other while price, up to the key `limit`, and size allow."""
    order = taker.order
    bound = state.work + state.makers_max
    while True:
        level = maker_side.best
        if level is None or level.key > limit:
            return _END_BOOK_EMPTY
        if state.work == bound:
            return _END_MAKERS_MAX
        state.work += 1
        maker = level.first
        assert maker is not None, "a level in a book is never empty"
        wanted = _capacity(product, taker, level.price) if taker.by_money else order.remaining
        if wanted == 0:
            return _END_ENOUGH
        offered = maker.remaining
        if maker.account is order.account:
            if not _prevent(state, product, maker_side, taker, maker, wanted):
                return _END_SELF_TRADE
            continue
        size = wanted if wanted < offered else offered
        level.total -= size
        trade(state, product, taker, maker, size, level.price, False)
        if size == offered:
            if maker.reserve:
                refresh(state, product, maker_side, maker)
            else:
                close_on_side(state, product, maker_side, maker, _FILLED)
        if wanted < offered or (order.size != 0 and order.remaining == 0):
            return _END_ENOUGH


def _is_filled(taker: Taker, end: int) -> bool:
    """Return whether the order is filled; see the module's rules."""
    order = taker.order
    if not taker.by_funds:
        return order.remaining == 0
    if order.filled_size == 0 or end == _END_SELF_TRADE:
        return False
    left = order.hold if order.side == _BUY else taker.to_raise
    return left == 0 or (end == _END_ENOUGH and not taker.short_of_base)


def _capacity(product: Product, taker: Taker, price: int) -> int:
    """Return the largest size, in whole lots, that an order bounded by money can take from one maker at `price`.

    A buy: the most lots whose cost, fee included, is within its budget, solved for their number exactly.
    """
    order = taker.order
    lot_cost = notional(price, product.lot, product.unit)
    if order.side == _BUY:
        size = most_lots(order.hold, lot_cost, order.taker_fee_ppm, order.fee_credit) * product.lot
        return size if taker.by_funds or size < order.remaining else order.remaining
    owned, raising = order.hold // product.lot, taker.to_raise // lot_cost
    taker.short_of_base = owned < raising
    return (owned if owned < raising else raising) * product.lot


def trade(state: State, product: Product, taker: Taker, maker: Order, size: int, price: int, auction: bool) -> None:
    """Execute one fill: move money and coins, add the fees, emit the events."""
    order = taker.order
    value = notional(price, size, product.unit)
    state.touch(maker)
    maker_fee = _charge(maker, value, maker.maker_fee_ppm)
    taker_fee = _charge(order, value, order.taker_fee_ppm)
    if maker_fee + taker_fee < 0:
        maker_fee = -taker_fee
        maker.fee_credit = _CREDIT_MAX
    owner = maker.account
    state.pair(owner, product)
    _settle(product, maker, owner.base, owner.quote, size, value, maker_fee)
    _settle(product, order, taker.base, taker.quote, size, value, taker_fee)
    if taker.to_raise:
        taker.to_raise -= value
    product.currency.fees += maker_fee + taker_fee
    product.last_price = price
    if state.highest == 0 or price < state.lowest:
        state.lowest = price
    if price > state.highest:
        state.highest = price
    product.last_trade_id += 1
    if maker.terms is not None:
        state.noted.append(maker)
    if order.terms is not None:
        state.noted.append(order)
    order_matched(state, product, maker, order, price, size, maker_fee, taker_fee, auction)
    if state.guarded:
        risk.traded(state, product, (maker, order), value)
    if state.fee_rules:
        fees.traded(state, product, (maker, order), value)


def _charge(order: Order, value: int, ppm: int) -> int:
    """Return the fee that one side of a fill pays. The part above the exact rate becomes the order's credit."""
    paid = fee(value, ppm, order.fee_credit)
    order.fee_credit = credit_after(value, ppm, order.fee_credit, paid)
    return paid


def _settle(product: Product, order: Order, base: Balance, quote: Balance, size: int, value: int, paid: int) -> None:
    """Book one side of a fill. The part of the hold that is no longer needed becomes available at once."""
    order.filled_size += size
    order.executed_value = executed(order.executed_value, value)
    order.fill_fees += paid
    if order.size:
        order.remaining -= size
    if order.side == _SELL:
        order.hold -= size
        base.hold -= size
        quote.available += value - paid
    else:
        cost = value + paid
        hold = product.hold_for(order) if order.order_type == _LIMIT else order.hold - cost
        freed = order.hold - hold
        order.hold = hold
        quote.hold -= freed
        quote.available += freed - cost
        base.available += size


def _prevent(state: State, product: Product, maker_side: BookSide, taker: Taker, maker: Order, wanted: int) -> bool:
    """Apply self-trade prevention. Returns whether the taker continues."""
    order = taker.order
    if order.stp == _CN:
        return False
    taker_size = wanted if taker.by_funds else order.remaining
    maker_size = maker.remaining + maker.reserve
    if order.stp == _DC and taker_size < maker_size:
        state.changes.touch_order(maker)
        if maker.reserve:
            decrease(state, product, maker_side, maker, taker_size)
            return False
        maker_side.reduce(maker, taker_size)
        decrement_size(state, product, maker, taker_size, True)
        return False
    close_on_side(state, product, maker_side, maker, _CANCELLED)
    if order.stp == _CO:
        return True
    if order.stp == _CB or taker_size == maker_size:
        return False
    if taker.by_funds:
        _decrement_funds(state, product, taker, maker.price, maker_size)
    else:
        decrement_size(state, product, order, maker_size, False)
    return True


def decrement_size(state: State, product: Product, order: Order, by: int, resting: bool) -> None:
    """Reduce the remaining size of an order by `by`, and its hold accordingly."""
    old = order.remaining
    order.remaining -= by
    if order.terms is not None:
        state.noted.append(order)
    if order.order_type == _LIMIT or order.side == _SELL:
        state.set_hold(order, product.hold_for(order))
    order_changed(state, product, order, old, order.remaining, False, resting, False)


def _decrement_funds(state: State, product: Product, taker: Taker, price: int, size: int) -> None:
    """Reduce the funds of an order by funds alone by the cost (for a sell, the proceeds) of `size`."""
    order = taker.order
    value = notional(price, size, product.unit)
    if order.side == _BUY:
        old = order.hold
        state.set_hold(order, old - value - product.highest_fee(value, order.taker_fee_ppm, order.fee_credit))
        new = order.hold
    else:
        old, new = taker.to_raise, taker.to_raise - value
        taker.to_raise = new
    order_changed(state, product, order, old, new, True, False, False)


def _fillable(state: State, maker_side: BookSide, order: Order, limit: int) -> int:
    """Return whether the whole order could trade at once, up to the key `limit`. ENOUGH: it can. BOOK_EMPTY: it cannot.
    MAKERS_MAX: it would have to meet too many resting orders.

    An account without open orders has none of its own in the book: whole levels are counted by their totals.
    O(`MAKERS_PER_ORDER`).
    """
    most, by_totals = state.makers_max, order.account.open_count == 0
    missing, met, end = order.remaining, 0, _END_BOOK_EMPTY
    hidden = 0
    for level in maker_side.in_order():
        if level.key > limit or end != _END_BOOK_EMPTY:
            break
        if by_totals and level.total < missing and level.hidden == 0:
            missing -= level.total
            met += level.count
            if met > most:
                end = _END_MAKERS_MAX
            continue
        maker, hidden = level.first, 0
        while maker is not None and end == _END_BOOK_EMPTY:
            if met >= most:
                end = _END_MAKERS_MAX
            elif maker.account is not order.account:
                missing -= maker.remaining
                if maker.reserve:
                    hidden += maker.reserve
                if missing <= 0:
                    end = _END_ENOUGH
            elif order.stp != _CO:
                end = _END_SELF_TRADE
            met += 1
            maker = maker.behind
        if hidden and end == _END_BOOK_EMPTY:
            met += slices_met(level, order.account, missing, most - met)
            missing -= hidden
            if met > most:
                end = _END_MAKERS_MAX
            elif missing <= 0:
                end = _END_ENOUGH
    state.work += met // _LOOKS_PER_UNIT
    return _END_BOOK_EMPTY if end == _END_SELF_TRADE else end
