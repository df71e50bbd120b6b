"""The checks of commands before anything changes.

Each function reads the state and one command, and returns None, or a `Reject` that becomes a `Rejected`. No function
here changes the state, so a rejected command leaves no trace. The first failed check decides; the order of the checks
is part of the rules.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network

from statemachine import fees, guards
from statemachine.commands import (
    CancelAll,
    Deposit,
    OpenAccount,
    PutApiKey,
    PutCurrency,
    PutProduct,
    Transfer,
    Withdraw,
)
from statemachine.entities import Account, Cancelling, Order, Placing, Product
from statemachine.entry import is_command_id, is_name
from statemachine.exact import notional
from statemachine.limits import (
    ADDRESSES_MAX,
    AMOUNT_MAX,
    CANCEL_AFTER_MAX,
    CANCEL_AFTER_MIN,
    COMMAND_ID_MAX,
    FEE_PPM_MAX,
    NAME_MAX,
    OPEN_ORDERS_PER_ACCOUNT,
    OPERATOR,
    SCALE_MAX,
    SECRET_MAX,
)
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.types import Opening, OrderStatus, OrderType, Permission, ProductStatus, Reason, Side, TimeInForce

# Plain integers: the compiled core keeps them as such, and a member of an enumeration is slow to look up in its class.
_LIMIT: int = OrderType.LIMIT
_BUY: int = Side.BUY
_SELL: int = Side.SELL
_ONLINE: int = ProductStatus.ONLINE
_OFFLINE: int = ProductStatus.OFFLINE
_DONE: int = OrderStatus.DONE
_GTC: int = TimeInForce.GTC
_GTT: int = TimeInForce.GTT
_FOK: int = TimeInForce.FOK
_MEETING: int = Opening.MEETING
_AMOUNT_MAX = AMOUNT_MAX
_CANCEL_AFTER_MAX = CANCEL_AFTER_MAX
_OPEN_ORDERS_MAX = OPEN_ORDERS_PER_ACCOUNT


_is_base64 = re.compile("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)").fullmatch
_is_network = re.compile("[0-9A-Fa-f.:]+(?:/[0-9]+)?").fullmatch
_PERMISSIONS = sum(Permission)

# Rejects that come often, made once.
_UNKNOWN_ID = Reject(Reason.UNKNOWN_ORDER, "order_id", "no such order")
_UNKNOWN_OID = Reject(Reason.UNKNOWN_ORDER, "client_oid", "no such order")
_DONE_ID = Reject(Reason.ORDER_ALREADY_DONE, "order_id", "the order is done")
_DONE_OID = Reject(Reason.ORDER_ALREADY_DONE, "client_oid", "the order is done")
_WOULD_TAKE = Reject(Reason.POST_ONLY_WOULD_TAKE, "price", "the order would trade at once")

ANY_VERSION = -1
"""An expected version of a product that every version meets."""


def bad_name(field: str) -> Reject:
    """Check the form of a name."""
    return Reject(Reason.INVALID_ID, field, f"expected 1 to {NAME_MAX} characters of A-Z a-z 0-9 _ . : -")


def bad_command_id(field: str, reason: Reason) -> Reject:
    """Check the form of a command id or client_oid."""
    return Reject(reason, field, f"expected 1 to {COMMAND_ID_MAX} characters of A-Z a-z 0-9 _ . : -")


def put_currency(state: State, command: PutCurrency) -> Reject | None:
    """Check that this currency may be put."""
    if not is_name(command.currency):
        return bad_name("currency")
    if not 0 <= command.scale <= SCALE_MAX:
        return Reject(Reason.INVALID_SCALE, "scale", f"expected 0 to {SCALE_MAX}")
    known = state.currencies.get(command.currency)
    if known is not None and known.scale != command.scale:
        return Reject(Reason.CURRENCY_CHANGED, "scale", f"is {known.scale} and cannot change")
    return None


def put_product(state: State, command: PutProduct) -> Reject | None:
    """Check that this product may be put."""
    if not is_name(command.product_id):
        return bad_name("product_id")
    for field, currency in (("base", command.base), ("quote", command.quote)):
        if currency not in state.currencies:
            return Reject(Reason.UNKNOWN_CURRENCY, field, "no such currency")
    if command.base == command.quote:
        return Reject(Reason.INVALID_PRODUCT, "quote", "expected another currency than the base")
    if command.expected_version != ANY_VERSION:
        known = state.products.get(command.product_id)
        version = known.version if known is not None else 0
        if version != command.expected_version:
            text = f"the product is at version {version}" if known is not None else "there is no such product yet"
            return Reject(Reason.CHANGED_MEANWHILE, "expected_version", text)
    return _sizes(state, command) or _fees(state, command) or _unchanged(state, command)


def _sizes(state: State, command: PutProduct) -> Reject | None:
    """Check a product's tick, lot and sizes."""
    for field in ("tick", "lot", "min_size", "max_size"):
        if not 1 <= getattr(command, field) <= AMOUNT_MAX:
            return Reject(Reason.INVALID_PRODUCT, field, f"expected 1 to {AMOUNT_MAX}")
    if command.max_size < command.min_size:
        return Reject(Reason.INVALID_PRODUCT, "max_size", "expected at least min_size")
    scale = state.currencies[command.base].scale
    if command.tick * command.lot % 10**scale != 0:
        return Reject(Reason.INVALID_PRODUCT, "tick", f"expected tick * lot to be a whole multiple of 10**{scale}")
    return None


def _fees(state: State, command: PutProduct) -> Reject | None:
    """Check a product's fee rates."""
    if not 0 <= command.taker_fee_ppm <= FEE_PPM_MAX:
        return Reject(Reason.INVALID_FEE, "taker_fee_ppm", f"expected 0 to {FEE_PPM_MAX} parts per million")
    least = -command.taker_fee_ppm
    if not least <= command.maker_fee_ppm <= FEE_PPM_MAX:
        return Reject(Reason.INVALID_FEE, "maker_fee_ppm", f"expected {least} to {FEE_PPM_MAX} parts per million")
    return fees.check_product(state, command)


def _unchanged(state: State, command: PutProduct) -> Reject | None:
    """Check that a product keeps its currencies, tick and lot."""
    known = state.products.get(command.product_id)
    if known is None:
        return None
    for field in ("base", "quote", "tick", "lot"):
        if getattr(known, field) != getattr(command, field):
            return Reject(Reason.CURRENCY_CHANGED, field, f"is {getattr(known, field)} and cannot change")
    return None


def open_account(command: OpenAccount) -> Reject | None:
    """Check that this account may be opened."""
    if not is_name(command.new_account_id):
        return bad_name("new_account_id")
    if command.new_account_id == OPERATOR:
        return Reject(Reason.INVALID_ID, "new_account_id", "the operator's name is no account")
    return None


def put_api_key(state: State, command: PutApiKey) -> Reject | None:
    """Check that this key may be put. Permissions of 0 revoke a key. The operator may own keys."""
    if not is_name(command.key_id):
        return bad_name("key_id")
    if command.owner_id != OPERATOR and command.owner_id not in state.accounts:
        return Reject(Reason.UNKNOWN_ACCOUNT, "owner_id", "no such account")
    if len(command.secret) > SECRET_MAX or not _is_base64(command.secret):
        return Reject(Reason.INVALID_ID, "secret", f"expected base64 text of 4 to {SECRET_MAX} characters")
    if len(command.passphrase) > SECRET_MAX:
        return Reject(Reason.INVALID_ID, "passphrase", f"expected at most {SECRET_MAX} characters")
    if not 0 <= command.permissions <= _PERMISSIONS:
        return Reject(Reason.INVALID_PERMISSIONS, "permissions", f"expected 0 to {_PERMISSIONS}")
    if command.sealed_by < 0:
        return Reject(Reason.INVALID_ID, "sealed_by", "expected 0 or the number of a cluster key")
    found = networks(command.addresses)
    return found if isinstance(found, Reject) else None


def networks(addresses: str) -> str | Reject:
    """Return a key's networks as they are stored, each in its canonical form. A single address is a network of one."""
    texts = addresses.split(",", ADDRESSES_MAX) if addresses else []
    if len(texts) > ADDRESSES_MAX:
        return Reject(Reason.INVALID_ADDRESSES, "addresses", f"expected at most {ADDRESSES_MAX} networks")
    found = []
    for place, text in enumerate(texts, 1):
        try:
            found.append(_network_text(ip_network(text if _is_network(text) else "")))
        except ValueError:
            expected = "expected one such as 192.0.2.0/24 or 2001:db8::/32, host bits 0"
            return Reject(Reason.INVALID_ADDRESSES, "addresses", f"network {place}: {expected}")
    return ",".join(found)


def _network_text(network: IPv4Network | IPv6Network) -> str:
    """Return a network as text, made of its numbers: the text that Python makes of an IPv6 network that maps IPv4
    differs between its versions.

    IPv6 as RFC 5952 says: lower case, no leading zeros, the first of the longest runs of two or more zeros left out. No
    dotted form.
    """
    number = int(network.network_address)
    if isinstance(network, IPv4Network):
        return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0)) + f"/{network.prefixlen}"
    groups = [f"{number >> shift & 0xFFFF:x}" for shift in range(112, -1, -16)]
    runs = [next((n for n in range(start, 8) if groups[n] != "0"), 8) - start for start in range(8)]
    longest = max(runs)
    if longest < 2:
        return ":".join(groups) + f"/{network.prefixlen}"
    start = runs.index(longest)
    return f"{':'.join(groups[:start])}::{':'.join(groups[start + longest :])}/{network.prefixlen}"


def deposit(state: State, command: Deposit) -> Reject | None:
    """Check that this deposit may be booked. What was deposited and not withdrawn stays within AMOUNT_MAX, and so does
    every later sum.
    """
    currency = state.currencies.get(command.currency)
    if currency is None:
        return Reject(Reason.UNKNOWN_CURRENCY, "currency", "no such currency")
    if command.amount <= 0:
        return Reject(Reason.INVALID_AMOUNT, "amount", "expected more than 0")
    if currency.deposited - currency.withdrawn + command.amount > AMOUNT_MAX:
        return Reject(Reason.AMOUNT_TOO_LARGE, "amount", f"all money in a currency is at most {AMOUNT_MAX}")
    return None


def withdraw(state: State, account: Account, command: Withdraw) -> Reject | None:
    """Check that this withdrawal may be booked."""
    return _amount(state, command) or _covered(account, command)


def transfer(state: State, account: Account, command: Transfer) -> Reject | None:
    """Check that this transfer may be booked. The receiver's balance stays within AMOUNT_MAX, because all deposits
    together do.
    """
    return _amount(state, command) or _receiver(state, command) or _covered(account, command)


def _amount(state: State, command: Withdraw | Transfer) -> Reject | None:
    """Check the currency and the amount of a transfer."""
    if command.currency not in state.currencies:
        return Reject(Reason.UNKNOWN_CURRENCY, "currency", "no such currency")
    if command.amount <= 0:
        return Reject(Reason.INVALID_AMOUNT, "amount", "expected more than 0")
    if command.amount > AMOUNT_MAX:
        return Reject(Reason.AMOUNT_TOO_LARGE, "amount", f"expected at most {AMOUNT_MAX}")
    return None


def _receiver(state: State, command: Transfer) -> Reject | None:
    """Check the account that receives a transfer."""
    if command.to_account_id not in state.accounts:
        return Reject(Reason.UNKNOWN_ACCOUNT, "to_account_id", "no such account")
    if command.to_account_id == command.account_id:
        return Reject(Reason.INVALID_ID, "to_account_id", "expected another account than the sender's")
    return None


def _covered(account: Account, command: Withdraw | Transfer) -> Reject | None:
    """Check that the account has the amount."""
    available = account.available(command.currency)
    if command.amount > available:
        return Reject(Reason.INSUFFICIENT_FUNDS, "amount", f"{available} available")
    return None


def place_order(state: State, account: Account, command: Placing) -> Reject | None:
    """Check that this order may enter.

    The order of the checks: the product, the operator's controls (`guards`), the product's status, fields that
    contradict each other, numbers, the stop, the time to live, client_oid, the number of open orders, funds, post-only.
    A stop order is checked when it is placed, and not again when it enters.
    """
    product = state.products.get(command.product_id)
    if product is None:
        return Reject(Reason.UNKNOWN_PRODUCT, "product_id", "no such product")
    command.product = product
    if state.guarded:
        stopped = guards.check(state, product, account, command)
        if stopped is not None:
            return stopped
    reject = check_status(product, command) if product.status != _ONLINE else None
    if reject is None:
        if command.order_type == _LIMIT:
            reject = _limit_shape(command) or check_limit_numbers(product, command)
        else:
            reject = _market_shape(command) or _market_numbers(product, command)
    if command.stop or command.stop_price:
        reject = reject or check_stop(product, command)
    if command.cancel_after or command.time_in_force == _GTT:
        reject = reject or _cancel_after(command)
    waits = product.busy or state.work >= state.work_max
    command.maker_fee_ppm, command.taker_fee_ppm = product.maker_fee_ppm, product.taker_fee_ppm
    if state.fee_rules:
        fees.set_rates(state, product, account, command)
    return reject or _client_oid(account, command, waits) or _funds(product, account, command) or _post_only(product, command)


def check_status(product: Product, command: Placing) -> Reject | None:
    """Check that such an order may enter in a status other than online."""
    match product.status:
        case ProductStatus.OFFLINE:
            return Reject(Reason.PRODUCT_NOT_TRADING, "product_id", "the product is offline")
        case ProductStatus.CANCEL_ONLY:
            return Reject(Reason.PRODUCT_CANCEL_ONLY, "product_id", "orders may only be cancelled")
        case ProductStatus.POST_ONLY if not command.post_only:
            return Reject(Reason.PRODUCT_POST_ONLY, "post_only", "only post-only orders may enter")
        case ProductStatus.LIMIT_ONLY if command.order_type != _LIMIT:
            return Reject(Reason.PRODUCT_LIMIT_ONLY, "order_type", "only limit orders may enter")
        case ProductStatus.AUCTION if not command.stop:
            return _collected(command)
    return None


def _collected(command: Placing) -> Reject | None:
    """Check that the order may go to the auction book."""
    if command.order_type != _LIMIT:
        return Reject(Reason.PRODUCT_IN_AUCTION, "order_type", "an auction collects limit orders")
    if not can_rest(command.order_type, command.time_in_force):
        return Reject(Reason.PRODUCT_IN_AUCTION, "time_in_force", "an auction collects orders that may rest")
    if command.post_only:
        return Reject(Reason.PRODUCT_IN_AUCTION, "post_only", "an order that an auction collects may take when it opens")
    return None


def _limit_shape(command: Placing) -> Reject | None:
    """Check which fields a limit order may have."""
    if command.funds != 0:
        return Reject(Reason.INVALID_ORDER, "funds", "a limit order has no funds")
    if command.post_only and not can_rest(command.order_type, command.time_in_force):
        return Reject(Reason.INVALID_ORDER, "post_only", "a post-only order is good till cancelled")
    return None


def check_limit_numbers(product: Product, command: Placing) -> Reject | None:
    """Check price and size of a limit order."""
    price = command.price
    if price <= 0:
        return Reject(Reason.INVALID_PRICE, "price", "expected more than 0")
    if price > _AMOUNT_MAX:
        return Reject(Reason.AMOUNT_TOO_LARGE, "price", f"expected at most {AMOUNT_MAX}")
    if price % product.tick != 0:
        return Reject(Reason.PRICE_OFF_TICK, "price", f"expected a multiple of {product.tick}")
    reject = check_size(product, command.size)
    if reject is None and product.notional(price, command.size) > _AMOUNT_MAX:
        return Reject(Reason.AMOUNT_TOO_LARGE, "size", f"price times size is at most {AMOUNT_MAX}")
    return reject


def _market_shape(command: Placing) -> Reject | None:
    """Check which fields a market order may have."""
    if command.price != 0:
        return Reject(Reason.INVALID_ORDER, "price", "a market order has no price")
    if command.post_only:
        return Reject(Reason.INVALID_ORDER, "post_only", "a market order never rests")
    if command.time_in_force in (_FOK, _GTT):
        return Reject(Reason.INVALID_ORDER, "time_in_force", "a market order takes what there is")
    if command.side == _SELL and command.size != 0 and command.funds != 0:
        return Reject(Reason.INVALID_ORDER, "funds", "a market sell has a size or funds, not both")
    return None


def _market_numbers(product: Product, command: Placing) -> Reject | None:
    """Check the size and the funds of a market order."""
    if command.funds < 0 or (command.funds == 0 and command.size == 0):
        return Reject(Reason.INVALID_FUNDS, "funds", "expected a size, or funds of more than 0")
    if command.funds > _AMOUNT_MAX:
        return Reject(Reason.AMOUNT_TOO_LARGE, "funds", f"expected at most {AMOUNT_MAX}")
    return check_size(product, command.size) if command.size != 0 else None


def check_size(product: Product, size: int) -> Reject | None:
    """Check the size of an order that has one."""
    if size <= 0:
        return Reject(Reason.INVALID_SIZE, "size", "expected more than 0")
    if size < product.min_size:
        return Reject(Reason.SIZE_TOO_SMALL, "size", f"expected at least {product.min_size}")
    if size > product.max_size:
        return Reject(Reason.SIZE_TOO_LARGE, "size", f"expected at most {product.max_size}")
    if size % product.lot != 0:
        return Reject(Reason.SIZE_OFF_LOT, "size", f"expected a multiple of {product.lot}")
    return None


def check_stop(product: Product, command: Placing) -> Reject | None:
    """Check that a stop order names the amount of its hold, and its stop price."""
    if not command.stop:
        return Reject(Reason.INVALID_STOP, "stop", "a stop price needs a kind of stop")
    if command.stop_price <= 0:
        return Reject(Reason.INVALID_STOP, "stop_price", "expected more than 0")
    if command.stop_price > _AMOUNT_MAX:
        return Reject(Reason.AMOUNT_TOO_LARGE, "stop_price", f"expected at most {AMOUNT_MAX}")
    if command.stop_price % product.tick != 0:
        return Reject(Reason.PRICE_OFF_TICK, "stop_price", f"expected a multiple of {product.tick}")
    if command.post_only:
        return Reject(Reason.INVALID_STOP, "post_only", "a stop order is not post-only")
    if command.order_type != _LIMIT:
        if command.side == _BUY and command.funds == 0:
            return Reject(Reason.INVALID_STOP, "funds", "a market buy with a stop needs funds")
        if command.side == _SELL and command.size == 0:
            return Reject(Reason.INVALID_STOP, "size", "a market sell with a stop needs a size")
    return None


def _cancel_after(command: Placing) -> Reject | None:
    """Check how long a good-till-time order may rest."""
    if command.time_in_force != _GTT:
        return Reject(Reason.INVALID_CANCEL_AFTER, "cancel_after", "only a good-till-time order has it")
    if not command.life_min <= command.cancel_after <= _CANCEL_AFTER_MAX:
        text = f"expected {CANCEL_AFTER_MIN} to {CANCEL_AFTER_MAX} nanoseconds"
        return Reject(Reason.INVALID_CANCEL_AFTER, "cancel_after", text)
    return None


def _client_oid(account: Account, command: Placing, waits: bool) -> Reject | None:
    """Check that no open order has this client_oid, even after the reply cache has dropped the command that entered it."""
    oid = command.client_oid
    if oid:
        if not is_command_id(oid):
            return bad_command_id("client_oid", Reason.INVALID_ID)
        by_oid = account.by_client_oid
        known = by_oid.find(oid)
        if known is not None and known.status != _DONE:
            return Reject(Reason.COMMAND_ID_REUSED, "client_oid", f"order {known.order_id} is open under it")
    if account.open_count >= _OPEN_ORDERS_MAX and (waits or command.stop or can_rest(command.order_type, command.time_in_force)):
        return Reject(Reason.TOO_MANY_OPEN_ORDERS, "", f"at most {OPEN_ORDERS_PER_ACCOUNT} open orders an account")
    return None


def can_rest(order_type: int, time_in_force: int) -> bool:
    """Return whether the remainder of such an order could go on the book."""
    return order_type == _LIMIT and time_in_force in (_GTC, _GTT)


def entry_hold(product: Product, command: Placing, available: int) -> int:
    """Return the hold of an order at its entry, given its fee rates and the `available` balance. A larger result means
    insufficient funds.

    Limit orders hold their worst case (`Product.hold_for`), a market sell by size its size, a market buy with funds
    those. Orders that name no amount of the currency they pay with (a market buy by size alone, a market sell by funds)
    hold the whole balance and give back the unused part. They need the least amount that could trade: one unit of
    quote, one lot of base.
    """
    if command.order_type == _LIMIT:
        if command.side == _SELL:
            return command.size
        cost = notional(command.price, command.size, product.unit)
        return cost + product.highest_fee(cost, max(command.maker_fee_ppm, command.taker_fee_ppm), 0)
    named = command.funds if command.side == _BUY else command.size
    if named != 0:
        return named
    return max(available, 1 if command.side == _BUY else product.lot)


def _funds(product: Product, account: Account, command: Placing) -> Reject | None:
    """Check that the account can pay for the order."""
    buys = command.side == _BUY
    if account.paired is product:
        available = account.quote.available if buys else account.base.available
    else:
        available = account.available(product.quote if buys else product.base)
    needed = entry_hold(product, command, available)
    if needed > available:
        return Reject(Reason.INSUFFICIENT_FUNDS, "funds" if command.funds else "size", f"{needed} needed, {available} available")
    return None


def _post_only(product: Product, command: Placing) -> Reject | None:
    if command.post_only and product.opposite(command.side).crosses(command.price):
        return _WOULD_TAKE
    return None


def cancel_order(state: State, account: Account, command: Cancelling) -> Reject | Order:
    """Return the order to cancel, or the reject. An order of another account is reported as unknown."""
    if command.order_id != 0:
        field, order = "order_id", state.orders.find(command.order_id)
    else:
        by_oid = account.by_client_oid
        field, order = "client_oid", by_oid.find(command.client_oid)
    if order is None or order.account is not account:
        return _UNKNOWN_ID if field == "order_id" else _UNKNOWN_OID
    if command.product_id and command.product_id != order.product.product_id:
        return Reject(Reason.UNKNOWN_ORDER, "product_id", "no such order of this product")
    if order.status == _DONE:
        return _DONE_ID if field == "order_id" else _DONE_OID
    return order if may_cancel(order.product) else _not_cancelling(order.product)


def cancel_all(state: State, command: CancelAll) -> Reject | None:
    """Check that the account may cancel these orders. Without a product, orders of offline products are not cancelled."""
    if command.session and not is_command_id(command.session):
        return bad_command_id("session", Reason.INVALID_ID)
    if not 0 <= command.side <= _SELL:
        return Reject(Reason.INVALID_ORDER, "side", "expected 1 for buys, 2 for sells, or 0 for both")
    for field in ("price_min", "price_max"):
        if not 0 <= getattr(command, field) <= AMOUNT_MAX:
            return Reject(Reason.INVALID_PRICE, field, f"expected 0 to {AMOUNT_MAX}")
    if not command.product_id:
        if command.price_min or command.price_max:
            return Reject(Reason.INVALID_ORDER, "product_id", "a range of prices needs a product")
        return None
    product = state.products.get(command.product_id)
    if product is None:
        return Reject(Reason.UNKNOWN_PRODUCT, "product_id", "no such product")
    return None if may_cancel(product) else _not_cancelling(product)


def may_cancel(product: Product) -> bool:
    """Check that the product's status allows cancels."""
    return product.status != _OFFLINE and product.opening != _MEETING


def _not_cancelling(product: Product) -> Reject:
    if product.status == _OFFLINE:
        return Reject(Reason.PRODUCT_NOT_TRADING, "product_id", "the product is offline")
    return Reject(Reason.AUCTION_OPENING, "product_id", "the auction is opening")
