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

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

import msgspec
from sortedcontainers import SortedList

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
    """The fees of an account: its highest rates in some products, and its 30-day volume in each currency in which it is
    counted.
    """

    maker_fee_ppm: int
    taker_fee_ppm: int
    volumes: list[tuple[str, int]]


def put_tiers(state: State, command: PutFeeTiers) -> Reject | None:
    """Set or remove the fee tiers of a currency or a product."""
    reject = _check_tiers(state, command)
    if reject is not None:
        return reject
    rows, key = state.records["fee_tiers"], (command.currency, command.product_id)
    concerned = [state.products[command.product_id]] if command.product_id else _in_order(state)
    products = [(each.product_id, each.quote, _own(each)) for each in concerned if each.quote == command.currency]
    reject = _check_rebates(state, products, "tiers", {key: _floor_of(command.tiers)})
    if reject is not None:
        return reject
    changed = rows.put(FeeTiersRow(*key, command.tiers)) if command.tiers else rows.remove(*key) is not None
    state.guard()
    answer.done(state, changed)
    return None


def _check_tiers(state: State, command: PutFeeTiers) -> Reject | None:
    """Check the tiers of a currency. Returns the reject, or None."""
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
    before: FeeOverrideRow | None = rows.get(*key)
    if command.remove:
        if before is not None:
            rows.remove(*key)
            unindex(state, before)
    else:
        text = bad_rates(command.maker_fee_ppm, command.taker_fee_ppm)
        if text:
            return Reject(Reason.INVALID_FEE, "maker_fee_ppm", text)
        if before is None and len(rows) >= VENUE_ROWS_MAX:
            return Reject(Reason.TOO_MANY_RULES, "owner_id", f"at most {VENUE_ROWS_MAX} overrides")
        row = FeeOverrideRow(*key, command.maker_fee_ppm, command.taker_fee_ppm)
        reject = _exchanged(state, before, row)
        if reject is not None:
            return reject
        rows.put(row)
    state.guard()
    answer.done(state, rows.get(*key) != before)
    return None


def _exchanged(state: State, before: FeeOverrideRow | None, row: FeeOverrideRow) -> Reject | None:
    """Replace an override in the index by another, unless a rebate would exceed a taker's fee."""
    concerned = [state.products[row.product_id]] if row.product_id else _in_order(state)
    if before is not None:
        unindex(state, before)
    index(state, row)
    reject = _check_rebates(state, [(each.product_id, each.quote, _own(each)) for each in concerned], "maker_fee_ppm")
    if reject is not None:
        unindex(state, row)
        if before is not None:
            index(state, before)
    return reject


def bad_rates(maker: int, taker: int) -> str:
    """Return the error in two rates, or "" if there is none."""
    if not 0 <= taker <= FEE_PPM_MAX:
        return f"expected a taker fee of 0 to {FEE_PPM_MAX} parts per million"
    if not -taker <= maker <= FEE_PPM_MAX:
        return f"expected a maker fee of minus the taker fee to {FEE_PPM_MAX} parts per million"
    return ""


def check_product(state: State, command: PutProduct) -> Reject | None:
    """Check that with the product's new rates the exchange never pays a rebate."""
    rates = command.maker_fee_ppm, command.taker_fee_ppm
    return _check_rebates(state, [(command.product_id, command.quote, rates)], "maker_fee_ppm") if state.fee_rules else None


def index(state: State, row: FeeOverrideRow) -> None:
    """Add an override to the index of the lowest rates. O(log n)."""
    makers, takers = state.fee_floors.setdefault(row.product_id, (SortedList(), SortedList()))
    makers.add(row.maker_fee_ppm)
    takers.add(row.taker_fee_ppm)


def unindex(state: State, row: FeeOverrideRow) -> None:
    """Remove an override from the index. O(log n)."""
    makers, takers = state.fee_floors[row.product_id]
    makers.remove(row.maker_fee_ppm)
    takers.remove(row.taker_fee_ppm)
    if not makers:
        del state.fee_floors[row.product_id]


def _in_order(state: State) -> list[Product]:
    return [product for _, product in sorted(state.products.items())]


def _own(product: Product) -> Rates:
    return product.maker_fee_ppm, product.taker_fee_ppm


def _floor_of(tiers: list[tuple[int, int, int]]) -> Rates | None:
    """Return the lowest rates of some tiers."""
    return (min(maker for _, maker, _ in tiers), min(taker for _, _, taker in tiers)) if tiers else None


def _check_rebates(
    state: State,
    products: Iterable[tuple[str, str, Rates]],
    field: str,
    changed: Mapping[tuple[str, str], Rates | None] | None = None,
) -> Reject | None:
    """Check for each product, with its quote currency and its own rates, that the highest rebate is at most the
    smallest taker fee. O(products + tiers).

    Args:
        changed: the lowest rates of tiers that are not stored yet.
    """
    rows = state.records["fee_tiers"]
    known: dict[tuple[str, str], Rates | None] = dict(changed or {})
    for product_id, quote, own in products:
        found: Rates | None = None
        for key in ((quote, product_id), (quote, "")):
            if key not in known:
                row = rows.get(*key)
                known[key] = _floor_of(row.tiers) if row is not None else None
            found = found or known[key]
        maker, taker = found or own
        for of in ("", product_id):
            if of in state.fee_floors:
                makers, takers = state.fee_floors[of]
                maker, taker = min(maker, makers[0]), min(taker, takers[0])
        if -maker > taker:
            text = f"product {product_id}: a rebate of {-maker} parts per million would exceed the smallest taker fee, {taker}"
            return Reject(Reason.INVALID_FEE, field, text)
    return None


def set_rates(state: State, product: Product, account: Account, command: Placing) -> None:
    """Give an order the rates of its account. `validation` does this for an exchange without fee rules."""
    command.maker_fee_ppm, command.taker_fee_ppm = rates_of(state, product, account)


def rates_of(state: State, product: Product, account: Account) -> Rates:
    """Return the rates of an account in a product, now. O(`VOLUME_DAYS` + `FEE_TIERS_MAX`)."""
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
    """Return the 30-day volume of an account in a currency, up to `limits.AMOUNT_MAX`."""
    row = state.records["fee_volume"].get(account.account_id, currency)
    if row is None:
        return 0
    row = _at(row, state.time // DAY_NS)
    return min(row.volume + sum(row.earlier), AMOUNT_MAX)


def _at(row: FeeVolumeRow, day: int) -> FeeVolumeRow:
    """Return a row brought forward to a day that is not before its own."""
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
    """Return the fees of an account now. O(products)."""
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
    floors: dict[str, tuple[list[int], list[int]]] = {}
    for row in state.records["fee_override"]:
        makers, takers = floors.setdefault(row.product_id, ([], []))
        makers.append(row.maker_fee_ppm)
        takers.append(row.taker_fee_ppm)
    kept = {name: (list(makers), list(takers)) for name, (makers, takers) in state.fee_floors.items()}
    assert kept == {name: (sorted(makers), sorted(takers)) for name, (makers, takers) in floors.items()}, "lowest overrides"
    reject = _check_rebates(state, [(each.product_id, each.quote, _own(each)) for each in _in_order(state)], "fees")
    assert reject is None, reject
    for row in state.records["fee_volume"]:
        name = f"volume of {row.account_id} in {row.currency}"
        assert 0 <= row.day <= state.time // DAY_NS, f"{name}: of the day {row.day}"
        assert len(row.earlier) < VOLUME_DAYS, f"{name}: {len(row.earlier)} earlier days"
        assert all(0 <= each <= AMOUNT_MAX for each in (row.volume, *row.earlier)), f"{name}: out of bounds"
