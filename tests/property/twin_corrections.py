"""Busted and corrected trades in the engine's slow twin (`twin`): money moves back, and nothing else happens."""

from __future__ import annotations

from dataclasses import dataclass, field

from statemachine.commands import CorrectTrade, PutProduct
from statemachine.types import CorrectionKind, Reason
from tests.property.twin_controls import TwinControls


@dataclass
class TwinCorrections(TwinControls):
    """What the operator undoes."""

    corrected: list[tuple[str, int]] = field(default_factory=list)

    def control(self, command: object) -> object:
        return self.correct(command) if isinstance(command, CorrectTrade) else super().control(command)

    def correct(self, c: CorrectTrade) -> object:
        product = self.products.get(c.product_id)
        if product is None:
            return Reason.UNKNOWN_PRODUCT
        reject = self.correction_fault(c, product)
        if reject is not None:
            return reject
        paid, fees = self.worth(product, c.price, c.size), (c.buyer_fee, c.seller_fee)
        if c.new_price:
            more, fees = self.worth(product, c.new_price, c.size) - paid, (0, 0)
            moves = [(c.buyer_id, product.quote, -more), (c.seller_id, product.quote, more)]
        else:
            moves = [
                (c.buyer_id, product.base, -c.size),
                (c.buyer_id, product.quote, paid + fees[0]),
                (c.seller_id, product.base, c.size),
                (c.seller_id, product.quote, fees[1] - paid),
            ]
        if any(self.free(account, currency) + amount < 0 for account, currency, amount in moves):
            return Reason.INSUFFICIENT_FUNDS
        if self.totals().get(("fees", product.quote), 0) < sum(fees):
            return Reason.UNKNOWN_TRADE
        for move in [*moves, ("fees", product.quote, -sum(fees))]:
            self.post(*move)
        self.corrected.append((c.product_id, c.trade_id))
        self.sequences[c.product_id] += 1
        kind, left = (CorrectionKind.PRICE, (c.buyer_fee, c.seller_fee)) if c.new_price else (CorrectionKind.BUST, (0, 0))
        event_fields = (kind, c.trade_id, c.buyer_id, c.seller_id, c.size, c.price, c.new_price, *left)
        self.facts.append(("TradeCorrected", c.product_id, self.sequences[c.product_id], *event_fields))
        return "ok"

    def correction_fault(self, c: CorrectTrade, product: PutProduct) -> Reason | None:
        """Return what shows that there was no such trade."""
        if not 1 <= c.trade_id <= self.trades[c.product_id]:
            return Reason.UNKNOWN_TRADE
        if (c.product_id, c.trade_id) in self.corrected:
            return Reason.TRADE_CORRECTED
        if c.buyer_id not in self.accounts or c.seller_id not in self.accounts:
            return Reason.UNKNOWN_ACCOUNT
        if c.buyer_id == c.seller_id:
            return Reason.INVALID_ID
        if c.price < 1 or c.new_price < 0 or c.price % product.tick or c.new_price % product.tick or c.price == c.new_price:
            return Reason.INVALID_PRICE
        if c.size < 1 or c.size % product.lot:
            return Reason.INVALID_SIZE
        if self.worth(product, max(c.price, c.new_price), c.size) >= 2**63:
            return Reason.AMOUNT_TOO_LARGE
        highest = self.worth(product, c.price, c.size) // 10 + 1  # no rate is above ten per cent
        if max(abs(c.buyer_fee), abs(c.seller_fee)) > highest:
            return Reason.INVALID_FEE
        if not all(0 <= order_id <= len(self.orders) for order_id in (c.buyer_order_id, c.seller_order_id)):
            return Reason.UNKNOWN_ORDER
        return None
