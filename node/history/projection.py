"""Turns commands and their results into rows. Pure: the same steps with the same known orders and balances give the
same rows.

The row of a placed order comes from its outcome; every other order is updated by its events. A trade has four ledger
entries, or up to six with fees: each side receives one currency, pays the other, and pays its fee.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from node.history.candles import HOUR, STORED, Candle, aggregate, bucket, of_trade
from snapshots.levels.states import commands_of, level_of
from statemachine.access import is_sender
from statemachine.commands import (
    AnyCommand,
    CorrectTrade,
    DecideProposal,
    Deposit,
    PutApiKey,
    PutCurrency,
    PutProduct,
    Transfer,
    Withdraw,
    command_decoder,
)
from statemachine.engine import Engine
from statemachine.events import (
    Amended,
    AnyEvent,
    AnyOutcome,
    Done,
    OrderActivated,
    OrderChanged,
    OrderDone,
    OrderMatched,
    OrderOpened,
    OrderReceived,
    OrderState,
    OrderTerms,
    Paired,
    Placed,
    Proposed,
    Rejected,
    Replaced,
    StatusChanged,
    Switched,
    Transferred,
)
from statemachine.limits import OPERATOR, SECOND_NS
from statemachine.tables import ProposalRow
from statemachine.types import ChangeReason, Decision, OrderStatus, Side

_json = msgspec.json.Encoder()

Row = dict[str, Any]
"""A row: values by column name."""

Totals = dict[tuple[str, str], int]
"""Total balance by account and currency, including holds."""


class LedgerKind(IntEnum):
    """The reason for a change of balance."""

    TRANSFER = 1
    MATCH = 2
    FEE = 3


class HistoryStep(NamedTuple):
    """A command that was applied, with its place, its time and its results. A step without a command has the results of
    time that a batch advanced, after the command with that sequence. `approved` is the proposed command that the
    command approved: the results are those of `approved`. The last step of a log entry has `entered`: the states after
    the entry of orders that entered with it and are in no outcome.
    """

    sequence: int
    time: int
    command: AnyCommand | None
    outcome: AnyOutcome | None
    events: list[AnyEvent]
    approved: AnyCommand | None = None
    entered: tuple[OrderState, ...] = ()

    @property
    def applied(self) -> AnyCommand | None:
        """The command that had the results."""
        return self.command if self.approved is None else self.approved


class ProductTerms(NamedTuple):
    """What is needed to compute a notional from price and size. It does not change once a product exists."""

    base: str
    quote: str
    unit: int


class HistoryRows:
    """Rows that a run of steps adds to the tables. `orders` are by id, in the state after all steps."""

    def __init__(self) -> None:
        self.currencies: list[Row] = []
        self.products: list[Row] = []
        self.product_changes: list[Row] = []
        self.status_changes: list[Row] = []
        self.orders: dict[int, Row] = {}
        self.trades: list[Row] = []
        self.ledger: list[Row] = []
        self.transfers: list[Row] = []
        self.operations: list[Row] = []

    def candles(self) -> dict[tuple[str, int], list[Candle]]:
        """Return the candles of these trades alone, by product and granularity."""
        by_product: dict[str, list[Candle]] = {}
        for trade in self.trades:
            candle = of_trade(trade["time"], trade["price"], trade["size"], trade["notional"])
            by_product.setdefault(trade["product_id"], []).append(candle)
        return {
            (product_id, granularity): aggregate(candles, granularity)
            for product_id, candles in by_product.items()
            for granularity in STORED
        }

    def volumes(self) -> dict[tuple[str, int, str], tuple[int, int]]:
        """Return the volume and value of these trades alone, by account, hour and product."""
        found: dict[tuple[str, int, str], tuple[int, int]] = {}
        for trade in self.trades:
            start = bucket(trade["time"] // SECOND_NS, HOUR)
            for account_id in (trade["maker_account_id"], trade["taker_account_id"]):
                key = account_id, start, trade["product_id"]
                volume, value = found.get(key, (0, 0))
                found[key] = volume + trade["size"], value + trade["notional"]
        return found


def apply(engine: Engine, payload: bytes) -> list[HistoryStep]:
    """Apply a log entry with commands. Returns one step for the results before its first command, and one for each
    command. Commands that were seen before make no step.
    """
    batch = commands_of(level_of(engine).abi, payload)
    proposals = _proposals(engine, batch.commands)
    applied = engine.apply_entry(payload)
    ends = applied.command_ends
    if not ends:
        return []
    steps = []
    before = engine.sequence - len(batch.commands)
    if ends[0]:
        steps.append(HistoryStep(before, engine.time, None, None, applied.events[: ends[0]]))
    for place, (command, outcome) in enumerate(zip(batch.commands, applied.outcomes, strict=True)):
        if not outcome.duplicate:
            events = applied.events[ends[place] : ends[place + 1]]
            approved = None
            if isinstance(outcome, Proposed):
                proposals[outcome.proposal_id] = command
            elif (
                isinstance(command, DecideProposal) and command.decision == Decision.APPROVE and not isinstance(outcome, Rejected)
            ):
                approved = proposals[command.proposal_id]
            steps.append(HistoryStep(before + place + 1, engine.time, command, outcome, events, approved))
    entered = tuple(filter(None, map(engine.order, _brought(steps))))
    return [*steps[:-1], steps[-1]._replace(entered=entered)] if entered else steps


def _proposals(engine: Engine, commands: Sequence[AnyCommand]) -> dict[int, AnyCommand]:
    """Return the commands that wait for consent, by proposal. Nothing is read if none of these commands decides."""
    if not any(isinstance(command, DecideProposal) for command in commands):
        return {}
    rows: list[ProposalRow] = engine.records("proposal")
    return {row.proposal_id: command_decoder.decode(row.command) for row in rows}


NOT_STORED = ("hold", "queued", "fee_credit")
"""Fields of an order that only the engine needs."""


def order_row(order: OrderState, sequence: int) -> Row:
    """Return the row of an order."""
    row = msgspec.structs.asdict(order)
    for name in NOT_STORED:
        del row[name]
    return {**row, "terms": terms_text(order.terms), "sequence": sequence}


def terms_text(terms: OrderTerms | None) -> str:
    """Return the options of an order as JSON, "" for an order without options."""
    return _json.encode(msgspec.structs.asdict(terms)).decode() if terms is not None else ""


def terms_of(text: str) -> OrderTerms | None:
    """Return the options of an order from their JSON."""
    return msgspec.convert(list(msgspec.json.decode(text).values()), OrderTerms) if text else None


def placed_by(outcome: AnyOutcome | None) -> tuple[OrderState, ...]:
    """Return the orders that a command placed, in their states after the command."""
    if isinstance(outcome, Placed):
        return (outcome.order,)
    if isinstance(outcome, Paired):
        return outcome.limit, outcome.stop
    return (outcome.placed,) if isinstance(outcome, Replaced) else ()


class Projection:
    """Makes rows. It tracks every account's balance, because each ledger entry contains the balance after it.

    Args:
        engine: the one that the steps come from.
        totals: what every account has before the first step.
        under: the sequence of the last command before the first step, and the number of ledger entries under it.
    """

    def __init__(self, engine: Engine, totals: Totals, under: tuple[int, int] = (0, 0)) -> None:
        self._engine = engine
        self._totals = totals
        self._under = under
        self._markets: dict[str, ProductTerms] = {}

    def go_on_with(self, engine: Engine) -> None:
        """Continue with another engine that has the same state: the level has changed."""
        self._engine = engine

    def rows(self, steps: Iterable[HistoryStep], known: Callable[[set[int]], Mapping[int, Row]]) -> HistoryRows:
        """Return the rows of some steps. `known` looks up the rows of orders that were placed before them."""
        steps = list(steps)
        rows = HistoryRows()
        brought = _brought(steps)
        rows.orders.update(known(_orders_from_before(steps) | brought.keys()))
        brought = {order_id: sequence for order_id, sequence in brought.items() if order_id not in rows.orders}
        touched: Totals = {}
        for step in steps:
            self._administration(rows, step)
            self._sessions(rows, step)
            self._orders(rows, step, brought)
            for order in step.entered:
                if order.order_id in brought:
                    rows.orders[order.order_id] = order_row(order, brought.pop(order.order_id))
            for entry in self._entries(rows, step):
                key = entry["account_id"], entry["currency"]
                balance = self._totals[key] = self._totals.get(key, 0) + entry["amount"]
                touched[key] = balance
                rows.ledger.append({**entry, "balance": balance})
        self._options(rows)
        self._icebergs(rows, steps)
        self._check(touched)
        return rows

    def _options(self, rows: HistoryRows) -> None:
        """Update the options of orders, which change without an event: what an iceberg shows, and links."""
        for order_id, row in rows.orders.items():
            order = self._engine.order(order_id) if row.get("terms") else None
            if order is not None:
                row["terms"] = terms_text(order.terms)

    def _icebergs(self, rows: HistoryRows, steps: Iterable[HistoryStep]) -> None:
        """Correct icebergs: events show only their displayed size. If self-trade prevention decremented one, the engine
        has the rest.
        """
        changed = [event.order_id for step in steps for event in step.events if isinstance(event, OrderChanged)]
        for order_id in changed:
            order = self._engine.order(order_id)
            if order is not None and order.terms is not None and order.terms.display_size:
                rows.orders[order_id]["remaining"] = order.remaining

    def _check(self, touched: Totals) -> None:
        """Check that the ledger leads to the engine's balances."""
        for account_id in {account_id for account_id, _ in touched}:
            for row in self._engine.balances(account_id):
                expected = self._totals.get((account_id, row.currency), 0)
                total = row.available + row.hold
                assert expected == total, f"the ledger of {account_id} gives {expected} {row.currency}, the engine {total}"

    def _administration(self, rows: HistoryRows, step: HistoryStep) -> None:
        """Make the rows of a command of the operator."""
        command = step.command
        if command is not None and (command.account_id == OPERATOR or is_sender(command.account_id)):
            rows.operations.append(_operation(step, command))
        command = step.applied
        if not isinstance(step.outcome, Done) or not step.outcome.changed:
            return
        if isinstance(command, PutCurrency):
            rows.currencies.append({"currency": command.currency, "scale": command.scale})
        if isinstance(command, PutProduct):
            fixed = ("product_id", "base", "quote", "tick", "lot")
            rows.products.append({name: getattr(command, name) for name in fixed})
            moving = ("product_id", "status", "min_size", "max_size", "maker_fee_ppm", "taker_fee_ppm")
            change = {name: getattr(command, name) for name in moving}
            rows.product_changes.append({**change, "sequence": step.sequence, "time": step.time})

    def _sessions(self, rows: HistoryRows, step: HistoryStep) -> None:
        for event in step.events:
            if isinstance(event, StatusChanged):
                change = msgspec.structs.asdict(event)
                rows.status_changes.append({**{name: change[name] for name in _STATUS_CHANGE}, "sequence": step.sequence})

    def _orders(self, rows: HistoryRows, step: HistoryStep, brought: Mapping[int, int]) -> None:
        """Update orders after a step. Those in `brought` get their rows at the end of their log entry, which includes
        what happens to them before that.
        """
        placed = placed_by(step.outcome)
        for order in placed:
            rows.orders[order.order_id] = order_row(order, step.sequence)
        done_with = {*brought, *(order.order_id for order in placed)}
        if isinstance(step.outcome, Amended) and step.outcome.order.order_id not in brought:
            amended = step.outcome.order
            done_with.add(amended.order_id)
            rows.orders[amended.order_id] = order_row(amended, rows.orders[amended.order_id]["sequence"])
        for event in step.events:
            if isinstance(event, OrderMatched):
                notional = self._notional(event)
                for order_id, fee in ((event.maker_order_id, event.maker_fee), (event.taker_order_id, event.taker_fee)):
                    if order_id not in done_with:
                        _fill(rows.orders[order_id], event.size, notional, fee)
            elif isinstance(event, OrderOpened) and event.order_id not in done_with:
                rows.orders[event.order_id].update(status=OrderStatus.OPEN, opened_sequence=event.product_sequence)
            elif isinstance(event, OrderChanged) and event.reason is ChangeReason.TRAILED:
                if event.order_id not in brought:
                    rows.orders[event.order_id]["stop_price"] = event.new_stop_price
            elif isinstance(event, OrderChanged) and event.reason is ChangeReason.REPRICED:
                if event.order_id not in done_with:
                    rows.orders[event.order_id]["price"] = event.new_price
            elif isinstance(event, OrderChanged) and event.order_id not in done_with and not (event.by_funds or event.auction):
                rows.orders[event.order_id]["remaining"] = event.new
            elif isinstance(event, OrderDone) and event.order_id not in done_with:
                done = {"status": OrderStatus.DONE, "done_reason": event.reason, "done_at": event.time}
                rows.orders[event.order_id].update(done)

    def _entries(self, rows: HistoryRows, step: HistoryStep) -> list[Row]:
        """Return the step's ledger entries without balances. Its trades and transfers are added to `rows`."""
        entries: list[Row] = []
        command = step.applied
        if isinstance(step.outcome, Transferred) and isinstance(command, Deposit | Withdraw | Transfer):
            for moved in _movements(command):
                rows.transfers.append({**_place(step), **moved})
                entries.append({**_NO_TRADE, **moved, "kind": LedgerKind.TRANSFER})
        if isinstance(command, CorrectTrade) and isinstance(step.outcome, Done):
            entries += self._correction(command)
        for event in step.events:
            if isinstance(event, OrderMatched):
                rows.trades.append(self._trade(step, event))
                entries += self._settlement(event)
        first = self._position(step.sequence, len(entries))
        return [{**entry, **_place(step), "position": position} for position, entry in enumerate(entries, first)]

    def _position(self, sequence: int, count: int) -> int:
        """Return the position of the first of `count` new entries under a sequence. The results of time have the
        sequence of the command before them, which may have entries, too.
        """
        last, before = self._under
        first = before if last == sequence else 0
        self._under = sequence, first + count
        return first

    def _trade(self, step: HistoryStep, event: OrderMatched) -> Row:
        return {**msgspec.structs.asdict(event), "sequence": step.sequence, "notional": self._notional(event)}

    def _settlement(self, event: OrderMatched) -> list[Row]:
        """Return both sides' entries, the maker's first."""
        market, notional = self._market(event.product_id), self._notional(event)
        maker = event.maker_account_id, event.maker_order_id, event.maker_fee, event.side
        taker_side = Side.SELL if event.side is Side.BUY else Side.BUY
        taker = event.taker_account_id, event.taker_order_id, event.taker_fee, taker_side
        entries = []
        for account_id, order_id, fee, side in (maker, taker):
            sign = 1 if side is Side.BUY else -1
            common = {"account_id": account_id, "product_id": event.product_id, "order_id": order_id}
            common |= {"trade_id": event.trade_id, "transfer_id": "", "other_account_id": ""}
            entries.append({**common, "kind": LedgerKind.MATCH, "currency": market.base, "amount": sign * event.size})
            entries.append({**common, "kind": LedgerKind.MATCH, "currency": market.quote, "amount": -sign * notional})
            if fee:
                entries.append({**common, "kind": LedgerKind.FEE, "currency": market.quote, "amount": -fee})
        return entries

    def _correction(self, command: CorrectTrade) -> list[Row]:
        """Return the entries that a bust gives back or that a corrected price moves. They belong to the same trade, the
        buyer's first.
        """
        market = self._market(command.product_id)
        paid = command.price * command.size // market.unit
        entries = []
        for account_id, other, sign, fee in (
            (command.buyer_id, command.seller_id, 1, command.buyer_fee),
            (command.seller_id, command.buyer_id, -1, command.seller_fee),
        ):
            common = {"account_id": account_id, "product_id": command.product_id, "order_id": 0, "trade_id": command.trade_id}
            common |= {"transfer_id": "", "other_account_id": other}
            if command.new_price:
                more = command.new_price * command.size // market.unit - paid
                entries.append({**common, "kind": LedgerKind.MATCH, "currency": market.quote, "amount": -sign * more})
                continue
            entries.append({**common, "kind": LedgerKind.MATCH, "currency": market.base, "amount": -sign * command.size})
            entries.append({**common, "kind": LedgerKind.MATCH, "currency": market.quote, "amount": sign * paid})
            if fee:
                entries.append({**common, "kind": LedgerKind.FEE, "currency": market.quote, "amount": fee})
        return entries

    def _notional(self, event: OrderMatched) -> int:
        return event.price * event.size // self._market(event.product_id).unit

    def _market(self, product_id: str) -> ProductTerms:
        """Return a product's currencies and unit."""
        market = self._markets.get(product_id)
        if market is None:
            product = self._engine.product(product_id)
            assert product is not None, f"a trade of {product_id}, which is not a product"
            base = self._engine.currency(product.base)
            assert base is not None, f"{product_id} has no base currency"
            market = self._markets[product_id] = ProductTerms(product.base, product.quote, 10**base.scale)
        return market


def _operation(step: HistoryStep, command: AnyCommand) -> Row:
    """Return the row of a command of the operator."""
    hidden = ("account_id", "command_id", *(("secret", "passphrase") if isinstance(command, PutApiKey) else ()))
    fields = {name: getattr(command, name) for name in command.__struct_fields__ if name not in hidden}
    return {
        **_place(step),
        "sender": command.account_id.removeprefix(f"{OPERATOR}/"),
        "command": type(command).__name__,
        "fields": _json.encode(fields).decode(),
        "outcome": _outcome_word(step.outcome),
    }


def _outcome_word(outcome: AnyOutcome | None) -> str:
    """Return the outcome of a command as the history stores it."""
    match outcome:
        case Rejected(reason=reason):
            return reason.name.lower()
        case Proposed():
            return "proposed"
        case Done(changed=False) | Switched(changed=False):
            return "unchanged"
    return "done"


_STATUS_CHANGE = ("product_id", "product_sequence", "time", "status", "open_price", "open_size")
"""What the database keeps of a change of status."""

_NO_TRADE = {"product_id": "", "order_id": 0, "trade_id": 0}


def _movements(command: Deposit | Withdraw | Transfer) -> list[Row]:
    """Return what a command moves by account; the sender of a transfer is first."""
    incoming = isinstance(command, Deposit)
    moved: Row = {"account_id": command.account_id, "currency": command.currency, "transfer_id": command.command_id}
    moved |= {"amount": command.amount if incoming else -command.amount, "other_account_id": ""}
    if not isinstance(command, Transfer):
        return [moved]
    other, own = command.to_account_id, command.account_id
    return [moved | {"other_account_id": other}, moved | {"account_id": other, "amount": command.amount, "other_account_id": own}]


def _place(step: HistoryStep) -> Row:
    return {"sequence": step.sequence, "time": step.time}


def _fill(row: Row, size: int, notional: int, fee: int) -> None:
    """Include a fill in the row of an order."""
    if row["size"]:
        row["remaining"] -= size
    row["filled_size"] += size
    row["executed_value"] += notional
    row["fill_fees"] += fee


def _brought(steps: list[HistoryStep]) -> dict[int, int]:
    """Return orders whose states are in no outcome: exits of an order that is done. The result maps their ids to the
    sequences of the commands that placed them.
    """
    placed: set[int] = set()
    found: dict[int, int] = {}
    for step in steps:
        placed.update(order.order_id for order in placed_by(step.outcome))
        for event in step.events:
            if isinstance(event, OrderReceived | OrderActivated) and event.order_id not in placed:
                found.setdefault(event.order_id, step.sequence)
    return found


def _orders_from_before(steps: list[HistoryStep]) -> set[int]:
    """Return the orders that the steps touch and that were placed before them."""
    placed: set[int] = set()
    touched: set[int] = set()
    for step in steps:
        placed.update(order.order_id for order in placed_by(step.outcome))
        if isinstance(step.outcome, Amended):
            touched.add(step.outcome.order.order_id)
        for event in step.events:
            if isinstance(event, OrderMatched):
                touched |= {event.maker_order_id, event.taker_order_id}
            elif isinstance(event, OrderOpened | OrderChanged | OrderDone):
                touched.add(event.order_id)
    return touched - placed
