"""The operator's calls: currencies, products, accounts, and money for any account. Each may be repeated safely, signed anew."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

from node.gateway.accounts import transfer
from node.gateway.decimals import to_units
from node.gateway.errors import ApiError, BadRequestError
from node.gateway.ids import check_name, product_text
from node.gateway.reasons import rejection
from node.gateway.requests import (
    AccountRequest,
    CurrencyRequest,
    ProductPatch,
    ProductRequest,
    StatusRequest,
    given,
    parse,
    raw_text,
)
from node.gateway.shapes import PutJson, TransferJson
from node.gateway.web import Answer, Call
from node.native.products import put_again
from node.native.protocol import ProductsQuery
from statemachine.commands import AnyCommand, Deposit, OpenAccount, PutCurrency, PutProduct
from statemachine.decimals import to_text
from statemachine.events import AnyOutcome, Done, Rejected
from statemachine.limits import AMOUNT_MAX, OPERATOR, SCALE_MAX
from statemachine.tables import ProductRow
from statemachine.types import ProductStatus

STATUSES = {status.name.lower(): status for status in ProductStatus}
NO_SCALES: Mapping[str, int] = {}
RATE_SCALE = 6
"""Fee rates are in parts per million."""


async def put_currency(call: Call) -> Answer[PutJson]:
    """PUT /admin/currencies/{id}: add a currency."""
    name = check_name(call.path("id"), "id")
    request = parse(call.body, CurrencyRequest)
    if not 0 <= request.scale <= SCALE_MAX:
        raise BadRequestError(f"scale must be a whole number from 0 to {SCALE_MAX}", "scale")
    return await put(call, PutCurrency(OPERATOR, call.command_id(), name, request.scale), name)


async def put_product(call: Call) -> Answer[PutJson]:
    """PUT /admin/products/{id}: sizes in the base currency, the tick in the quote currency."""
    product_id = check_name(call.path("id"), "id")
    request = parse(call.body, ProductRequest)
    base = (await call.gateway.catalogue.currency(check_name(request.base_currency, "base_currency"))).scale
    quote = (await call.gateway.catalogue.currency(check_name(request.quote_currency, "quote_currency"))).scale
    status = _status(request.status) if request.status is not None else ProductStatus.ONLINE
    lot = to_units(raw_text(request.base_increment, "base_increment"), base, "base_increment")
    command = PutProduct(
        OPERATOR,
        call.command_id(),
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
        status,
        keep_status=request.status is None,
    )
    _check_notionals(command, base, quote)
    return await put(call, command, product_id, {"tick": quote, "lot": base})


def _check_notionals(command: PutProduct, base: int, quote: int) -> None:
    """Raise BadRequestError where a price times a size may be a fraction of the quote currency's smallest unit, saying what would do.

    The exchange's own rule, in decimals. `base` and `quote` are the digits of the currencies.
    """
    if command.tick <= 0 or command.lot <= 0 or command.tick * command.lot % 10**base == 0:
        return
    least = to_text(command.tick * command.lot, base + quote)
    digits = len(least.partition(".")[2])
    unit = 10**base // gcd(10**base, command.tick)
    detail = (
        f"a lot of {to_text(command.lot, base)} {command.base} at a price of {to_text(command.tick, quote)} {command.quote} is worth {least} "
        f"{command.quote}, and {command.quote} has {quote} digits: every price times every size must be a whole number of its smallest unit, "
        f"{to_text(1, quote)}. Take a base_increment that is a multiple of {to_text(unit, base)}, a larger quote_increment, or a quote currency "
        f"with {digits} digits"
    )
    raise BadRequestError(
        "quote_increment times base_increment is too small", "quote_increment", reason="invalid_product", detail=detail
    )


def _status(text: str) -> ProductStatus:
    if text not in STATUSES:
        raise BadRequestError(f"status must be one of {', '.join(STATUSES)}", "status")
    return STATUSES[text]


def _max_size(request: ProductRequest, scale: int, lot: int) -> int:
    """The largest size: as given, or a million whole coins."""
    if given(request.base_max_size):
        return to_units(raw_text(request.base_max_size, "base_max_size"), scale, "base_max_size")
    most: int = min(10 ** (scale + 6), AMOUNT_MAX)
    return max(lot, most - most % max(lot, 1))


async def patch_product(call: Call) -> Answer[PutJson]:
    """PATCH /admin/products/{id}: change what is named, keep the rest. Refused with 409 where somebody else changes the product meanwhile."""
    product_id = product_text(call.path("id"))
    request = parse(call.body, ProductPatch)
    row = (await _latest_products(call)).get(product_id)
    if row is None:
        raise ApiError(404, "Product not found", "id")
    product = await call.gateway.catalogue.product(product_id)
    changes: dict[str, object] = {
        name: to_units(raw_text(text, field), scale, field)
        for name, field, text, scale in (
            ("min_size", "base_min_size", request.base_min_size, product.base_scale),
            ("max_size", "base_max_size", request.base_max_size, product.base_scale),
            ("maker_fee_ppm", "maker_fee_rate", request.maker_fee_rate, RATE_SCALE),
            ("taker_fee_ppm", "taker_fee_rate", request.taker_fee_rate, RATE_SCALE),
        )
        if given(text)
    }
    if request.status is not None:
        changes["status"] = _status(request.status)
    if not changes:
        raise BadRequestError("the body must name something to change")
    return await put(call, put_again(row, call.command_id(), **changes), product_id)


async def patch_products(call: Call) -> Answer[list[PutJson]]:
    """PATCH /admin/products: the same status for every product, all in one entry of the log."""
    status = _status(parse(call.body, StatusRequest).status)
    rows = await _latest_products(call)
    outcomes = await call.commands([put_again(row, call.command_id(row.product_id), status=status) for row in rows.values()])
    return Answer([_put_json(outcome, name) for name, outcome in zip(rows, outcomes, strict=True)])


async def _latest_products(call: Call) -> dict[str, ProductRow]:
    """Every product by its id, after all that was acknowledged before the call, whichever node leads."""
    rows: list[ProductRow] = await call.gateway.backend.query_leader(ProductsQuery())
    return {row.product_id: row for row in rows}


async def put_account(call: Call) -> Answer[PutJson]:
    """PUT /admin/accounts/{id}: open an account."""
    account_id = check_name(call.path("id"), "id")
    if call.body.strip():
        parse(call.body, AccountRequest)
    return await put(call, OpenAccount(OPERATOR, call.command_id(), account_id), account_id)


async def deposit(call: Call) -> Answer[TransferJson]:
    """POST /admin/accounts/{id}/deposits: credit an account."""
    return await transfer(call, check_name(call.path("id"), "id"), Deposit)


async def put(call: Call, command: AnyCommand, name: str, scales: Mapping[str, int] = NO_SCALES) -> Answer[PutJson]:
    """Put something; what that did. `scales`: the digits of the command's fields that are amounts. Raises ApiError where it was refused."""
    return Answer(_put_json(await call.command(command), name, scales))


def _put_json(outcome: AnyOutcome, name: str, scales: Mapping[str, int] = NO_SCALES) -> PutJson:
    """What a PUT did. Raises ApiError for one that was refused."""
    if isinstance(outcome, Done):
        return {"id": name, "changed": outcome.changed, "sequence": outcome.sequence}
    assert isinstance(outcome, Rejected), outcome
    scale = scales.get(outcome.field, 0)
    raise rejection(outcome, number=lambda units: to_text(units, scale))
