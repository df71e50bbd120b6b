"""`order place | cancel | cancel-all | list`."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import click
import msgspec

from node.cli.output import Rejection, instant, print_json, show, table, word
from node.cli.program import Commands
from node.cli.session import CliSession, MarketScales, fresh_id, run
from node.cli.target import Target, above_zero, account_options, json_option
from node.gateway.errors import SIZES
from node.gateway.values import ORDER_ID_MAX, PERIOD_EXPECTED, STOPS, lifetime, order_text, stop_type
from node.native.protocol import OrdersQuery
from statemachine.commands import CancelAll, CancelOrder, PlaceOrder
from statemachine.events import Cancelled, OrderState, Placed, Rejected
from statemachine.tables import ProductRow
from statemachine.types import DoneReason, OrderStatus, OrderType, Reason, SelfTradePrevention, Side, StopType, TimeInForce

COLUMNS = ("id", "product", "side", "type", "price", "size", "filled", "status", "client oid", "created")
NUMBERS = ("price", "size", "filled")


def _words(choices: type[IntEnum]) -> click.Choice[str]:
    return click.Choice([word(choice) for choice in choices], case_sensitive=False)


def order_id_from(text: str) -> int:
    """Return the number of an order, from its id as the API writes it or from the number itself.

    Raises:
        click.BadParameter: it is neither.
    """
    number = -1
    if re.fullmatch(r"[0-9]{1,19}", text):
        number = int(text)
    elif re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        number = int(text.replace("-", ""), 16)
    if not 0 < number <= ORDER_ID_MAX:
        raise click.BadParameter(f"{text!r} is not an order id; expected e.g. {order_text(26)} or 26")
    return number


def _lifetime(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int:
    """Return the nanoseconds of `--cancel-after`; 0 without that option."""
    try:
        return lifetime(text) if text is not None else 0
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


class _Wish(msgspec.Struct, frozen=True, kw_only=True):
    """An order as the user typed it."""

    account_id: str
    side: str
    price: str | None
    size: str | None
    funds: str | None
    tif: str | None
    cancel_after: int
    stop: str | None
    stop_price: str | None
    post_only: bool
    stp: str
    client_oid: str

    def command(self, product_id: str, scales: MarketScales) -> PlaceOrder:
        """Return the order's command.

        Raises:
            DecimalError: an amount is malformed.
            DirectoryError: there is no such product.
        """
        side = Side[self.side.upper()]
        usual = TimeInForce.GTT if self.cancel_after else TimeInForce.GTC
        return PlaceOrder(
            self.account_id,
            f"c:{self.client_oid}" if self.client_oid else fresh_id(),
            product_id,
            side,
            OrderType.LIMIT if self.price is not None else OrderType.MARKET,
            scales.price_units(product_id, self.price) if self.price is not None else 0,
            scales.size_units(product_id, self.size) if self.size is not None else 0,
            above_zero(scales.price_units(product_id, self.funds, "funds"), "funds") if self.funds is not None else 0,
            TimeInForce[self.tif.upper()] if self.tif is not None else usual,
            self.post_only,
            SelfTradePrevention[self.stp.upper()],
            self.client_oid,
            stop_type(self.stop, side) if self.stop_price is not None else StopType.NONE,
            scales.price_units(product_id, self.stop_price, "stop-price") if self.stop_price is not None else 0,
            self.cancel_after,
        )


@click.group(cls=Commands)
def order() -> None:
    """Orders: place, cancel, list."""


@order.command()
@click.argument("product_id", metavar="PRODUCT")
@click.argument("side", type=_words(Side))
@click.argument("amount", metavar="[SIZE]", required=False)
@click.option("--price", help="Limit price. Without it, a market order.")
@click.option("--size", help="Amount of the base currency, instead of SIZE.")
@click.option("--funds", help="Amount of the quote currency, fees included; market orders only.")
@click.option(
    "--tif", type=_words(TimeInForce), help="Time in force of a limit order: gtc, or gtt with --cancel-after, unless given."
)
@click.option("--cancel-after", callback=_lifetime, help=f"When a good-till-time order leaves: {PERIOD_EXPECTED}.")
@click.option("--stop-price", help="Wait for a trade at this price, and enter then.")
@click.option(
    "--stop", type=click.Choice(list(STOPS)), help="Wait for that price or below (loss) or above (entry). [default: by side]"
)
@click.option("--post-only", is_flag=True, help="Reject the order if any of it would trade at once.")
@click.option("--stp", type=_words(SelfTradePrevention), default="dc", show_default=True, help="Self-trade prevention.")
@click.option("--client-oid", default="", help="Your own id of the order. A repetition with the same id returns the first order.")
@account_options
@json_option
def place(
    target: Target, as_json: bool, product_id: str, amount: str | None, size: str | None, stop: str | None, **options: Any
) -> None:
    """Place an order and show its state: order place BTC-USD buy 0.5 --price 100 --as alice."""
    if amount is not None and size is not None:
        raise click.UsageError("Give the size once.")
    if stop is not None and options["stop_price"] is None:
        raise click.UsageError("--stop needs --stop-price.")
    wish = _Wish(account_id=target.account(), size=amount if size is None else size, stop=stop, **options)

    async def work(session: CliSession) -> tuple[OrderState, MarketScales, bool]:
        scales = await session.scales()
        row = scales.product(product_id)
        (outcome,) = await session.submit_all([wish.command(product_id, scales)])
        if isinstance(outcome, Rejected):
            raise Rejection(outcome, _bound(outcome.reason, row, scales), _amounts(outcome, wish, row, scales))
        assert isinstance(outcome, Placed), outcome
        return outcome.order, scales, outcome.duplicate

    state, scales, duplicate = run(target, work)
    if as_json:
        print_json(order_view(state, scales))
    else:
        click.echo(("sent before: " if duplicate else "") + describe(state, scales))


@order.command()
@click.argument("order_id", metavar="[ID]", type=order_id_from, required=False)
@click.option("--client-oid", default="", help="Your own id of the order, instead of ID.")
@account_options
@json_option
def cancel(target: Target, as_json: bool, order_id: int | None, client_oid: str) -> None:
    """Cancel one order."""
    if (order_id is None) == (not client_oid):
        raise click.UsageError("Name the order by its ID or by --client-oid.")
    _cancel(target, as_json, CancelOrder(target.account(), fresh_id(), order_id or 0, client_oid))


@order.command("cancel-all")
@click.option("--product", "product_id", default="", help="Only orders of this product.")
@account_options
@json_option
def cancel_all(target: Target, as_json: bool, product_id: str) -> None:
    """Cancel all open orders of the account."""
    _cancel(target, as_json, CancelAll(target.account(), fresh_id(), product_id))


@order.command("list")
@click.option("--product", "product_id", default="", help="Only orders of this product.")
@click.option("--done", is_flag=True, help="Include done orders.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Largest number of orders, newest first."
)
@account_options
@json_option
def list_orders(target: Target, as_json: bool, product_id: str, done: bool, limit: int) -> None:
    """List the account's orders, newest first."""
    account_id = target.account()

    async def work(session: CliSession) -> tuple[list[OrderState], MarketScales]:
        query = OrdersQuery(account_id, product_id, True, done, limit)
        return await session.read(query), await session.scales()

    orders, scales = run(target, work)
    if as_json:
        print_json([order_view(state, scales) for state in orders])
    else:
        show(table(COLUMNS, [_row(order_view(state, scales)) for state in orders], right=NUMBERS))


def _bound(reason: Reason, row: ProductRow, scales: MarketScales) -> str:
    """Return the product's bound that an order broke, in decimals; "" for other reasons."""
    match reason:
        case Reason.PRICE_OFF_TICK:
            return f"expected a multiple of {scales.price(row.product_id, row.tick)}"
        case Reason.SIZE_OFF_LOT:
            return f"expected a multiple of {scales.size(row.product_id, row.lot)}"
        case Reason.SIZE_TOO_SMALL:
            return f"expected at least {scales.size(row.product_id, row.min_size)}"
        case Reason.SIZE_TOO_LARGE:
            return f"expected at most {scales.size(row.product_id, row.max_size)}"
    return ""


def _amounts(outcome: Rejected, wish: _Wish, row: ProductRow, scales: MarketScales) -> Callable[[int], str]:
    """Return how the numbers of a rejection are written: in coins of the base or the quote currency, or as an order's
    id.
    """
    if outcome.reason is Reason.COMMAND_ID_REUSED:
        return order_text
    in_base = outcome.reason in SIZES or (outcome.reason is Reason.INSUFFICIENT_FUNDS and wish.side == "sell")
    return lambda number: (scales.size if in_base else scales.price)(row.product_id, number)


def order_view(state: OrderState, scales: MarketScales) -> dict[str, object]:
    """Return an order in decimals and words."""
    product_id = state.product_id
    return {
        "id": order_text(state.order_id),
        "account_id": state.account_id,
        "client_oid": state.client_oid,
        "product_id": product_id,
        "side": word(state.side),
        "type": word(state.order_type),
        "price": scales.price(product_id, state.price),
        "size": scales.size(product_id, state.size),
        "funds": scales.price(product_id, state.funds),
        "time_in_force": state.time_in_force.name,
        "post_only": state.post_only,
        "stp": word(state.stp),
        "remaining": scales.size(product_id, state.remaining),
        "filled_size": scales.size(product_id, state.filled_size),
        "executed_value": scales.price(product_id, state.executed_value),
        "fill_fees": scales.price(product_id, state.fill_fees),
        "status": word(state.status),
        "done_reason": word(state.done_reason) if state.done_reason != DoneReason.NONE else "",
        "created_at": instant(state.created_at),
        "stop": word(state.stop) if state.stop else "",
        "stop_price": scales.price(product_id, state.stop_price),
        "expires_at": instant(state.expires_at) if state.expires_at else "",
    }


def describe(state: OrderState, scales: MarketScales) -> str:
    """Return an order as one line."""
    view = order_view(state, scales)
    status = f"{view['status']} {view['done_reason']}".strip()
    at = f" at {view['price']}" if state.order_type is OrderType.LIMIT else ""
    amount = view["size"] if state.size else f"funds {view['funds']}"
    filled = f", filled {view['filled_size']} for {view['executed_value']}, fees {view['fill_fees']}" if state.filled_size else ""
    stop = f", stop {view['stop']} at {view['stop_price']}" if state.stop else ""
    until = f", until {view['expires_at']}" if state.expires_at and state.status is not OrderStatus.DONE else ""
    return f"{view['id']}: {view['type']} {view['side']} {amount} {view['product_id']}{at}{stop}: {status}{until}{filled}"


def _row(view: dict[str, object]) -> list[str]:
    """Return the row of an order."""
    status = f"{view['status']} {view['done_reason']}".strip()
    if status == "active" and view["stop"]:
        status = f"active, stop {view['stop']} at {view['stop_price']}"
    names = ("id", "product_id", "side", "type", "price", "size", "filled_size")
    shown = view if view["type"] == "limit" else {**view, "price": ""}
    return [*(str(shown[name]) for name in names), status, str(view["client_oid"]), str(view["created_at"])]


def _cancel(target: Target, as_json: bool, command: CancelOrder | CancelAll) -> None:
    """Cancel orders, and print them."""

    async def work(session: CliSession) -> tuple[list[OrderState], MarketScales]:
        outcome = await session.submit(command)
        assert isinstance(outcome, Cancelled), outcome
        return outcome.orders, await session.scales()

    orders, scales = run(target, work)
    if as_json:
        print_json([order_view(state, scales) for state in orders])
        return
    for state in orders:
        click.echo(describe(state, scales))
    if not orders:
        click.echo("no open orders")
