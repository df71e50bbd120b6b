"""What follows from the trades of an order: partners leave, stop orders are triggered, exits enter."""

from __future__ import annotations

from statemachine.commands import OrderOptions, PlaceOrder
from statemachine.types import DoneReason, OrderType, ProductStatus, Scope, Side, StopType, Switch
from tests.property.second_model.halting import Halting
from tests.property.second_model.orders import TRADING, Order, Place, Product


class Following(Halting):
    """Orders that enter, and what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.triggered: list[Order] = []
        """Triggered stop orders, in the order in which they enter."""
        self.queue: list[Order] = []
        """Exits, in the order in which they enter."""
        self.switches: dict[tuple[Scope, str], int] = {}

    # -- one order enters

    def enter(self, order: Order) -> None:
        """Let an order trade; then it rests or leaves."""
        product, order.place = order.product, Place.NEW
        if not order.is_limit and not order.terms.funds and order.buys:
            order.money = self.available(order.owner, product.quote, (order,))
        if not order.is_limit and order.by_funds and not order.buys:
            order.left = self.available(order.owner, product.base, (order,)) // product.lot * product.lot
        reason = self.match(order)
        if reason is DoneReason.NONE and self.is_outside(order):
            reason = DoneReason.COLLARED
        if reason is DoneReason.COLLARED:
            reason = self.stop_at_collar(order)
        elif reason is DoneReason.NONE and order.can_rest:
            self.arrive(order, Place.BOOK)
        elif reason is DoneReason.NONE:
            reason = DoneReason.CANCELLED
        if reason is not DoneReason.NONE:
            self.leave(order, reason)
        self.part()
        self.trigger(product)

    def take_turn(self, order: Order) -> None:
        """Let an order enter that was accepted before."""
        status = order.product.status
        collects = status is ProductStatus.AUCTION or order.partner is not None
        if self.switched_off(order.product, order.owner) & (Switch.KILL | (Switch.BUY_OFF if order.buys else Switch.SELL_OFF)):
            self.leave(order, DoneReason.KILLED)
        elif status in TRADING:
            self.enter(order)
        elif collects and order.can_rest and not self.would_cross_own(order):
            self.arrive(order, Place.COLLECTED)
        else:
            self.leave(order, DoneReason.CANCELLED)

    def switched_off(self, product: Product, account: str) -> int:
        """Return the sum of the switches that hold for an account in a product."""
        firm = Scope.FIRM, self.firms.get(account, "")
        scopes = ((Scope.VENUE, ""), (Scope.PRODUCT, product.name), firm, (Scope.ACCOUNT, account))
        off = 0
        for key in scopes:
            off |= self.switches.get(key, 0)
        return off

    # -- pairs

    def part(self) -> None:
        """The partner of an order that traded, was decremented, was triggered or left leaves."""
        while self.ended:
            order = self.ended.pop(0)
            if order.partner is not None:
                self.separate(order)

    def separate(self, order: Order) -> None:
        partner, order.partner = order.partner, None
        assert partner is not None
        partner.partner = None
        if partner.place is not None:
            self.leave(partner, DoneReason.LINKED)

    # -- stop orders

    def trigger(self, product: Product) -> None:
        """Queue the stop orders that the latest trades trigger, and then move trailing stops."""
        if not product.prices:
            return
        low, high = min(product.prices), max(product.prices)
        product.prices.clear()
        stops = [order for order in self.open if order.product is product and order.place is Place.WAITING]
        waiting = sorted((order for order in stops if order not in self.triggered), key=lambda order: order.order_id)
        for order in waiting:
            losing = order.stop is StopType.LOSS
            if order.place is Place.WAITING and (low <= order.stop_price if losing else high >= order.stop_price):
                if order.partner is not None:
                    self.separate(order)
                self.triggered.append(order)
        for order in waiting:
            if order.trail and order not in self.triggered:
                losing = order.stop is StopType.LOSS
                order.stop_price = (
                    max(order.stop_price, high - order.trail) if losing else min(order.stop_price, low + order.trail)
                )

    def follow(self) -> None:
        """Do what follows from a command: triggered stop orders enter, then exits, and so on."""
        self.part()
        while True:
            self.triggered = [order for order in self.triggered if order.place is Place.WAITING]
            ready = [order for order in self.triggered if order.product.status in TRADING]
            if ready:
                self.triggered.remove(ready[0])
                self.take_turn(ready[0])
            elif self.exiting:
                ended, self.exiting = self.exiting, []
                for order in ended:
                    if order.place is None and order.filled:
                        self.exit(order)
            elif self.queue:
                order = self.queue.pop(0)
                if order.place is Place.QUEUED:
                    self.take_turn(order)
            else:
                return
            self.part()

    # -- exits

    def exit(self, ended: Order) -> None:
        """Let the exits of an order enter, for no more than its account can cover."""
        product, (profit, loss, limit) = ended.product, ended.exits
        if self.switched_off(product, ended.owner) & Switch.KILL:
            return
        size, side = ended.filled, Side.SELL if ended.buys else Side.BUY
        if side is Side.SELL:
            size = min(size, self.available(ended.owner, product.base) // product.lot * product.lot)
        if not size:
            return
        legs = []
        if profit:
            legs.append(self.leg(ended, side, size, profit, StopType.NONE, 0))
        if loss:
            kind = StopType.LOSS if side is Side.SELL else StopType.ENTRY
            legs.append(self.leg(ended, side, size, limit, kind, loss))
        if max(self.need(leg) for leg in legs) > self.available(ended.owner, legs[0].currency):
            return
        for leg in legs:
            self.accept(leg)
            leg.place = Place.WAITING if leg.stop else Place.QUEUED
        if len(legs) == 2:
            legs[0].partner, legs[1].partner = legs[1], legs[0]
        self.queue += [leg for leg in legs if not leg.stop]

    def leg(self, ended: Order, side: Side, size: int, price: int, stop: StopType, stop_price: int) -> Order:
        kind, product = OrderType.LIMIT if price else OrderType.MARKET, ended.product
        options = OrderOptions(ended.session)
        terms = PlaceOrder(ended.owner, "", product.name, side, kind, price, size, stp=ended.terms.stp, options=options)
        rates = self.rates(ended.owner, product)
        return Order(ended.owner, product, terms, price, size, stop, stop_price, rates, self.now, left=size)

    def accept(self, order: Order) -> None:
        """Give an order its number."""
        self.last_id += 1
        order.order_id, order.place = self.last_id, Place.NEW
        self.open.append(order)
        self.known.setdefault((order.owner, order.client_oid), []).append(order)
        self.count_order(order)

    def count_order(self, order: Order) -> None:
        """Count an accepted order for the risk limits of its account."""
