"""The trading of the engine's slow twin (`twin`): what accounts hold, which orders trade at which price, and the
events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any

from statemachine.commands import (
    AnyCommand,
    PlaceOrder,
    PutProduct,
)
from statemachine.types import (
    ChangeReason,
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

TRADING = (ProductStatus.ONLINE, ProductStatus.POST_ONLY, ProductStatus.LIMIT_ONLY)

_SELF_TRADE = (ChangeReason.SELF_TRADE, 0, 0, False)

Fact = tuple[object, ...]
"""An event as a plain tuple: its name and all of its fields but the time."""


@dataclass
class TwinOrder:
    """An order. `left` is the size that can still trade. `money` is what a market order may still spend, raise, or
    (`coins`) sell.
    """

    order_id: int
    command: PlaceOrder
    product: PutProduct
    left: int
    money: int = 0
    coins: int = 0
    filled: int = 0
    value: int = 0
    fees: int = 0
    exact: Fraction = Fraction(0)
    """What its fills cost in fees by their rates, not rounded."""
    rates: tuple[int, int] | None = None
    """What it pays as a maker and as a taker, in parts per million; None before it is accepted."""
    slice: int = 0
    """What an iceberg on the book shows; 0: all."""
    partner: TwinOrder | None = None
    open: bool = True
    exited: bool = False
    """Did its exits enter, or was there nothing for them to do?"""
    triggered: bool = False
    expires: int = 0
    opened: int = 0
    reason: DoneReason = DoneReason.NONE

    @property
    def owner(self) -> str:
        return self.command.account_id

    @property
    def buys(self) -> bool:
        return self.command.side is Side.BUY

    @property
    def display(self) -> int:
        options = self.command.options
        return options.display_size if options is not None else 0

    @property
    def shown(self) -> int:
        """Return the size that the book shows."""
        return self.slice or self.left

    @property
    def by_funds(self) -> bool:
        return self.command.order_type is OrderType.MARKET and self.command.size == 0


@dataclass
class TwinTrading:
    """The exchange's state, and the effects of orders on each other."""

    currencies: dict[str, int] = field(default_factory=dict)
    products: dict[str, PutProduct] = field(default_factory=dict)
    accounts: list[str] = field(default_factory=list)
    postings: list[tuple[str, str, int]] = field(default_factory=list)
    """(account, currency, amount): sums up to what each has, on hold or not. Fees go to the account "fees"."""
    resting: list[TwinOrder] = field(default_factory=list)
    waiting: list[TwinOrder] = field(default_factory=list)
    """Stop orders that wait, or are triggered and about to enter."""
    collected: list[TwinOrder] = field(default_factory=list)
    """Orders of auctions, in the order of arrival."""
    last: dict[str, int] = field(default_factory=dict)
    """The price of the product's last trade."""
    noted: list[TwinOrder] = field(default_factory=list)
    prices: list[int] = field(default_factory=list)
    """Of the trades for which no stop order was triggered yet, all of one product."""
    limits: dict[str, Any] = field(default_factory=dict)
    """Of products that have limits; see `twin_controls`."""
    static: dict[str, int] = field(default_factory=dict)
    """The price of the last auction of such a product."""
    now: int = 0
    queues: dict[str, list[TwinOrder]] = field(default_factory=dict)
    """Triggered stop orders of each product, in the order in which they enter."""
    collar: tuple[Fraction, Fraction] | None = None
    """Between which prices the order under way may trade; None: at any."""
    opening: bool = False
    """Does an auction open?"""
    orders: list[TwinOrder] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    sequences: dict[str, int] = field(default_factory=dict)
    trades: dict[str, int] = field(default_factory=dict)
    seen: dict[tuple[str, str, str], tuple[AnyCommand, object]] = field(default_factory=dict)

    # -- money
    # -------------------------------------------------------------------------------------------------------------------

    def post(self, account: str, currency: str, amount: int) -> None:
        self.postings.append((account, currency, amount))
        if len(self.postings) > 400:
            self.postings = [(*key, total) for key, total in self.totals().items()]

    def totals(self) -> dict[tuple[str, str], int]:
        sums: dict[tuple[str, str], int] = {}
        for account, currency, amount in self.postings:
            sums[account, currency] = sums.get((account, currency), 0) + amount
        return sums

    def held(self, account: str, currency: str) -> int:
        return sum(self.hold(order) for order in self.known() if order.owner == account and self.pays_in(order) == currency)

    def free(self, account: str, currency: str) -> int:
        return self.totals().get((account, currency), 0) - self.held(account, currency)

    def pays_in(self, order: TwinOrder) -> str:
        return order.product.quote if order.buys else order.product.base

    def worth(self, product: PutProduct, price: int, size: int) -> int:
        exact = Fraction(price) * Fraction(size, 10 ** self.currencies[product.base])
        assert exact.denominator == 1, "a notional that is not whole"
        return exact.numerator

    def fee(self, order: TwinOrder, notional: int, ppm: int) -> int:
        """Return the fee for this further notional: the exact sum of fees is rounded up once."""
        return ceil(order.exact + Fraction(notional) * Fraction(ppm, 1_000_000)) - order.fees

    def hold(self, order: TwinOrder) -> int:
        """Return the hold of an open order."""
        alone = self.hold_alone(order)
        if order.partner is not None and order.command.stop is not StopType.NONE:
            return max(0, alone - self.hold_alone(order.partner))
        return alone

    def hold_alone(self, order: TwinOrder) -> int:
        if not order.buys:
            return order.left
        if order.command.order_type is OrderType.MARKET:
            return order.command.funds
        worth = self.worth(order.product, order.command.price, order.left)
        return worth + self.fee(order, worth, max(self.rates(order)))

    def rates(self, order: TwinOrder) -> tuple[int, int]:
        """Return the maker's and the taker's rate: see `twin_fees`."""
        raise NotImplementedError

    def known(self) -> list[TwinOrder]:
        """Return all accepted orders that are not done, oldest first."""
        return sorted([*self.resting, *self.waiting, *self.collected], key=lambda order: order.order_id)

    def leave(self, order: TwinOrder, reason: DoneReason) -> None:
        rested = order in self.resting
        if rested:
            self.resting.remove(order)
        if order in self.waiting:
            self.waiting.remove(order)
        if order in self.collected:
            self.collected.remove(order)
        order.open = False
        order.reason = reason
        c = order.command
        left = order.shown if rested else order.left
        self.tell("OrderDone", order, order.order_id, order.owner, c.side, c.order_type, c.price, left, reason, rested)
        self.noted.append(order)

    def settle(self) -> None:
        """Cancel the partners of orders that traded or left."""
        while self.noted:
            self.unlink(self.noted.pop(0))

    def unlink(self, order: TwinOrder) -> None:
        partner, order.partner = order.partner, None
        if partner is not None:
            partner.partner = None
            if partner.open:
                self.leave(partner, DoneReason.LINKED)

    def tell(self, name: str, order: TwinOrder, *rest: object) -> None:
        product = order.product.product_id
        self.sequences[product] += 1
        self.facts.append((name, product, self.sequences[product], *rest))

    def makers(self, taker: TwinOrder) -> list[TwinOrder]:
        """Return all resting orders that the taker may trade with, best first. Python's sort is stable, so earlier
        orders come first.
        """
        found = [o for o in self.resting if o.product.product_id == taker.product.product_id and o.buys != taker.buys]
        if taker.command.order_type is OrderType.LIMIT:
            price = taker.command.price
            found = [o for o in found if (o.command.price <= price if taker.buys else o.command.price >= price)]
        return sorted(found, key=lambda o: o.command.price if taker.buys else -o.command.price)

    def trigger(self, product_id: str) -> None:
        """Let stop orders enter one after the other until none is triggered, or the product no longer trades."""
        queue = self.queues.setdefault(product_id, [])
        queue.extend(self.triggered(product_id))
        while queue and self.products[product_id].status in TRADING:
            order = queue.pop(0)
            if not order.open:
                continue
            if self.switched_off(order.owner, product_id, order.command.side):
                self.leave(order, DoneReason.KILLED)
                continue
            self.waiting.remove(order)
            self.enter(order)
            queue.extend(self.triggered(product_id))

    def switched_off(self, account: str, product: str, side: Side) -> Reason | None:
        """Return the reason for which the operator's switches reject such an order, or None: see `twin_controls`."""
        return None

    def triggered(self, product_id: str) -> list[TwinOrder]:
        prices, self.prices = self.prices, []
        if prices:
            for order in list(self.noted):
                self.unlink(order)
        found = []
        for order in self.known():
            c = order.command
            hit = any(price <= c.stop_price if c.stop is StopType.LOSS else price >= c.stop_price for price in prices)
            if hit and order in self.waiting and not order.triggered and c.product_id == product_id:
                order.triggered = True
                found.append(order)
                self.unlink(order)
        return found

    def enter(self, order: TwinOrder) -> None:
        """Receive the order, and put it into the auction book or continue."""
        c = order.command
        self.tell(
            "OrderReceived",
            order,
            order.order_id,
            order.owner,
            c.client_oid,
            c.side,
            c.order_type,
            c.price,
            self.public(order, c.size),
            c.funds,
        )
        if self.products[c.product_id].status is ProductStatus.AUCTION:
            self.collected.append(order)
        else:
            self.go_on(order)

    def go_on(self, order: TwinOrder) -> None:
        """Let it trade with the book. The rest rests or is cancelled."""
        c = order.command
        killed = c.time_in_force is TimeInForce.FOK and not self.fillable(order)
        if killed and self.stopped(self.makers(order)):
            self.collared(order)
            return
        ended = killed or self.trade_all(order)
        if ended is DoneReason.COLLARED:
            self.collared(order)
            return
        lasts = c.order_type is OrderType.LIMIT and c.time_in_force in (TimeInForce.GTC, TimeInForce.GTT)
        if ended is None and lasts:
            self.rest(order)
        else:
            self.leave(order, ended if isinstance(ended, DoneReason) else DoneReason.CANCELLED)

    def stopped(self, makers: list[TwinOrder]) -> bool:
        """Return whether the next trade is outside the collar."""
        if self.collar is None or not makers:
            return False
        low, high = self.collar
        return not low <= makers[0].command.price <= high

    def collared(self, order: TwinOrder) -> None:
        raise NotImplementedError("there are no collars without controls")

    def public(self, order: TwinOrder, size: int) -> int:
        """Return the part of a size that the public may see."""
        return min(order.display or size, size)

    def rest(self, order: TwinOrder) -> None:
        """Append it to the queue of its price."""
        c = order.command
        order.slice = self.public(order, order.left)
        self.resting.append(order)
        self.tell("OrderOpened", order, order.order_id, order.owner, c.side, c.price, order.slice)
        order.opened = self.sequences[c.product_id]

    def fillable(self, taker: TwinOrder) -> bool:
        """Count slice after slice: the rest behind a slice queues after the other orders of its price."""
        wanted, queue = taker.left, [(maker, maker.shown, maker.left - maker.shown) for maker in self.makers(taker)]
        while queue and wanted > 0:
            maker, shown, behind = queue.pop(0)
            if self.stopped([maker]):
                break
            if maker.owner == taker.owner:
                if taker.command.stp is SelfTradePrevention.CO:
                    continue
                return False
            wanted -= shown
            if behind:
                following = min(maker.display, behind)
                end = sum(1 for other, _, _ in queue if other.command.price == maker.command.price)
                queue.insert(end, (maker, following, behind - following))
        return wanted <= 0

    def trade_all(self, taker: TwinOrder) -> DoneReason | None:
        """Trade as long as possible. None: the book was empty before the order was filled."""
        while True:
            makers = self.makers(taker)
            if not makers:
                return DoneReason.FILLED if taker.by_funds and taker.filled and taker.money == 0 else None
            maker = makers[0]
            if self.stopped(makers):
                return DoneReason.FILLED if taker.by_funds and taker.filled and taker.money == 0 else DoneReason.COLLARED
            can = self.can_take(taker, maker)
            if can == 0:
                return self.when_sated(taker, maker)
            if maker.owner == taker.owner:
                if not self.prevent(taker, maker, can):
                    return DoneReason.CANCELLED
                continue
            offered = maker.shown
            self.fill(taker, maker, min(can, offered), maker.command.price)
            maker.slice = offered - min(can, offered)
            if maker.left == 0:
                self.leave(maker, DoneReason.FILLED)
            elif maker.slice == 0:
                self.resting.remove(maker)
                self.rest(maker)
            if not taker.by_funds and taker.left == 0:
                return DoneReason.FILLED
            if can < offered:
                return self.when_sated(taker, maker)

    def when_sated(self, taker: TwinOrder, maker: TwinOrder) -> DoneReason:
        if not taker.by_funds or not taker.filled:
            return DoneReason.CANCELLED
        if taker.buys:
            return DoneReason.FILLED
        lot = taker.product.lot
        still = self.worth(taker.product, maker.command.price, lot)
        return DoneReason.FILLED if taker.money < still else DoneReason.CANCELLED

    def can_take(self, taker: TwinOrder, maker: TwinOrder) -> int:
        """Count lot by lot. More than one lot beyond the maker's size makes no difference."""
        c, product = taker.command, taker.product
        if c.order_type is OrderType.LIMIT or (c.side is Side.SELL and c.size):
            return taker.left
        size = 0
        while size <= maker.left + product.lot:
            more = size + product.lot
            worth = self.worth(product, maker.command.price, more)
            if taker.buys and worth + self.fee(taker, worth, self.rates(taker)[1]) > taker.money:
                break
            if not taker.buys and (worth > taker.money or more > taker.coins):
                break
            if not taker.by_funds and more > taker.left:
                break
            size = more
        return size

    def fill(self, taker: TwinOrder, maker: TwinOrder, size: int, price: int, auction: bool = False) -> None:
        product = taker.product
        worth = self.worth(product, price, size)
        rates = self.rates(maker)[0], self.rates(taker)[1]
        fees = [self.fee(order, worth, ppm) for order, ppm in zip((maker, taker), rates, strict=True)]
        cut = -fees[0] > fees[1]
        if cut:
            fees[0] = -fees[1]
        for order, ppm, fee in zip((maker, taker), rates, fees, strict=True):
            order.exact += Fraction(worth) * Fraction(ppm, 1_000_000)
            sign = 1 if order.buys else -1
            self.post(order.owner, product.base, sign * size)
            self.post(order.owner, product.quote, -sign * worth - fee)
            self.post("fees", product.quote, fee)
            order.filled += size
            order.value += worth
            order.fees += fee
            if order.command.size:
                order.left -= size
        if cut:  # a whole unit is lost; what is left of one is its credit
            maker.exact = maker.fees - 1 + Fraction(1, 1_000_000)
        taker.coins -= size
        if taker.buys:
            taker.money -= worth + fees[1]
        elif taker.by_funds:
            taker.money -= worth
        self.noted += [maker, taker]
        self.prices.append(price)
        self.last[product.product_id] = price
        self.trades[product.product_id] += 1
        number = self.trades[product.product_id]
        ids = (maker.order_id, taker.order_id, maker.owner, taker.owner)
        self.tell("OrderMatched", taker, number, *ids, maker.command.side, price, size, *fees, auction)

    def prevent(self, taker: TwinOrder, maker: TwinOrder, can: int) -> bool:
        stp = taker.command.stp
        if stp is SelfTradePrevention.CN:
            return False
        if stp is SelfTradePrevention.CO:
            self.leave(maker, DoneReason.CANCELLED)
            return True
        if stp is SelfTradePrevention.CB:
            self.leave(maker, DoneReason.CANCELLED)
            return False
        mine = can if taker.by_funds else taker.left
        if mine < maker.left:
            self.decrement(maker, mine)
            return False
        theirs = maker.left
        self.leave(maker, DoneReason.CANCELLED)
        if mine == theirs:
            return False
        if taker.by_funds:
            worth = self.worth(taker.product, maker.command.price, theirs)
            old = taker.money
            taker.money -= worth + (self.fee(taker, worth, self.rates(taker)[1]) if taker.buys else 0)
            c = taker.command
            self.tell(
                "OrderChanged",
                taker,
                taker.order_id,
                taker.owner,
                c.side,
                c.price,
                old,
                taker.money,
                True,
                False,
                False,
                *_SELF_TRADE,
            )
        else:
            self.decrement(taker, theirs)
        return True

    # -- auctions
    # ----------------------------------------------------------------------------------------------------------------

    def taking_part(self, name: str) -> list[TwinOrder]:
        """Return all orders of an auction, the earliest first."""
        return [order for order in [*self.resting, *self.collected] if order.product.product_id == name]

    def accepting(self, name: str, price: int) -> tuple[list[TwinOrder], list[TwinOrder]]:
        """Return the buys and sells that accept a price, in the order in which they trade."""
        orders = self.taking_part(name)
        bids = [order for order in orders if order.buys and order.command.price >= price]
        asks = [order for order in orders if not order.buys and order.command.price <= price]
        return sorted(bids, key=lambda o: -o.command.price), sorted(asks, key=lambda o: o.command.price)

    def auction(self, name: str) -> tuple[int, int, int]:
        """Return price, size and surplus of an auction, by trying every price."""
        highest = max((order.command.price for order in self.taking_part(name)), default=0)
        tried = {}
        for price in range(self.products[name].tick, highest + 1, self.products[name].tick):
            buys, sells = (sum(order.left for order in orders) for orders in self.accepting(name, price))
            tried[price] = (min(buys, sells), buys - sells)
        most = max((size for size, _ in tried.values()), default=0)
        if most == 0:
            return (0, 0, 0)
        least = min(abs(surplus) for size, surplus in tried.values() if size == most)
        good = [price for price, (size, surplus) in tried.items() if size == most and abs(surplus) == least]
        if all(tried[price][1] > 0 for price in good):
            price = max(good)
        elif all(tried[price][1] < 0 for price in good) or name not in self.last:
            price = min(good)
        else:
            price = min(good, key=lambda price: abs(price - self.last[name]))
        return (price, *tried[price])

    def best(self, name: str, side: Side) -> tuple[int, int]:
        orders = [order for order in self.taking_part(name) if order.command.side is side]
        prices = [order.command.price for order in orders]
        price = (max if side is Side.BUY else min)(prices, default=0)
        return price, sum(order.left for order in orders if order.command.price == price)

    def open_auction(self, name: str) -> tuple[int, int]:
        price, traded = self.auction(name)[0], 0
        while price:
            bids, asks = self.accepting(name, price)
            if not bids or not asks:
                break
            traded += self.meet(name, price, bids[0], asks[0])
        self.opening = True
        for order in [order for order in self.collected if order.product.product_id == name]:
            self.collected.remove(order)
            self.go_on(order)
        self.opening = False
        if traded and name in self.limits:
            self.static[name] = price
        return (price, traded) if traded else (0, 0)

    def meet(self, name: str, price: int, bid: TwinOrder, ask: TwinOrder) -> int:
        maker, taker = sorted((bid, ask), key=self.taking_part(name).index)
        if maker.owner == taker.owner:
            stp = taker.command.stp
            leaving = {
                SelfTradePrevention.CO: [maker],
                SelfTradePrevention.CN: [taker],
                SelfTradePrevention.CB: [maker, taker],
                SelfTradePrevention.DC: [order for order in (maker, taker) if order.left == min(maker.left, taker.left)],
            }[stp]
            by = min(maker.left, taker.left)
            for order in (maker, taker):
                if order in leaving:
                    self.leave(order, DoneReason.CANCELLED)
                elif stp is SelfTradePrevention.DC:
                    self.decrement(order, by)
            return 0
        size, before, rests = min(bid.left, ask.left), maker.shown, maker in self.resting
        self.fill(taker, maker, size, price, auction=True)
        c = maker.command
        if rests:
            maker.slice = min(before, maker.left)
            changed = (before, maker.slice, False, True, True, ChangeReason.AUCTION, 0, 0, False)
            self.tell("OrderChanged", maker, maker.order_id, maker.owner, c.side, c.price, *changed)
        for order in (maker, taker):
            if order.left == 0:
                self.leave(order, DoneReason.FILLED)
        return size

    def decrement(self, order: TwinOrder, by: int) -> None:
        rests = order in self.resting
        old = order.shown if rests else order.left
        order.left -= by
        self.noted.append(order)
        c, new = order.command, order.left
        if rests:
            order.slice = new = min(order.shown, order.left)
        self.tell(
            "OrderChanged",
            order,
            order.order_id,
            order.owner,
            c.side,
            c.price,
            old,
            new,
            False,
            rests,
            False,
            *_SELF_TRADE,
        )

    def status(self, order: TwinOrder) -> OrderStatus:
        if not order.open:
            return OrderStatus.DONE
        return OrderStatus.ACTIVE if order in [*self.waiting, *self.collected] else OrderStatus.OPEN
