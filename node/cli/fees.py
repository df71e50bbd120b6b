"""`fees`: fee tiers, the rates of single accounts, and what an account pays."""

from __future__ import annotations

import click

from node.cli.controls import rows_of, send
from node.cli.output import print_json, show, table
from node.cli.program import Commands
from node.cli.session import CliSession, MarketScales, fresh_id, run
from node.cli.target import Target, account_options, cluster_option, json_option
from node.errors import DirectoryError, RequestFailed
from node.native.protocol import FailCode, FeesQuery, FeesView
from statemachine.commands import AnyCommand, PutFeeOverride, PutFeeTiers
from statemachine.decimals import signed_units, to_text, to_units
from statemachine.limits import OPERATOR, PPM_DIGITS
from statemachine.tables import FeeOverrideRow, FeeTiersRow


@click.group(cls=Commands)
def fees() -> None:
    """Fee tiers by 30-day volume, the rates of single accounts, and what an account pays."""


@fees.command("show")
@click.argument("account_id", metavar="[ACCOUNT]", required=False)
@click.option("--product", "product_id", default="", help="Its rates in this product; without it the highest in any.")
@account_options
@json_option
def show_fees(target: Target, as_json: bool, account_id: str | None, product_id: str) -> None:
    """What ACCOUNT pays with its next order, and its 30-day volume in each currency in which it is counted."""
    name = account_id or target.account()

    async def work(session: CliSession) -> tuple[FeesView, MarketScales]:
        try:
            return await session.read(FeesQuery(name, product_id)), await session.scales()
        except RequestFailed as error:
            if error.code != FailCode.NOT_FOUND:
                raise
            raise DirectoryError(f"no account {name!r}, or no product {product_id!r}") from error

    view, scales = run(target, work)
    volumes = {currency: to_text(volume, scales.currency(currency)) for currency, volume in view.volumes}
    maker, taker = to_text(view.maker_fee_ppm, PPM_DIGITS), to_text(view.taker_fee_ppm, PPM_DIGITS)
    if as_json:
        print_json({"account_id": name, "maker_fee": maker, "taker_fee": taker, "volumes": volumes})
        return
    click.echo(f"{name}: maker {maker}, taker {taker}")
    for currency, volume in volumes.items():
        click.echo(f"traded in 30 days: {volume} {currency}")


@fees.command("tiers")
@click.argument("scope", type=click.Choice(["currency", "product"]))
@click.argument("name")
@click.argument("tiers", metavar="[VOLUME:MAKER:TAKER]...", nargs=-1)
@cluster_option
@json_option
def put_tiers(target: Target, as_json: bool, scope: str, name: str, tiers: tuple[str, ...]) -> None:
    """Set the fee tiers of all products quoted in a currency, or of one product: from which 30-day volume on, and the
    rates as shares of the notional, such as 0:0.004:0.006 100000:-0.0001:0.002. A negative rate of the maker is a
    rebate. Without tiers all existing ones are removed.
    """

    def make(scales: MarketScales) -> AnyCommand:
        product_id = name if scope == "product" else ""
        currency = scales.product(name).quote if product_id else name
        digits = scales.currency(currency)
        found = []
        for text in tiers:
            parts = text.split(":")
            if len(parts) != 3:
                raise click.UsageError(f"{text}: expected VOLUME:MAKER:TAKER, such as 0:0.004:0.006")
            rates = signed_units(parts[1], PPM_DIGITS, "MAKER"), to_units(parts[2], PPM_DIGITS, "TAKER")
            found.append((to_units(parts[0], digits, "VOLUME"), *rates))
        return PutFeeTiers(OPERATOR, fresh_id(), currency, product_id, found)

    send(target, as_json, make, f"fee tiers of {scope} {name}")


@fees.command("override")
@click.argument("account_id", metavar="ACCOUNT")
@click.option("--product", "product_id", default="", help="In this product only; without it in all products.")
@click.option("--maker", default="0", help="Share of the notional; negative: a rebate.")
@click.option("--taker", default="0", help="Share of the notional.")
@click.option("--remove", is_flag=True, help="Remove the account's own rates.")
@cluster_option
@json_option
def put_override(target: Target, as_json: bool, account_id: str, product_id: str, maker: str, taker: str, remove: bool) -> None:
    """Set the rates of ACCOUNT alone. They come before all tiers."""
    rates = signed_units(maker, PPM_DIGITS, "--maker"), to_units(taker, PPM_DIGITS, "--taker")
    command = PutFeeOverride(OPERATOR, fresh_id(), account_id, product_id, *rates, remove)
    send(target, as_json, lambda _: command, f"fees of {account_id}{f' in {product_id}' if product_id else ''}")


@fees.command("list")
@cluster_option
@json_option
def list_fees(target: Target, as_json: bool) -> None:
    """All tiers and all overrides."""

    async def work(session: CliSession) -> tuple[list[FeeTiersRow], list[FeeOverrideRow], MarketScales]:
        return await rows_of(session, "fee_tiers"), await rows_of(session, "fee_override"), await session.scales()

    tiers, overrides, scales = run(target, work)
    head = ("of", "volume", "maker fee", "taker fee")
    rows = [
        [row.product_id or row.currency, to_text(volume, scales.currency(row.currency)), *_shares(maker, taker)]
        for row in tiers
        for volume, maker, taker in row.tiers
    ]
    rows += [
        [" ".join(filter(None, (row.owner_id, row.product_id))), "", *_shares(row.maker_fee_ppm, row.taker_fee_ppm)]
        for row in overrides
    ]
    if as_json:
        print_json([dict(zip(head, row, strict=True)) for row in rows])
    else:
        show(table(head, rows, title="fees", right=head[1:]))


def _shares(maker: int, taker: int) -> tuple[str, str]:
    return to_text(maker, PPM_DIGITS), to_text(taker, PPM_DIGITS)
