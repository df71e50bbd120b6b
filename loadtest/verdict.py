"""The verdict at the end of a run. Each line is checked against the data or the answers of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest.books import BookFollower, rows_of
from loadtest.history import History, operations
from loadtest.linearizability import judge
from loadtest.reader import FeedChecker
from loadtest.watch import Statuses
from node.native.client import ClusterClient
from node.native.protocol import BalancesQuery, BookQuery, BookView, CurrenciesQuery
from node.records.audit import AuditCheck
from statemachine.commands import Batch
from statemachine.engine import Engine

ANOMALIES_NAMED = 3


class Verdict(msgspec.Struct):
    """All lines, including those of the audit. The verdict holds if there is a line and every line holds."""

    checks: list[AuditCheck] = []

    def add(self, claim: str, holds: bool, detail: str) -> None:
        """Append a line."""
        self.checks.append(AuditCheck(claim, holds, detail))

    @property
    def holds(self) -> bool:
        """Whether the verdict holds."""
        return bool(self.checks) and all(check.holds for check in self.checks)

    def print(self, console: Console) -> None:
        """Print the lines as a table."""
        table = Table(title="verdict", title_justify="left")
        for name in ("", "claim", "checked"):
            table.add_column(name, overflow="fold")
        for check in self.checks:
            mark = Text("holds", style="green") if check.holds else Text("FAILS", style="bold red")
            table.add_row(mark, check.claim, check.detail)
        console.print(table)


def hashes_equal(statuses: Statuses) -> AuditCheck:
    """Check that all nodes answer, and have the same state hash at the same sequence."""
    claim = "the state hashes of all nodes are equal at the same sequence"
    missing = [name for name, status in statuses.items() if status is None]
    if missing:
        return AuditCheck(claim, False, f"{', '.join(missing)} does not answer")
    found = {(status.sequence, status.state_hash) for status in statuses.values() if status is not None}
    detail = "; ".join(
        f"{name}: {status.sequence} {status.state_hash}" for name, status in statuses.items() if status is not None
    )
    if len(found) != 1:
        return AuditCheck(claim, False, detail)
    sequence, state_hash = found.pop()
    return AuditCheck(claim, sequence > 0, f"{state_hash} at sequence {sequence:,} on {', '.join(statuses)}")


def linearizable(history: History, log: Sequence[Batch], *, others: bool = False, engine: Engine | None = None) -> AuditCheck:
    """Check that the history of clients is linearizable, in the log's order and in real time.

    Commands and barrier reads; `log` is every committed batch. An incomplete history is checked as far as it was
    recorded. `others`: other clients sent commands too, which are in the log and not in the history. `engine`: an empty
    one of the log's level, unless that is this version's.
    """
    claim = "what clients saw is linearizable: commands and barrier reads"
    found = judge(operations(history.path), log, complete=history.complete and not others, engine=engine)
    detail = "; ".join(f"{one.kind.value}: {one.text}" for one in found.anomalies[:ANOMALIES_NAMED])
    if not found.holds:
        return AuditCheck(claim, False, f"{len(found.anomalies):,} anomalies: {detail}")
    part = "" if history.complete else f", the first {history.written:,} operations"
    detail = f"{found.answered:,} answers, {found.reads:,} reads, {found.unanswered:,} commands without an answer{part}"
    return AuditCheck(claim, found.answered > 0, detail)


def caught_up(statuses: Statuses, node_id: str, killed_at: int) -> AuditCheck:
    """Check that the node that was killed after `killed_at` commands is ready again and caught up."""
    claim = f"{node_id}, killed and started again, caught up"
    status = statuses.get(node_id)
    if status is None:
        return AuditCheck(claim, False, "it does not answer")
    furthest = max(other.sequence for other in statuses.values() if other is not None)
    holds = status.ready and status.voter and status.sequence == furthest and status.sequence > killed_at
    return AuditCheck(
        claim,
        holds,
        f"sequence {status.sequence:,} of {furthest:,}, {killed_at:,} when it was killed, {status.uptime:.0f} s after its new start",
    )


async def money_conserved(client: ClusterClient, accounts: Sequence[str]) -> AuditCheck:
    """Check per currency, over the network: all balances plus fees equal deposits minus withdrawals.

    `accounts` must be all accounts with money, and no client may trade during the check.
    """
    sums: dict[str, int] = {}
    for account_id in accounts:
        for row in await client.query(BalancesQuery(account_id), linearizable=True):
            if row.available < 0 or row.hold < 0:
                return AuditCheck(
                    "money is conserved (asked over the network)",
                    False,
                    f"{account_id} has {row.available} {row.currency}, {row.hold} on hold",
                )
            sums[row.currency] = sums.get(row.currency, 0) + row.available + row.hold
    wrong, parts = [], []
    for currency in await client.query(CurrenciesQuery(), linearizable=True):
        have = sums.pop(currency.currency, 0) + currency.fees
        if have != currency.deposited - currency.withdrawn:
            wrong.append(f"{currency.currency}: {have} is not {currency.deposited} - {currency.withdrawn}")
        elif currency.deposited:
            parts.append(currency.currency)
    wrong += [f"{name}: unknown currency" for name in sums]
    detail = "; ".join(wrong) or f"{', '.join(parts)} to the last unit, over {len(accounts)} accounts and the fees"
    return AuditCheck("money is conserved (asked over the network)", not wrong and bool(parts), detail)


def feed_whole(readers: Sequence[FeedChecker], expected: Mapping[str, int], visits_min: int) -> AuditCheck:
    """Check that every reader saw each event of its product once, up to the product's sequence, and that readers of one
    product saw the same events.

    One reader of each product must have connected to nodes at least `visits_min` times, or else the check proves
    nothing about changing nodes.
    """
    claim = "the feeds have no gap and no duplicate, for readers that changed nodes"
    wrong: list[str] = []
    digests: dict[str, str] = {}
    visits: dict[str, int] = {}
    for reader in readers:
        tally, name = reader.tally, reader.product_id
        if tally.missing or tally.repeated:
            wrong.append(f"{name}: {tally.missing} missing, {tally.repeated} twice")
        if tally.last_sequence != expected[name] or tally.events != expected[name]:
            wrong.append(f"{name}: {tally.events} events up to {tally.last_sequence}, the exchange is at {expected[name]}")
        visits[name] = max(visits.get(name, 0), len(reader.visited))
        if digests.setdefault(name, tally.digest) != tally.digest:
            wrong.append(f"{name}: two readers saw other events")
    wrong += [f"{name}: its readers stayed where they were" for name, count in visits.items() if count < visits_min]
    events = sum(reader.tally.events for reader in readers)
    stays = sum(len(reader.visited) for reader in readers)
    detail = "; ".join(wrong) or f"{events:,} events, {len(readers)} readers, {stays} stays at nodes"
    return AuditCheck(claim, not wrong and events > 0, detail)


async def books_rebuilt(
    readers: Sequence[FeedChecker], followers: Sequence[BookFollower], client: ClusterClient, url: str, seconds: float
) -> AuditCheck:
    """Check that the books that readers and followers rebuilt from the feeds equal the exchange's. The followers' books
    are compared with the node at `url`, over HTTP.

    No client may trade during the check. Followers have `seconds` to catch up.
    """
    claim = "books rebuilt from the feeds equal the book, at levels 2 and 3"
    wrong: list[str] = []
    resting = 0
    for product_id in dict.fromkeys(reader.product_id for reader in readers):
        view: BookView = await client.query(BookQuery(product_id, 3), linearizable=True)
        resting += len(view.bid_orders) + len(view.ask_orders)
        books = [reader.tally.book for reader in readers if reader.product_id == product_id]
        wrong += [f"{product_id}: a reader's book differs" for book in books if book.rows() != rows_of(view)]
    wrong += filter(None, await asyncio.gather(*(follower.difference(url, seconds) for follower in followers)))
    stays = sum(len(follower.visited) for follower in followers)
    detail = f"{resting:,} orders rest; {len(readers)} readers, {len(followers)} WebSockets with {stays} stays at nodes"
    return AuditCheck(claim, not wrong and bool(readers), "; ".join(wrong) or detail)
