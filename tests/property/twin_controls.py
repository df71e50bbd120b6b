"""The operator's controls in the engine's slow twin (`twin`): switches, limits of products, risk limits. It sums over
all orders and all trades that were ever made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

import msgspec

from statemachine.commands import (
    PlaceOrder,
    PutFeeOverride,
    PutFeeTiers,
    PutFirm,
    PutMember,
    PutProductLimits,
    PutRiskLimits,
    SetSwitches,
)
from statemachine.types import (
    ChangeReason,
    CollarAction,
    DoneReason,
    OrderType,
    ProductStatus,
    Reason,
    Scope,
    Side,
    StatusCause,
    StopType,
    Switch,
    TimeInForce,
)
from tests.property.twin_fees import TwinFees
from tests.property.twin_trading import TRADING, TwinOrder

SECOND = 10**9


@dataclass
class TwinControls(TwinFees):
    """The operator's controls."""

    firms: list[str] = field(default_factory=list)
    firm: dict[str, str] = field(default_factory=dict)
    switches: dict[tuple[Scope, str], int] = field(default_factory=dict)
    interrupted: dict[str, tuple[ProductStatus, bool, int, int]] = field(default_factory=dict)
    """Status to go on with, halted (or else an auction is called), until when, how often extended."""
    limit_states: dict[str, tuple[Side, Fraction, Fraction]] = field(default_factory=dict)
    """Products with orders that rest at the collar: of which side, and from where to where the collar stays."""
    entering: TwinOrder | None = None
    """The order that meets the book, where it may have to rest at the collar."""
    risk: dict[tuple[Scope, str, str], PutRiskLimits] = field(default_factory=dict)
    accepted: list[tuple[str, int]] = field(default_factory=list)
    """Account and second of each order that was accepted while a rate was limited."""
    volumes: list[tuple[tuple[Scope, str, str], int, int]] = field(default_factory=list)
    """Whose limit, on which day, how much was traded while it was set."""
    until: dict[str, int] = field(default_factory=dict)
    """The earliest time at which a product's status changes automatically, as it was last announced."""
    draw: Callable[[str, str, int, int], int] | None = None
    """Says when a call ends by chance: of what, of which product, the earliest end, and how much later it may be."""

    # -- commands
    # ----------------------------------------------------------------------------------------------------------------

    def control(self, command: object) -> object:
        """Return a `Reason`, or "ok"; None for another command."""
        match command:
            case PutFirm():
                self.firms.append(command.firm_id)
                return "ok"
            case PutMember():
                return self.put_member(command)
            case SetSwitches():
                return self.switch_fault(command) or self.set_switches(command)
            case PutProductLimits():
                return self.put_limits(command)
            case PutRiskLimits():
                return self.risk_fault(command) or self.put_risk(command)
            case PutFeeTiers():
                return self.put_tiers(command)
            case PutFeeOverride():
                return self.put_override(command)
        return None

    def put_member(self, command: PutMember) -> object:
        if command.firm_id and command.firm_id not in self.firms:
            return Reason.UNKNOWN_FIRM
        if self.firm.get(command.member_id, "") != command.firm_id:
            self.firm[command.member_id] = command.firm_id
            if command.firm_id and self.switches.get((Scope.FIRM, command.firm_id), 0) & Switch.KILL:
                self.kill(Scope.FIRM, command.firm_id)
        return "ok"

    def switch_fault(self, command: SetSwitches) -> Reason | None:
        scope, name = command.scope, command.name
        if not 0 <= command.switches <= 7:
            return Reason.INVALID_SWITCHES
        if scope is Scope.GROUP or (scope is Scope.VENUE and name):
            return Reason.INVALID_SCOPE
        known = {Scope.FIRM: self.firms, Scope.ACCOUNT: self.accounts, Scope.PRODUCT: self.products}
        unknown = {Scope.FIRM: Reason.UNKNOWN_FIRM, Scope.ACCOUNT: Reason.UNKNOWN_ACCOUNT, Scope.PRODUCT: Reason.UNKNOWN_PRODUCT}
        if scope in known and name not in known[scope]:
            return unknown[scope]
        return None

    def set_switches(self, command: SetSwitches) -> object:
        scope, name = command.scope, command.name
        if self.switches.get((scope, name), 0) == command.switches:
            return "ok"
        self.switches[scope, name] = command.switches
        for product in sorted(self.products):
            if scope is Scope.VENUE or (scope is Scope.PRODUCT and product == name):
                self.sequences[product] += 1
                event_fields = (scope, command.switches, command.note)
                self.facts.append(("TradingSwitched", product, self.sequences[product], *event_fields))
        if command.switches & Switch.KILL:
            self.kill(scope, name)
        return "ok"

    def put_limits(self, command: PutProductLimits) -> object:
        if command.product_id not in self.products:
            return Reason.UNKNOWN_PRODUCT
        sets = (command.dynamic_ppm, command.static_ppm, command.order_size_max, command.order_notional_max, command.distance_ppm)
        if any(sets):
            self.limits[command.product_id] = command
            if command.static_price:
                self.static[command.product_id] = command.static_price
        else:
            self.limits.pop(command.product_id, None)
            self.static.pop(command.product_id, None)
        return "ok"

    def risk_fault(self, command: PutRiskLimits) -> Reason | None:
        if command.scope not in (Scope.ACCOUNT, Scope.FIRM):
            return Reason.INVALID_SCOPE
        if command.name not in (self.accounts if command.scope is Scope.ACCOUNT else self.firms):
            return Reason.UNKNOWN_ACCOUNT if command.scope is Scope.ACCOUNT else Reason.UNKNOWN_FIRM
        if command.currency and command.currency not in self.currencies:
            return Reason.UNKNOWN_CURRENCY
        counts, money = (command.orders_max, command.rate_max), (command.open_max, command.volume_max, command.position_max)
        if min(*counts, *money) < 0 or any(counts if command.currency else money):
            return Reason.INVALID_LIMITS
        return None

    def put_risk(self, command: PutRiskLimits) -> object:
        key = (command.scope, command.name, command.currency)
        if any((command.orders_max, command.rate_max, command.open_max, command.volume_max, command.position_max)):
            self.risk[key] = command
        else:
            self.risk.pop(key, None)
            self.volumes = [entry for entry in self.volumes if entry[0] != key]
        return "ok"

    # -- switches
    # ----------------------------------------------------------------------------------------------------------------

    def scopes(self, account: str, product: str) -> list[tuple[Scope, str]]:
        return [(Scope.VENUE, ""), (Scope.PRODUCT, product), (Scope.FIRM, self.firm.get(account, "")), (Scope.ACCOUNT, account)]

    def switched_off(self, account: str, product: str, side: Side) -> Reason | None:
        found = [self.switches.get(key, 0) for key in self.scopes(account, product)]
        if any(switches & Switch.KILL for switches in found):
            return Reason.KILL_SWITCH
        off = Switch.BUY_OFF if side is Side.BUY else Switch.SELL_OFF
        return Reason.TRADING_OFF if any(switches & off for switches in found) else None

    def kill(self, scope: Scope, name: str) -> None:
        """Cancel all orders: an account's from the oldest on, a product's by their places."""
        if scope in (Scope.ACCOUNT, Scope.FIRM):
            members = [name] if scope is Scope.ACCOUNT else sorted(a for a, firm in self.firm.items() if firm == name)
            going = [order for account in members for order in self.known() if order.owner == account]
        else:
            going = [order for product in [name] if name for order in self.by_place(product)]
            if scope is Scope.VENUE:
                going = [order for product in sorted(self.products) for order in self.by_place(product)]
        for order in going:
            self.leave(order, DoneReason.KILLED)

    def by_place(self, product: str) -> list[TwinOrder]:
        """Return book and auction by price, buys first; then stop orders: losses from the highest price, entries from
        the lowest.
        """
        found: list[TwinOrder] = []
        for place in (self.resting, self.collected):
            for side in Side:
                orders = [o for o in place if o.product.product_id == product and o.command.side is side]
                found += sorted(orders, key=lambda o: -o.command.price if o.buys else o.command.price)
        stops = [order for order in self.waiting if order.product.product_id == product and not order.triggered]
        for stop in (StopType.LOSS, StopType.ENTRY):
            sign = -1 if stop is StopType.LOSS else 1
            of_kind = [order for order in stops if order.command.stop is stop]
            found += sorted(of_kind, key=lambda o, sign=sign: (sign * o.command.stop_price, o.order_id))  # type: ignore[misc]
        return found + [order for order in self.queues.get(product, []) if order.open]

    # -- statuses
    # ----------------------------------------------------------------------------------------------------------------

    def say_status(self, name: str, opened: tuple[int, int], cause: StatusCause, until: int) -> None:
        """Emit the product's status."""
        self.sequences[name] += 1
        self.until[name] = until
        self.facts.append(("StatusChanged", name, self.sequences[name], self.products[name].status, *opened, cause, until))

    def say_auction(self, name: str, *, extended: bool = False) -> None:
        """Emit what the auction would do now."""
        self.sequences[name] += 1
        event_fields = (*self.auction(name), self.until.get(name, 0), extended)
        self.facts.append(("AuctionIndicated", name, self.sequences[name], *event_fields))

    def by_chance(self, what: str, name: str, earliest: int, most: int) -> int:
        """Return the random end of a call."""
        return self.draw(what, name, earliest, most) if most and self.draw is not None else earliest

    def today(self) -> int:
        """Return the venue's date."""
        return self.now // (86_400 * SECOND)

    # -- limits
    # ------------------------------------------------------------------------------------------------------------------

    def controls_reject(self, c: PlaceOrder, amended: TwinOrder | None = None) -> Reason | None:
        """Return the reason for which the controls reject an order, or None. `amended` is the open order that becomes it."""
        off = self.switched_off(c.account_id, c.product_id, c.side)
        if off is not None:
            return off
        limit = c.order_type is OrderType.LIMIT
        price = c.price if limit else c.stop_price
        last = self.last.get(c.product_id, 0)
        limits: PutProductLimits | None = self.limits.get(c.product_id)
        if limits is not None:
            if limits.order_size_max and c.size > limits.order_size_max:
                return Reason.ORDER_LIMIT
            if limits.order_notional_max and self.about(c, price or last) > limits.order_notional_max:
                return Reason.ORDER_LIMIT
            if limits.distance_ppm and price and last and abs(price - last) * 1_000_000 // last > limits.distance_ppm:
                return Reason.ORDER_LIMIT
            auction = self.products[c.product_id].status is ProductStatus.AUCTION
            if limits.action is CollarAction.REJECT and limit and c.stop is StopType.NONE and not auction:
                low, high = self.band(c.product_id)
                if c.price > high if c.side is Side.BUY else 0 < c.price < low:
                    return Reason.PRICE_COLLAR
        return self.risk_rejects(c, amended)

    def about(self, c: PlaceOrder, price: int) -> int:
        base = self.products[c.product_id].base
        return c.funds or c.size * price // 10 ** self.currencies[base]

    def band(self, product: str, times: int = 1) -> tuple[Fraction, Fraction]:
        """Return the prices between which it may trade, exactly."""
        limits = self.limits[product]
        low, high = Fraction(0), Fraction(2**63 - 1)
        for price, ppm in ((self.last.get(product, 0), limits.dynamic_ppm), (self.static.get(product, 0), limits.static_ppm)):
            if price and ppm:
                low = max(low, price * (1 - Fraction(ppm * times, 1_000_000)))
                high = min(high, price * (1 + Fraction(ppm * times, 1_000_000)))
        return low, high

    def risk_rejects(self, c: PlaceOrder, amended: TwinOrder | None) -> Reason | None:
        product = self.products[c.product_id]
        base_unit = 10 ** self.currencies[product.base]
        price = c.price or c.stop_price or self.last.get(c.product_id, 0)
        size = c.size - (amended.filled if amended and c.size else 0)
        notional = c.funds or size * price // base_unit
        size = size or (c.funds * base_unit // price if price else 0)
        for scope, name in ((Scope.ACCOUNT, c.account_id), (Scope.FIRM, self.firm.get(c.account_id, ""))):
            members = [name] if scope is Scope.ACCOUNT else [account for account, firm in self.firm.items() if firm == name]
            opened = [order for order in self.known() if order.owner in members and order is not amended]
            if name and self.is_full((scope, name, ""), members, amended):
                return Reason.RISK_LIMIT
            for currency in (product.quote, product.base):
                limit = self.risk.get((scope, name, currency)) if name else None
                if limit is None:
                    continue
                pays = currency == (product.quote if c.side is Side.BUY else product.base)
                held = sum(self.held(account, currency) for account in members) - (self.hold(amended) if amended else 0)
                if pays and limit.open_max and held + (notional if c.side is Side.BUY else size) > limit.open_max:
                    return Reason.RISK_LIMIT
                key, day = (scope, name, currency), self.today()
                traded = sum(value for whose, when, value in self.volumes if whose == key and when == day)
                if limit.volume_max and currency == product.quote and traded + notional > limit.volume_max:
                    return Reason.RISK_LIMIT
                if limit.position_max and currency == product.base and c.side is Side.BUY:
                    owned = sum(self.totals().get((account, currency), 0) for account in members)
                    buys = [order for order in opened if order.buys and order.product.base == currency]
                    if owned + self.would_buy_in_all(buys, size) > limit.position_max:
                        return Reason.RISK_LIMIT
        return None

    def would_buy_in_all(self, buys: list[TwinOrder], size: int) -> int:
        """Return what the orders and a new one of this size would buy. Only one order of a pair trades: the larger counts."""
        groups: dict[int, list[int]] = {0: [size]}
        for order in buys:
            if order.partner is None:
                groups[order.order_id] = [self.would_buy(order)]
            elif order.partner in buys:  # else it leaves together with the order that is replaced
                groups.setdefault(min(order.order_id, order.partner.order_id), []).append(self.would_buy(order))
        return sum(map(max, groups.values()))

    def is_full(self, key: tuple[Scope, str, str], members: list[str], amended: TwinOrder | None, more: int = 0) -> bool:
        """Return whether no further order may enter, where `more` orders beside it are not counted yet."""
        limit = self.risk.get(key)
        if limit is None:
            return False
        opened = sum(order.owner in members and order is not amended for order in self.known()) + more
        now = sum(owner in members and second == self.now // SECOND for owner, second in self.accepted) + more
        return bool(
            (limit.orders_max and not amended and opened >= limit.orders_max) or (limit.rate_max and now >= limit.rate_max)
        )

    def pair_is_full(self, account: str) -> bool:
        """Return whether the second order of a pair is one too many."""
        firm = self.firm.get(account, "")
        of_firm = [each for each, its_firm in self.firm.items() if firm and its_firm == firm]
        return self.is_full((Scope.ACCOUNT, account, ""), [account], None, 1) or (
            bool(firm) and self.is_full((Scope.FIRM, firm, ""), of_firm, None, 1)
        )

    def would_buy(self, order: TwinOrder) -> int:
        """Return what an open buy would buy; one by funds at its stop price, or at that of the last trade."""
        c = order.command
        price = c.stop_price or self.last.get(c.product_id, 0)
        if c.size or not price:
            return order.left
        unit: int = 10 ** self.currencies[order.product.base]
        return c.funds * unit // price

    def fill(self, taker: TwinOrder, maker: TwinOrder, size: int, price: int, auction: bool = False) -> None:
        super().fill(taker, maker, size, price, auction)
        quote = taker.product.quote
        worth = self.worth(taker.product, price, size)
        for order in (maker, taker):
            for key in ((Scope.ACCOUNT, order.owner, quote), (Scope.FIRM, self.firm.get(order.owner, ""), quote)):
                if key in self.risk and self.risk[key].volume_max:
                    self.volumes.append((key, self.today(), worth))

    def meets_own(self, c: PlaceOrder) -> bool:
        """Return whether it would trade with an order of its own account in the auction."""
        others = [order for order in self.taking_part(c.product_id) if order.owner == c.account_id]
        if c.side is Side.BUY:
            return any(not order.buys and order.command.price <= c.price for order in others)
        return any(order.buys and order.command.price >= c.price for order in others)

    # -- collars
    # -----------------------------------------------------------------------------------------------------------------

    def go_on(self, order: TwinOrder) -> None:
        """Continue as without controls, up to the collar."""
        name = order.product.product_id
        if name not in self.limits or self.opening or self.products[name].status is ProductStatus.AUCTION:
            super().go_on(order)
            return
        state = self.limit_states.get(name)
        self.collar, self.entering = (state[1:] if state else self.band(name)), order
        try:
            super().go_on(order)
        finally:
            self.collar = self.entering = None

    def collared(self, order: TwinOrder) -> None:
        """Handle an order whose next trade would be outside the collar."""
        c = order.command
        limits = self.limits[c.product_id]
        best = self.makers(order)[0].command.price
        assert self.collar is not None
        if limits.limit_ns and not (best < self.collar[0] if order.buys else best > self.collar[1]):
            lasts = c.order_type is OrderType.LIMIT and c.time_in_force in (TimeInForce.GTC, TimeInForce.GTT)
            if lasts:
                self.rest(order)
            else:
                self.leave(order, DoneReason.COLLARED)
            return
        interrupts = limits.action is not CollarAction.REJECT and c.time_in_force is not TimeInForce.FOK
        lasts = c.order_type is OrderType.LIMIT and c.time_in_force in (TimeInForce.GTC, TimeInForce.GTT)
        if interrupts and lasts and not self.meets_own(c):
            order.command = msgspec.structs.replace(c, stop=StopType.NONE, stop_price=0)
            self.collected.append(order)
        else:
            self.leave(order, DoneReason.COLLARED)
        if interrupts:
            self.interrupt(c.product_id)

    def interrupt(self, name: str) -> None:
        """Begin the halt or the call."""
        self.limit_states.pop(name, None)
        product, limits = self.products[name], self.limits[name]
        if limits.action is CollarAction.HALT:
            self.interrupted[name] = (product.status, True, self.now + limits.halt_ns, 0)
            self.restate(name, ProductStatus.CANCEL_ONLY, self.now + limits.halt_ns)
        else:
            self.call(name, limits, product.status)

    def call(self, name: str, limits: PutProductLimits, resume: ProductStatus) -> None:
        """Begin the call of the auction."""
        until = self.now + limits.call_ns
        ends = self.by_chance("interruption", name, until, limits.random_ns)
        self.interrupted[name] = (resume, False, ends, 0)
        self.restate(name, ProductStatus.AUCTION, until)

    # -- limit states
    # --------------------------------------------------------------------------------------------------------------

    def at_collar(self, name: str, side: Side, collar: tuple[Fraction, Fraction]) -> int:
        """Return the multiple of the tick that is nearest to the collar, inside."""
        tick = self.products[name].tick
        return floor(collar[1] / tick) * tick if side is Side.BUY else ceil(collar[0] / tick) * tick

    def rest(self, order: TwinOrder) -> None:
        """Let an order whose price is outside the collar rest at the collar."""
        c, name = order.command, order.product.product_id
        limits = self.limits.get(name)
        if order is not self.entering or self.collar is None or limits is None or not limits.limit_ns:
            super().rest(order)
            return
        price = self.at_collar(name, c.side, self.collar)
        if c.price <= price if order.buys else c.price >= price:
            super().rest(order)
            return
        if order.partner is not None:
            self.leave(order, DoneReason.COLLARED)
            return
        order.command = msgspec.structs.replace(c, price=price)
        size = self.public(order, order.left)
        event_fields = (c.side, c.price, size, size, False, False, False, ChangeReason.REPRICED, price, 0, False)
        self.tell("OrderChanged", order, order.order_id, order.owner, *event_fields)
        super().rest(order)
        before = self.limit_states.get(name)
        if before is None or before[0] is not c.side:
            self.limit_states[name] = (c.side, *self.collar)
            until = self.now + limits.limit_ns
            self.interrupted[name] = (self.products[name].status, False, until, 0)
            self.note(name, StatusCause.LIMIT_STATE, until)

    def leave_limit_states(self, only: str = "") -> None:
        """End limit states in which no order rests at the collar any more, or whose limits were removed."""
        states = {name: state for name, state in self.limit_states.items() if only in ("", name)}
        for name, (side, low, high) in sorted(states.items()):
            limits, price = self.limits.get(name), self.at_collar(name, side, (low, high))
            mine = [o.command.price for o in self.resting if o.product.product_id == name and o.command.side is side]
            there = any(each >= price if side is Side.BUY else each <= price for each in mine)
            if not there or limits is None or not limits.limit_ns:
                del self.limit_states[name], self.interrupted[name]
                self.note(name, StatusCause.COLLAR, 0)

    def note(self, name: str, cause: StatusCause, until: int) -> None:
        """Emit another cause of the present status."""
        self.say_status(name, (0, 0), cause, until)

    def restate(self, name: str, status: ProductStatus, until: int, opened: tuple[int, int] = (0, 0)) -> None:
        """Let the collar change the product's status."""
        self.products[name] = msgspec.structs.replace(self.products[name], status=status)
        self.say_status(name, opened, StatusCause.COLLAR, until)

    def end_interruption(self, name: str) -> None:
        """End a halt or a call whose time is over."""
        if name in self.limit_states:
            self.leave_limit_states(name)
            if name in self.limit_states:
                self.interrupt(name)
            return
        resume, halted, _, extensions = self.interrupted[name]
        limits = self.limits.get(name)
        if limits is not None and halted and limits.call_ns:
            self.call(name, limits, resume)
            return
        price, size, _ = self.auction(name)
        if limits is not None and not halted and extensions < limits.extensions_max and size:
            low, high = self.band(name, 2)
            if not low <= price <= high:
                self.until[name] = self.now + limits.call_ns
                ends = self.by_chance("interruption", name, self.until[name], limits.random_ns)
                self.interrupted[name] = (resume, False, ends, extensions + 1)
                self.say_auction(name, extended=True)
                return
        del self.interrupted[name]
        opened = self.open_auction(name) if resume in TRADING else (0, 0)
        self.restate(name, resume, 0, opened)
        self.trigger(name)
