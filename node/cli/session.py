"""What commands share: the connection to the cluster, and its decimals."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import click

from node.cli.output import Rejection, WaitsForConsent, instant
from node.cli.target import Target
from node.cluster_directory import Access
from node.errors import DirectoryError, RequestFailed
from node.native.client import ClusterClient
from node.native.protocol import AnyQuery, CurrenciesQuery, FailCode, ProductsQuery
from statemachine.commands import AnyCommand
from statemachine.decimals import to_text, to_units
from statemachine.events import AnyOutcome, Proposed, Rejected
from statemachine.tables import ProductRow

_Result = TypeVar("_Result")


class MarketScales:
    """The cluster's currencies and products, for reading and writing decimals."""

    def __init__(self, currencies: dict[str, int], products: dict[str, ProductRow]) -> None:
        self.currencies = currencies
        self.products = products

    def currency(self, name: str) -> int:
        """Return a currency's decimal digits.

        Raises:
            DirectoryError: there is no such currency.
        """
        if name not in self.currencies:
            raise DirectoryError(f"no currency {name!r}; there are: {', '.join(self.currencies) or 'none'}")
        return self.currencies[name]

    def product(self, product_id: str) -> ProductRow:
        """Return a product.

        Raises:
            DirectoryError: there is no such product.
        """
        if product_id not in self.products:
            raise DirectoryError(f"no product {product_id!r}; there are: {', '.join(self.products) or 'none'}")
        return self.products[product_id]

    def size(self, product_id: str, units: int) -> str:
        """Return a size as text."""
        return to_text(units, self.currencies[self.products[product_id].base])

    def price(self, product_id: str, units: int) -> str:
        """Return a price, or funds, as text."""
        return to_text(units, self.currencies[self.products[product_id].quote])

    def size_units(self, product_id: str, text: str, field: str = "size") -> int:
        """Return a size from text.

        Raises:
            DecimalError: the text is not a decimal, or has too many digits.
            DirectoryError: there is no such product.
        """
        return to_units(text, self.currency(self.product(product_id).base), field)

    def price_units(self, product_id: str, text: str, field: str = "price") -> int:
        """Return a price, or funds, from text.

        Raises:
            DecimalError: the text is not a decimal, or has too many digits.
            DirectoryError: there is no such product.
        """
        return to_units(text, self.currency(self.product(product_id).quote), field)


class CliSession:
    """A connected client."""

    def __init__(self, client: ClusterClient) -> None:
        self.client = client
        self._stale = False

    async def read(self, query: AnyQuery) -> Any:
        """Read a state that reflects every command acknowledged before. Without a leader, read from one node, and say
        so.

        Raises:
            RequestFailed: it is not there, or no node answered in time.
        """
        ask: Any = self.client.query
        if not self._stale:
            try:
                return await ask(query, linearizable=True)
            except RequestFailed as error:
                if error.code not in (FailCode.NO_LEADER, FailCode.OUTCOME_UNKNOWN):
                    raise
            self._stale = True
            click.echo("note: there is no leader at the moment; this is the state of one node, which may be behind", err=True)
        return await ask(query)

    async def scales(self) -> MarketScales:
        """Return the cluster's currencies and products."""
        currencies = {row.currency: row.scale for row in await self.read(CurrenciesQuery())}
        return MarketScales(currencies, {row.product_id: row for row in await self.read(ProductsQuery())})

    async def submit(self, command: AnyCommand, number: Callable[[int], str] | None = None) -> AnyOutcome:
        """Apply one command. `number` writes a rejection's amounts, which are in smallest units.

        Raises:
            Rejection: the exchange refused it.
            WaitsForConsent: see `submit_all`.
            RequestFailed: no leader answered in time, or the key may not do this.
        """
        outcome = (await self.submit_all([command]))[0]
        if isinstance(outcome, Rejected):
            raise Rejection(outcome, number=number)
        return outcome

    async def submit_all(self, commands: Sequence[AnyCommand]) -> list[AnyOutcome]:
        """Apply commands. Returns their outcomes, rejections included.

        Raises:
            WaitsForConsent: some of them were not applied, and wait for the consent of another user.
            RequestFailed: no leader answered in time, or a read a moment ago found none, so that nobody waits twice.
        """
        if self._stale:
            raise RequestFailed(FailCode.NO_LEADER, "there is no leader at the moment; nothing was applied")
        outcomes = await self.client.submit(commands)
        waiting = [outcome for outcome in outcomes if isinstance(outcome, Proposed)]
        if waiting:
            ids = ", ".join(str(outcome.proposal_id) for outcome in waiting)
            raise WaitsForConsent(
                f"not done yet: until {instant(waiting[0].expires_at)} proposal {ids} waits for the consent of another user"
            )
        return outcomes


def reach(target: Target) -> Access:
    """Return how the target's cluster is reached. Tests replace this function. It raises the errors of `Target.access`."""
    return target.access()


def open_client(target: Target) -> ClusterClient:
    """Make a client of the target's cluster. Tests replace this function."""
    return reach(target).client()


def run(target: Target, work: Callable[[CliSession], Awaitable[_Result]]) -> _Result:
    """Connect, do the work, disconnect."""

    async def connected() -> _Result:
        client = open_client(target)
        try:
            return await work(CliSession(client))
        finally:
            await client.close()

    return asyncio.run(connected())


def fresh_id() -> str:
    """Return an id for a command without one."""
    return f"g:{uuid.uuid4()}"
