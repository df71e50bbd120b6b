"""The operator's calls: currencies, products, accounts, keys, and money for any account. Each may be repeated safely."""

from __future__ import annotations

import base64
import binascii

from node.gateway.accounts import transfer
from node.gateway.decimals import to_units
from node.gateway.errors import BadRequestError
from node.gateway.ids import check_name, fresh_command_id
from node.gateway.reasons import rejection
from node.gateway.requests import AccountRequest, CurrencyRequest, KeyRequest, ProductRequest, given, parse, raw_text
from node.gateway.shapes import PutJson, TransferJson
from node.gateway.web import Answer, Call
from statemachine.commands import AnyCommand, Deposit, OpenAccount, PutApiKey, PutCurrency, PutProduct
from statemachine.events import Done, Rejected
from statemachine.limits import AMOUNT_MAX, OPERATOR, SCALE_MAX, SECRET_MAX
from statemachine.types import Permission, ProductStatus

STATUSES = {status.name.lower(): status for status in ProductStatus}
PERMISSIONS = {permission.name.lower(): permission for permission in Permission}
RATE_SCALE = 6
"""Fee rates are in parts per million."""


async def put_currency(call: Call) -> Answer[PutJson]:
    """PUT /admin/currencies/{id}: add a currency."""
    name = check_name(call.path("id"), "id")
    request = parse(call.body, CurrencyRequest)
    if not 0 <= request.scale <= SCALE_MAX:
        raise BadRequestError(f"scale must be a whole number from 0 to {SCALE_MAX}", "scale")
    return await _put(call, PutCurrency(OPERATOR, fresh_command_id(), name, request.scale), name)


async def put_product(call: Call) -> Answer[PutJson]:
    """PUT /admin/products/{id}: sizes in the base currency, the tick in the quote currency."""
    product_id = check_name(call.path("id"), "id")
    request = parse(call.body, ProductRequest)
    base = (await call.gateway.catalogue.currency(check_name(request.base_currency, "base_currency"))).scale
    quote = (await call.gateway.catalogue.currency(check_name(request.quote_currency, "quote_currency"))).scale
    if request.status not in STATUSES:
        raise BadRequestError(f"status must be one of {', '.join(STATUSES)}", "status")
    lot = to_units(raw_text(request.base_increment, "base_increment"), base, "base_increment")
    command = PutProduct(
        OPERATOR,
        fresh_command_id(),
        product_id,
        request.base_currency,
        request.quote_currency,
        to_units(raw_text(request.quote_increment, "quote_increment"), quote, "quote_increment"),
        lot,
        to_units(raw_text(request.base_min_size, "base_min_size"), base, "base_min_size")
        if given(request.base_min_size)
        else lot,
        _max_size(request, base, lot),
        to_units(raw_text(request.maker_fee_rate, "maker_fee_rate"), RATE_SCALE, "maker_fee_rate")
        if given(request.maker_fee_rate)
        else 0,
        to_units(raw_text(request.taker_fee_rate, "taker_fee_rate"), RATE_SCALE, "taker_fee_rate")
        if given(request.taker_fee_rate)
        else 0,
        STATUSES[request.status],
    )
    return await _put(call, command, product_id)


def _max_size(request: ProductRequest, scale: int, lot: int) -> int:
    """The largest size: as given, or a million whole coins."""
    if given(request.base_max_size):
        return to_units(raw_text(request.base_max_size, "base_max_size"), scale, "base_max_size")
    most: int = min(10 ** (scale + 6), AMOUNT_MAX)
    return max(lot, most - most % max(lot, 1))


async def put_account(call: Call) -> Answer[PutJson]:
    """PUT /admin/accounts/{id}: open an account."""
    account_id = check_name(call.path("id"), "id")
    if call.body.strip():
        parse(call.body, AccountRequest)
    return await _put(call, OpenAccount(OPERATOR, fresh_command_id(), account_id), account_id)


async def put_key(call: Call) -> Answer[PutJson]:
    """PUT /admin/keys/{id}: add, replace or revoke an API key. The secret and the passphrase are not repeated in the answer."""
    key_id = check_name(call.path("id"), "id")
    request = parse(call.body, KeyRequest)
    check_name(request.account_id, "account_id")
    for field, text in (("secret", request.secret), ("passphrase", request.passphrase)):
        if not (0 < len(text) <= SECRET_MAX and text.isprintable()):
            raise BadRequestError(f"{field} must be 1 to {SECRET_MAX} printable characters", field)
    try:
        base64.b64decode(request.secret, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequestError("secret must be base64", "secret") from None
    unknown = [name for name in request.permissions if name not in PERMISSIONS]
    if unknown or not request.permissions:
        raise BadRequestError(f"permissions must be some of {', '.join(PERMISSIONS)}", "permissions")
    permissions = sum({PERMISSIONS[name] for name in request.permissions})
    command = PutApiKey(OPERATOR, fresh_command_id(), key_id, request.account_id, request.secret, request.passphrase, permissions)
    try:
        return await _put(call, command, key_id)
    finally:
        call.gateway.auth.forget(key_id)


async def deposit(call: Call) -> Answer[TransferJson]:
    """POST /admin/accounts/{id}/deposits: credit an account."""
    return await transfer(call, check_name(call.path("id"), "id"), Deposit)


async def _put(call: Call, command: AnyCommand, name: str) -> Answer[PutJson]:
    call.parameters()
    outcome = await call.command(command)
    if isinstance(outcome, Done):
        return Answer({"id": name, "changed": outcome.changed, "sequence": outcome.sequence})
    assert isinstance(outcome, Rejected), outcome
    raise rejection(outcome)
