"""Fee tiers, overrides and rebates in the engine's slow twin (`twin`): every trade is kept with its day."""

from __future__ import annotations

from dataclasses import dataclass, field

from statemachine.commands import PutFeeOverride, PutFeeTiers, PutProduct
from statemachine.types import Reason
from tests.property.twin_trading import TwinOrder, TwinTrading

DAY = 86_400 * 10**9
_FEE_MAX = 100_000


def sound(maker: int, taker: int) -> bool:
    return 0 <= taker <= _FEE_MAX and -taker <= maker <= _FEE_MAX


@dataclass
class TwinFees(TwinTrading):
    """The fees of accounts."""

    tiers: dict[tuple[str, str], list[tuple[int, int, int]]] = field(default_factory=dict)
    overrides: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    traded: list[tuple[str, str, int, int]] = field(default_factory=list)
    """Account, currency, day and notional of each side of each trade that was counted."""

    def put_tiers(self, c: PutFeeTiers) -> object:
        if c.currency not in self.currencies:
            return Reason.UNKNOWN_CURRENCY
        if c.product_id and c.product_id not in self.products:
            return Reason.UNKNOWN_PRODUCT
        if c.product_id and self.products[c.product_id].quote != c.currency:
            return Reason.INVALID_PRODUCT
        volumes = [volume for volume, _, _ in c.tiers]
        if volumes and (volumes[0] != 0 or volumes != sorted(set(volumes)) or len(volumes) > 16):
            return Reason.INVALID_FEE
        if not all(sound(maker, taker) for _, maker, taker in c.tiers):
            return Reason.INVALID_FEE
        before = dict(self.tiers)
        self.tiers.pop((c.currency, c.product_id), None)
        if c.tiers:
            self.tiers[c.currency, c.product_id] = c.tiers
        if self.someone_pays_too_little():
            self.tiers = before
            return Reason.INVALID_FEE
        return "ok"

    def put_override(self, c: PutFeeOverride) -> object:
        if c.product_id and c.product_id not in self.products:
            return Reason.UNKNOWN_PRODUCT
        if c.remove:
            self.overrides.pop((c.owner_id, c.product_id), None)
            return "ok"
        if not sound(c.maker_fee_ppm, c.taker_fee_ppm):
            return Reason.INVALID_FEE
        before = dict(self.overrides)
        self.overrides[c.owner_id, c.product_id] = c.maker_fee_ppm, c.taker_fee_ppm
        if self.someone_pays_too_little():
            self.overrides = before
            return Reason.INVALID_FEE
        return "ok"

    def rates_fault(self, c: PutProduct) -> Reason | None:
        if not sound(c.maker_fee_ppm, c.taker_fee_ppm):
            return Reason.INVALID_FEE
        before = self.products.get(c.product_id)
        self.products[c.product_id] = c
        wrong = self.someone_pays_too_little()
        if before is None:
            del self.products[c.product_id]
        else:
            self.products[c.product_id] = before
        return Reason.INVALID_FEE if wrong else None

    def someone_pays_too_little(self) -> bool:
        """Return whether a maker of a product could get more than its taker pays."""
        for name, product in self.products.items():
            rates = [rates for (_, of), rates in self.overrides.items() if of in ("", name)]
            tiers = self.tiers.get((product.quote, name)) or self.tiers.get((product.quote, ""))
            rates += [tier[1:] for tier in tiers] if tiers else [(product.maker_fee_ppm, product.taker_fee_ppm)]
            if any(maker + taker < 0 for maker, _ in rates for _, taker in rates):
                return True
        return False

    def volume(self, account: str, currency: str) -> int:
        today = self.now // DAY
        return sum(worth for who, of, day, worth in self.traded if (who, of) == (account, currency) and today - day < 30)

    def rates(self, order: TwinOrder) -> tuple[int, int]:
        """Return the rates at its entry; for an order that has not entered yet, the present ones."""
        return order.rates or self.rates_now(order.owner, order.product)

    def rates_now(self, account: str, product: PutProduct) -> tuple[int, int]:
        name = product.product_id
        for of in (name, ""):
            if (account, of) in self.overrides:
                return self.overrides[account, of]
        tiers = self.tiers.get((product.quote, name)) or self.tiers.get((product.quote, ""))
        if not tiers:
            return self.products[name].maker_fee_ppm, self.products[name].taker_fee_ppm
        volume = self.volume(account, product.quote)
        return [(maker, taker) for least, maker, taker in tiers if least <= volume][-1]

    def fill(self, taker: TwinOrder, maker: TwinOrder, size: int, price: int, auction: bool = False) -> None:
        super().fill(taker, maker, size, price, auction)
        quote, worth = taker.product.quote, self.worth(taker.product, price, size)
        if any(currency == quote for currency, _ in self.tiers):
            self.traded += [(order.owner, quote, self.now // DAY, worth) for order in (maker, taker)]
