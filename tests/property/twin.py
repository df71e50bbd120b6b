"""The slow, obvious twin of the engine: plain lists and dicts, scans, loops that count one lot at a time, exact fractions.

It is written from the rules and not from the engine, with which it shares only the messages. It has no indexes, no price
levels and no cached holds. Resting orders are one list in the order of arrival. The best maker is found by a look at all of
them. An account's hold is the sum over its orders, and its money is the sum over a list of postings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from msgspec.structs import replace

from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    CancelAll,
    CancelAllAfter,
    CancelOrder,
    Deposit,
    OpenAccount,
    OrderOptions,
    PlaceOrder,
    PlacePair,
    PutCurrency,
    PutProduct,
    ReplaceOrder,
    Transfer,
    Withdraw,
)
from statemachine.types import (
    ChangeReason,
    DoneReason,
    GoodFor,
    OrderType,
    ProductStatus,
    Reason,
    Side,
    StatusCause,
    StopType,
    TimeInForce,
)
from tests.property.twin_access import TwinAccess
from tests.property.twin_trading import TRADING, TwinOrder


@dataclass
class Twin(TwinAccess):
    """The whole exchange once more."""

    # -- what it answers
    # ---------------------------------------------------------------------------------------------------------

    def tick(self, now: int) -> None:
        """Set the time to `now`. Everything until the next tick happens at this time."""
        self.facts = []
        self.now = now
        self.go_off()
        self.settle()
        self.leave_limit_states()

    def apply(self, command: AnyCommand) -> object:
        """Return a `Reason`, or "ok", or the placed order, or the list of cancelled orders; in a pair with "again" if
        the command came before.
        """
        of_operator = self.is_operator(command.account_id)
        apart = type(command).__name__ if isinstance(command, Deposit | Withdraw | Transfer) and not of_operator else ""
        key = ("operator" if of_operator else command.account_id, command.command_id, apart)
        self.sequence += 1
        if command.account_id not in self.accounts and not of_operator:
            return Reason.UNKNOWN_ACCOUNT
        if key in self.seen:
            first, answer = self.seen[key]
            return ("again", answer) if first == command else Reason.COMMAND_ID_REUSED
        answer = self.send(command)
        self.settle()
        self.leave_limit_states()
        self.seen[key] = (command, answer)
        return answer

    def decide(self, command: AnyCommand) -> object:
        """Return the effect of the command, whoever sends it."""
        if isinstance(command, PutCurrency):
            self.currencies.setdefault(command.currency, command.scale)
            return "ok"
        if isinstance(command, PutProduct):
            return self.put_product(command)
        if isinstance(command, OpenAccount):
            self.accounts.append(command.new_account_id)
            return "ok"
        if isinstance(command, Deposit):
            if command.amount <= 0:
                return Reason.INVALID_AMOUNT
            self.post(command.account_id, command.currency, command.amount)
            return "ok"
        if isinstance(command, Withdraw):
            if command.amount <= 0:
                return Reason.INVALID_AMOUNT
            if command.amount > self.free(command.account_id, command.currency):
                return Reason.INSUFFICIENT_FUNDS
            self.post(command.account_id, command.currency, -command.amount)
            return "ok"
        if isinstance(command, Transfer):
            return self.transfer(command)
        if isinstance(command, CancelOrder):
            return self.cancel(command)
        if isinstance(command, CancelAll):
            return self.cancel_all(command)
        if isinstance(command, AmendOrder):
            return self.amend(command)
        if isinstance(command, PlacePair):
            return self.pair(command)
        if isinstance(command, ReplaceOrder):
            return self.replace(command)
        if isinstance(command, CancelAllAfter):
            return self.cancel_all_after(command)
        controlled = self.control(command)
        if controlled is not None:
            return controlled
        assert isinstance(command, PlaceOrder)
        return self.place(command)

    def put_product(self, command: PutProduct) -> object:
        name = command.product_id
        fault = self.rates_fault(command)
        if fault is not None:
            return fault
        before = self.products.get(name)
        keeps = before is not None and command.keep_status
        self.products[name] = replace(command, status=before.status) if keeps and before is not None else command
        self.sequences.setdefault(name, 0)
        self.trades.setdefault(name, 0)
        if not keeps and (before is None or before.status is not command.status or self.is_moved(name)):
            opened = self.open_auction(name) if command.status in TRADING else (0, 0)
            self.interrupted.pop(name, None)
            self.limit_states.pop(name, None)
            self.by_hand(name)
            self.say_status(name, opened, StatusCause.OPERATOR, 0)
            self.trigger(name)
        return "ok"

    def transfer(self, command: Transfer) -> object:
        if command.amount <= 0:
            return Reason.INVALID_AMOUNT
        if command.to_account_id not in self.accounts:
            return Reason.UNKNOWN_ACCOUNT
        if command.to_account_id == command.account_id:
            return Reason.INVALID_ID
        if command.amount > self.free(command.account_id, command.currency):
            return Reason.INSUFFICIENT_FUNDS
        self.post(command.account_id, command.currency, -command.amount)
        self.post(command.to_account_id, command.currency, command.amount)
        return "ok"

    # -- leaving
    # -----------------------------------------------------------------------------------------------------------------

    def cancel(self, command: CancelOrder) -> object:
        found = self.named(command)
        if isinstance(found, Reason):
            return found
        self.leave(found, DoneReason.CANCELLED)
        return [found]

    def named(self, command: CancelOrder | AmendOrder | ReplaceOrder) -> Reason | TwinOrder:
        """Return the open order that a command names, if it may be cancelled."""
        mine = [order for order in self.orders if order.owner == command.account_id]
        if command.order_id:
            found = [order for order in mine if order.order_id == command.order_id]
        else:
            found = [order for order in mine if order.command.client_oid == command.client_oid != ""][-1:]
        if not found or (command.product_id and found[0].product.product_id != command.product_id):
            return Reason.UNKNOWN_ORDER
        if not found[0].open:
            return Reason.ORDER_ALREADY_DONE
        if self.products[found[0].product.product_id].status is ProductStatus.OFFLINE:
            return Reason.PRODUCT_NOT_TRADING
        return found[0]

    def cancel_all(self, command: CancelAll) -> object:
        if command.product_id and command.product_id not in self.products:
            return Reason.UNKNOWN_PRODUCT
        if command.product_id and self.products[command.product_id].status is ProductStatus.OFFLINE:
            return Reason.PRODUCT_NOT_TRADING
        low, high = command.price_min, command.price_max or 2**63
        if (low or command.price_max) and not command.product_id:
            return Reason.INVALID_ORDER
        going = [
            order
            for order in self.known()
            if order.owner == command.account_id
            and command.product_id in ("", order.product.product_id)
            and command.side in (0, order.command.side)
            and command.session in ("", self.session(order))
            and low <= (order.command.price or order.command.stop_price) <= high
            and (command.disconnected or self.products[order.product.product_id].status is not ProductStatus.OFFLINE)
        ]
        for order in going:
            self.leave(order, DoneReason.TIMER if command.disconnected else DoneReason.CANCELLED)
        return going

    # -- amending
    # ----------------------------------------------------------------------------------------------------------------

    def amend(self, c: AmendOrder) -> object:
        order = self.named(c)
        if isinstance(order, Reason):
            return order
        for number, reason in (
            (c.size, Reason.INVALID_SIZE),
            (c.price, Reason.INVALID_PRICE),
            (c.stop_price, Reason.INVALID_STOP),
        ):
            if number < 0:
                return reason
        if order.partner is not None:
            return Reason.NOT_AMENDABLE
        p, waits = order.command, order in self.waiting
        limit, product = p.order_type is OrderType.LIMIT, self.products[p.product_id]
        if (c.size and not p.size) or (c.price and not limit) or (c.stop_price and not waits):
            return Reason.NOT_AMENDABLE
        if reject := self.name_fault(c, p):
            return reject
        name = c.new_client_oid or p.client_oid
        left = c.size - order.filled if c.size else order.left
        new = replace(
            p, size=c.size or p.size, price=c.price or p.price, stop_price=c.stop_price or p.stop_price, client_oid=name
        )
        if (new.price, new.stop_price) != (p.price, p.stop_price) or left > order.left:
            return self.requeue(order, new if waits else replace(new, stop=StopType.NONE, stop_price=0), left, product)
        if left == order.left and new.size == p.size:
            if name != p.client_oid:
                order.command = new
                self.tell_amended(order, p, order.shown if order in self.resting else order.left, requeued=False)
            return order
        if left <= 0:
            order.command = replace(p, client_oid=name)
            self.leave(order, DoneReason.CANCELLED)
            return order
        reject = self.size_fault(new.size, product)
        if reject is None:
            old = order.shown if order in self.resting else order.left
            order.left, order.command = left, new
            order.slice = min(order.slice, left)
            self.tell_amended(order, p, old, requeued=False)
        return reject or order

    def name_fault(self, c: AmendOrder, p: PlaceOrder) -> Reason | None:
        """Check that an order's new name is well formed, and that no order of the account has it."""
        if c.new_client_oid in ("", p.client_oid):
            return None
        if re.fullmatch("[A-Za-z0-9_.:-]{1,96}", c.new_client_oid) is None:
            return Reason.INVALID_ID
        mine = (order.command.client_oid for order in self.orders if order.owner == c.account_id)
        return Reason.COMMAND_ID_REUSED if c.new_client_oid in mine else None

    def requeue(self, order: TwinOrder, new: PlaceOrder, left: int, product: PutProduct) -> object:
        """Let the order arrive again as `new`."""
        reject = self.number_fault(new, product) or self.stop_fault(new, product)
        if reject is None and order.display and new.size > 100 * order.display:
            reject = Reason.INVALID_SIZE
        reject = reject or self.controls_reject(new, order) or self.status_fault(new, product)
        if reject is None and new.stop is StopType.NONE:
            if new.post_only and self.makers(TwinOrder(0, new, product, left)):
                reject = Reason.POST_ONLY_WOULD_TAKE
            elif product.status is ProductStatus.AUCTION and self.meets_own(new):
                reject = Reason.OWN_ORDERS_CROSS
        if reject is not None:
            return reject
        if new.size and left <= 0:
            order.command = replace(order.command, client_oid=new.client_oid)
            self.leave(order, DoneReason.CANCELLED)
            return order
        changed = TwinOrder(0, new, order.product, left, exact=order.exact, fees=order.fees, rates=order.rates)
        if self.hold(changed) > self.free(order.owner, self.pays_in(order)) + self.hold(order):
            return Reason.INSUFFICIENT_FUNDS
        before, rested = order.command, order in self.resting
        old = order.shown if rested else order.left
        for place in (self.resting, self.waiting, self.collected):
            if order in place:
                place.remove(order)
        order.command, order.left, order.opened, order.slice = new, left, 0, 0
        self.tell_amended(order, before, old, requeued=True, rested=rested)
        if new.stop is not StopType.NONE:
            self.waiting.append(order)
        elif product.status is ProductStatus.AUCTION:
            self.collected.append(order)
        else:
            self.go_on(order)
            self.trigger(product.product_id)
        return order

    def tell_amended(self, order: TwinOrder, before: PlaceOrder, old: int, *, requeued: bool, rested: bool | None = None) -> None:
        c, rests = order.command, order in self.resting if rested is None else rested
        left = order.slice or order.left
        event_fields = (before.side, before.price, self.public(order, old), self.public(order, left), False, rests, False)
        reason = ChangeReason.AMENDED
        self.tell("OrderChanged", order, order.order_id, order.owner, *event_fields, reason, c.price, c.stop_price, requeued)

    def replace(self, c: ReplaceOrder) -> object:
        old = self.named(c)
        if isinstance(old, Reason):
            return old
        fields = {name: getattr(c.order, name) for name in c.order.__struct_fields__}
        prepared = self.prepared(PlaceOrder(c.account_id, c.command_id, **fields))
        if isinstance(prepared, Reason):
            return prepared
        new = prepared
        leaving = [old] if old.partner is None else [old, old.partner]
        places = [(place, list(place)) for place in (self.resting, self.waiting, self.collected)]
        for place, before in places:
            place[:] = [order for order in before if order not in leaving]
        reject = self.refuse(new)
        for place, before in places:
            place[:] = before
        if reject is None and new.post_only and self.makers(TwinOrder(0, new, self.products[new.product_id], new.size)):
            reject = Reason.POST_ONLY_WOULD_TAKE
        if reject is not None:
            return reject
        self.leave(old, DoneReason.CANCELLED)
        self.unlink(old)
        return "replaced", old, self.let_in(new)

    # -- entering
    # ----------------------------------------------------------------------------------------------------------------

    def refuse(self, c: PlaceOrder) -> Reason | None:
        product = self.products.get(c.product_id)
        if product is None:
            return Reason.UNKNOWN_PRODUCT
        controlled = self.controls_reject(c)
        if controlled is not None:
            return controlled
        reject = (
            self.status_fault(c, product) or self.shape_fault(c) or self.number_fault(c, product) or self.stop_fault(c, product)
        )
        if reject is not None:
            return reject
        lasting = c.time_in_force is TimeInForce.GTT
        shortest = 1 if c.options is not None and c.options.good_for is GoodFor.DAY else 10**9
        if lasting != (c.cancel_after != 0) or (lasting and not shortest <= c.cancel_after <= 366 * 24 * 3600 * 10**9):
            return Reason.INVALID_CANCEL_AFTER
        if c.client_oid and any(o.owner == c.account_id and o.command.client_oid == c.client_oid for o in self.known()):
            return Reason.COMMAND_ID_REUSED
        if self.needs(c, product) > self.free(c.account_id, product.quote if c.side is Side.BUY else product.base):
            return Reason.INSUFFICIENT_FUNDS
        if c.post_only and self.makers(TwinOrder(0, c, product, c.size)):
            return Reason.POST_ONLY_WOULD_TAKE
        if product.status is ProductStatus.AUCTION and not c.stop and self.meets_own(c):
            return Reason.OWN_ORDERS_CROSS
        return None

    def status_fault(self, c: PlaceOrder, product: PutProduct) -> Reason | None:
        limit = c.order_type is OrderType.LIMIT
        if product.status is ProductStatus.OFFLINE:
            return Reason.PRODUCT_NOT_TRADING
        if product.status is ProductStatus.CANCEL_ONLY:
            return Reason.PRODUCT_CANCEL_ONLY
        if product.status is ProductStatus.POST_ONLY and not c.post_only:
            return Reason.PRODUCT_POST_ONLY
        if product.status is ProductStatus.LIMIT_ONLY and not limit:
            return Reason.PRODUCT_LIMIT_ONLY
        lasts = c.time_in_force in (TimeInForce.GTC, TimeInForce.GTT)
        if product.status is ProductStatus.AUCTION and not c.stop and not (limit and lasts and not c.post_only):
            return Reason.PRODUCT_IN_AUCTION
        return None

    def shape_fault(self, c: PlaceOrder) -> Reason | None:
        limit = c.order_type is OrderType.LIMIT
        contradictions = [
            limit and c.funds != 0,
            limit and c.post_only and c.time_in_force not in (TimeInForce.GTC, TimeInForce.GTT),
            not limit and c.price != 0,
            not limit and c.post_only,
            not limit and c.time_in_force in (TimeInForce.FOK, TimeInForce.GTT),
            not limit and c.side is Side.SELL and c.size != 0 and c.funds != 0,
        ]
        if any(contradictions):
            return Reason.INVALID_ORDER
        return None

    def number_fault(self, c: PlaceOrder, product: PutProduct) -> Reason | None:
        limit = c.order_type is OrderType.LIMIT
        if limit and c.price <= 0:
            return Reason.INVALID_PRICE
        if limit and c.price % product.tick:
            return Reason.PRICE_OFF_TICK
        if not limit and (c.funds < 0 or c.funds == c.size == 0):
            return Reason.INVALID_FUNDS
        return self.size_fault(c.size, product) if limit or c.size != 0 else None

    def size_fault(self, size: int, product: PutProduct) -> Reason | None:
        if size <= 0:
            return Reason.INVALID_SIZE
        if size < product.min_size:
            return Reason.SIZE_TOO_SMALL
        if size > product.max_size:
            return Reason.SIZE_TOO_LARGE
        return Reason.SIZE_OFF_LOT if size % product.lot else None

    def stop_fault(self, c: PlaceOrder, product: PutProduct) -> Reason | None:
        limit = c.order_type is OrderType.LIMIT
        if c.stop is StopType.NONE and c.stop_price != 0:
            return Reason.INVALID_STOP
        if c.stop is not StopType.NONE:
            if c.stop_price <= 0:
                return Reason.INVALID_STOP
            if c.stop_price % product.tick:
                return Reason.PRICE_OFF_TICK
            if c.post_only or (not limit and (c.funds if c.side is Side.BUY else c.size) == 0):
                return Reason.INVALID_STOP
        return None

    def needs(self, c: PlaceOrder, product: PutProduct) -> int:
        if c.order_type is OrderType.LIMIT:
            return self.hold(TwinOrder(0, c, product, c.size))
        if c.side is Side.BUY:
            return c.funds if c.funds else 1
        return c.size if c.size else product.lot

    def place(self, c: PlaceOrder) -> object:
        prepared = self.prepared(c)
        if isinstance(prepared, Reason):
            return prepared
        refusal = self.refuse(prepared)
        return refusal if refusal is not None else self.let_in(prepared)

    def let_in(self, c: PlaceOrder) -> TwinOrder:
        """Let an order that may enter do so, or queue it."""
        product = self.products[c.product_id]
        order = self.new_order(c)
        if c.stop is StopType.NONE:
            self.enter(order)
            self.trigger(product.product_id)
        else:
            self.wait(order)
        return order

    def new_order(self, c: PlaceOrder) -> TwinOrder:
        product = self.products[c.product_id]
        order = TwinOrder(len(self.orders) + 1, c, product, c.size, rates=self.rates_now(c.account_id, product))
        order.expires = self.now + c.cancel_after if c.cancel_after else 0
        if c.order_type is OrderType.MARKET:
            order.money = c.funds
            order.coins = self.free(c.account_id, product.base)
            if order.buys and not c.funds:
                order.money = self.free(c.account_id, product.quote)
        self.orders.append(order)
        self.accepted.append((c.account_id, self.now // 10**9))
        return order

    def wait(self, order: TwinOrder) -> None:
        c = order.command
        self.waiting.append(order)
        what = (c.client_oid, c.side, c.order_type, c.stop, c.stop_price, c.price, self.public(order, c.size), c.funds)
        self.tell("OrderActivated", order, order.order_id, order.owner, *what)

    def pair(self, c: PlacePair) -> object:
        buys, limit = c.side is Side.BUY, OrderType.LIMIT
        ids = c.account_id, c.command_id, c.product_id, c.side
        stop_type, kind = (StopType.ENTRY if buys else StopType.LOSS), (limit if c.stop_limit_price else OrderType.MARKET)
        tag = OrderOptions(session=c.session)
        first = PlaceOrder(*ids, limit, c.price, c.size, stp=c.stp, client_oid=c.client_oid, options=tag)
        second = PlaceOrder(*ids, kind, c.stop_limit_price, c.size, stp=c.stp, client_oid=c.stop_client_oid, options=tag)
        second = replace(second, stop=stop_type, stop_price=c.stop_price)
        crosses_own = self.refuse(first) is Reason.OWN_ORDERS_CROSS
        reject = None if crosses_own else self.refuse(first)
        reject = reject or self.refuse(second) or (Reason.RISK_LIMIT if self.pair_is_full(c.account_id) else None)
        if reject is not None:
            return reject
        if c.client_oid and c.client_oid == c.stop_client_oid:
            return Reason.COMMAND_ID_REUSED
        if c.price >= c.stop_price if buys else c.price <= c.stop_price:
            return Reason.INVALID_STOP
        product = self.products[c.product_id]
        if product.status is not ProductStatus.AUCTION and self.makers(TwinOrder(0, first, product, c.size)):
            return Reason.POST_ONLY_WOULD_TAKE
        if crosses_own:
            return Reason.OWN_ORDERS_CROSS
        one, two = self.new_order(first), self.new_order(second)
        one.partner, two.partner = two, one
        self.wait(two)
        self.enter(one)
        return "pair", one, two
