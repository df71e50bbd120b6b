"""Sends a recorded order flow through a running cluster, and compares executions with those of the original exchange.

Time priority depends on the order in which commands arrive. Therefore they are sent in chunks, and each chunk is
answered before the next one is sent. If a failover leaves a chunk in doubt, the whole chunk is sent again with the same
ids. A reader of its own gets the executions from the feed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec

from node.config.settings import COMMANDS_PER_SUBMIT_MAX
from node.errors import ReplayError, RequestFailed
from node.native.client import ClusterClient
from node.native.protocol import CurrenciesQuery, ProductsQuery
from node.records.recording import Comparison, Executions, RecordedTrade, compare, read_ops, read_trades, to_commands
from node.system import tasks as background
from statemachine.commands import AnyCommand, Deposit, OpenAccount, PutCurrency, PutProduct
from statemachine.events import AnyOutcome, Rejected
from statemachine.limits import AMOUNT_MAX, OPERATOR

BASE, QUOTE = "AAPL", "USD"
QUOTE_DIGITS = 2
"""Recorded prices are in cents."""

MONEY = 1_000_000_000
"""Whole units of each currency for each of the two accounts: several times what an hour of one stock needs."""

EVENTS_SECONDS = 30.0
"""Seconds for the feed to deliver the last events after every command is answered."""

Progress = Callable[[int, int], None]
"""Called with the number of commands answered, and of all commands."""


class ReplayPlan(msgspec.Struct, frozen=True):
    """What to replay. `limit` 0 means everything; `run_id` "" chooses the first unused name; `deadline` limits the wait
    for a leader.
    """

    ops: Path
    trades: Path | None = None
    limit: int = 0
    run_id: str = ""
    chunk: int = 500
    deadline: float = 30.0


class Names(msgspec.Struct, frozen=True):
    """The names of a run's product and accounts, which keep runs apart."""

    product_id: str
    buyer: str
    seller: str

    @classmethod
    def of(cls, run_id: str) -> Names:
        """Return the names of a run."""
        suffix = f".{run_id}" if run_id else ""
        return cls(f"{BASE}-{QUOTE}{suffix}", f"replay-buyer{suffix}", f"replay-seller{suffix}")


class ReplayReport(msgspec.Struct, frozen=True):
    """The result of a replay. Without recorded trades `expected` and `matched` are None.

    `first_difference` (from 0) is where executions first differ from the recorded ones. `longest_pause` is the longest
    time, in seconds, until a chunk was answered.
    """

    product_id: str
    commands: int
    rejected: int
    executed: int
    expected: int | None
    matched: int | None
    first_difference: int | None
    seconds: float
    commands_per_second: float
    longest_pause: float

    @property
    def perfect(self) -> bool:
        """Whether exactly the recorded executions happened, in order (True if there is no record)."""
        return self.expected is None or self.matched == self.expected == self.executed


class _Feed:
    """The executions from the feed, and how far the feed was read."""

    def __init__(self, client: ClusterClient, product_id: str) -> None:
        self._client = client
        self._product_id = product_id
        self._executions = Executions()
        self.last_sequence = 0

    @property
    def trades(self) -> list[RecordedTrade]:
        """The executions so far."""
        return self._executions.trades

    async def run(self) -> None:
        """Read the product's events from the first one on, until cancelled.

        Raises:
            ReplayError: the feed cannot be had from any node.
        """
        try:
            async with aclosing(self._client.events(self._product_id, 1)) as feed:
                async for events in feed:
                    self._executions.feed(events)
                    self.last_sequence = events[-1].product_sequence
        except RequestFailed as error:
            raise ReplayError(f"the feed of {self._product_id} ended: {error.message}") from error


class _Tally:
    """Totals over the answers."""

    def __init__(self) -> None:
        self.answered = 0
        self.rejected = 0
        self.longest_pause = 0.0
        self._last_sequence = 0

    def add(self, outcomes: Sequence[AnyOutcome], seconds: float) -> None:
        """Add a chunk's outcomes.

        Raises:
            ReplayError: the commands were not applied in the order in which they were sent.
        """
        self.answered += len(outcomes)
        self.longest_pause = max(self.longest_pause, seconds)
        for outcome in outcomes:
            self.rejected += isinstance(outcome, Rejected)
            if outcome.sequence <= self._last_sequence:
                raise ReplayError(f"command {outcome.sequence} was applied before {self._last_sequence}, and sent after it")
            self._last_sequence = outcome.sequence


async def replay(client: ClusterClient, plan: ReplayPlan, progress: Progress | None = None) -> ReplayReport:
    """Set up a product, two accounts and their money, send the recording, and compare. `client` acts as the operator.

    Raises:
        ReplayError: it could not be sent whole, the run's product is in use, or the feed did not deliver everything.
        RecordingError: a file is not a recording.
        RequestFailed: no leader was found in time.
    """
    names, quote_scale, base_scale = await _prepare(client, plan)
    ops = list(read_ops(plan.ops))[: plan.limit or None]
    commands: list[AnyCommand] = list(
        to_commands(
            ops,
            product_id=names.product_id,
            buyer=names.buyer,
            seller=names.seller,
            quote_scale=quote_scale,
            base_scale=base_scale,
        )
    )
    feed = _Feed(client, names.product_id)
    reader = asyncio.create_task(feed.run())
    tally = _Tally()
    started = time.monotonic()
    try:
        await _send(client, commands, plan, tally, progress, reader)
        seconds = time.monotonic() - started
        await _read_to_end(client, names.product_id, feed, reader)
    finally:
        await background.cancel([reader])
    comparison = None
    if plan.trades is not None:
        recorded = read_trades(plan.trades, quote_scale, base_scale)
        expected = _possible(recorded, {op.id for op in ops}) if plan.limit else recorded
        comparison = compare(expected, feed.trades)
    return _report(names, tally, len(feed.trades), comparison, seconds)


async def _prepare(client: ClusterClient, plan: ReplayPlan) -> tuple[Names, int, int]:
    """Create product, accounts and money if necessary. Returns the run's names and the scales of quote and base."""
    scales = {row.currency: row.scale for row in await client.query(CurrenciesQuery(), linearizable=True)}
    quote_scale, base_scale = scales.get(QUOTE, QUOTE_DIGITS), scales.get(BASE, 0)
    if quote_scale < QUOTE_DIGITS:
        raise ReplayError(f"{QUOTE} has {quote_scale} decimal digits here; recorded prices have {QUOTE_DIGITS}")
    used = {row.product_id for row in await client.query(ProductsQuery(), linearizable=True)}
    names = _choose(plan.run_id, used)
    lot = 10**base_scale
    tick = 10 ** (quote_scale - QUOTE_DIGITS)
    money = [(names.buyer, QUOTE, MONEY * 10**quote_scale), (names.seller, BASE, MONEY * lot)]
    commands: list[AnyCommand] = [
        PutCurrency(OPERATOR, f"replay-currency:{QUOTE}", QUOTE, quote_scale),
        PutCurrency(OPERATOR, f"replay-currency:{BASE}", BASE, base_scale),
        PutProduct(
            OPERATOR, f"replay-product:{names.product_id}", names.product_id, BASE, QUOTE, tick, lot, lot, 10**9 * lot, 0, 0
        ),
        OpenAccount(OPERATOR, f"replay-account:{names.buyer}", names.buyer),
        OpenAccount(OPERATOR, f"replay-account:{names.seller}", names.seller),
        *(Deposit(account, "replay-deposit", currency, min(amount, AMOUNT_MAX // 100)) for account, currency, amount in money),
    ]
    for command, outcome in zip(commands, await client.submit(commands, plan.deadline), strict=True):
        if isinstance(outcome, Rejected):
            raise ReplayError(
                f"{type(command).__name__} was rejected: {outcome.reason.name} {outcome.field} {outcome.detail}".strip()
            )
    return names, quote_scale, base_scale


def _choose(run_id: str, used: set[str]) -> Names:
    """Return the names of a run whose product is new.

    Raises:
        ReplayError: the run that was asked for has been.
    """
    if run_id:
        names = Names.of(run_id)
        if names.product_id in used:
            raise ReplayError(f"run {run_id!r} was used before: {names.product_id} exists; choose another --run-id, or none")
        return names
    number = 1
    while True:
        names = Names.of(str(number) if number > 1 else "")
        if names.product_id not in used:
            return names
        number += 1


async def _send(
    client: ClusterClient,
    commands: list[AnyCommand],
    plan: ReplayPlan,
    tally: _Tally,
    progress: Progress | None,
    reader: asyncio.Task[None],
) -> None:
    """Submit the commands in chunks."""
    size = min(plan.chunk, COMMANDS_PER_SUBMIT_MAX)
    for start in range(0, len(commands), size):
        if reader.done():
            reader.result()
        chunk = commands[start : start + size]
        sent = time.monotonic()
        try:
            outcomes = await client.submit(chunk, plan.deadline)
        except RequestFailed as error:
            raise ReplayError(f"stopped after {tally.answered:,} of {len(commands):,} commands: {error.message}") from error
        tally.add(outcomes, time.monotonic() - sent)
        if progress is not None:
            progress(tally.answered, len(commands))


async def _read_to_end(client: ClusterClient, product_id: str, feed: _Feed, reader: asyncio.Task[None]) -> None:
    """Wait until the reader has received the product's last event.

    Raises:
        ReplayError: it did not within `EVENTS_SECONDS`, or it failed.
    """
    rows = await client.query(ProductsQuery(), linearizable=True)
    last = next(row.product_sequence for row in rows if row.product_id == product_id)
    end = time.monotonic() + EVENTS_SECONDS
    while feed.last_sequence < last:
        if reader.done():
            reader.result()
        if time.monotonic() > end:
            raise ReplayError(f"the feed delivered {feed.last_sequence:,} of {last:,} events within {EVENTS_SECONDS:g} s")
        await asyncio.sleep(0.01)


def _possible(trades: list[RecordedTrade], sent: set[str]) -> list[RecordedTrade]:
    """Return the executions for which both orders were sent."""
    return [trade for trade in trades if trade.taker_id in sent and trade.maker_id in sent]


def _report(names: Names, tally: _Tally, executed: int, comparison: Comparison | None, seconds: float) -> ReplayReport:
    """Return the report of a replay."""
    return ReplayReport(
        product_id=names.product_id,
        commands=tally.answered,
        rejected=tally.rejected,
        executed=executed,
        expected=comparison.expected if comparison else None,
        matched=comparison.matched if comparison else None,
        first_difference=comparison.first_difference if comparison else None,
        seconds=round(seconds, 3),
        commands_per_second=round(tally.answered / seconds, 1) if seconds > 0 else 0.0,
        longest_pause=round(tally.longest_pause, 3),
    )
