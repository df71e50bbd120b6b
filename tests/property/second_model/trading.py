"""Money, fees, the book, and the trades of one order in continuous trading."""

from __future__ import annotations

from statemachine.commands import PutFeeOverride
from statemachine.types import DoneReason, Side, TimeInForce
from statemachine.types import SelfTradePrevention as Stp
from tests.property.second_model.orders import DAY, ENDLESS, PPM, Kind, Order, Place, Product

Trade = tuple[str, int, int, int, int, int, int, int, bool]
"""Product, number, orders of maker and taker, price, size, fees of maker and taker, and whether an auction made it."""


class Trading:
    """What accounts own, which orders are open, and how they trade."""

    def __init__(self) -> None:
        self.now = 0
        self.scales: dict[str, int] = {}
        self.products: dict[str, Product] = {}
        self.owned: dict[tuple[str, str], int] = {}
        self.earned: dict[str, int] = {}
        self.open: list[Order] = []
        self.done: list[Order] = []
        """The orders that were done since the caller emptied the list."""
        self.known: dict[tuple[str, str], list[Order]] = {}
        """All orders by account and `client_oid`."""
        self.firms: dict[str, str] = {}
        """The firms of accounts."""
        self.sides: dict[tuple[str, int], tuple[str, ...]] = {}
        """Buyer and seller of each trade."""
        self.last_id = 0
        self.arrivals = 0
        self.trades: list[Trade] = []
        self.tiers: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        self.overrides: dict[tuple[str, str], PutFeeOverride] = {}
        self.volumes: dict[tuple[str, str], dict[int, int]] = {}
        self.ended: list[Order] = []
        """Orders of pairs that traded or left."""
        self.exiting: list[Order] = []
        """Orders with exits that traded or left."""

    # -- money

    def need(self, order: Order) -> int:
        """Return what an order must hold on its own."""
        if not order.buys:
            return order.left
        if not order.is_limit:
            return order.money or 0
        worth = order.product.worth(order.price, order.left)
        return worth + max(0, -((order.credit - worth * max(order.rates)) // PPM))

    def hold(self, order: Order) -> int:
        """Return what an order holds. The stop order of a pair holds what it needs beyond the limit order."""
        if order.place is None:
            return 0
        if order.partner is not None and order.place is Place.WAITING:
            return max(0, self.need(order) - self.need(order.partner))
        return self.need(order)

    def held(self, account: str, currency: str, without: tuple[Order, ...] = ()) -> int:
        open_orders = (order for order in self.open if order.owner == account and order.currency == currency)
        return sum(self.hold(order) for order in open_orders if order not in without)

    def available(self, account: str, currency: str, without: tuple[Order, ...] = ()) -> int:
        return self.owned.get((account, currency), 0) - self.held(account, currency, without)

    def pay(self, account: str, currency: str, amount: int) -> None:
        self.owned[account, currency] = self.owned.get((account, currency), 0) + amount

    # -- fees

    def rates(self, account: str, product: Product) -> tuple[int, int]:
        """Return the rates of an account's next order in a product."""
        for key in ((account, product.name), (account, "")):
            if key in self.overrides:
                return self.overrides[key].maker_fee_ppm, self.overrides[key].taker_fee_ppm
        for tiers in (self.tiers.get(("", product.name)), self.tiers.get((product.quote, ""))):
            if tiers:
                today, days = self.now // DAY, self.volumes.get((account, product.quote), {})
                volume = sum(worth for day, worth in days.items() if today - 29 <= day)
                return [(maker, taker) for least, maker, taker in tiers if volume >= least][-1]
        return product.rates

    def charge(self, order: Order, worth: int, rate: int, least: int) -> int:
        """Return the fee of a fill. An order has paid the exact sum, rounded up once; what is above it is its credit."""
        exact = worth * rate - order.credit
        fee = -(-exact // PPM)
        order.credit = fee * PPM - exact
        if fee < least:  # the rebate would exceed the taker's fee
            fee, order.credit = least, PPM - 1
        order.fees += fee
        return fee

    def count_volume(self, account: str, currency: str, worth: int) -> None:
        """Count what an account trades for its risk limits."""

    def counts(self, currency: str) -> bool:
        """Return whether volumes in a currency are counted."""
        names = [("", product.name) for product in self.products.values() if product.quote == currency]
        return any(self.tiers.get(key) for key in ((currency, ""), *names))

    # -- the book

    def book(self, product: Product, side: Side) -> list[Order]:
        """Return the resting orders of a side, the best first."""
        rows = [order for order in self.open if order.product is product and order.place is Place.BOOK]
        return sorted((order for order in rows if order.terms.side is side), key=lambda order: order.rank)

    def makers(self, order: Order) -> list[Order]:
        """Return the resting orders that an order may trade with, the best first."""
        side = Side.SELL if order.buys else Side.BUY
        return [maker for maker in self.book(order.product, side) if order.accepts(maker.price)]

    def arrive(self, order: Order, place: Place) -> None:
        """Put an order at the end of the queue of its price."""
        self.arrivals += 1
        order.place, order.arrival = place, self.arrivals
        order.shown = min(order.display or order.left, order.left)

    def leave(self, order: Order, reason: DoneReason) -> None:
        order.place, order.reason, order.done_at = None, reason, self.now
        self.open.remove(order)
        self.done.append(order)
        self.note(order)

    def note(self, order: Order) -> None:
        """Remember that an order traded or left."""
        if order.partner is not None:
            self.ended.append(order)
        if any(order.exits) and order not in self.exiting:
            self.exiting.append(order)

    # -- trading

    def trade(self, maker: Order, taker: Order, price: int, size: int, auction: bool = False) -> None:
        product = maker.product
        worth = product.worth(price, size)
        taker_fee = self.charge(taker, worth, taker.rates[1], -ENDLESS)
        maker_fee = self.charge(maker, worth, maker.rates[0], -max(taker_fee, 0))
        for order, fee in ((maker, maker_fee), (taker, taker_fee)):
            sign = 1 if order.buys else -1
            self.pay(order.owner, product.base, sign * size)
            self.pay(order.owner, product.quote, -sign * worth - fee)
            order.filled += size
            order.value += worth
            order.left -= size
            if order.money is not None:
                order.money -= worth + (fee if order.buys else 0)
            self.note(order)
            self.count_volume(order.owner, product.quote, worth)
            if self.counts(product.quote):
                days = self.volumes.setdefault((order.owner, product.quote), {})
                days[self.now // DAY] = days.get(self.now // DAY, 0) + worth
        self.earned[product.quote] = self.earned.get(product.quote, 0) + maker_fee + taker_fee
        product.trades += 1
        self.sides[product.name, product.trades] = tuple(
            order.owner for order in sorted((maker, taker), key=lambda each: not each.buys)
        )
        product.last_price = price
        product.prices.append(price)
        ids = maker.order_id, taker.order_id
        self.trades.append((product.name, product.trades, *ids, price, size, maker_fee, taker_fee, auction))

    def room(self, order: Order, price: int) -> int:
        """Return the size that an order may still trade at a price."""
        if order.money is None:
            return order.left
        cost = order.product.worth(price, order.product.lot)
        lots = min(order.left // order.product.lot, order.money // cost + 1)
        while lots and cost * lots + self.cost_of(order, cost * lots) > order.money:
            lots -= 1
        return lots * order.product.lot

    def cost_of(self, order: Order, worth: int) -> int:
        """Return the fee that a taker would pay out of its money."""
        return -((order.credit - worth * order.rates[1]) // PPM) if order.buys else 0

    def collar(self, product: Product) -> tuple[int, int]:
        """Return the lowest and the highest price at which an order that begins now may trade."""
        if product.limits is None:
            return 0, ENDLESS
        if product.interruption is not None and product.interruption.kind is Kind.LIMIT_STATE:
            return product.interruption.collar
        return self.band(product, 1)

    def band(self, product: Product, times: int) -> tuple[int, int]:
        low, high = 0, ENDLESS
        assert product.limits is not None
        for price, ppm in ((product.last_price, product.limits.dynamic_ppm), (product.static_price, product.limits.static_ppm)):
            if price and ppm:
                low = max(low, -(-price * (PPM - times * ppm) // PPM))
                high = min(high, price * (PPM + times * ppm) // PPM)
        return low, high

    def match(self, order: Order) -> DoneReason:
        """Trade with the book. Returns the reason why the rest leaves, NONE if it may rest, or COLLARED."""
        low, high = order.collar = self.collar(order.product)
        if order.terms.time_in_force is TimeInForce.FOK and not self.can_fill(order):
            makers = self.makers(order)
            return DoneReason.COLLARED if makers and not low <= makers[0].price <= high else DoneReason.CANCELLED
        while order.left or order.by_funds:
            if order.by_funds and order.filled and order.money == 0:
                break
            makers = self.makers(order)
            if not makers:
                break
            maker = makers[0]
            if not low <= maker.price <= high:
                return DoneReason.COLLARED
            room = self.room(order, maker.price)
            if not room:
                spent = order.by_funds and order.filled and not self.out_of_coins(order, maker.price)
                return DoneReason.FILLED if spent else DoneReason.CANCELLED
            if maker.owner == order.owner:
                if not self.prevent(order, maker, room):
                    return DoneReason.CANCELLED
                continue
            size = min(room, maker.shown)
            maker.shown -= size
            self.trade(maker, order, maker.price, size)
            if not maker.left:
                self.leave(maker, DoneReason.FILLED)
            elif not maker.shown:
                self.arrive(maker, Place.BOOK)
        if order.by_funds:
            return DoneReason.FILLED if order.money == 0 and order.filled else DoneReason.CANCELLED
        return DoneReason.FILLED if not order.left else DoneReason.NONE

    def out_of_coins(self, order: Order, price: int) -> bool:
        """Return whether a sell by funds ends because the account has no more coins, and not because it has raised enough."""
        assert order.money is not None
        lots = order.money // order.product.worth(price, order.product.lot)
        return not order.buys and order.left // order.product.lot < lots

    def prevent(self, order: Order, maker: Order, room: int) -> bool:
        """Prevent a trade of an account with itself. Returns whether the order goes on."""
        match order.terms.stp:
            case Stp.CO:
                self.leave(maker, DoneReason.CANCELLED)
                return True
            case Stp.CB:
                self.leave(maker, DoneReason.CANCELLED)
                return False
            case Stp.CN:
                return False
        size = min(room if order.by_funds else order.left, maker.left)
        both_end = size == (room if order.by_funds else order.left)
        if order.by_funds:
            assert order.money is not None
            worth = order.product.worth(maker.price, size)
            order.money -= worth + self.cost_of(order, worth)
        elif not both_end:
            order.left -= size
        maker.left -= size
        maker.shown = min(maker.shown, maker.left)
        self.note(maker)
        self.note(order)
        if not maker.left:
            self.leave(maker, DoneReason.CANCELLED)
        return not both_end

    def can_fill(self, order: Order) -> bool:
        """Return whether a fill-or-kill order can trade as a whole, slice by slice of what the book hides."""
        low, high = order.collar
        wanted = order.left
        line = [(maker, maker.shown, maker.left - maker.shown) for maker in self.makers(order)]
        while line and wanted > 0:
            maker, shown, hidden = line.pop(0)
            if not low <= maker.price <= high:
                return False
            if maker.owner == order.owner:
                if order.terms.stp is Stp.CO:
                    continue
                return False
            wanted -= shown
            if hidden:
                behind = next((at for at, row in enumerate(line) if row[0].price != maker.price), len(line))
                following = min(maker.display, hidden)
                line.insert(behind, (maker, following, hidden - following))
        return wanted <= 0

    def would_cross_own(self, order: Order, without: tuple[Order, ...] = ()) -> bool:
        """Return whether an order in an auction would trade with one of its own account."""
        own = [other for other in self.open if other.owner == order.owner and other.product is order.product]
        sides = [other for other in own if other.buys is not order.buys and other.place in (Place.BOOK, Place.COLLECTED)]
        return any(order.accepts(other.price) for other in sides if other not in without)
