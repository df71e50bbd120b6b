"""The operator's controls over HTTP: switches, limits of products, risk limits, fees, firms, calendars, corrections of
trades.

Each call may be repeated safely with a new signature. Amounts are decimals, shares are decimals of one, durations are
seconds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from node.config.calendars import CalendarError, CalendarText, command_of
from node.gateway.access import check_viewer
from node.gateway.admin import PutJson, put
from node.gateway.calls import Answer, Call
from node.gateway.catalogue import Product
from node.gateway.errors import SIZES, ApiError, BadRequestError, rejection
from node.gateway.requests import DecimalText, absent, amount_above_zero, choice, decimal_units, given, parse
from node.gateway.values import check_name, order_number, product_text
from node.native.protocol import ControlsQuery, ControlsView
from statemachine.commands import (
    CorrectTrade,
    FollowCalendar,
    PutFeeOverride,
    PutFeeTiers,
    PutFirm,
    PutGroup,
    PutMember,
    PutProductLimits,
    PutRiskLimits,
    SetCalendar,
    SetSwitches,
)
from statemachine.events import Rejected, Switched
from statemachine.limits import EXTENSIONS_MAX, OPERATOR, PPM_DIGITS, SECOND_NS
from statemachine.types import CollarAction, Reason, Scope, Switch

SCOPES = {"firm": Scope.FIRM, "account": Scope.ACCOUNT, "product": Scope.PRODUCT}
CALENDAR_SCOPES = {"group": Scope.GROUP, "product": Scope.PRODUCT}
FEE_SCOPES = {"currency": "currency", "product": "product"}
ACTIONS = {action.name.lower(): action for action in CollarAction}
SWITCHES = {switch.name.lower(): int(switch) for switch in Switch}
PAGE = 1_000
COUNT_MAX = 10**9
"""Largest limit of open orders, and of orders a second."""
CONTROLS = tuple(kind for kind in ControlsView.__struct_fields__ if kind not in ("user", "access", "proposal", "fee_volume"))
"""The tables of `GET /admin/controls`. Users, settings and proposals have separate calls. The traded volumes are no
setting: they have a row of each account, which the engine would sort for each answer, and the page asks every few
seconds.
"""


class SwitchesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The switches to set: any of buy_off, sell_off, kill. An empty list clears all. `note` is for people."""

    switches: list[str]
    note: str = ""


class SwitchesJson(msgspec.Struct, kw_only=True):
    """The effect of setting switches: `cancelled` orders were cancelled. With `pending` the next log entries cancel more."""

    scope: str
    id: str
    changed: bool
    cancelled: int
    pending: bool
    sequence: int


class LimitsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All limits of a product. An absent field means no limit. See the document's section on controls."""

    dynamic: DecimalText = msgspec.field(default_factory=absent)
    static: DecimalText = msgspec.field(default_factory=absent)
    static_price: DecimalText = msgspec.field(default_factory=absent)
    action: str = "reject"
    halt_seconds: int = 0
    call_seconds: int = 0
    random_seconds: int = 0
    limit_seconds: int = 0
    extensions: int = 0
    order_size: DecimalText = msgspec.field(default_factory=absent)
    order_notional: DecimalText = msgspec.field(default_factory=absent)
    distance: DecimalText = msgspec.field(default_factory=absent)


class RiskRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All risk limits of an account or a firm in a currency, or of its orders if no currency is given. An absent field
    means no limit.
    """

    currency: str = ""
    orders: int | None = None
    rate: int | None = None
    open: DecimalText = msgspec.field(default_factory=absent)
    volume: DecimalText = msgspec.field(default_factory=absent)
    position: DecimalText = msgspec.field(default_factory=absent)


class MemberRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The firm to which the account belongs; empty for none."""

    firm_id: str


class FollowsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The calendar to follow; empty for that of the group or of the venue, or none."""

    calendar_id: str


class GroupRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The group of the product; empty for none."""

    group_id: str


class CorrectionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A trade as it was reported, and its new price. Without a new price the trade is busted. `note` is for people. The
    optional order ids are for the reports of both accounts.
    """

    buyer: str
    seller: str
    price: DecimalText
    size: DecimalText
    buyer_fee: DecimalText
    seller_fee: DecimalText
    new_price: DecimalText = msgspec.field(default_factory=absent)
    note: str = ""
    buyer_order_id: str = ""
    seller_order_id: str = ""


class TierRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fee tier, which applies from this 30-day volume on."""

    volume: DecimalText
    maker_fee_rate: DecimalText
    taker_fee_rate: DecimalText


class TiersRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All fee tiers by increasing volume, beginning with 0. An empty list removes them."""

    tiers: list[TierRequest]


class OverrideRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The account's own rates in a product, or in all products if `product_id` is absent. Without rates the account's
    own rates are removed.
    """

    product_id: str = ""
    maker_fee_rate: DecimalText = msgspec.field(default_factory=absent)
    taker_fee_rate: DecimalText = msgspec.field(default_factory=absent)


async def controls(call: Call) -> Answer[dict[str, Any]]:
    """GET /admin/controls: all settings of the operator and their current state, by table. Numbers are in smallest
    units, times in nanoseconds, and a table has at most 1,000 rows. A user without a role for the venue sees the
    switches and risk limits of the own firms and accounts.
    """
    found: dict[str, Any] = {}
    check_viewer(call)
    for kind in CONTROLS:
        view: ControlsView = await call.read(ControlsQuery(kind, 0, PAGE, call.caller.viewer))
        found[kind] = [
            {name: msgspec.to_builtins(getattr(row, name), str_keys=True) for name in row.__struct_fields__}
            for row in getattr(view, kind)
        ]
    return Answer(found)


async def put_venue_switches(call: Call) -> Answer[SwitchesJson]:
    """PUT /admin/switches: set the switches of the whole venue."""
    return await _put_switches(call, Scope.VENUE, "")


async def put_switches(call: Call) -> Answer[SwitchesJson]:
    """PUT /admin/switches/{scope}/{id}: set the switches of a firm, an account or a product. `kill` cancels all its
    open orders.
    """
    scope = choice(call.path("scope"), SCOPES, "scope")
    return await _put_switches(call, scope, check_name(call.path("id"), "id"))


async def _put_switches(call: Call, scope: Scope, name: str) -> Answer[SwitchesJson]:
    """Set the switches of a scope."""
    request = parse(call.body, SwitchesRequest)
    chosen = {choice(text, SWITCHES, "switches") for text in request.switches}
    outcome = await call.command(SetSwitches(OPERATOR, call.command_id(), scope, name, sum(chosen), request.note))
    if isinstance(outcome, Rejected):
        raise rejection(outcome)
    assert isinstance(outcome, Switched), outcome
    return Answer(
        SwitchesJson(
            scope=scope.name.lower(),
            id=name,
            changed=outcome.changed,
            cancelled=outcome.cancelled,
            pending=outcome.pending,
            sequence=outcome.sequence,
        )
    )


async def put_limits(call: Call) -> Answer[PutJson]:
    """PUT /admin/products/{id}/limits: set the price collars, and the limits of one order."""
    product = await _product(call)
    request = parse(call.body, LimitsRequest)
    command = PutProductLimits(
        OPERATOR,
        call.command_id(),
        product.row.product_id,
        amount_above_zero(request.dynamic, PPM_DIGITS, "dynamic"),
        amount_above_zero(request.static, PPM_DIGITS, "static"),
        choice(request.action, ACTIONS, "action"),
        _duration(request.halt_seconds, "halt_seconds"),
        _duration(request.call_seconds, "call_seconds"),
        _duration(request.random_seconds, "random_seconds"),
        _count(request.extensions or None, "extensions", EXTENSIONS_MAX),
        amount_above_zero(request.order_size, product.base_scale, "order_size"),
        amount_above_zero(request.order_notional, product.quote_scale, "order_notional"),
        amount_above_zero(request.distance, PPM_DIGITS, "distance"),
        amount_above_zero(request.static_price, product.quote_scale, "static_price"),
        _duration(request.limit_seconds, "limit_seconds"),
    )
    return await put(call, command, product.row.product_id)


def _duration(seconds: int, field: str) -> int:
    if not 0 <= seconds <= 86_400:
        raise BadRequestError(f"{field} must be a whole number of seconds from 0 to 86400", field)
    return seconds * SECOND_NS


def _count(number: int | None, field: str, most: int) -> int:
    """Return a count above zero, or 0 if the client did not give the field: in a command 0 means no limit."""
    if number is None:
        return 0
    if not 1 <= number <= most:
        raise BadRequestError(f"{field} must be a whole number from 1 to {most}", field)
    return number


async def put_risk(call: Call) -> Answer[PutJson]:
    """PUT /admin/risk/{scope}/{id}: set the risk limits of an account or a firm."""
    scope, name = choice(call.path("scope"), SCOPES, "scope"), check_name(call.path("id"), "id")
    request = parse(call.body, RiskRequest)
    scale = (await call.gateway.catalogue.currency(check_name(request.currency, "currency"))).scale if request.currency else 0
    money = [amount_above_zero(getattr(request, field), scale, field) for field in ("open", "volume", "position")]
    counts = [_count(request.orders, "orders", COUNT_MAX), _count(request.rate, "rate", COUNT_MAX)]
    command = PutRiskLimits(OPERATOR, call.command_id(), scope, name, request.currency, *counts, *money)
    return await put(call, command, name)


async def put_fee_tiers(call: Call) -> Answer[PutJson]:
    """PUT /admin/fees/{scope}/{id}: the fee tiers of all products quoted in a currency, or of one product."""
    scope, name = choice(call.path("scope"), FEE_SCOPES, "scope"), check_name(call.path("id"), "id")
    catalogue = call.gateway.catalogue
    product = await catalogue.recent(product_text(name)) if scope == "product" else None
    currency = await catalogue.currency(product.row.quote if product is not None else name)
    tiers = [
        (
            decimal_units(tier.volume, currency.scale, "volume"),
            decimal_units(tier.maker_fee_rate, PPM_DIGITS, "maker_fee_rate", signed=True),
            decimal_units(tier.taker_fee_rate, PPM_DIGITS, "taker_fee_rate"),
        )
        for tier in parse(call.body, TiersRequest).tiers
    ]
    of = product.row.product_id if product is not None else ""
    return await put(call, PutFeeTiers(OPERATOR, call.command_id(), currency.currency, of, tiers), name)


async def put_fee_override(call: Call) -> Answer[PutJson]:
    """PUT /admin/accounts/{id}/fees: rates of this account alone."""
    account_id = check_name(call.path("id"), "id")
    request = parse(call.body, OverrideRequest)
    product_id = product_text(request.product_id) if request.product_id else ""
    if given(request.maker_fee_rate) is not given(request.taker_fee_rate):
        raise BadRequestError("maker_fee_rate and taker_fee_rate go together", "maker_fee_rate")
    rates, remove = (0, 0), not given(request.maker_fee_rate)
    if not remove:
        rates = (
            decimal_units(request.maker_fee_rate, PPM_DIGITS, "maker_fee_rate", signed=True),
            decimal_units(request.taker_fee_rate, PPM_DIGITS, "taker_fee_rate"),
        )
    return await put(call, PutFeeOverride(OPERATOR, call.command_id(), account_id, product_id, *rates, remove), account_id)


async def put_firm(call: Call) -> Answer[PutJson]:
    """PUT /admin/firms/{id}: add a firm."""
    firm_id = check_name(call.path("id"), "id")
    return await put(call, PutFirm(OPERATOR, call.command_id(), firm_id), firm_id)


async def put_member(call: Call) -> Answer[PutJson]:
    """PUT /admin/accounts/{id}/firm: assign the account to a firm."""
    account_id = check_name(call.path("id"), "id")
    request = parse(call.body, MemberRequest)
    return await put(call, PutMember(OPERATOR, call.command_id(), account_id, request.firm_id), account_id)


async def put_calendar(call: Call) -> Answer[PutJson]:
    """PUT /admin/calendars/{id}: add or replace a trading calendar, in the form of its file (docs/operations.md)."""
    calendar_id = check_name(call.path("id"), "id")
    try:
        command = command_of(calendar_id, call.command_id(), parse(call.body, CalendarText), datetime.now(UTC))
    except CalendarError as error:
        raise BadRequestError(str(error), str(error).partition(":")[0]) from error
    return await put(call, command, calendar_id)


async def follow_of_venue(call: Call) -> Answer[PutJson]:
    """PUT /admin/follows: set the calendar that the whole venue follows."""
    request = parse(call.body, FollowsRequest)
    return await put(call, SetCalendar(OPERATOR, call.command_id(), Scope.VENUE, "", request.calendar_id), "")


async def follow(call: Call) -> Answer[PutJson]:
    """PUT /admin/follows/{scope}/{id}: set the calendar that a group of products or a product follows."""
    scope, name = choice(call.path("scope"), CALENDAR_SCOPES, "scope"), check_name(call.path("id"), "id")
    request = parse(call.body, FollowsRequest)
    return await put(call, SetCalendar(OPERATOR, call.command_id(), scope, name, request.calendar_id), name)


async def put_group(call: Call) -> Answer[PutJson]:
    """PUT /admin/products/{id}/group: assign the product to a group."""
    product_id = product_text(call.path("id"))
    return await put(call, PutGroup(OPERATOR, call.command_id(), product_id, parse(call.body, GroupRequest).group_id), product_id)


async def resume(call: Call) -> Answer[PutJson]:
    """POST /admin/products/{id}/resume: let a product whose status was set by hand follow its calendar again."""
    product_id = product_text(call.path("id"))
    return await put(call, FollowCalendar(OPERATOR, call.command_id(), product_id), product_id)


async def correct(call: Call) -> Answer[PutJson]:
    """POST /admin/products/{id}/trades/{trade}/correction: bust a trade, or correct its price."""
    product = await _product(call)
    request = parse(call.body, CorrectionRequest)
    text = call.path("trade")
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise ApiError(404, "Trade not found", "trade")
    quote = product.quote_scale
    command = CorrectTrade(
        OPERATOR,
        call.command_id(),
        product.row.product_id,
        int(text),
        check_name(request.buyer, "buyer"),
        check_name(request.seller, "seller"),
        decimal_units(request.price, quote, "price", 0),
        decimal_units(request.size, product.base_scale, "size", 0),
        decimal_units(request.buyer_fee, quote, "buyer_fee", signed=True),
        decimal_units(request.seller_fee, quote, "seller_fee", signed=True),
        amount_above_zero(request.new_price, quote, "new_price"),
        request.note,
        order_number(request.buyer_order_id, "buyer_order_id") if request.buyer_order_id else 0,
        order_number(request.seller_order_id, "seller_order_id") if request.seller_order_id else 0,
    )
    outcome = await call.command(command)
    if isinstance(outcome, Rejected):
        # Only the buyer of a busted trade gives coins back.
        lacks = outcome.reason is Reason.INSUFFICIENT_FUNDS and outcome.field == "buyer_id" and not command.new_price
        raise rejection(outcome, number=product.size if lacks or outcome.reason in SIZES else product.price)
    return Answer(PutJson(id=text, changed=True, sequence=outcome.sequence))


async def _product(call: Call) -> Product:
    return await call.gateway.catalogue.recent(product_text(call.path("id")))
