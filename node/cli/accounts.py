"""`account`, `deposit`, `withdraw`, `fees`."""

from __future__ import annotations

from collections.abc import Callable

import click

from node.cli.controls import rows_of, send
from node.cli.output import print_json, show, table
from node.cli.program import Commands
from node.cli.session import CliSession, MarketScales, fresh_id, run
from node.cli.target import Target, account_options, cluster_option, json_option
from node.errors import DirectoryError, RequestFailed
from node.native.protocol import BalancesQuery, FailCode, FeesQuery, FeesView
from statemachine.commands import AnyCommand, Deposit, OpenAccount, PutFeeOverride, PutFeeTiers, Transfer, Withdraw
from statemachine.decimals import signed_units, to_text, to_units
from statemachine.events import Done, Transferred
from statemachine.limits import OPERATOR, PPM_DIGITS
from statemachine.tables import BalanceRow, FeeOverrideRow, FeeTiersRow


class AccountGroup(Commands):
    """`account NAME` is short for `account show NAME`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `show` before an argument that is not one of the group's commands."""
        first = next((word for word in args if not word.startswith("-")), "")
        if first not in self.commands and not {"-h", "--help"} & set(args):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=AccountGroup)
def account() -> None:
    """Accounts: `account NAME` shows its balances, `account open NAME` adds it, `account transfer` moves money."""


@account.command("show")
@click.argument("account_id", metavar="[ACCOUNT]", required=False)
@account_options
@json_option
def show_account(target: Target, as_json: bool, account_id: str | None) -> None:
    """Show the balances of ACCOUNT: available, and on hold for its open orders."""
    name = account_id or target.account()

    async def work(session: CliSession) -> tuple[list[BalanceRow], MarketScales]:
        try:
            return await session.read(BalancesQuery(name)), await session.scales()
        except RequestFailed as error:
            if error.code != FailCode.NOT_FOUND:
                raise
            raise DirectoryError(f"no account {name!r}") from error

    balances, scales = run(target, work)
    views = [balance_view(row, scales) for row in balances]
    if as_json:
        print_json({"account_id": name, "balances": views})
    else:
        numbers = ("balance", "available", "hold")
        show(table(("currency", *numbers), [list(view.values()) for view in views], title=name, right=numbers))


def balance_view(row: BalanceRow, scales: MarketScales) -> dict[str, str]:
    """Return a balance in decimals."""
    scale = scales.currency(row.currency)
    return {
        "currency": row.currency,
        "balance": to_text(row.available + row.hold, scale),
        "available": to_text(row.available, scale),
        "hold": to_text(row.hold, scale),
    }


@account.command("open")
@click.argument("account_id", metavar="ACCOUNT")
@cluster_option
@json_option
def open_account(target: Target, as_json: bool, account_id: str) -> None:
    """Add an account."""

    async def work(session: CliSession) -> Done:
        outcome = await session.submit(OpenAccount(OPERATOR, fresh_id(), account_id))
        assert isinstance(outcome, Done), outcome
        return outcome

    changed = run(target, work).changed
    if as_json:
        print_json({"account_id": account_id, "changed": changed})
    else:
        click.echo(f"{account_id} {'opened' if changed else 'was open already'}")


def _transfer_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments and options of a transfer behind its accounts."""
    for option in (
        json_option,
        cluster_option,
        click.option(
            "--transfer-id", default="", help="Your own id of the transfer. A repetition with the same id books nothing."
        ),
        click.argument("amount"),
        click.argument("currency"),
    ):
        command = option(command)
    return command


@account.command("transfer")
@click.argument("sender", metavar="FROM")
@click.argument("receiver", metavar="TO")
@_transfer_options
def transfer_between(
    target: Target, as_json: bool, sender: str, receiver: str, currency: str, amount: str, transfer_id: str
) -> None:
    """Move AMOUNT of CURRENCY from the account FROM to the account TO. A key may move what its own account has."""

    def command(account_id: str, command_id: str, currency: str, units: int) -> Transfer:
        return Transfer(account_id, command_id, receiver, currency, units)

    _transfer(target, as_json, command, sender, currency, amount, transfer_id)


@click.command()
@click.argument("account_id", metavar="ACCOUNT")
@_transfer_options
def deposit(target: Target, as_json: bool, account_id: str, currency: str, amount: str, transfer_id: str) -> None:
    """Credit AMOUNT of CURRENCY to ACCOUNT."""
    _transfer(target, as_json, Deposit, account_id, currency, amount, transfer_id)


@click.command()
@click.argument("account_id", metavar="ACCOUNT")
@_transfer_options
def withdraw(target: Target, as_json: bool, account_id: str, currency: str, amount: str, transfer_id: str) -> None:
    """Debit AMOUNT of CURRENCY from ACCOUNT's available balance."""
    _transfer(target, as_json, Withdraw, account_id, currency, amount, transfer_id)


def _transfer(
    target: Target,
    as_json: bool,
    command: Callable[[str, str, str, int], AnyCommand],
    account_id: str,
    currency: str,
    amount: str,
    transfer_id: str,
) -> None:
    """Book a transfer, and print it."""
    command_id = transfer_id or fresh_id()

    async def work(session: CliSession) -> tuple[Transferred, MarketScales]:
        scales = await session.scales()
        scale = scales.currency(currency)
        units = to_units(amount, scale, "amount")
        outcome = await session.submit(command(account_id, command_id, currency, units), lambda number: to_text(number, scale))
        assert isinstance(outcome, Transferred), outcome
        return outcome, scales

    outcome, scales = run(target, work)
    available = to_text(outcome.available, scales.currency(currency))
    if as_json:
        print_json({"transfer_id": command_id, "currency": currency, "available": available, "duplicate": outcome.duplicate})
    else:
        again = " (booked before)" if outcome.duplicate else ""
        click.echo(f"{account_id} has {available} {currency} available{again}")


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
