"""`book`, `ticker`, `trades`, `product put | set | status | list`, `currency put | list`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click
import msgspec
from rich.table import Table

from node.cli.output import Declined, Rejection, instant, print_json, show, table, word
from node.cli.program import Commands
from node.cli.session import CliSession, MarketScales, fresh_id, run
from node.cli.target import Target, cluster_option, json_option
from node.errors import DirectoryError, RequestFailed
from node.gateway.values import order_text
from node.native.products import put_again, statuses_again
from node.native.protocol import AuctionQuery, AuctionView, BookLevel, BookOrder, BookQuery, BookView, FailCode, TradesQuery
from statemachine.commands import PutCurrency, PutProduct
from statemachine.decimals import signed_units, to_text, to_units
from statemachine.events import Done, OrderMatched, Rejected
from statemachine.limits import OPERATOR, PPM_DIGITS, SCALE_MAX
from statemachine.tables import ProductRow
from statemachine.types import ProductStatus, Reason, Side

ATTEMPTS = 5
"""Attempts to change a product that somebody else changes at the same moment."""

MAX_SIZE = 10**6
"""Default size of a product's largest order, in coins."""

Function = Callable[..., Any]
STATUSES = [word(status) for status in ProductStatus]
PRODUCT_COLUMNS = (
    "product",
    "base",
    "quote",
    "tick",
    "lot",
    "min size",
    "max size",
    "maker fee",
    "taker fee",
    "status",
    "sequence",
)


@click.command()
@click.argument("product_id", metavar="PRODUCT")
@click.option(
    "--level", type=click.Choice(["1", "2", "3"]), default="2", show_default=True, help="Best only, price levels, or every order."
)
@cluster_option
@json_option
def book(target: Target, as_json: bool, product_id: str, level: str) -> None:
    """Show the order book of PRODUCT."""

    async def work(session: CliSession) -> tuple[BookView, AuctionView | None, MarketScales]:
        try:
            view = await session.read(BookQuery(product_id, int(level)))
            auction = await session.read(AuctionQuery(product_id)) if view.in_auction else None
            return view, auction, await session.scales()
        except RequestFailed as error:
            if error.code != FailCode.NOT_FOUND:
                raise
            raise DirectoryError(f"no product {product_id!r}") from error

    view, auction, scales = run(target, work)
    if as_json:
        print_json(
            {
                "product_id": product_id,
                "sequence": view.product_sequence,
                "bids": _side(view.bids or view.bid_orders, product_id, scales),
                "asks": _side(view.asks or view.ask_orders, product_id, scales),
                "auction": _auction(auction, product_id, scales) if auction else None,
            }
        )
    else:
        show(_book_table(view, product_id, scales))
        if auction:
            would = _auction(auction, product_id, scales)
            click.echo(
                f"in an auction, which would trade {would['size']}{' at ' + would['price'] if auction.open_size else ''} now"
            )


@click.command()
@click.argument("product_id", metavar="PRODUCT")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Largest number of trades.")
@cluster_option
@json_option
def trades(target: Target, as_json: bool, product_id: str, limit: int) -> None:
    """Show the latest trades of PRODUCT, newest first, as far as the node has them."""

    async def work(session: CliSession) -> tuple[list[OrderMatched], MarketScales]:
        scales = await session.scales()
        scales.product(product_id)
        return await session.read(TradesQuery(product_id, limit)), scales

    found, scales = run(target, work)
    views = [_trade(trade, scales) for trade in found]
    if as_json:
        print_json(views)
    else:
        columns = ("trade_id", "time", "taker", "price", "size", "maker_account", "taker_account")
        rows = [[str(view[name]) for name in columns] for view in views]
        show(table([name.replace("_", " ") for name in columns], rows, title=product_id, right=("price", "size")))


def _trade(trade: OrderMatched, scales: MarketScales) -> dict[str, object]:
    """Return a trade in decimals and words. `taker`: the taker's side."""
    name = trade.product_id
    return {
        "trade_id": trade.trade_id,
        "time": instant(trade.time),
        "taker": "auction" if trade.auction else word(Side.SELL if trade.side is Side.BUY else Side.BUY),
        "price": scales.price(name, trade.price),
        "size": scales.size(name, trade.size),
        "maker_account": trade.maker_account_id,
        "taker_account": trade.taker_account_id,
        "maker_order_id": order_text(trade.maker_order_id),
        "taker_order_id": order_text(trade.taker_order_id),
    }


@click.command()
@click.argument("names", metavar="[PRODUCT]...", nargs=-1)
@cluster_option
@json_option
def ticker(target: Target, as_json: bool, names: tuple[str, ...]) -> None:
    """Show the last trade of each PRODUCT (default: all), and its best prices."""

    async def work(session: CliSession) -> list[dict[str, object]]:
        scales = await session.scales()
        rows = [scales.product(name) for name in names] if names else list(scales.products.values())
        return [_tick(row, await session.read(BookQuery(row.product_id, 1)), scales) for row in rows]

    views = run(target, work)
    if as_json:
        print_json(views)
    else:
        columns = ("product", "status", "last", "trade id", "bid", "bid size", "ask", "ask size")
        show(table(columns, [[str(value) for value in view.values()] for view in views], right=columns[2:]))


def _tick(row: ProductRow, book: BookView, scales: MarketScales) -> dict[str, object]:
    """Return the last trade and the best prices; empty if there is none."""
    name = row.product_id
    sides: dict[str, object] = {}
    for side, levels in (("bid", book.bids), ("ask", book.asks)):
        sides[side] = scales.price(name, levels[0].price) if levels else ""
        sides[f"{side}_size"] = scales.size(name, levels[0].size) if levels else ""
    last = scales.price(name, row.last_price) if row.last_trade_id else ""
    return {"product": name, "status": word(row.status), "last": last, "trade_id": row.last_trade_id or "", **sides}


def _side(rows: list[BookLevel] | list[BookOrder], product_id: str, scales: MarketScales) -> list[list[object]]:
    """Return price, size, and the number of orders (levels 1 and 2) or the order's id (level 3)."""
    return [
        [
            scales.price(product_id, row.price),
            scales.size(product_id, row.size),
            row.orders if isinstance(row, BookLevel) else order_text(row.order_id),
        ]
        for row in rows
    ]


def _auction(view: AuctionView, product_id: str, scales: MarketScales) -> dict[str, str]:
    """Return what an auction would do if it opened now."""
    return {"price": scales.price(product_id, view.open_price), "size": scales.size(product_id, view.open_size)}


def _book_table(view: BookView, product_id: str, scales: MarketScales) -> Table:
    """Return a table with asks above bids, so that the best prices meet in the middle."""
    third = "order" if view.bid_orders or view.ask_orders else "orders"
    asks = [["ask", *map(str, row)] for row in reversed(_side(view.asks or view.ask_orders, product_id, scales))]
    bids = [["bid", *map(str, row)] for row in _side(view.bids or view.bid_orders, product_id, scales)]
    title = f"{product_id} at {view.product_sequence:,}"
    return table(("", "price", "size", third), asks + bids, title=title, right=("price", "size", "orders"))


@click.group(cls=Commands)
def product() -> None:
    """Products: put, set, status, list."""


def _options(*, is_new: bool) -> Callable[[Function], Function]:
    """Add the options of a product to a command. An absent option is None. `is_new`: show the defaults."""

    def default(text: str) -> str:
        return f" Default: {text}." if is_new else ""

    options = [
        click.option("--min-size", default=None, help=f"Smallest order.{default('one lot')}"),
        click.option("--max-size", default=None, help=f"Largest order.{default('1000000')}"),
        click.option("--maker-fee", default=None, help=f"Share of the notional, e.g. 0.001; negative: a rebate.{default('0')}"),
        click.option("--taker-fee", default=None, help=f"Share of the notional, e.g. 0.002.{default('0')}"),
        click.option("--status", type=click.Choice(STATUSES), default=None, help=f"What it accepts.{default('online')}"),
    ]

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@product.command("put")
@click.argument("product_id", metavar="PRODUCT")
@click.option("--base", default=None, help="Base currency. Default: the part of PRODUCT before the dash.")
@click.option("--quote", default=None, help="Quote currency. Default: the part of PRODUCT after the dash.")
@click.option(
    "--tick",
    default=None,
    help="Smallest step of the price. Default: the quote currency's smallest unit, or 0.01 if that is larger.",
)
@click.option("--lot", default=None, help="Smallest step of the size. Default: the smallest that gives whole notionals.")
@_options(is_new=True)
@click.option(
    "--replace",
    is_flag=True,
    help="Replace an existing product; options that are not given return to their defaults, except the status.",
)
@cluster_option
@json_option
def put_product(target: Target, as_json: bool, product_id: str, replace: bool, **options: str | None) -> None:
    """Add a product. `product set` changes an existing one."""

    async def work(session: CliSession) -> Done:
        scales = await session.scales()
        command = _product_command(product_id, scales, options)
        row = scales.products.get(product_id)
        if row is not None and command.keep_status:
            command = msgspec.structs.replace(command, status=row.status)
        if not replace:
            command = msgspec.structs.replace(command, expected_version=row.version if row is not None else 0)
        if row is not None and not replace and _put_unchanged(row, command) != command:
            raise Declined(
                f"{product_id} exists already with other values. Change single values with `product set`, or give --replace: then every value "
                "without an option, except the status, returns to its default"
            )
        outcomes = await session.submit_all([command])
        if isinstance(outcomes[0], Rejected):
            digits = scales.currency(command.quote if outcomes[0].field == "tick" else command.base)
            raise Rejection(outcomes[0], number=lambda number: to_text(number, digits))
        assert isinstance(outcomes[0], Done), outcomes
        return outcomes[0]

    _show_put(run(target, work), product_id, as_json)


def _put_unchanged(row: ProductRow, command: PutProduct) -> PutProduct:
    """Return the command that puts the product as it is."""
    changes = {} if command.keep_status else {"status": row.status}
    return put_again(row, command.command_id, **changes)


def _product_command(product_id: str, scales: MarketScales, options: Mapping[str, str | None]) -> PutProduct:
    """Return the command that puts a product, from the options in decimals."""
    base_part, _, quote_part = product_id.partition("-")
    base, quote = options["base"] or base_part, options["quote"] or quote_part
    if not base or not quote:
        raise click.UsageError(f"PRODUCT is BASE-QUOTE, e.g. BTC-USD, not {product_id!r}; or name --base and --quote.")
    base_scale, quote_scale = scales.currency(base), scales.currency(quote)

    def units(name: str, scale: int, default: int) -> int:
        text = options[name]
        return default if text is None else (signed_units if name == "maker_fee" else to_units)(text, scale, name)

    old = scales.products.get(product_id)
    tick = units("tick", quote_scale, old.tick if old else 10 ** max(quote_scale - 2, 0))
    lot = units("lot", base_scale, old.lot if old else _lot(tick, 10**base_scale))
    return PutProduct(
        OPERATOR,
        fresh_id(),
        product_id,
        base,
        quote,
        tick,
        lot,
        units("min_size", base_scale, lot),
        units("max_size", base_scale, MAX_SIZE * 10**base_scale),
        units("maker_fee", PPM_DIGITS, 0),
        units("taker_fee", PPM_DIGITS, 0),
        ProductStatus[(options["status"] or "online").upper()],
        keep_status=options["status"] is None,
    )


@product.command("set")
@click.argument("product_id", metavar="PRODUCT")
@_options(is_new=False)
@cluster_option
@json_option
def set_product(target: Target, as_json: bool, product_id: str, status: str | None, **options: str | None) -> None:
    """Change the named settings of a product and no others. Currencies, tick and lot never change."""
    if status is None and not any(value is not None for value in options.values()):
        raise click.UsageError("Name a setting to change: --min-size, --max-size, --maker-fee, --taker-fee or --status.")

    def changes(scales: MarketScales) -> dict[str, object]:
        row = scales.product(product_id)
        digits = {"min_size": scales.currency(row.base), "max_size": scales.currency(row.base)}
        new_values: dict[str, object] = {}
        for name, text in options.items():
            if text is not None:
                field = name if name in digits else f"{name}_ppm"
                to = signed_units if name == "maker_fee" else to_units
                new_values[field] = to(text, digits.get(name, PPM_DIGITS), name)
        if status is not None:
            new_values["status"] = ProductStatus[status.upper()]
        return new_values

    async def work(session: CliSession) -> tuple[ProductRow, ProductRow, MarketScales]:
        changed = await _change(session, [product_id], lambda scales, row: [put_again(row, fresh_id(), **changes(scales))])
        before, after = changed[0][0], await session.scales()
        return before, after.product(product_id), after

    before, after, scales = run(target, work)
    views = product_view(before, scales), product_view(after, scales)
    if as_json:
        print_json(views[1])
        return
    changed = [name for name in views[0] if views[0][name] != views[1][name] and name != "sequence"]
    for name in changed:
        click.echo(f"{product_id} {name}: {views[1][name]} (before: {views[0][name]})")
    if not changed:
        click.echo(f"{product_id} has these values already")


async def _change(
    session: CliSession, names: list[str] | None, commands: Callable[[MarketScales, ProductRow], list[PutProduct]]
) -> list[tuple[ProductRow, MarketScales]]:
    """Change products (None: all) by the commands that `commands` makes of their rows, all in one log entry. Returns
    the rows from before.

    No concurrent change is lost: if a product was changed after it was read, it is read again.

    Raises:
        Rejection: the exchange rejected a change for another reason, or others change a product again and again.
    """
    done: dict[str, tuple[ProductRow, MarketScales]] = {}
    left = names
    for attempt in range(1, ATTEMPTS + 1):
        scales = await session.scales()
        rows = list(scales.products.values()) if left is None else [scales.product(name) for name in left]
        commands_by_product = {row.product_id: commands(scales, row) for row in rows}
        # All products' first commands, then all second ones: an auction that opens does not delay the others' last
        # status.
        sent = [command for turn in zip(*commands_by_product.values(), strict=True) for command in turn]
        outcomes = await session.submit_all(sent) if sent else []
        left = []
        for command, outcome in zip(sent, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                if outcome.reason is not Reason.CHANGED_MEANWHILE or attempt == ATTEMPTS:
                    raise Rejection(outcome)
                left.append(command.product_id)
        left = list(dict.fromkeys(left))
        done.update({row.product_id: (row, scales) for row in rows if row.product_id not in left})
        if not left:
            break
    return list(done.values())


def _lot(tick: int, one: int) -> int:
    """Return the smallest power of ten that makes every notional a whole number; `one` base coin has that many units."""
    lot = 1
    while tick > 0 and tick * lot % one and lot < one:
        lot *= 10
    return lot


@product.command("status")
@click.argument("names", metavar="[PRODUCT]...", nargs=-1)
@click.argument("status", type=click.Choice(STATUSES))
@click.option("--all", "every", is_flag=True, help="Every product, in one entry of the log.")
@click.option(
    "--then", type=click.Choice(STATUSES), help="A second status that follows at once, so that no order comes in between."
)
@cluster_option
@json_option
def put_status(target: Target, as_json: bool, names: tuple[str, ...], status: str, every: bool, then: str | None) -> None:
    """Change the status of each PRODUCT, and nothing else.

    From `auction` to a status that trades, its auction opens.
    """
    if every == bool(names):
        raise click.UsageError("Name the products, or give --all.")
    steps = [ProductStatus[name.upper()] for name in (status, then) if name]

    def commands(_scales: MarketScales, row: ProductRow) -> list[PutProduct]:
        return statuses_again(row, [fresh_id() for _ in steps], steps)

    async def work(session: CliSession) -> list[ProductRow]:
        return [row for row, _ in await _change(session, None if every else list(names), commands)]

    rows = run(target, work)
    if as_json:
        print_json([{"id": row.product_id, "status": then or status, "before": word(row.status)} for row in rows])
        return
    for row in rows:
        click.echo(f"{row.product_id} {' '.join(map(word, steps))} (before: {word(row.status)})")


@product.command("list")
@cluster_option
@json_option
def list_products(target: Target, as_json: bool) -> None:
    """List all products."""

    async def work(session: CliSession) -> MarketScales:
        return await session.scales()

    scales = run(target, work)
    views = [product_view(row, scales) for row in scales.products.values()]
    if as_json:
        print_json(views)
    else:
        show(table(PRODUCT_COLUMNS, [[str(value) for value in view.values()] for view in views], right=PRODUCT_COLUMNS[3:9]))


def product_view(row: ProductRow, scales: MarketScales) -> dict[str, object]:
    """Return a product in decimals and words."""
    name = row.product_id
    return {
        "id": name,
        "base_currency": row.base,
        "quote_currency": row.quote,
        "tick": scales.price(name, row.tick),
        "lot": scales.size(name, row.lot),
        "min_size": scales.size(name, row.min_size),
        "max_size": scales.size(name, row.max_size),
        "maker_fee": to_text(row.maker_fee_ppm, PPM_DIGITS),
        "taker_fee": to_text(row.taker_fee_ppm, PPM_DIGITS),
        "status": word(row.status),
        "sequence": row.product_sequence,
    }


@click.group(cls=Commands)
def currency() -> None:
    """Currencies: put, list."""


@currency.command("put")
@click.argument("name", metavar="CURRENCY")
@click.option("--scale", type=click.IntRange(0, SCALE_MAX), required=True, help="Decimal digits; cannot be changed later.")
@cluster_option
@json_option
def put_currency(target: Target, as_json: bool, name: str, scale: int) -> None:
    """Add a currency."""

    async def work(session: CliSession) -> Done:
        outcome = await session.submit(PutCurrency(OPERATOR, fresh_id(), name, scale))
        assert isinstance(outcome, Done), outcome
        return outcome

    _show_put(run(target, work), name, as_json)


@currency.command("list")
@cluster_option
@json_option
def list_currencies(target: Target, as_json: bool) -> None:
    """List all currencies and their decimal digits."""

    async def work(session: CliSession) -> MarketScales:
        return await session.scales()

    scales = run(target, work).currencies
    if as_json:
        print_json(scales)
    else:
        show(table(("currency", "scale"), [[name, str(scale)] for name, scale in scales.items()], right=("scale",)))


def _show_put(outcome: Done, name: str, as_json: bool) -> None:
    if as_json:
        print_json({"id": name, "changed": outcome.changed})
    else:
        click.echo(f"{name} {'put' if outcome.changed else 'exists already with these values'}")
