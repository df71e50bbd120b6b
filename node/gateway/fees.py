"""Fees over HTTP: what an account pays, and the operator's tiers and overrides (`statemachine.fees`)."""

from __future__ import annotations

import msgspec

from node.gateway.admin import PutJson, put
from node.gateway.calls import Answer, Call
from node.gateway.errors import BadRequestError
from node.gateway.history import DOLLARS, usd_volume
from node.gateway.requests import DecimalText, absent, choice, given, parse, raw_text
from node.gateway.values import check_name, product_text, rate, signed_units, to_units
from node.native.protocol import FeesQuery, FeesView
from statemachine.commands import PutFeeOverride, PutFeeTiers
from statemachine.decimals import to_text
from statemachine.limits import OPERATOR, PPM_DIGITS

SCOPES = {"currency": "currency", "product": "product"}


class FeesJson(msgspec.Struct, kw_only=True):
    """The fee rates of the account's next order. A negative `maker_fee_rate` is a rebate. `usd_volume` is the 30-day volume
    in products quoted in USD, or null if it is not counted.
    """

    maker_fee_rate: str
    taker_fee_rate: str
    usd_volume: str | None


class TierRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fee tier, which applies from this 30-day volume on."""

    volume: DecimalText
    maker_fee_rate: DecimalText
    taker_fee_rate: DecimalText


class TiersRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All fee tiers by increasing volume, beginning with 0. An empty list removes them."""

    tiers: list[TierRequest]


class OverrideRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The account's own rates in a product, or in all products if `product_id` is absent. Without rates the account's own
    rates are removed.
    """

    product_id: str = ""
    maker_fee_rate: DecimalText = msgspec.field(default_factory=absent)
    taker_fee_rate: DecimalText = msgspec.field(default_factory=absent)


async def fees(call: Call) -> Answer[FeesJson]:
    """GET /fees: the account's rates in `product_id`, or its highest in any product, and its 30-day volume in USD. The
    operator's key gets the rates of products.
    """
    text = call.parameters().get("product_id")
    catalogue = call.gateway.catalogue
    products = [await catalogue.recent(product_text(text))] if text is not None else await catalogue.all_products()
    assert call.identity is not None, "the route asks for a permission"
    if call.identity.account_id == OPERATOR:
        makers, takers = [each.row.maker_fee_ppm for each in products], [each.row.taker_fee_ppm for each in products]
        return Answer(_fees_json(max(makers, default=0), max(takers, default=0), None))
    view: FeesView = await call.read(FeesQuery(call.account_id, products[0].row.product_id if text is not None else ""))
    counted = dict(view.volumes)
    if DOLLARS in counted:
        volume: str | None = to_text(counted[DOLLARS], (await catalogue.currency(DOLLARS)).scale)
    else:
        volume = await usd_volume(call)
    return Answer(_fees_json(view.maker_fee_ppm, view.taker_fee_ppm, volume))


def _fees_json(maker_ppm: int, taker_ppm: int, volume: str | None) -> FeesJson:
    return FeesJson(maker_fee_rate=rate(maker_ppm), taker_fee_rate=rate(taker_ppm), usd_volume=volume)


async def put_tiers(call: Call) -> Answer[PutJson]:
    """PUT /admin/fees/{scope}/{id}: the fee tiers of all products quoted in a currency, or of one product."""
    scope, name = choice(call.path("scope"), SCOPES, "scope"), check_name(call.path("id"), "id")
    catalogue = call.gateway.catalogue
    product = await catalogue.recent(product_text(name)) if scope == "product" else None
    currency = await catalogue.currency(product.row.quote if product is not None else name)
    tiers = [
        (
            to_units(raw_text(tier.volume, "volume"), currency.scale, "volume"),
            signed_units(raw_text(tier.maker_fee_rate, "maker_fee_rate"), PPM_DIGITS, "maker_fee_rate"),
            to_units(raw_text(tier.taker_fee_rate, "taker_fee_rate"), PPM_DIGITS, "taker_fee_rate"),
        )
        for tier in parse(call.body, TiersRequest).tiers
    ]
    of = product.row.product_id if product is not None else ""
    return await put(call, PutFeeTiers(OPERATOR, call.command_id(), currency.currency, of, tiers), name)


async def put_override(call: Call) -> Answer[PutJson]:
    """PUT /admin/accounts/{id}/fees: rates of this account alone."""
    account_id = check_name(call.path("id"), "id")
    request = parse(call.body, OverrideRequest)
    product_id = product_text(request.product_id) if request.product_id else ""
    if given(request.maker_fee_rate) is not given(request.taker_fee_rate):
        raise BadRequestError("maker_fee_rate and taker_fee_rate go together", "maker_fee_rate")
    rates, remove = (0, 0), not given(request.maker_fee_rate)
    if not remove:
        rates = (
            signed_units(raw_text(request.maker_fee_rate, "maker_fee_rate"), PPM_DIGITS, "maker_fee_rate"),
            to_units(raw_text(request.taker_fee_rate, "taker_fee_rate"), PPM_DIGITS, "taker_fee_rate"),
        )
    return await put(call, PutFeeOverride(OPERATOR, call.command_id(), account_id, product_id, *rates, remove), account_id)
