"""Risk limits of accounts and firms, and corrections of trades."""

from __future__ import annotations

from dataclasses import dataclass, field

from statemachine.commands import CorrectTrade, PutRiskLimits
from statemachine.types import Scope
from tests.property.second_model.orders import DAY, SECOND, Order, Product, need
from tests.property.second_model.sessions import Sessions

_FIELDS = ("open_max", "volume_max", "position_max", "orders_max", "rate_max")


@dataclass
class Used:
    """What an account or a firm has used up of its limits."""

    day: int = 0
    volume: int = 0
    second: int = 0
    orders: int = 0


@dataclass
class Risk:
    """The limits of an account or a firm, with what is used up of them."""

    limits: PutRiskLimits
    used: Used = field(default_factory=Used)


class Limiting(Sessions):
    """Accounts and firms with risk limits."""

    def __init__(self) -> None:
        super().__init__()
        self.risks: dict[tuple[Scope, str, str], Risk] = {}
        self.corrected: set[tuple[str, int]] = set()

    # -- risk limits

    def put_risk(self, c: PutRiskLimits) -> None:
        key = c.scope, c.name, c.currency
        before = self.risks.pop(key, None)
        if any(getattr(c, name) for name in _FIELDS):
            self.risks[key] = Risk(c, before.used if before is not None else Used())

    def risks_of(self, account: str, currency: str) -> list[Risk]:
        """Return the limits of an account and its firm, in a currency or, with "", of their orders."""
        keys = (Scope.ACCOUNT, account, currency), (Scope.FIRM, self.firms.get(account, ""), currency)
        return [self.risks[key] for key in keys if key in self.risks]

    def accounts_of(self, risk: Risk) -> list[str]:
        name = risk.limits.name
        return [name] if risk.limits.scope is Scope.ACCOUNT else [each for each, firm in self.firms.items() if firm == name]

    def today(self) -> int:
        """Return the date in the time zone of the venue's calendar."""
        calendar = self.calendars.get(self.follows.get((Scope.VENUE, ""), ""))
        return (self.now + (calendar.offsets[0][1] * SECOND if calendar is not None else 0)) // DAY

    def check_counts(self, order: Order, without: tuple[Order, ...], more: int, amended: bool = False) -> None:
        """Check the number of open orders, and of those that came in this second."""
        for risk in self.risks_of(order.owner, ""):
            names, limits, used = self.accounts_of(risk), risk.limits, risk.used
            opened = sum(other.owner in names for other in self.open if other not in without)
            came = used.orders if used.second == self.now // SECOND else 0
            need(amended or not limits.orders_max or opened + more <= limits.orders_max)
            need(not limits.rate_max or came + more <= limits.rate_max)

    def check_risk(self, order: Order, without: tuple[Order, ...]) -> None:
        """Check a new order against the limits in money."""
        product, unit = order.product, order.product.unit
        price = order.price or order.stop_price or product.last_price
        size = order.size - order.filled if order.size else 0
        worth = order.terms.funds or size * price // unit
        size = size or (order.terms.funds * unit // price if price else 0)
        for risk in self.risks_of(order.owner, order.currency):
            held = sum(self.held(name, order.currency, without) for name in self.accounts_of(risk))
            need(not risk.limits.open_max or held + (worth if order.buys else size) <= risk.limits.open_max)
        for risk in self.risks_of(order.owner, product.quote):
            traded = risk.used.volume if risk.used.day == self.today() else 0
            need(not risk.limits.volume_max or traded + worth <= risk.limits.volume_max)
        for risk in self.risks_of(order.owner, product.base) if order.buys else ():
            owned = sum(self.owned.get((name, product.base), 0) for name in self.accounts_of(risk))
            owned += sum(self.buying(other, risk, product.base) for other in self.open if other not in without)
            need(not risk.limits.position_max or owned + size <= risk.limits.position_max)

    def buying(self, order: Order, risk: Risk, currency: str) -> int:
        """Return the size that an open order of the limit's accounts would buy. A pair counts once."""
        second = order.partner is not None and order.partner.order_id < order.order_id
        if order.owner not in self.accounts_of(risk) or not order.buys or order.product.base != currency or second:
            return 0
        price = order.stop_price or order.product.last_price
        return order.left if not order.by_funds or not price else order.terms.funds * order.product.unit // price

    def count_order(self, order: Order) -> None:
        for risk in self.risks_of(order.owner, ""):
            if risk.limits.rate_max:
                came = risk.used.orders if risk.used.second == self.now // SECOND else 0
                risk.used.second, risk.used.orders = self.now // SECOND, came + 1

    def count_volume(self, account: str, currency: str, worth: int) -> None:
        for risk in self.risks_of(account, currency):
            if risk.limits.volume_max:
                traded = risk.used.volume if risk.used.day == self.today() else 0
                risk.used.day, risk.used.volume = self.today(), traded + worth

    # -- corrections

    def correct(self, c: CorrectTrade) -> None:
        """Move the money of a trade back, or the difference to another price."""
        product: Product = self.products[c.product_id]
        need((c.product_id, c.trade_id) not in self.corrected and c.new_price % product.tick == 0 and c.new_price != c.price)
        buyer, seller, worth = c.buyer_id, c.seller_id, product.worth(c.price, c.size)
        if c.new_price:
            more = product.worth(c.new_price, c.size) - worth
            moves = {(buyer, product.quote): -more, (seller, product.quote): more}
        else:
            moves = {(buyer, product.base): -c.size, (seller, product.base): c.size}
            moves |= {(buyer, product.quote): worth + c.buyer_fee, (seller, product.quote): c.seller_fee - worth}
        need(all(amount >= 0 or self.available(*key) >= -amount for key, amount in moves.items()))
        for (account, currency), amount in moves.items():
            self.pay(account, currency, amount)
        if not c.new_price:
            self.earned[product.quote] -= c.buyer_fee + c.seller_fee
        self.corrected.add((c.product_id, c.trade_id))
