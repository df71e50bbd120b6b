"""`kill-switch`, `limits`, `risk`, `calendar`, `firm`, `trade`: the operator's controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from node.cli.output import instant, print_json, show, table, word
from node.cli.program import Commands
from node.cli.session import CliSession, MarketScales, fresh_id, run
from node.cli.target import COUNT, INT64_MAX, WHOLE_SECONDS, Target, above_zero, cluster_option, json_option
from node.config.calendars import DAYS, CalendarError, CalendarText, clock, command_of
from node.errors import DirectoryError
from node.native.protocol import ControlsQuery, ControlsView, TradesQuery
from statemachine.commands import (
    AnyCommand,
    CorrectTrade,
    FollowCalendar,
    PutFirm,
    PutGroup,
    PutMember,
    PutProductLimits,
    PutRiskLimits,
    SetCalendar,
    SetSwitches,
)
from statemachine.decimals import to_text, to_units
from statemachine.events import AnyOutcome, Done, OrderMatched, Switched
from statemachine.limits import OPERATOR, PPM_DIGITS, SECOND_NS
from statemachine.tables import CalendarRow, PhaseRow, ProductLimitsRow, RiskRow, SwitchRow
from statemachine.types import CollarAction, Scope, Side, Switch

_PAGE = 1_000

Function = Callable[..., Any]
SCOPES = {"venue": Scope.VENUE, "firm": Scope.FIRM, "account": Scope.ACCOUNT, "product": Scope.PRODUCT}
SWITCHES = {
    "kill": int(Switch.KILL),
    "cancel-only": Switch.BUY_OFF + Switch.SELL_OFF,
    "buy-off": int(Switch.BUY_OFF),
    "sell-off": int(Switch.SELL_OFF),
    "on": 0,
}


async def rows_of(session: CliSession, kind: str) -> list[Any]:
    """Return all rows of a table of controls."""
    found: list[Any] = []
    while True:
        view: ControlsView = await session.read(ControlsQuery(kind, len(found), _PAGE))
        page = getattr(view, kind)
        found += page
        if len(page) < _PAGE:
            return found


def send(target: Target, as_json: bool, make: Callable[[MarketScales], AnyCommand], effect: str) -> None:
    """Send a command, and print its effect."""

    async def work(session: CliSession) -> AnyOutcome:
        return await session.submit(make(await session.scales()))

    outcome = run(target, work)
    assert isinstance(outcome, Done | Switched), outcome
    if as_json:
        print_json(msgspec.to_builtins({name: getattr(outcome, name) for name in outcome.__struct_fields__ if name != "time"}))
        return
    click.echo(f"{effect}{'' if outcome.changed else ': nothing changed'}")
    if isinstance(outcome, Switched) and (outcome.cancelled or outcome.pending):
        more = "; more leave with the next log entries" if outcome.pending else ""
        click.echo(f"{outcome.cancelled} orders cancelled{more}")


def show_rows(
    target: Target, as_json: bool, kind: str, head: Sequence[str], view: Callable[[Any, MarketScales], list[str]]
) -> None:
    """Show the rows of a table of controls."""

    async def work(session: CliSession) -> tuple[list[Any], MarketScales]:
        return await rows_of(session, kind), await session.scales()

    rows, scales = run(target, work)
    views = [view(row, scales) for row in rows]
    if as_json:
        print_json([dict(zip(head, each, strict=True)) for each in views])
    else:
        show(table(head, views))


@click.group("kill-switch", cls=Commands)
def kill_switch() -> None:
    """The kill switch and the trading switches of the venue, a firm, an account or a product."""


@kill_switch.command("set")
@click.argument("scope", type=click.Choice(list(SCOPES)))
@click.argument("name", default="")
@click.option("--to", "switch", type=click.Choice(list(SWITCHES)), default="kill", show_default=True, help="What to switch off.")
@click.option("--note", default="", help="The reason, for people. It is public for a product and for the venue.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@cluster_option
@json_option
def set_switch(target: Target, as_json: bool, scope: str, name: str, switch: str, note: str, yes: bool) -> None:
    """Cancel all open orders of SCOPE NAME and reject new ones (kill), or switch off buys, sells or both; `--to on`
    switches all on.
    """
    whose = f"{scope} {name}".strip()
    if switch == "kill" and not yes:
        click.confirm(f"Cancel all open orders of the {whose}, and refuse new ones?", abort=True)
    command = SetSwitches(OPERATOR, fresh_id(), SCOPES[scope], name, SWITCHES[switch], note)
    send(target, as_json, lambda _: command, f"{whose}: {switch}")


@kill_switch.command("show")
@cluster_option
@json_option
def show_switches(target: Target, as_json: bool) -> None:
    """List the scopes whose switches are not all on."""

    def view(row: SwitchRow, _: MarketScales) -> list[str]:
        names = ", ".join(word(switch) for switch in Switch if row.switches & switch)
        return [word(row.scope), row.name, names, "yes" if row.cancelling else "no", row.note, instant(row.set_at)]

    show_rows(target, as_json, "switch", ("scope", "name", "off", "cancelling", "note", "since"), view)


def _limit(text: str | None, scale: int, name: str) -> int:
    """Return a limit in units, or 0, which means no limit in a command, if the option was not given.

    Raises:
        click.UsageError: a limit of 0, which would be taken for none.
        DecimalError: it is not a decimal, or has too many digits.
    """
    if text is None:
        return 0
    return above_zero(to_units(text, scale, name), name, " For no limit, leave the option out.")


@click.group(cls=Commands)
def limits() -> None:
    """Price collars and order limits of products."""


@limits.command("set")
@click.argument("product_id", metavar="PRODUCT")
@click.option("--dynamic", help="Share by which a trade may differ from the last trade, e.g. 0.05.")
@click.option("--static", "static", help="Share by which a trade may differ from the last auction's price.")
@click.option("--static-price", help="Replaces the last auction's price until the next auction.")
@click.option("--action", type=click.Choice([word(a) for a in CollarAction]), default="reject", show_default=True)
@click.option(
    "--limit", type=WHOLE_SECONDS, default=0, help="Seconds that orders rest at the collar before the halt or the auction."
)
@click.option("--halt", type=WHOLE_SECONDS, default=0, help="Seconds from a halt until the auction begins.")
@click.option("--call", type=WHOLE_SECONDS, default=0, help="Seconds that the auction collects orders.")
@click.option("--random", "chance", type=WHOLE_SECONDS, default=0, help="Largest random delay of the auction's end, in seconds.")
@click.option(
    "--extensions", type=COUNT, default=0, help="Largest number of extensions while the auction's price is too far away."
)
@click.option("--order-size", help="Largest size of an order.")
@click.option("--order-notional", help="Largest notional of an order.")
@click.option("--distance", help="Share by which a limit price may differ from the last trade.")
@cluster_option
@json_option
def set_limits(target: Target, as_json: bool, product_id: str, **given: Any) -> None:
    """Set all limits of PRODUCT. A limit without an option is removed."""

    def make(scales: MarketScales) -> AnyCommand:
        ppm = {name: _limit(given[name], PPM_DIGITS, name) for name in ("dynamic", "static", "distance")}
        base, quote = (scales.currency(name) for name in (scales.product(product_id).base, scales.product(product_id).quote))
        return PutProductLimits(
            OPERATOR,
            fresh_id(),
            product_id,
            ppm["dynamic"],
            ppm["static"],
            CollarAction[given["action"].replace("-", "_").upper()],
            given["halt"] * SECOND_NS,
            given["call"] * SECOND_NS,
            given["chance"] * SECOND_NS,
            given["extensions"],
            _limit(given["order_size"], base, "order-size"),
            _limit(given["order_notional"], quote, "order-notional"),
            ppm["distance"],
            _limit(given["static_price"], quote, "static-price"),
            given["limit"] * SECOND_NS,
        )

    send(target, as_json, make, f"limits of {product_id}")


@limits.command("show")
@cluster_option
@json_option
def show_limits(target: Target, as_json: bool) -> None:
    """List the products with limits."""

    def view(row: ProductLimitsRow, scales: MarketScales) -> list[str]:
        seconds = [str(each // SECOND_NS) for each in (row.limit_ns, row.halt_ns, row.call_ns, row.random_ns)]
        shares = [to_text(ppm, PPM_DIGITS) for ppm in (row.dynamic_ppm, row.static_ppm, row.distance_ppm)]
        size, notional = scales.size(row.product_id, row.order_size_max), scales.price(row.product_id, row.order_notional_max)
        return [
            row.product_id,
            *shares,
            word(row.action),
            *seconds,
            size,
            notional,
            scales.price(row.product_id, row.static_price),
        ]

    head = ("product", "dynamic", "static", "distance", "action", "limit", "halt", "call", "random", "order size")
    show_rows(target, as_json, "product_limits", (*head, "order notional", "static price"), view)


@click.group(cls=Commands)
def risk() -> None:
    """Risk limits of accounts and firms."""


@risk.command("set")
@click.argument("scope", type=click.Choice(["account", "firm"]))
@click.argument("name")
@click.option("--currency", default="", help="The currency of the money limits.")
@click.option("--orders", type=click.IntRange(1, INT64_MAX), help="Largest number of open orders.")
@click.option("--rate", type=click.IntRange(1, INT64_MAX), help="Largest number of orders accepted in a second.")
@click.option("--open", "opened", help="Largest hold of open orders in the currency.")
@click.option("--volume", help="Largest amount traded in the currency in a day.")
@click.option("--position", help="Largest amount of the currency owned and being bought.")
@cluster_option
@json_option
def set_risk(
    target: Target, as_json: bool, scope: str, name: str, currency: str, orders: int | None, rate: int | None, **given: str | None
) -> None:
    """Set all risk limits of an account or firm, in one currency or for its orders. A limit without an option is
    removed.
    """

    def make(scales: MarketScales) -> AnyCommand:
        digits = scales.currency(currency) if currency else 0
        money = [_limit(given[field], digits, field.removesuffix("ed")) for field in ("opened", "volume", "position")]
        return PutRiskLimits(OPERATOR, fresh_id(), SCOPES[scope], name, currency, orders or 0, rate or 0, *money)

    send(target, as_json, make, f"risk limits of {scope} {name}")


@risk.command("show")
@cluster_option
@json_option
def show_risk(target: Target, as_json: bool) -> None:
    """List the accounts and firms with limits, and their trades on the day of the last trade."""

    def view(row: RiskRow, scales: MarketScales) -> list[str]:
        digits = scales.currency(row.currency) if row.currency else 0
        money = [to_text(each, digits) for each in (row.open_max, row.volume_max, row.position_max, row.volume)]
        return [word(row.scope), row.name, row.currency, str(row.orders_max), str(row.rate_max), *money]

    head = ("scope", "name", "currency", "orders", "rate", "open", "volume", "position", "traded")
    show_rows(target, as_json, "risk", head, view)


@click.group(cls=Commands)
def firm() -> None:
    """Firms, to which accounts belong."""


@firm.command("put")
@click.argument("firm_id", metavar="FIRM")
@cluster_option
@json_option
def put_firm(target: Target, as_json: bool, firm_id: str) -> None:
    """Add FIRM."""
    command = PutFirm(OPERATOR, fresh_id(), firm_id)
    send(target, as_json, lambda _: command, f"firm {firm_id}")


@firm.command("member")
@click.argument("account_id", metavar="ACCOUNT")
@click.argument("firm_id", metavar="[FIRM]", default="")
@cluster_option
@json_option
def put_member(target: Target, as_json: bool, account_id: str, firm_id: str) -> None:
    """Make ACCOUNT a member of FIRM; without FIRM, of none."""
    command = PutMember(OPERATOR, fresh_id(), account_id, firm_id)
    send(target, as_json, lambda _: command, f"{account_id}: {firm_id or 'no firm'}")


@firm.command("list")
@cluster_option
@json_option
def list_firms(target: Target, as_json: bool) -> None:
    """List the accounts of each firm."""
    show_rows(target, as_json, "firm_member", ("firm", "account"), lambda row, _: [row.firm_id, row.account_id])


@click.group(cls=Commands)
def calendar() -> None:
    """Trading calendars."""


@calendar.command("set")
@click.argument("calendar_id", metavar="CALENDAR")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@cluster_option
@json_option
def set_calendar(target: Target, as_json: bool, calendar_id: str, path: Path) -> None:
    """Add or replace CALENDAR from FILE (TOML; see docs/operations.md)."""
    try:
        text = msgspec.toml.decode(path.read_bytes(), type=CalendarText)
        command = command_of(calendar_id, fresh_id(), text, datetime.now(UTC))
    except (msgspec.MsgspecError, UnicodeDecodeError, CalendarError) as error:
        raise DirectoryError(f"{path}: {error}") from error
    send(target, as_json, lambda _: command, f"calendar {calendar_id}")


@calendar.command("follow")
@click.argument("scope", type=click.Choice(["venue", "group", "product"]))
@click.argument("name", default="")
@click.option("--calendar", "calendar_id", default="", help="The calendar. Default: that of the group or of the venue, or none.")
@cluster_option
@json_option
def follow_calendar(target: Target, as_json: bool, scope: str, name: str, calendar_id: str) -> None:
    """Make the venue, a group or a product follow a calendar."""
    command = SetCalendar(OPERATOR, fresh_id(), Scope[scope.upper()], name, calendar_id)
    send(target, as_json, lambda _: command, f"{scope} {name}".strip())


@calendar.command("group")
@click.argument("product_id", metavar="PRODUCT")
@click.argument("group_id", metavar="[GROUP]", default="")
@cluster_option
@json_option
def put_group(target: Target, as_json: bool, product_id: str, group_id: str) -> None:
    """Put PRODUCT into GROUP; without GROUP, into none."""
    command = PutGroup(OPERATOR, fresh_id(), product_id, group_id)
    send(target, as_json, lambda _: command, f"{product_id}: {group_id or 'no group'}")


@calendar.command("resume")
@click.argument("product_id", metavar="PRODUCT")
@cluster_option
@json_option
def resume_calendar(target: Target, as_json: bool, product_id: str) -> None:
    """Make PRODUCT, whose status was set by hand, follow its calendar again."""
    command = FollowCalendar(OPERATOR, fresh_id(), product_id)
    send(target, as_json, lambda _: command, product_id)


@calendar.command("show")
@click.argument("calendar_id", metavar="[CALENDAR]", default="")
@cluster_option
@json_option
def show_calendar(target: Target, as_json: bool, calendar_id: str) -> None:
    """Show the phases of the week of CALENDAR; without it, each product's present phase."""

    def phase(row: PhaseRow, _: MarketScales) -> list[str]:
        return [row.product_id, word(row.phase), instant(row.ends_at), "yes" if row.by_hand else "no", str(row.extensions)]

    if not calendar_id:
        show_rows(target, as_json, "phase", ("product", "phase", "until", "status by hand", "extensions"), phase)
        return

    async def work(session: CliSession) -> CalendarRow:
        for row in await rows_of(session, "calendar"):
            if row.calendar_id == calendar_id:
                return row  # type: ignore[no-any-return]  # rows of this table are such
        raise DirectoryError(f"no calendar {calendar_id!r}")

    row = run(target, work)
    if as_json:
        print_json(msgspec.to_builtins({name: getattr(row, name) for name in row.__struct_fields__}))
        return
    days = [
        [day, ", ".join(f"{clock(at)} {word(phase)}" for at, phase in phases)] for day, phases in zip(DAYS, row.week, strict=True)
    ]
    show(
        table(
            ("day", "phases"),
            days,
            title=f"{calendar_id}, {row.time_zone}, offsets until {instant(row.offsets[-1][0] * SECOND_NS)}",
        )
    )


@click.group(cls=Commands)
def trade() -> None:
    """Trades: bust one, or correct its price."""


@trade.command("bust")
@click.argument("product_id", metavar="PRODUCT")
@click.argument("trade_id", metavar="TRADE", type=COUNT)
@click.option("--price", help="Correct the price to this one instead of a bust.")
@click.option("--note", default="", help="The reason, for people.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@cluster_option
@json_option
def bust(target: Target, as_json: bool, product_id: str, trade_id: int, price: str | None, note: str, yes: bool) -> None:
    """Bust TRADE of PRODUCT: money, coins and fees go back. The node must still have the trade (`trades`)."""

    async def find(session: CliSession) -> tuple[OrderMatched, MarketScales]:
        for trade in await session.read(TradesQuery(product_id, _PAGE)):
            if trade.trade_id == trade_id:
                return trade, await session.scales()
        raise DirectoryError(f"{product_id}: trade {trade_id} is not among the last {_PAGE:,} trades")

    trade, scales = run(target, find)
    new_price = 0
    if price is not None:
        new_price = above_zero(scales.price_units(product_id, price), "price", " For a bust, leave the option out.")
    maker_buys = trade.side is Side.BUY
    buyer, seller = (trade.maker_account_id, trade.taker_account_id)[:: 1 if maker_buys else -1]
    buyer_fee, seller_fee = (trade.maker_fee, trade.taker_fee)[:: 1 if maker_buys else -1]
    buyer_order, seller_order = (trade.maker_order_id, trade.taker_order_id)[:: 1 if maker_buys else -1]
    command = CorrectTrade(
        OPERATOR,
        fresh_id(),
        product_id,
        trade_id,
        buyer,
        seller,
        trade.price,
        trade.size,
        buyer_fee,
        seller_fee,
        new_price,
        note,
        buyer_order,
        seller_order,
    )
    description = f"trade {trade_id}: {scales.size(product_id, trade.size)} @ {scales.price(product_id, trade.price)}, {buyer} from {seller}"
    if not yes:
        click.confirm(f"{'Correct' if command.new_price else 'Bust'} {description}?", abort=True)
    send(target, as_json, lambda _: command, description)
