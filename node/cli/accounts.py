"""`account`, `deposit`, `withdraw`."""

from __future__ import annotations

from collections.abc import Callable

import click

from node.cli.output import print_json, show, table
from node.cli.program import Commands
from node.cli.session import CliSession, MarketScales, fresh_id, run
from node.cli.target import Target, account_options, cluster_option, json_option
from node.errors import DirectoryError, RequestFailed
from node.native.protocol import BalancesQuery, FailCode
from statemachine.commands import AnyCommand, Deposit, OpenAccount, Transfer, Withdraw
from statemachine.decimals import to_text, to_units
from statemachine.events import Done, Transferred
from statemachine.limits import OPERATOR
from statemachine.tables import BalanceRow


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
    command_id = transfer_id or fresh_id()

    async def work(session: CliSession) -> tuple[Transferred, MarketScales]:
        scales = await session.scales()
        units = to_units(amount, scales.currency(currency), "amount")
        scale = scales.currency(currency)
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
