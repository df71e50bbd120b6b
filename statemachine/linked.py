"""Linked orders: pairs in which one order cancels the other, and exits that enter when an order is done.

A pair ("one cancels the other"): a limit order and a stop order of the same size and side.

- The money is on hold once: the stop order holds only what it needs in addition to the hold of the limit order.
- When the limit order trades, in part or whole, is decremented by self-trade prevention, or is done, the stop order is
  cancelled (`DoneReason.LINKED`). When the stop order is triggered or done, the limit order is cancelled. (Binance's
  "OCO": a partial fill of either cancels the other.)
- If one command does both, its trades count first: a stop order whose partner traded is not triggered. Triggered stop
  orders are taken in the order of ids, and each is checked when it is taken. From then on it is independent of its
  partner.

Exits (`OrderOptions.take_profit`, `stop_loss`): when the order is done and filled something, orders of the other side
enter for what it filled, with one id after the other: a pair, or one of the two. They enter after the command, in the
queue of new orders. They are for no more than the account has available by then. Where that is less than a lot, where a
buy is not covered, where the account has as many open orders as it may have, or where a kill switch is on, none enter.
Exits count for the risk limits of their account, but no risk limit keeps them out: they reduce its position.
"""

from __future__ import annotations

import msgspec

from statemachine import fees, pending, risk, switches
from statemachine.commands import PlacePair
from statemachine.emit import order_activated
from statemachine.entities import Account, Order, Placing, Product
from statemachine.events import OrderTerms
from statemachine.limits import OPEN_ORDERS_PER_ACCOUNT
from statemachine.matching import accept
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.stops import unlink
from statemachine.types import (
    DoneReason,
    OrderStatus,
    OrderType,
    ProductStatus,
    Reason,
    SelfTradePrevention,
    Side,
    StopType,
    TimeInForce,
)
from statemachine.validation import entry_hold, place_order

_BUY: int = Side.BUY
_DONE: int = OrderStatus.DONE
_LIMIT: int = OrderType.LIMIT
_LINKED: int = DoneReason.LINKED
_AUCTION: int = ProductStatus.AUCTION


def legs(command: PlacePair) -> tuple[Placing, Placing]:
    """Return the fields of the limit order and of the stop order of a pair."""
    limit, stop = Placing(), Placing()
    for leg in (limit, stop):
        leg.product_id, leg.side, leg.size = command.product_id, int(command.side), command.size
        leg.time_in_force, leg.stp = int(TimeInForce.GTC), int(command.stp)
    limit.order_type, limit.price, limit.client_oid = _LIMIT, command.price, command.client_oid
    stop.order_type = _LIMIT if command.stop_limit_price else int(OrderType.MARKET)
    stop.price, stop.client_oid = command.stop_limit_price, command.stop_client_oid
    stop.stop = int(StopType.ENTRY if command.side == _BUY else StopType.LOSS)
    stop.stop_price = command.stop_price
    return limit, stop


def check_pair(state: State, account: Account, limit: Placing, stop: Placing) -> Reject | None:
    """Check whether the two orders may enter."""
    reject = place_order(state, account, limit) or place_order(state, account, stop)
    if reject is None and state.guarded:
        reject = risk.rejects_second(state, account)
    if reject is not None:
        return reject
    product = state.products[limit.product_id]
    if limit.client_oid and limit.client_oid == stop.client_oid:
        return Reject(Reason.COMMAND_ID_REUSED, "stop_client_oid", "expected another than client_oid")
    if limit.price <= stop.stop_price if limit.side != _BUY else limit.price >= stop.stop_price:
        return Reject(Reason.INVALID_STOP, "stop_price", "expected it on the other side of the market than price")
    if account.open_count + 2 > OPEN_ORDERS_PER_ACCOUNT:
        return Reject(Reason.TOO_MANY_OPEN_ORDERS, "", f"at most {OPEN_ORDERS_PER_ACCOUNT} open orders an account")
    if product.status != _AUCTION and product.opposite(limit.side).crosses(limit.price):
        return Reject(Reason.POST_ONLY_WOULD_TAKE, "price", "the order would trade at once")
    return None


def accept_pair(
    state: State, account: Account, product: Product, limit: Placing, stop: Placing, session: str
) -> tuple[Order, Order]:
    """Accept the two orders and put their money on hold once. The stop order waits; the caller lets the limit order
    enter.
    """
    first = accept(state, account, product, limit)
    second = accept(state, account, product, stop)
    state.set_hold(second, max(0, second.hold - first.hold))
    first.terms = OrderTerms(session, link=second.order_id)
    second.terms = OrderTerms(session, link=first.order_id)
    state.keep(first)
    state.wait(second)
    product.stops.add(second)
    order_activated(state, product, second)
    return first, second


def settle(state: State) -> None:
    """Handle the orders with options that traded or are done: cancel partners, then let exits enter. So an exit never
    triggers a stop order whose partner traded before.
    """
    while state.noted:
        noted, state.noted, state.unlinked = state.noted, [], 0
        for order in noted:
            unlink(state, order)
        for order in noted:
            terms = order.terms
            if terms is None or order.status != _DONE or not (terms.take_profit or terms.stop_loss):
                continue
            order.terms = msgspec.structs.replace(terms, take_profit=0, stop_loss=0, stop_loss_limit=0)
            if order.filled_size:
                _enter_exits(state, order, terms)


def _enter_exits(state: State, entry: Order, terms: OrderTerms) -> None:
    """Enter the take-profit order and the stop-loss order of an entry that has traded."""
    account, product = entry.account, entry.product
    buys = entry.side != _BUY
    if state.guarded and switches.is_killed(state, product, account):
        return
    size = entry.filled_size
    if not buys:
        size = min(size, account.available(product.base) // product.lot * product.lot)
    limit, stop = _exit_legs(entry, terms, size)
    for leg in (limit, stop):
        if leg is not None:
            fees.set_rates(state, product, account, leg)
    available = account.available(product.quote if buys else product.base)
    needed = max(entry_hold(product, leg, available) for leg in (limit, stop) if leg is not None)
    count = (limit is not None) + (stop is not None)
    if size < product.lot or needed > available or account.open_count + count > OPEN_ORDERS_PER_ACCOUNT:
        return
    state.changes.touch(account)
    if state.guarded:
        for _ in range(count):
            risk.accepted(state, account)
    if limit is not None and stop is not None:
        order, _ = accept_pair(state, account, product, limit, stop, terms.session)
        pending.queue(state, product, order)
    elif limit is not None:
        order = accept(state, account, product, limit)
        order.terms = OrderTerms(terms.session)
        pending.queue(state, product, order)
    elif stop is not None:
        order = accept(state, account, product, stop)
        order.terms = OrderTerms(terms.session)
        state.wait(order)
        product.stops.add(order)
        order_activated(state, product, order)


def _exit_legs(entry: Order, terms: OrderTerms, size: int) -> tuple[Placing | None, Placing | None]:
    """Return the fields of the take-profit order and of the stop-loss order; None for one that the entry does not have."""
    side = Side.SELL if entry.side == _BUY else Side.BUY
    pair = PlacePair(
        "",
        "",
        entry.product.product_id,
        side,
        size,
        terms.take_profit,
        terms.stop_loss,
        terms.stop_loss_limit,
        stp=SelfTradePrevention(entry.stp),
    )
    limit, stop = legs(pair)
    return limit if terms.take_profit else None, stop if terms.stop_loss else None
