"""Options of orders in the engine's slow twin (`twin`): exits, trailing stops, lifetimes, and the dead man's switch."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from statemachine.commands import CancelAllAfter, OrderOptions, PlaceOrder, PutProduct
from statemachine.types import DoneReason, GoodFor, OrderType, ProductStatus, Reason, Side, StopType, TimeInForce, Timer
from tests.property.twin_controls import SECOND
from tests.property.twin_corrections import TwinCorrections
from tests.property.twin_fees import DAY
from tests.property.twin_trading import TRADING, TwinOrder

_LASTING = (TimeInForce.GTC, TimeInForce.GTT)


@dataclass
class TwinOptions(TwinCorrections):
    """The effects of options."""

    timers: dict[tuple[Timer, str, str], int] = field(default_factory=dict)
    """When the orders of an account with a tag ("": all) leave."""
    has_exits: bool = False
    """Did exits enter after the command under way?"""

    # -- placing
    # -----------------------------------------------------------------------------------------------------------------

    def prepared(self, c: PlaceOrder) -> PlaceOrder | Reason:
        """Return the order with the lifetime and the stop price of its options, if they are valid."""
        o, product = c.options, self.products.get(c.product_id)
        if product is None:
            return Reason.UNKNOWN_PRODUCT
        if o is None:
            return c
        if not o.session.replace("-", "").isalnum() and o.session:
            return Reason.INVALID_ID
        lasts = self.lifetime(c, o)
        if isinstance(lasts, Reason):
            return lasts
        c = replace(c, cancel_after=lasts)
        if o.display_size:
            if c.order_type is OrderType.MARKET or c.time_in_force not in _LASTING:
                return Reason.INVALID_ORDER
            show = o.display_size
            if not (product.min_size <= show <= c.size <= 100 * show and show % product.lot == 0):
                return Reason.INVALID_SIZE
        if o.trail:
            if c.stop is not (StopType.ENTRY if c.side is Side.BUY else StopType.LOSS):
                return Reason.INVALID_STOP
            if o.trail < 0 or o.trail % product.tick:
                return Reason.INVALID_STOP
            if not c.stop_price:
                if c.product_id not in self.last:
                    return Reason.INVALID_STOP
                away = o.trail if c.side is Side.BUY else -o.trail
                c = replace(c, stop_price=self.last[c.product_id] + away)
        return self.exits_fault(c, o, product.tick) or c

    def lifetime(self, c: PlaceOrder, o: OrderOptions) -> int | Reason:
        if o.good_for is GoodFor.AUCTION:
            if o.expires_at or c.time_in_force is not TimeInForce.GTC:
                return Reason.INVALID_ORDER
            if self.products[c.product_id].status is not ProductStatus.AUCTION or c.stop:
                return Reason.INVALID_ORDER
        at = o.expires_at
        if o.good_for is GoodFor.DAY:
            if at:
                return Reason.INVALID_ORDER
            at = self.session_end(c.product_id)
        if not at:
            return c.cancel_after
        if c.time_in_force is not TimeInForce.GTT or c.cancel_after:
            return Reason.INVALID_CANCEL_AFTER
        return at - self.now

    def exits_fault(self, c: PlaceOrder, o: OrderOptions, tick: int) -> Reason | None:
        profit, loss, limit = o.take_profit, o.stop_loss, o.stop_loss_limit
        if any(price < 0 or price % tick for price in (profit, loss, limit)):
            return Reason.INVALID_PRICE
        if limit and not loss:
            return Reason.INVALID_STOP
        if (profit or loss) and (c.order_type is OrderType.MARKET or c.stop):
            return Reason.INVALID_ORDER
        if c.side is Side.SELL and loss and not limit:
            return Reason.INVALID_STOP
        if profit and loss and (profit <= loss if c.side is Side.BUY else profit >= loss):
            return Reason.INVALID_PRICE
        return None

    # -- exits
    # -------------------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Cancel partners, then let the exit orders of done orders enter, in the order in which their causes were
        recorded.
        """
        self.has_exits = False
        while self.noted:
            noted, self.noted = self.noted, []
            for order in noted:
                self.unlink(order)
            for order in noted:
                o = order.command.options
                if not order.open and not order.exited and o is not None and (o.take_profit or o.stop_loss):
                    order.exited = True
                    if order.filled:
                        self.enter_exits(order, o)

    def enter_exits(self, entry: TwinOrder, o: OrderOptions) -> None:
        c, product = entry.command, self.products[entry.command.product_id]
        if self.switched_off(c.account_id, c.product_id, c.side) is Reason.KILL_SWITCH:
            return
        side, size = (Side.SELL, entry.filled) if c.side is Side.BUY else (Side.BUY, entry.filled)
        free = self.free(entry.owner, product.base if side is Side.SELL else product.quote)
        if side is Side.SELL:
            size = min(size, free - free % product.lot)
        if size < product.lot:
            return
        ids, tag = (c.account_id, "", c.product_id, side), OrderOptions(session=o.session)
        legs = []
        if o.take_profit:
            legs.append(PlaceOrder(*ids, OrderType.LIMIT, o.take_profit, size, stp=c.stp, options=tag))
        if o.stop_loss:
            kind = OrderType.LIMIT if o.stop_loss_limit else OrderType.MARKET
            stop = StopType.ENTRY if side is Side.BUY else StopType.LOSS
            stopped = PlaceOrder(*ids, kind, o.stop_loss_limit, size, stp=c.stp, options=tag)
            legs.append(replace(stopped, stop=stop, stop_price=o.stop_loss))
        if max(self.needs(leg, product) for leg in legs) > free:
            return
        self.has_exits = True
        orders = [self.new_order(leg) for leg in legs]
        if len(orders) == 2:
            orders[0].partner, orders[1].partner = orders[1], orders[0]
        for order in reversed(orders):
            if order.command.stop:
                self.wait(order)
            else:
                self.enter_exit(order)

    def needs(self, c: PlaceOrder, product: PutProduct) -> int:
        raise NotImplementedError

    def new_order(self, c: PlaceOrder) -> TwinOrder:
        raise NotImplementedError

    def wait(self, order: TwinOrder) -> None:
        raise NotImplementedError

    def enter_exit(self, order: TwinOrder) -> None:
        """Let it enter like a queued order: what the product does not accept is cancelled."""
        c = order.command
        size = self.public(order, c.size)
        event_fields = (c.client_oid, c.side, c.order_type, c.price, size, c.funds)
        self.tell("OrderReceived", order, order.order_id, order.owner, *event_fields)
        status = self.products[c.product_id].status
        if self.switched_off(order.owner, c.product_id, c.side):
            self.leave(order, DoneReason.KILLED)
        elif status in TRADING:
            self.go_on(order)
            self.trigger(c.product_id)
        elif (status is ProductStatus.AUCTION or order.partner is not None) and not self.meets_own(c):
            self.collected.append(order)
        else:
            self.leave(order, DoneReason.CANCELLED)

    # -- trailing stops
    # ------------------------------------------------------------------------------------------------------------

    def triggered(self, product_id: str) -> list[TwinOrder]:
        """Trades first trigger stop orders. Then trailing stops move."""
        prices = list(self.prices)
        found = super().triggered(product_id)
        for order in self.known() if prices else []:
            c = order.command
            trail = c.options.trail if c.options is not None else 0
            if not trail or order not in self.waiting or order.triggered or c.product_id != product_id:
                continue
            nearest = max(prices) - trail if c.stop is StopType.LOSS else min(prices) + trail
            if nearest > c.stop_price if c.stop is StopType.LOSS else nearest < c.stop_price:
                order.command = replace(c, stop_price=nearest)
                self.tell_trailed(order)
        return found

    def tell_trailed(self, order: TwinOrder) -> None:
        c = order.command
        event_fields = (c.side, 0, 0, 0, False, False, False, 4, 0, c.stop_price, False)
        self.tell("OrderChanged", order, order.order_id, order.owner, *event_fields)

    # -- lifetimes
    # -----------------------------------------------------------------------------------------------------------------

    def go_on(self, order: TwinOrder) -> None:
        """Cancel the remainder of an order that was good for the auction."""
        if self.opening and order.command.options is not None and order.command.options.good_for is GoodFor.AUCTION:
            self.leave(order, DoneReason.AUCTION_OVER)
        else:
            super().go_on(order)

    def session(self, order: TwinOrder) -> str:
        return order.command.options.session if order.command.options is not None else ""

    def cancel_all_after(self, c: CancelAllAfter) -> object:
        if c.session and not c.session.replace("-", "").isalnum():
            return Reason.INVALID_ID
        if c.timeout and not SECOND <= c.timeout <= DAY:
            return Reason.INVALID_TIMEOUT
        kind = Timer.CANCEL_WHOLE if c.whole_account else Timer.CANCEL_AFTER
        self.timers.pop((kind, c.account_id, c.session), None)
        if c.timeout:
            self.timers[kind, c.account_id, c.session] = self.now + c.timeout
        return "armed", self.now + c.timeout if c.timeout else 0

    def session_end(self, product_id: str) -> int:
        """Return when an order that is good for a day expires: see `twin_calendar`."""
        return self.now - self.now % DAY + DAY

    # -- the clock
    # ----------------------------------------------------------------------------------------------------------------

    def clocks(self) -> list[tuple[int, Timer, str, str]]:
        """Return what is due without a command: when, what, and for whom. At one time the kinds come in the order of
        their numbers.
        """
        ends = [(until, Timer.INTERRUPTION, name, "") for name, (_, _, until, _) in self.interrupted.items()]
        return ends + [(at, *timer) for timer, at in self.timers.items()]

    def go_off(self) -> None:
        """Do what is due, the earliest first."""
        while due := [clock for clock in self.clocks() if clock[0] <= self.now]:
            at, kind, name, tag = min(due)
            self.expire(at)
            self.strike(kind, name, tag)
        self.expire(self.now)

    def expire(self, until: int) -> None:
        """Let the orders leave whose time is over."""
        going = [order for order in self.known() if 0 < order.expires <= until]
        for order in sorted(going, key=lambda order: (order.expires, order.order_id)):
            self.leave(order, DoneReason.EXPIRED)

    def strike(self, kind: Timer, name: str, tag: str) -> None:
        if kind is Timer.INTERRUPTION:
            self.end_interruption(name)
            return
        del self.timers[kind, name, tag]
        tag = tag if kind is Timer.CANCEL_AFTER else ""
        for order in [each for each in self.known() if each.owner == name and tag in ("", self.session(each))]:
            self.leave(order, DoneReason.TIMER)
