"""Unfinished work: later log entries continue what exceeds the work limit of one entry, at the same place on every
node.

A log entry begins at most `limits.WORK_PER_ENTRY` units of work: a count, never a time. The rest is part of the state:

- triggered stop orders, in the order in which they enter (`stops`);
- new orders, accepted and with their money on hold, that arrived when the entry had no units left, or while their
  product had unfinished work: they enter in the order of arrival, after all earlier work of the product;
- an auction that opens (`auctions`), and orders that expire;
- orders that a `CancelAll` or a kill switch still cancels.

While there is unfinished work:

- *Price and time.* No new order of a product enters before the product's earlier work is complete, so the trades are
  those of an entry without a limit. All trades of one order are within one entry: nothing comes between two of them.
- *Cancels do not wait.* An order is cancelled at once on request, also a queued one. Only while an auction's orders
  trade is none cancelled: a mass cancel without a product, and one of a timer, cancels them afterwards.
- *Each product on its own.* A product's unfinished work delays orders of other products only by its share of the entry
  (`limits.PENDING_WORK_PER_ENTRY` together, in turns).
- If the product accepts no orders when the turn of a queued order comes, the order is cancelled. In an auction, limit
  orders that can rest go to the auction book. So does an order that is linked with a stop order (`linked`), in every
  status: if it were cancelled, its stop order would leave, too. A post-only order is cancelled if it would trade by
  then, and an order that is good for an auction if that is over.

While there is unfinished work and nobody sends commands, the leader proposes empty entries (`Engine.has_pending_work`).
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from statemachine import auctions, guards, kills, stops
from statemachine.emit import order_received
from statemachine.entities import Account, Order, Product
from statemachine.limits import ARRIVAL_WORK, LOOKS_PER_UNIT, MASS_CANCELS_PER_ACCOUNT, PENDING_WORK_PER_ENTRY
from statemachine.matching import close, close_order, enter, match
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.tables import MassCancelRow
from statemachine.types import DoneReason, GoodFor, Opening, OrderStatus, ProductStatus, Reason
from statemachine.validation import can_rest, may_cancel

_AUCTION: int = ProductStatus.AUCTION
_MEETING: int = Opening.MEETING
_OPEN: int = OrderStatus.OPEN
_ACTIVE: int = OrderStatus.ACTIVE
_EXPIRED: int = DoneReason.EXPIRED
_CANCELLED: int = DoneReason.CANCELLED
_KILLED: int = DoneReason.KILLED
_TIMER: int = DoneReason.TIMER
_AUCTION_OVER: int = DoneReason.AUCTION_OVER
_FOR_AUCTION: int = GoodFor.AUCTION


def go_on(state: State) -> None:
    """Expire orders and continue unfinished work, at the beginning of an entry."""
    limit = PENDING_WORK_PER_ENTRY
    expire(state)
    if state.killing:
        kills.cancel_on(state, limit)
    if not state.busy and not state.mass_cancels.rows:
        return
    state.turn += 1
    for name in _in_turn(state, sorted(dict.fromkeys(row.account_id for row in state.mass_cancels))):
        if state.work >= limit:
            return
        _cancel_on(state, name, limit)
    names = _in_turn(state, sorted(state.busy))
    for place, name in enumerate(names):
        share = (limit - state.work) // (len(names) - place)
        if share <= 0:
            return
        work_on(state, state.busy[name], state.work + share)


def expire(state: State) -> bool:
    """Expire orders up to `State.moment`. Returns whether none is left that the entry could not expire any more."""
    if 0 < state.next_expiry <= state.moment:
        return _begin_expiries(state, max(PENDING_WORK_PER_ENTRY - state.work, 0))
    return True


def is_unfinished(state: State, product: Product) -> bool:
    """Return whether the product has work that the next log entry can continue."""
    if product.opening or product.arrivals:
        return True
    if product.expiring and product.expiring.peekitem(0)[0][0] <= state.time:
        return True
    return product.status in auctions.TRADING and bool(product.triggered or product.trigger_low)


def forget_done(state: State) -> None:
    """At the end of an entry, unmark busy products that have no unfinished work, as a restart does: their work may have
    been cancelled. O(busy products).
    """
    for name, product in list(state.busy.items()):
        if not is_unfinished(state, product):
            product.busy = False
            del state.busy[name]


def _in_turn(state: State, names: list[str]) -> list[str]:
    """Return the products in an order in which each one comes first equally often."""
    first = state.turn % len(names) if names else 0
    return names[first:] + names[:first]


def _begin_expiries(state: State, limit: int) -> bool:
    """Expire orders of all products, the earliest first. If they are more than the entry may expire, later entries
    continue for each product. Returns whether all have expired that can. O(products + expired orders).
    """
    expired: list[tuple[int, int]] = []
    due = [product for product in state.products.values() if product.expiring and product.opening != _MEETING]
    for product in due:
        expired.extend(islice(product.expiring.irange(None, (state.moment, state.last_order_id)), limit + 1 - len(expired)))
    if len(expired) <= limit:
        for _, order_id in sorted(expired):
            order = state.orders[order_id]
            state.touch(order)
            close_order(state, order, _EXPIRED)
    state.next_expiry = 0
    for product in state.products.values():
        if product.expiring:
            first = product.expiring.peekitem(0)[0][0]
            state.next_expiry = min(state.next_expiry or first, first)
            if first <= state.moment:
                state.set_busy(product)
    return len(expired) <= limit


def work_on(state: State, product: Product, limit: int) -> None:
    """Continue a product's unfinished work until it is complete, or the entry has done `limit` units."""
    if product.opening != _MEETING and not _expire(state, product, limit):
        return
    if product.opening and not (auctions.go_on(state, product, limit) and _expire(state, product, limit)):
        return
    if not _let_enter(state, product, limit):
        return
    product.busy = False
    del state.busy[product.product_id]


def _expire(state: State, product: Product, limit: int) -> bool:
    """Expire orders, on the book or not and in every status of the product, the earliest first. Returns whether all are
    expired.
    """
    expiring = product.expiring
    while expiring:
        (expires_at, _), order = expiring.peekitem(0)
        if expires_at > state.moment:
            break
        if state.work >= limit:
            return False
        state.touch(order)
        close_order(state, order, _EXPIRED)
    return True


def _let_enter(state: State, product: Product, limit: int) -> bool:
    """Let queued orders enter, stop orders first. Returns whether none is left that may enter now."""
    while True:
        trades = product.status in auctions.TRADING
        if trades and not product.triggered and product.trigger_low:
            stops.take_triggered(state, product)
        queue = product.triggered if trades and product.triggered else product.arrivals
        if not queue:
            return True
        if state.work >= limit:
            return False
        _, order = queue.popitem(last=False)
        state.lowest = state.highest = 0
        state.touch(order)
        order.queued = 0
        order.status = _OPEN
        _enter(state, product, order)
        if order.filled_size and product.stops.count:
            stops.trigger(state, product)


def _enter(state: State, product: Product, order: Order) -> None:
    """Let a queued order enter at its turn."""
    if state.guarded and not guards.may_enter(state, product, order):
        state.work += 1
        close(state, product, order, _KILLED, False)
    elif order.stop:
        enter(state, product, order)
    elif product.status in auctions.TRADING:
        left_over = order.terms is not None and order.terms.good_for == _FOR_AUCTION
        if left_over or (order.post_only and product.opposite(order.side).crosses(order.price)):
            state.work += 1
            close(state, product, order, _AUCTION_OVER if left_over else _CANCELLED, False)
        else:
            match(state, product, order)
    elif _may_be_collected(state, product, order):
        order.status = _ACTIVE
        auctions.add(state, product, order)
    else:
        state.work += 1
        close(state, product, order, _CANCELLED, False)


def _may_be_collected(state: State, product: Product, order: Order) -> bool:
    """Return whether an order goes to the auction book at its turn, in a product that does not trade."""
    linked = order.terms is not None and order.terms.link
    if product.status != _AUCTION and not linked:
        return False
    if order.post_only or not can_rest(order.order_type, order.time_in_force):
        return False
    return not auctions.crosses_own(state, order.account, product, order.side, order.price)


def queue(state: State, product: Product, order: Order) -> None:
    """Queue a new order; it enters at its turn. The entry first does some of the product's unfinished work, within its
    limit.
    """
    order_received(state, product, order)
    put_in_queue(state, product, order)


def put_in_queue(state: State, product: Product, order: Order) -> None:
    """Queue an order that was received or amended; it enters at its turn."""
    order.queued = state.place_in_queue()
    state.wait(order)
    product.arrivals[order.order_id] = order
    state.set_busy(product)
    if state.work < state.work_max:
        work_on(state, product, min(state.work + ARRIVAL_WORK, state.work_max))


class Chosen(NamedTuple):
    """The selection of an account's orders by a mass cancel, and the reason of the cancels. The fields are those of
    `commands.CancelAll`.
    """

    product_id: str = ""
    side: int = 0
    price_min: int = 0
    price_max: int = 0
    session: str = ""
    reason: int = _CANCELLED

    def has(self, order: Order) -> bool:
        """Return whether an order is selected and may be cancelled, perhaps after the opening of an auction. A timer
        cancels the orders of offline products, too.
        """
        if self.product_id and order.product.product_id != self.product_id:
            return False
        if self.side and order.side != self.side:
            return False
        if self.price_min or self.price_max:
            price = order.price or order.stop_price
            if price < self.price_min or (self.price_max and price > self.price_max):
                return False
        if self.session and (order.terms is None or order.terms.session != self.session):
            return False
        return self.reason == _TIMER or order.product.opening == _MEETING or may_cancel(order.product)


def cancel_all(state: State, account: Account, chosen: Chosen) -> tuple[list[Order], bool] | Reject:
    """Cancel the selected orders of the account that may be cancelled, oldest first. Returns the cancelled orders, and
    whether the next entries cancel more. The caller has recorded the account (`Changes.touch`).
    """
    of_account = [row for row in state.mass_cancels if row.account_id == account.account_id] if state.mass_cancels.rows else []
    if len(of_account) >= MASS_CANCELS_PER_ACCOUNT:
        return Reject(Reason.TOO_MANY_CANCELS, "", f"{MASS_CANCELS_PER_ACCOUNT} mass cancels of the account are unfinished")
    more = True
    cancelled: list[Order] = []
    if state.work < state.work_max:
        cancelled, more = _cancel(state, account, chosen, state.last_order_id, state.work_max)
    if more:
        state.mass_cancels.put(MassCancelRow(account.account_id, *chosen[:-1], DoneReason(chosen.reason), state.last_order_id))
    return cancelled, more


def _cancel(state: State, account: Account, chosen: Chosen, last_order_id: int, limit: int) -> tuple[list[Order], bool]:
    """Cancel as many of these orders as the work limit allows. Returns them, and whether there are more. O(the
    account's open orders).
    """
    room = limit - state.work
    selected: list[Order] = []
    looks, more = 0, False
    order = account.oldest
    while order is not None and order.order_id <= last_order_id:
        looks += 1
        if chosen.has(order):
            if order.product.opening == _MEETING:
                more = True
            elif len(selected) >= room:
                more = True
                break
            else:
                selected.append(order)
        order = order.newer
    for selected_order in selected:
        state.touch(selected_order)
        close_order(state, selected_order, chosen.reason)
    state.work += looks // LOOKS_PER_UNIT
    return selected, more


def _cancel_on(state: State, account_id: str, limit: int) -> None:
    """Continue an account's mass cancels."""
    account = state.accounts[account_id]
    state.changes.touch(account)
    for row in sorted(row for row in state.mass_cancels if row.account_id == account_id):
        if state.work >= limit:
            return
        chosen = Chosen(row.product_id, row.side, row.price_min, row.price_max, row.session, int(row.reason))
        _, more = _cancel(state, account, chosen, row.last_order_id, limit)
        if more:
            continue
        state.mass_cancels.remove(*state.mass_cancels.key_of(row))
