"""Fee rates by account: tiers by 30-day volume, overrides, and rebates.

The rates of an order are the first of these that exists:

1. the override of its account for its product;
2. the override of its account for all products;
3. the tier of its account among the tiers of its product;
4. the tier of its account among the tiers of its quote currency;
5. the rates of its product.

An order gets its rates when it is accepted and keeps them until it is done. So a buy order holds its worst case from
the start, and no later change of a tier or an override leaves an order without enough money. Amending an order keeps
its rates. A replacement gets new ones.

**Volume.** The 30-day volume of an account in a currency is the sum of the notionals of its trades in all products
quoted in that currency, as maker or as taker, of today and the 29 days before. Days are UTC days of the log's time. The
tier is the last one whose volume the account has reached. Volume is counted while the currency has tiers, of its own or
of one of its products. An account has one row for each currency, with at most 30 numbers. A row is brought up to date
when the account trades or is read, so nothing runs at midnight. A bust or a corrected price does not change the volume.

**Rebates.** A negative maker rate is a rebate. The taker pays it, never the exchange:

- Rates are rejected if, in any product, the highest rebate that an order could get exceeds the smallest rate that a
  taker could pay.
- Orders keep their rates, so an order with a high rebate may meet a taker with newer, smaller rates. A rebate is
  therefore never more than the fee that the taker pays in the same fill. The rest is lost, except for less than one
  unit, which remains as the order's credit.
- Rebates are rounded like fees, once for the whole order and in favour of the exchange (`matching`).

Sources: Coinbase Exchange, "Fees" (tiers by trailing 30-day volume; both rates of a tier); Kraken, "Fee schedule" (the
volume counts trades of maker and taker); Nasdaq, "Price list" (rebates for adding liquidity).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import msgspec

from statemachine import answer
from statemachine.commands import PutFeeOverride, PutFeeTiers, PutProduct
from statemachine.entities import Account, Order, Placing, Product
from statemachine.limits import AMOUNT_MAX, DAY_NS, FEE_PPM_MAX, FEE_TIERS_MAX, VENUE_ROWS_MAX, VOLUME_DAYS
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.tables import FeeOverrideRow, FeeTiersRow, FeeVolumeRow
from statemachine.types import Reason

Rates = tuple[int, int]
"""The rates of a maker and of a taker, in parts per million."""


class Fees(NamedTuple):
    """What an account pays: its highest rates of any of some products, and its 30-day volume in each currency in which
    it is counted.
    """

    maker_fee_ppm: int
    taker_fee_ppm: int
    volumes: list[tuple[str, int]]


class _Rules(NamedTuple):
    """All rates that orders may get: of products with their quote currencies, of tiers, and of overrides by product."""

    products: dict[str, tuple[str, Rates]]
    tiers: dict[tuple[str, str], list[Rates]]
    overrides: dict[tuple[str, str], Rates]


def put_tiers(state: State, command: PutFeeTiers) -> Reject | None:
    """Set or remove the fee tiers of a currency or a product."""
    reject = _check_tiers(state, command)
    if reject is not None:
        return reject
    rows, key = state.records["fee_tiers"], (command.currency, command.product_id)
    rules = _rules(state)
    rules.tiers.pop(key, None)
    if command.tiers:
        rules.tiers[key] = [(maker, taker) for _, maker, taker in command.tiers]
    reject = _check_rebates(rules, "tiers")
    if reject is not None:
        return reject
    changed = rows.put(FeeTiersRow(*key, command.tiers)) if command.tiers else rows.remove(*key) is not None
    state.guard()
    answer.done(state, changed)
    return None


def _check_tiers(state: State, command: PutFeeTiers) -> Reject | None:
    if command.currency not in state.currencies:
        return Reject(Reason.UNKNOWN_CURRENCY, "currency", "no such currency")
    if command.product_id:
        product = state.products.get(command.product_id)
        if product is None:
            return Reject(Reason.UNKNOWN_PRODUCT, "product_id", "no such product")
        if product.quote != command.currency:
            return Reject(Reason.INVALID_PRODUCT, "currency", f"the product is quoted in {product.quote}")
    tiers = command.tiers
    if len(tiers) > FEE_TIERS_MAX:
        return Reject(Reason.INVALID_FEE, "tiers", f"expected at most {FEE_TIERS_MAX}")
    for number, (volume, maker, taker) in enumerate(tiers, 1):
        least = tiers[number - 2][0] + 1 if number > 1 else 0
        if not least <= volume <= (AMOUNT_MAX if number > 1 else 0):
            return Reject(Reason.INVALID_FEE, "tiers", f"tier {number}: expected a rising volume, 0 for the first tier")
        text = bad_rates(maker, taker)
        if text:
            return Reject(Reason.INVALID_FEE, "tiers", f"tier {number}: {text}")
    rows = state.records["fee_tiers"]
    if tiers and (command.currency, command.product_id) not in rows and len(rows) >= VENUE_ROWS_MAX:
        return Reject(Reason.TOO_MANY_RULES, "tiers", f"at most {VENUE_ROWS_MAX} currencies and products have tiers")
    return None


def put_override(state: State, command: PutFeeOverride) -> Reject | None:
    """Set or remove the rates of one account."""
    if command.owner_id not in state.accounts:
        return Reject(Reason.UNKNOWN_ACCOUNT, "owner_id", "no such account")
    if command.product_id and command.product_id not in state.products:
        return Reject(Reason.UNKNOWN_PRODUCT, "product_id", "no such product")
    rows, key = state.records["fee_override"], (command.owner_id, command.product_id)
    if not command.remove:
        text = bad_rates(command.maker_fee_ppm, command.taker_fee_ppm)
        if text:
            return Reject(Reason.INVALID_FEE, "maker_fee_ppm", text)
        if key not in rows and len(rows) >= VENUE_ROWS_MAX:
            return Reject(Reason.TOO_MANY_RULES, "owner_id", f"at most {VENUE_ROWS_MAX} overrides")
        rules = _rules(state)
        rules.overrides[key] = command.maker_fee_ppm, command.taker_fee_ppm
        reject = _check_rebates(rules, "maker_fee_ppm")
        if reject is not None:
            return reject
        changed = rows.put(FeeOverrideRow(*key, command.maker_fee_ppm, command.taker_fee_ppm))
    else:
        changed = rows.remove(*key) is not None
    state.guard()
    answer.done(state, changed)
    return None


def bad_rates(maker: int, taker: int) -> str:
    """What is wrong with two rates; "" if nothing is."""
    if not 0 <= taker <= FEE_PPM_MAX:
        return f"expected a taker fee of 0 to {FEE_PPM_MAX} parts per million"
    if not -taker <= maker <= FEE_PPM_MAX:
        return f"expected a maker fee of minus the taker fee to {FEE_PPM_MAX} parts per million"
    return ""


def check_product(state: State, command: PutProduct) -> Reject | None:
    """Check that with the product's new rates the exchange never pays a rebate."""
    if command.maker_fee_ppm >= 0 and not state.fee_rules:
        return None
    rules = _rules(state)
    rules.products[command.product_id] = command.quote, (command.maker_fee_ppm, command.taker_fee_ppm)
    return _check_rebates(rules, "maker_fee_ppm")


def _rules(state: State) -> _Rules:
    """A copy of all rates. O(products + tiers + overrides)."""
    return _Rules(
        {name: (each.quote, (each.maker_fee_ppm, each.taker_fee_ppm)) for name, each in state.products.items()},
        {(row.currency, row.product_id): [(maker, taker) for _, maker, taker in row.tiers] for row in state.records["fee_tiers"]},
        {(row.owner_id, row.product_id): (row.maker_fee_ppm, row.taker_fee_ppm) for row in state.records["fee_override"]},
    )


def _check_rebates(rules: _Rules, field: str) -> Reject | None:
    """Check for each product that its highest rebate is at most its smallest taker fee. O(rates)."""
    own: dict[str, Rates] = {}
    for (_, product_id), (maker, taker) in rules.overrides.items():
        makers, takers = own.get(product_id, (maker, taker))
        own[product_id] = min(makers, maker), min(takers, taker)
    for product_id, (quote, rates) in sorted(rules.products.items()):
        found = rules.tiers.get((quote, product_id)) or rules.tiers.get((quote, "")) or [rates]
        found = [*found, *(own[key] for key in ("", product_id) if key in own)]
        rebate, least = -min(maker for maker, _ in found), min(taker for _, taker in found)
        if rebate > max(least, 0):
            text = f"product {product_id}: a rebate of {rebate} parts per million would exceed the smallest taker fee, {least}"
            return Reject(Reason.INVALID_FEE, field, text)
    return None


def set_rates(state: State, product: Product, account: Account, command: Placing) -> None:
    """Give an order the rates of its account. `validation` does this for an exchange without fee rules."""
    command.maker_fee_ppm, command.taker_fee_ppm = rates_of(state, product, account)


def rates_of(state: State, product: Product, account: Account) -> Rates:
    """The rates of an account in a product, now. O(`VOLUME_DAYS` + `FEE_TIERS_MAX`)."""
    overrides = state.records["fee_override"]
    for product_id in (product.product_id, "") if len(overrides) else ():
        override = overrides.get(account.account_id, product_id)
        if override is not None:
            return override.maker_fee_ppm, override.taker_fee_ppm
    if product.quote in state.fee_currencies:
        tiers = state.records["fee_tiers"]
        row = tiers.get(product.quote, product.product_id) or tiers.get(product.quote, "")
        if row is not None:
            volume = volume_of(state, account, product.quote) if len(row.tiers) > 1 else 0
            _, maker, taker = next(tier for tier in reversed(row.tiers) if tier[0] <= volume)
            return maker, taker
    return product.maker_fee_ppm, product.taker_fee_ppm


def volume_of(state: State, account: Account, currency: str) -> int:
    """The 30-day volume of an account in a currency, up to `limits.AMOUNT_MAX`."""
    row = state.records["fee_volume"].get(account.account_id, currency)
    if row is None:
        return 0
    row = _at(row, state.time // DAY_NS)
    return min(row.volume + sum(row.earlier), AMOUNT_MAX)


def _at(row: FeeVolumeRow, day: int) -> FeeVolumeRow:
    """The row on a day that is not before its own."""
    passed = day - row.day
    if not passed:
        return row
    kept = [*([0] * (passed - 1)), row.volume, *row.earlier][: VOLUME_DAYS - 1] if passed < VOLUME_DAYS else []
    while kept and not kept[-1]:
        kept.pop()
    return msgspec.structs.replace(row, day=day, volume=0, earlier=kept)


def traded(state: State, product: Product, orders: tuple[Order, Order], value: int) -> None:
    """Count the notional of a trade for the accounts of both orders."""
    if product.quote not in state.fee_currencies:
        return
    rows, day = state.records["fee_volume"], state.time // DAY_NS
    for order in orders:
        account_id = order.account.account_id
        known = rows.get(account_id, product.quote)
        row = _at(known, day) if known is not None else FeeVolumeRow(account_id, product.quote, day)
        rows.put(msgspec.structs.replace(row, volume=min(row.volume + value, AMOUNT_MAX)))


def of_account(state: State, account: Account, products: Iterable[Product]) -> Fees:
    """What an account pays now. O(products)."""
    rates = [rates_of(state, product, account) for product in products]
    volumes = [(currency, volume_of(state, account, currency)) for currency in sorted(state.fee_currencies)]
    return Fees(max((maker for maker, _ in rates), default=0), max((taker for _, taker in rates), default=0), volumes)


def check_rows(state: State) -> None:
    """Assert that the stored rules are valid. The rates of open orders may be older than the rules."""
    for row in state.records["fee_tiers"]:
        name = f"tiers of {row.currency} {row.product_id}"
        volumes = [volume for volume, _, _ in row.tiers]
        assert 1 <= len(volumes) <= FEE_TIERS_MAX, f"{name}: {len(volumes)} tiers"
        assert volumes[0] == 0, f"{name}: the first begins at {volumes[0]}"
        assert all(volume < following for volume, following in pairwise(volumes)), f"{name}: volumes do not rise"
        assert volumes[-1] <= AMOUNT_MAX, f"{name}: a volume of {volumes[-1]}"
        assert not any(bad_rates(maker, taker) for _, maker, taker in row.tiers), f"{name}: rates out of bounds"
    for row in state.records["fee_override"]:
        assert not bad_rates(row.maker_fee_ppm, row.taker_fee_ppm), f"override of {row.owner_id}: rates out of bounds"
    reject = _check_rebates(_rules(state), "fees")
    assert reject is None, reject
    for row in state.records["fee_volume"]:
        name = f"volume of {row.account_id} in {row.currency}"
        assert 0 <= row.day <= state.time // DAY_NS, f"{name}: of the day {row.day}"
        assert len(row.earlier) < VOLUME_DAYS, f"{name}: {len(row.earlier)} earlier days"
        assert all(0 <= each <= AMOUNT_MAX for each in (row.volume, *row.earlier)), f"{name}: out of bounds"
