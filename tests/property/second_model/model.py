"""The commands of the second model, and the passage of time."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import msgspec

from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    CancelAll,
    CancelAllAfter,
    CancelOrder,
    CorrectTrade,
    Deposit,
    FollowCalendar,
    OpenAccount,
    OrderOptions,
    PlaceOrder,
    PlacePair,
    PutCalendar,
    PutCurrency,
    PutFeeOverride,
    PutFeeTiers,
    PutFirm,
    PutGroup,
    PutMember,
    PutProduct,
    PutProductLimits,
    PutRiskLimits,
    ReplaceOrder,
    SetCalendar,
    SetSwitches,
    Transfer,
    Withdraw,
)
from statemachine.types import (
    CollarAction,
    DoneReason,
    GoodFor,
    OrderType,
    ProductStatus,
    Scope,
    Side,
    StopType,
    Switch,
    TimeInForce,
)
from tests.property.second_model.limiting import Limiting
from tests.property.second_model.orders import DAY, PPM, RESTING, SECOND, TRADING, Order, Place, Product, Refused, need

Answer = tuple[bool, bool]
"""Whether a command was accepted, and whether it came before."""


class SecondModel(Limiting):
    """The exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: dict[tuple[str, str], int] = {}
        self.first: dict[tuple[str, str], tuple[AnyCommand, bool]] = {}
        """Commands by account and id, and whether they were accepted."""

    def apply(self, time: int, commands: Iterable[AnyCommand]) -> list[Answer]:
        """Apply a log entry. Returns the answer to each command. Its trades, and the orders that it ends, go to `trades` and `done`."""
        answers = list[Answer]()
        self.now = max(self.now, time)
        self.pass_time()
        self.leave_limit_states()
        for command in commands:
            name = command.account_id, command.command_id
            if name in self.first:
                before, accepted = self.first[name]
                answers.append((accepted, True) if before == command else (False, False))
                continue
            accepted = False
            with suppress(Refused):
                self.carry_out(command)
                accepted = True
            self.first[name] = command, accepted
            answers.append((accepted, False))
            self.follow()
            self.leave_limit_states()
        return answers

    def pass_time(self) -> None:
        """Expire orders and do what the timers say, the earliest first. At one moment: expiries, calendars, halts, timers."""
        while True:
            due = [(at, 1, *key) for key, at in self.timers.items() if at <= self.now]
            due += [(at, -1, name, "") for at, name in self.boundaries()]
            states = [(product.interruption, product.name) for product in self.products.values()]
            due += [(state.ends, 0, name, "") for state, name in states if state is not None and state.ends <= self.now]
            at, kind, name, session = min(due, default=(self.now, 0, "", ""))
            over = [order for order in self.open if 0 < order.expires <= at]
            for order in sorted(over, key=lambda order: (order.expires, order.order_id)):
                self.leave(order, DoneReason.EXPIRED)
            self.follow()
            if not due:
                return
            if kind < 0:
                self.read_calendar(name)
            elif kind:
                del self.timers[name, session]
                self.cancel_all(CancelAll(name, "", session=session), DoneReason.TIMER)
            else:
                self.go_on(self.products[name])
                self.trigger(self.products[name])
            self.follow()

    def carry_out(self, command: AnyCommand) -> None:
        """Carry out one command."""
        match command:
            case PutCurrency():
                self.scales[command.currency] = command.scale
            case PutProduct():
                self.put_product(command)
            case Deposit():
                self.pay(command.account_id, command.currency, command.amount)
            case Withdraw():
                need(self.available(command.account_id, command.currency) >= command.amount)
                self.pay(command.account_id, command.currency, -command.amount)
            case Transfer():
                need(command.to_account_id != command.account_id)
                need(self.available(command.account_id, command.currency) >= command.amount)
                self.pay(command.account_id, command.currency, -command.amount)
                self.pay(command.to_account_id, command.currency, command.amount)
            case PlaceOrder():
                order = self.checked(command)
                self.admit(order)
                self.let_in(order)
            case PlacePair():
                self.place_pair(command)
            case CancelOrder():
                order = self.named(command)
                self.leave(order, DoneReason.CANCELLED)
            case CancelAll():
                need(not command.product_id or self.products[command.product_id].status is not ProductStatus.OFFLINE)
                self.cancel_all(command, DoneReason.CANCELLED)
            case AmendOrder():
                self.amend(self.named(command), command)
            case ReplaceOrder():
                self.replace(self.named(command), command)
            case CancelAllAfter():
                need(not command.timeout or SECOND <= command.timeout <= DAY)
                self.timers.pop((command.account_id, command.session), None)
                if command.timeout:
                    self.timers[command.account_id, command.session] = self.now + command.timeout
            case _:
                self.operate(command)

    def operate(self, command: AnyCommand) -> None:
        """Carry out a command of the operator that sets rules, or corrects a trade."""
        match command:
            case PutFeeTiers():
                key = ("", command.product_id) if command.product_id else (command.currency, "")
                need(not command.product_id or self.products[command.product_id].quote == command.currency)
                self.tiers[key] = list(command.tiers)
            case PutFeeOverride():
                self.overrides.pop((command.owner_id, command.product_id), None)
                if not command.remove:
                    self.overrides[command.owner_id, command.product_id] = command
            case PutProductLimits():
                self.put_limits(command)
            case SetSwitches():
                self.set_switches(command)
            case PutRiskLimits():
                self.put_risk(command)
            case PutMember():
                self.firms[command.member_id] = command.firm_id
                self.kill(Scope.FIRM, command.firm_id)
            case PutCalendar() | SetCalendar() | PutGroup():
                self.change_calendars(command)
            case FollowCalendar():
                need(self.follow_again(command))
            case CorrectTrade():
                self.correct(command)
            case _:
                assert isinstance(command, OpenAccount | PutFirm)

    # -- the operator

    def put_product(self, c: PutProduct) -> None:
        product = self.products.get(c.product_id)
        if product is None:
            unit = 10 ** self.scales[c.base]
            product = Product(c.product_id, c.base, c.quote, c.tick, c.lot, unit, c.status)
            self.products[c.product_id] = product
        product.min_size, product.max_size = c.min_size, c.max_size
        product.rates = c.maker_fee_ppm, c.taker_fee_ppm
        product.interruption = None
        if self.calendar_of(product) is not None:
            self.by_hand.add(product.name)
        if c.status is product.status:
            return
        collected = [order for order in self.open if order.product is product and order.place is Place.COLLECTED]
        if collected and c.status in TRADING:
            self.open_auction(product, c.status)
            self.part()
            self.trigger(product)
        else:
            product.status = c.status

    def put_limits(self, c: PutProductLimits) -> None:
        product = self.products[c.product_id]
        if product.limits is None:
            product.static_price = 0
        product.static_price = c.static_price or product.static_price
        limits = (c.dynamic_ppm, c.static_ppm, c.order_size_max, c.order_notional_max, c.distance_ppm)
        product.limits = c if any(limits) else None

    def set_switches(self, c: SetSwitches) -> None:
        self.switches[c.scope, c.name] = c.switches
        self.kill(c.scope, c.name)

    def kill(self, scope: Scope, name: str) -> None:
        """Cancel the orders of a scope whose kill switch is on."""
        for order in sorted(self.open, key=lambda order: order.order_id):
            names = {Scope.VENUE: "", Scope.PRODUCT: order.product.name, Scope.ACCOUNT: order.owner}
            names[Scope.FIRM] = self.firms.get(order.owner, "")
            if self.switches.get((scope, name), 0) & Switch.KILL and names[scope] == name:
                self.leave(order, DoneReason.KILLED)

    # -- checks

    def checked(self, c: PlaceOrder) -> Order:
        """Return an order, whose form is right, as it would enter now."""
        product, options = self.products[c.product_id], c.options
        limit, rests = c.order_type is OrderType.LIMIT, c.time_in_force in RESTING
        if limit:
            need(c.price > 0 and c.price % product.tick == 0 and c.funds == 0 and c.size > 0)
        else:
            need(c.price == 0 and c.time_in_force in (TimeInForce.GTC, TimeInForce.IOC) and (c.size > 0 or c.funds > 0))
            need(c.side is Side.BUY or not c.size or not c.funds)
        if c.size:
            self.check_size(product, c.size)
        need(not c.post_only or (limit and rests and not c.stop))
        order = Order(c.account_id, product, c, c.price, c.size, c.stop, c.stop_price, (0, 0), self.now, left=c.size)
        order.rates = self.rates(c.account_id, product)
        if not limit:
            order.money = c.funds or None
            order.left = c.size or 2**40 * product.lot
        if order.trail:
            need(c.stop is (StopType.LOSS if c.side is Side.SELL else StopType.ENTRY) and order.trail % product.tick == 0)
            if not c.stop_price:
                need(product.last_price > 0)
                order.stop_price = product.last_price + (order.trail if order.buys else -order.trail)
        need(bool(order.stop) or not order.stop_price)
        if order.stop:
            need(order.stop_price > 0 and order.stop_price % product.tick == 0)
            need(limit or bool(c.funds if order.buys else c.size))
        good_for = options.good_for if options is not None else GoodFor.ANY
        order.expires = self.lifetime(c, good_for)
        if good_for is GoodFor.AUCTION:
            need(c.time_in_force is TimeInForce.GTC and product.status is ProductStatus.AUCTION and not c.stop)
        if order.display:
            need(limit and rests and order.display % product.lot == 0)
            need(product.min_size <= order.display <= c.size <= 100 * order.display)
        if any(order.exits):
            self.check_exits(order)
        return order

    def check_size(self, product: Product, size: int) -> None:
        need(product.min_size <= size <= product.max_size and size % product.lot == 0)

    def lifetime(self, c: PlaceOrder, good_for: GoodFor) -> int:
        """Return when an order expires; 0 for never."""
        at = c.options.expires_at if c.options is not None else 0
        given = bool(c.cancel_after) + bool(at) + (good_for is GoodFor.DAY)
        need(given == (c.time_in_force is TimeInForce.GTT))
        ends = self.day_ends(self.products[c.product_id]) if good_for is GoodFor.DAY else 0
        expires = self.now + c.cancel_after if c.cancel_after else at or ends
        need(not given or good_for is GoodFor.DAY or SECOND <= expires - self.now <= 366 * DAY)
        return expires

    def check_exits(self, order: Order) -> None:
        profit, loss, limit = order.exits
        need(order.is_limit and not order.stop and all(price % order.product.tick == 0 for price in order.exits))
        need(not limit or loss > 0)
        need(order.buys or not loss or limit > 0)
        need(not profit or not loss or (profit > loss if order.buys else profit < loss))

    def admit(self, order: Order, without: tuple[Order, ...] = (), amended: bool = False) -> None:
        """Check an order against the present. The orders in `without` leave when it enters."""
        product, c = order.product, order.terms
        self.check_status(order)
        off = self.switched_off(product, order.owner)
        need(not off & (Switch.KILL | (Switch.BUY_OFF if order.buys else Switch.SELL_OFF)))
        self.check_limits(order)
        self.check_counts(order, without, 1, amended)
        self.check_risk(order, without)
        if order.client_oid and not amended:
            known = self.known.get((order.owner, order.client_oid), [])
            need(all(other.place is None or other in without for other in known))
        self.check_money(order, without)
        if order.stop:
            return
        if product.status is ProductStatus.AUCTION:
            need(not self.would_cross_own(order, without))
        elif c.post_only:
            need(not self.makers(order))

    def check_status(self, order: Order) -> None:
        status, c = order.product.status, order.terms
        need(status not in (ProductStatus.OFFLINE, ProductStatus.CANCEL_ONLY))
        need(status is not ProductStatus.LIMIT_ONLY or order.is_limit)
        need(status is not ProductStatus.POST_ONLY or c.post_only)
        need(status is not ProductStatus.AUCTION or bool(order.stop) or (order.can_rest and not c.post_only))

    def check_limits(self, order: Order) -> None:
        """Check an order against the limits of its product."""
        product, limits = order.product, order.product.limits
        if limits is None:
            return
        price = order.price or order.stop_price
        worth = order.terms.funds or order.size * (price or product.last_price) // product.unit
        need(not limits.order_size_max or order.size <= limits.order_size_max)
        need(not limits.order_notional_max or worth <= limits.order_notional_max)
        if limits.distance_ppm and price and product.last_price:
            need(abs(price - product.last_price) * PPM <= limits.distance_ppm * product.last_price)
        continuous = product.status is not ProductStatus.AUCTION and not order.stop
        if limits.action is CollarAction.REJECT and order.is_limit and continuous:
            low, high = self.collar(product)
            need(price <= high if order.buys else price >= low)

    def check_money(self, order: Order, without: tuple[Order, ...]) -> None:
        available = self.available(order.owner, order.currency, without)
        if order.is_limit or (order.terms.funds if order.buys else order.size):
            need(self.need(order) <= available)
        else:
            need(available >= (1 if order.buys else order.product.lot))

    # -- orders

    def let_in(self, order: Order) -> None:
        self.accept(order)
        self.begin(order)

    def begin(self, order: Order) -> None:
        """Let an accepted order enter, wait, or be collected."""
        if order.stop:
            order.place = Place.WAITING
        elif order.product.status is ProductStatus.AUCTION:
            self.arrive(order, Place.COLLECTED)
        else:
            self.enter(order)

    def place_pair(self, c: PlacePair) -> None:
        buys, options = c.side is Side.BUY, OrderOptions(c.session)
        kind = OrderType.LIMIT if c.stop_limit_price else OrderType.MARKET
        trigger = {"stop": StopType.ENTRY if buys else StopType.LOSS, "stop_price": c.stop_price}
        terms = PlaceOrder(c.account_id, "", c.product_id, c.side, OrderType.LIMIT, c.price, c.size, stp=c.stp, options=options)
        other = msgspec.structs.replace(terms, order_type=kind, price=c.stop_limit_price, **trigger)
        limit = self.checked(msgspec.structs.replace(terms, client_oid=c.client_oid))
        stop = self.checked(msgspec.structs.replace(other, client_oid=c.stop_client_oid))
        need(c.price < c.stop_price if buys else c.price > c.stop_price)
        need(not c.client_oid or c.client_oid != c.stop_client_oid)
        self.admit(limit)
        self.admit(stop)
        self.check_counts(limit, (), 2)
        need(limit.product.status is ProductStatus.AUCTION or not self.makers(limit))
        self.accept(limit)
        self.accept(stop)
        limit.partner, stop.partner = stop, limit
        self.begin(stop)
        self.begin(limit)

    def named(self, c: CancelOrder | AmendOrder | ReplaceOrder) -> Order:
        """Return the open order that a command names by its `client_oid`, if it may be cancelled."""
        known = [order for order in self.known.get((c.account_id, c.client_oid), []) if order.place is not None]
        need(bool(known))
        need(c.product_id in ("", known[0].product.name) and known[0].product.status is not ProductStatus.OFFLINE)
        return known[0]

    def cancel_all(self, c: CancelAll, reason: DoneReason) -> None:
        """Cancel the selected orders. Only a timer cancels those of offline products."""
        for order in sorted(self.open, key=lambda order: order.order_id):
            price, status = order.price or order.stop_price, order.product.status
            own = order.owner == c.account_id and (reason is DoneReason.TIMER or status is not ProductStatus.OFFLINE)
            chosen = c.product_id in ("", order.product.name) and c.side in (0, order.terms.side)
            within = c.price_min <= price and (not c.price_max or price <= c.price_max)
            if own and chosen and within and c.session in ("", order.session):
                self.leave(order, reason)

    def replace(self, old: Order, c: ReplaceOrder) -> None:
        fields = {name: getattr(c.order, name) for name in c.order.__struct_fields__}
        new = self.checked(PlaceOrder(c.account_id, "", **fields))
        self.admit(new, (old,) if old.partner is None else (old, old.partner))
        self.leave(old, DoneReason.CANCELLED)
        self.part()
        self.let_in(new)

    def amend(self, order: Order, c: AmendOrder) -> None:
        """Change an order, and its `client_oid`."""
        name = c.new_client_oid
        known = self.known.setdefault((order.owner, name), []) if name else []
        need(name == order.client_oid or not known)
        self.amend_numbers(order, c)
        if name and name != order.client_oid:
            self.known[order.owner, order.client_oid].remove(order)
            order.client_oid = name
            known.append(order)

    def amend_numbers(self, order: Order, c: AmendOrder) -> None:
        need(order.partner is None and order not in self.triggered)
        need(not c.size or order.size > 0)
        need(not c.price or order.is_limit)
        need(not c.stop_price or order.place is Place.WAITING)
        price, stop_price, size = c.price or order.price, c.stop_price or order.stop_price, c.size or order.size
        left = c.size - order.filled if c.size else order.left
        moves = (price, stop_price) != (order.price, order.stop_price)
        if not moves and left == order.left and size == order.size:
            return
        if not moves and left <= order.left:
            if left > 0:
                self.check_size(order.product, size)
                order.size, order.left, order.shown = size, left, min(order.shown, left)
            else:
                self.leave(order, DoneReason.CANCELLED)
            return
        stops = order.place is Place.WAITING
        new = msgspec.structs.replace(order.terms, price=price, size=size)
        changed = Order(order.owner, order.product, new, price, size, order.stop, stop_price, order.rates, order.created)
        changed.left, changed.filled, changed.credit, changed.money = max(left, 0), order.filled, order.credit, order.money
        if not stops:
            changed.stop, changed.stop_price = StopType.NONE, 0
        need(not price or (price > 0 and price % order.product.tick == 0))
        need(stop_price >= 0 and stop_price % order.product.tick == 0)
        if size:
            self.check_size(order.product, size)
            need(not order.display or size <= 100 * order.display)
        self.admit(changed, (order,), amended=True)
        if left <= 0 and size:
            self.leave(order, DoneReason.CANCELLED)
            return
        order.price, order.stop_price, order.size, order.left = price, stop_price, size, left
        if stops:
            return
        order.stop, order.stop_price = StopType.NONE, 0
        if order.product.status is ProductStatus.AUCTION:
            self.arrive(order, Place.COLLECTED)
        else:
            self.enter(order)
