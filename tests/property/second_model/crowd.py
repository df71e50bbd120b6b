"""Random commands of a crowd: few traders with little money, few prices and small sizes, so that every feature meets
every other. A command is made for the present state of the model, so most are accepted.
"""

from __future__ import annotations

from random import Random
from typing import Any

from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    CancelAll,
    CancelAllAfter,
    CancelOrder,
    Deposit,
    NewOrder,
    OpenAccount,
    OrderOptions,
    PlaceOrder,
    PlacePair,
    PutCurrency,
    PutFeeOverride,
    PutFeeTiers,
    PutProduct,
    PutProductLimits,
    ReplaceOrder,
    SetSwitches,
    Transfer,
    Withdraw,
)
from statemachine.limits import OPERATOR
from statemachine.types import (
    CollarAction,
    GoodFor,
    OrderType,
    ProductStatus,
    Scope,
    SelfTradePrevention,
    Side,
    StopType,
    Switch,
    TimeInForce,
)
from tests.property.second_model.model import SecondModel
from tests.property.second_model.orders import SECOND, TRADING, Order, Product

TRADERS = ("ann", "bob", "cat")
CURRENCIES = ("USD", "ETH", "XBT")
_PRODUCTS = (("ETH-USD", 1, 10), ("XBT-USD", 5, 1), ("ETH-XBT", 1, 10))


class Crowd:
    """Traders and an operator. `model` is what they see of the exchange."""

    def __init__(self, random: Random, model: SecondModel) -> None:
        self.random = random
        self.model = model
        self.number = 0
        self.hurried = False
        """Whether entries leave work to the next ones: then there are no exits and no limits of positions."""

    def begin(self) -> list[AnyCommand]:
        """Return the commands that make the venue. Rebates are always less than the fee of any taker."""
        choice = self.random.choice
        made: list[AnyCommand] = [PutCurrency(OPERATOR, f"f:{name}", name, 2 - at) for at, name in enumerate(CURRENCIES)]
        for name, tick, lot in _PRODUCTS:
            base, quote = name.split("-")
            rates = choice([0, 1_000, 10_000, -500]), choice([1_000, 3_333, 100_000])
            made.append(
                PutProduct(OPERATOR, f"f:{name}", name, base, quote, tick, lot, lot * choice([1, 1, 2]), 50 * lot, *rates)
            )
        for trader in TRADERS:
            made.append(OpenAccount(OPERATOR, f"f:{trader}", trader))
            for currency, amounts in zip(CURRENCIES, ([50_000, 50_000, 1_700], [3_000, 1_000], [300, 10]), strict=True):
                made.append(Deposit(trader, f"f:{currency}", currency, choice(amounts)))
        return made

    def command(self) -> AnyCommand:
        """Return the next command."""
        self.number += 1
        name, chance = f"c{self.number}", self.random.random()
        for product in self.model.products.values():
            if self.is_stuck(product) and self.random.random() < 0.06:
                return self.restated(product, name, ProductStatus.ONLINE)
        on = [key for key, switches in self.model.switches.items() if switches]
        if on and self.random.random() < 0.12:
            return SetSwitches(OPERATOR, name, *on[0], 0)
        if chance < 0.07:
            return self.operator(name)
        trader = self.random.choice(TRADERS)
        if chance < 0.12:
            return self.money(name, trader)
        if chance < 0.35:
            return self.change(name, trader)
        if chance < 0.42:
            return self.pair(name, trader)
        return self.order(name, trader)

    def is_stuck(self, product: Product) -> bool:
        """Return whether the operator should let a product trade again."""
        return product.status is not ProductStatus.ONLINE and product.interruption is None

    # -- numbers

    def product(self) -> Product:
        names = [name for name, _, _ in _PRODUCTS]
        return self.model.products[self.random.choices(names, (6, 2, 1))[0]]

    def price(self, product: Product, around: int = 0) -> int:
        """Return a price near the market, or near another price."""
        usual = 5 if product.name == "ETH-XBT" else 100
        around = around or (product.last_price if product.last_price and self.random.random() < 0.5 else usual)
        return max(around // product.tick + round(self.random.gauss(0, 1.6)), 1) * product.tick

    def size(self, product: Product) -> int:
        return product.lot * self.random.choice([1, 1, 2, 3, 5, 8, 13])

    # -- orders

    def order(self, name: str, trader: str) -> PlaceOrder:
        """Return an order with any options that go together, and some that do not."""
        random, product = self.random, self.product()
        side, rare = random.choice(list(Side)), random.random
        fields: dict[str, Any] = {"price": self.price(product), "size": self.size(product)}
        fields["time_in_force"] = random.choice([TimeInForce.GTC] * 4 + list(TimeInForce))
        options: dict[str, Any] = {}
        market = rare() < 0.12
        if market:
            fields["price"] = 0
            fields["time_in_force"] = random.choice([TimeInForce.GTC, TimeInForce.IOC])
            if rare() < 0.5:
                fields["funds"] = random.choice([1, 13, 100, 555, 2_000, 9_999])
                fields["size"] *= side is Side.BUY and rare() < 0.3
        elif rare() < 0.12:
            fields["post_only"], fields["time_in_force"] = True, TimeInForce.GTC
        if rare() < 0.2:
            fields["stop"], fields["stop_price"] = random.choice([StopType.LOSS, StopType.ENTRY]), self.price(product)
            if market and side is Side.BUY:
                fields["funds"] = random.choice([100, 555, 2_000])
            if rare() < 0.4:
                options["trail"] = product.tick * random.choice([1, 2, 3])
                fields["stop"] = StopType.LOSS if side is Side.SELL else StopType.ENTRY
                fields["stop_price"] *= rare() < 0.5
        if fields["time_in_force"] is TimeInForce.GTT:
            self.lifetime(fields, options)
        if rare() < 0.15:
            fields["size"], options["display_size"] = product.lot * random.choice([4, 5, 10, 20]), self.size(product)
        if rare() < 0.15 and not market and not self.hurried:
            self.exits(product, side, fields["price"], options)
        if rare() < 0.2:
            options["session"] = random.choice("pq")
        if product.status is ProductStatus.AUCTION and rare() < 0.2:
            options["good_for"] = GoodFor.AUCTION
        if rare() < 0.03:
            wrong = random.choice(["price", "size", "cancel_after"])
            fields[wrong] = fields.get(wrong, 0) + (1 if rare() < 0.5 else 51 * product.lot)
        stp = random.choice(list(SelfTradePrevention))
        kind = OrderType.MARKET if market else OrderType.LIMIT
        fields |= {"stp": stp, "client_oid": f"o{self.number}", "options": OrderOptions(**options) if options else None}
        return PlaceOrder(trader, name, product.name, side, kind, **fields)

    def lifetime(self, fields: dict[str, Any], options: dict[str, Any]) -> None:
        way = self.random.random()
        if way < 0.6:
            fields["cancel_after"] = self.random.choice([1, 2, 5, 30]) * SECOND
        elif way < 0.8:
            options["expires_at"] = self.model.now + self.random.choice([1, SECOND, 7 * SECOND])
        else:
            options["good_for"] = GoodFor.DAY

    def exits(self, product: Product, side: Side, price: int, options: dict[str, Any]) -> None:
        random, sign = self.random, product.tick * (1 if side is Side.BUY else -1)
        if random.random() < 0.7:
            options["take_profit"] = max(price + sign * random.choice([1, 2, 3]), product.tick)
        if random.random() < 0.6:
            options["stop_loss"] = max(price - sign * random.choice([1, 2, 3]), product.tick)
            if random.random() < 0.5 or side is Side.SELL:
                options["stop_loss_limit"] = max(price - sign * random.choice([1, 2, 3, 4]), product.tick)

    def pair(self, name: str, trader: str) -> PlacePair:
        random, product, side = self.random, self.product(), self.random.choice(list(Side))
        sign = product.tick * (1 if side is Side.BUY else -1)
        price = self.price(product)
        stop = max(price + sign * random.choice([1, 2, 3, 4, -1]), product.tick)
        limit = max(stop + product.tick * random.choice([-1, 0, 1, 2]), product.tick) if random.random() < 0.9 else 0
        stp, session = random.choice(list(SelfTradePrevention)), random.choice(["", "p"])
        ids = f"o{self.number}", f"s{self.number}"
        return PlacePair(trader, name, product.name, side, self.size(product), price, stop, limit, stp, *ids, session)

    def change(self, name: str, trader: str) -> AnyCommand:
        """Return a cancel, an amendment or a replacement."""
        random = self.random
        own = [order for order in self.model.open if order.owner == trader and order.client_oid]
        if not own:
            return CancelOrder(trader, name, 0, "none")
        order, chance = random.choice(own), random.random()
        oid, product = order.client_oid, order.product
        if chance < 0.25:
            return CancelOrder(trader, name, 0, oid)
        if chance < 0.35:
            new = self.order("", trader)
            return ReplaceOrder(
                trader, name, 0, oid, "", NewOrder(**{key: getattr(new, key) for key in NewOrder.__struct_fields__})
            )
        if chance < 0.4:
            price = random.choice([0, self.price(product)])
            side, session = random.choice([0, 0, 1, 2]), random.choice(["", "", "p", "q"])
            return CancelAll(trader, name, product.name, side, price, random.choice([0, price + product.tick]), session)
        return self.amendment(name, order)

    def amendment(self, name: str, order: Order) -> AmendOrder:
        random, product, fields = self.random, order.product, dict[str, Any]()
        if random.random() < 0.6:
            fields["size"] = self.size(product) + order.filled * random.choice([0, 1])
            if random.random() < 0.4:
                fields["size"] = max(order.size - product.lot, product.lot)
        if random.random() < 0.5:
            fields["price"] = self.price(product, order.price)
        if random.random() < (0.6 if order.stop else 0.03):
            fields["stop_price"] = self.price(product, order.stop_price)
        return AmendOrder(order.owner, name, 0, order.client_oid, **fields)

    # -- money, and the operator

    def money(self, name: str, trader: str) -> AnyCommand:
        random, currency = self.random, self.random.choice(CURRENCIES)
        amount = random.choice([1, 10, 100, 1_000])
        match random.randrange(4):
            case 0:
                return Deposit(trader, name, currency, amount)
            case 1:
                return Withdraw(trader, name, currency, amount)
            case 2:
                return Transfer(trader, name, random.choice(TRADERS), currency, amount)
        return CancelAllAfter(trader, name, random.choice([0, 1, 3, 20]) * SECOND, random.choice(["", "p"]))

    def restated(self, product: Product, name: str, status: ProductStatus) -> PutProduct:
        sizes = product.tick, product.lot, product.min_size, product.max_size
        return PutProduct(OPERATOR, name, product.name, product.base, product.quote, *sizes, *product.rates, status)

    def operator(self, name: str) -> AnyCommand:
        """Return a command of the operator."""
        random, product, trader = self.random, self.product(), self.random.choice(TRADERS)
        chance = random.random()
        if chance < 0.35:
            choices = [*ProductStatus, *[ProductStatus.AUCTION] * 6] if product.status in TRADING else [ProductStatus.ONLINE]
            return self.restated(product, name, random.choice(choices))
        if chance < 0.65:
            return self.limits(product, name)
        if chance < 0.8:
            makers, takers = ([random.choice(rates) for _ in range(2)] for rates in ([0, 500, 2_000], [1_000, 5_000]))
            tiers = list(zip((0, 3_000), makers, takers, strict=True))
            name_of = random.choice(["", product.name])
            return PutFeeTiers(OPERATOR, name, product.quote, name_of, tiers if random.random() < 0.8 else [])
        if chance < 0.9:
            rates = random.choice([0, 700, -300]), random.choice([700, 1_500])
            return PutFeeOverride(OPERATOR, name, trader, random.choice(["", product.name]), *rates, random.random() < 0.2)
        scope = random.choice([Scope.VENUE, Scope.ACCOUNT, Scope.ACCOUNT, Scope.PRODUCT])
        subject = {Scope.VENUE: "", Scope.ACCOUNT: trader, Scope.PRODUCT: product.name}[scope]
        return SetSwitches(OPERATOR, name, scope, subject, random.choice([*Switch, Switch.BUY_OFF | Switch.SELL_OFF]))

    def limits(self, product: Product, name: str) -> PutProductLimits:
        random, action = self.random, self.random.choice(list(CollarAction))
        fields: dict[str, int] = {"dynamic_ppm": random.choice([0, 10_000, 20_000, 31_000, 60_000])}
        fields |= {"static_ppm": random.choice([0, 0, 20_000, 50_000]), "static_price": random.choice([0, 0, 100])}
        if action is not CollarAction.REJECT:
            fields |= {"call_ns": 3 * SECOND, "extensions_max": random.choice([0, 1]), "limit_ns": random.choice([0, 2]) * SECOND}
            fields["halt_ns"] = 2 * SECOND * (action is CollarAction.HALT)
        fields["order_size_max"] = random.choice([0, 0, 0, 100])
        fields["order_notional_max"] = random.choice([0, 0, 0, 1_500])
        fields["distance_ppm"] = random.choice([0, 0, 0, 40_000])
        return PutProductLimits(OPERATOR, name, product.name, action=action, **fields)
