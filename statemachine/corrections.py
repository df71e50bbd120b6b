"""The operator busts a trade or corrects its price. Money and coins move back by double entry; the book and the orders
do not change.

The engine stores no trades, so the command repeats the fields of the trade's `OrderMatched`, and the engine checks what
it can. Each trade is corrected at most once: the row of a correction is kept for ever.

- A bust: the buyer gives the coins back and gets the notional and its fee, the seller gives the notional less its fee
  and gets the coins.
- A corrected price: the difference of the notionals goes from one to the other. Fees stay as they were paid.

The amount that is given back must be available, not on hold. So the operator may first have to cancel orders or fund an
account. Statistics, triggered stop orders and the last price stay: no consequence of the trade is undone.

Sources: FIX 4.4 ExecType H (trade cancel) and G (trade correct); Commission Delegated Regulation (EU) 2017/584 (RTS 7),
article 18(2)(d): a venue can cancel transactions.
"""

from __future__ import annotations

from typing import NamedTuple

from statemachine import answer
from statemachine.commands import CorrectTrade
from statemachine.emit import report_correction, trade_corrected
from statemachine.entities import Account, Product
from statemachine.limits import AMOUNT_MAX, FEE_PPM_MAX, PPM, REMARK_MAX
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.tables import CorrectionRow
from statemachine.types import CorrectionKind, Reason, ReportKind, Side


class Correction(NamedTuple):
    """One side of a corrected trade, as it is reported to its account."""

    account: Account
    side: Side
    order_id: int
    kind: ReportKind
    trade_id: int
    price: int
    size: int
    fee: int


def correct_trade(state: State, command: CorrectTrade) -> Reject | None:
    """Bust a trade or correct its price."""
    product = state.products.get(command.product_id)
    if product is None:
        return Reject(Reason.UNKNOWN_PRODUCT, "product_id", "no such product")
    reject = _admit(state, product, command)
    if reject is not None:
        return reject
    buyer, seller = state.accounts[command.buyer_id], state.accounts[command.seller_id]
    moves = _moves(product, command)
    reject = _covered(buyer, "buyer_id", moves[:2], product) or _covered(seller, "seller_id", moves[2:4], product)
    if reject is not None:
        return reject
    if not product.currency.fees + moves[4] >= 0:
        return Reject(Reason.UNKNOWN_TRADE, "buyer_fee", "the exchange did not earn as much")
    for account, base, quote in ((buyer, *moves[:2]), (seller, *moves[2:4])):
        state.changes.touch(account)
        state.balance(account, product.base).available += base
        state.balance(account, product.quote).available += quote
    product.currency.fees += moves[4]
    bust = not command.new_price
    kind = CorrectionKind.BUST if bust else CorrectionKind.PRICE
    row = CorrectionRow(command.product_id, command.trade_id, kind, command.new_price, state.time, command.note)
    state.records["correction"].put(row)
    fees = (0, 0) if bust else (command.buyer_fee, command.seller_fee)
    trade_corrected(state, product, command, kind, fees)
    for account, side, order_id, fee in (
        (buyer, Side.BUY, command.buyer_order_id, fees[0]),
        (seller, Side.SELL, command.seller_order_id, fees[1]),
    ):
        report_kind = ReportKind.BUSTED if bust else ReportKind.CORRECTED
        price = command.new_price or command.price
        correction = Correction(account, side, order_id, report_kind, command.trade_id, price, command.size, fee)
        report_correction(state, product, correction)
    answer.done(state, True)
    return None


def _admit(state: State, product: Product, command: CorrectTrade) -> Reject | None:
    """Check the correction of a trade. Returns the reject, or None."""
    if not 1 <= command.trade_id <= product.last_trade_id:
        return Reject(Reason.UNKNOWN_TRADE, "trade_id", f"expected 1 to {product.last_trade_id}")
    if state.records["correction"].get(command.product_id, command.trade_id) is not None:
        return Reject(Reason.TRADE_CORRECTED, "trade_id", "the trade was corrected before")
    for field in ("buyer_id", "seller_id"):
        if getattr(command, field) not in state.accounts:
            return Reject(Reason.UNKNOWN_ACCOUNT, field, "no such account")
    if command.buyer_id == command.seller_id:
        return Reject(Reason.INVALID_ID, "seller_id", "no account trades with itself")
    for field in ("price", "new_price"):
        price = getattr(command, field)
        if not (0 if field == "new_price" else 1) <= price <= AMOUNT_MAX or price % product.tick:
            return Reject(Reason.INVALID_PRICE, field, f"expected a multiple of {product.tick}")
    if command.new_price == command.price:
        return Reject(Reason.INVALID_PRICE, "new_price", "expected another price than the trade's")
    if not 1 <= command.size <= AMOUNT_MAX or command.size % product.lot:
        return Reject(Reason.INVALID_SIZE, "size", f"expected a multiple of {product.lot}")
    notional = product.notional(max(command.price, command.new_price), command.size)
    if notional > AMOUNT_MAX:
        return Reject(Reason.AMOUNT_TOO_LARGE, "size", f"price times size is at most {AMOUNT_MAX}")
    highest = product.notional(command.price, command.size) * FEE_PPM_MAX // PPM + 1
    for field in ("buyer_fee", "seller_fee"):
        if not -highest <= getattr(command, field) <= highest:
            return Reject(Reason.INVALID_FEE, field, f"expected at most {highest}")
    for field in ("buyer_order_id", "seller_order_id"):
        if not 0 <= getattr(command, field) <= state.last_order_id:
            return Reject(Reason.UNKNOWN_ORDER, field, f"expected 0 to {state.last_order_id}")
    if len(command.note) > REMARK_MAX:
        return Reject(Reason.INVALID_ID, "note", f"expected at most {REMARK_MAX} characters")
    return None


def _moves(product: Product, command: CorrectTrade) -> tuple[int, int, int, int, int]:
    """Return the changes of the buyer's base and quote, the seller's base and quote, and the currency's fees. Each
    currency's sum is 0.
    """
    paid = product.notional(command.price, command.size)
    if command.new_price:
        more = product.notional(command.new_price, command.size) - paid
        return 0, -more, 0, more, 0
    fees = command.buyer_fee + command.seller_fee
    return -command.size, paid + command.buyer_fee, command.size, command.seller_fee - paid, -fees


def _covered(account: Account, field: str, moves: tuple[int, ...], product: Product) -> Reject | None:
    """Check that an account can give back what a correction takes from it.

    The text has no names, because names have digits, and interfaces convert the numbers: after a bust the buyer
    lacks units of the base currency, in all other cases units of the quote currency.
    """
    for part, currency, amount in zip(("base", "quote"), (product.base, product.quote), moves, strict=True):
        available = account.available(currency)
        if available + amount < 0:
            text = f"{available} of the {part} currency available, {-amount} to give back"
            return Reject(Reason.INSUFFICIENT_FUNDS, field, text)
    return None
