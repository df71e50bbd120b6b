"""Blocking clients: the async ones on an event loop in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from node.client.native import AsyncClient
from node.client.shapes import Balance, Book, Number, Order, Product, Trade
from node.cluster_directory import KeyFile
from statemachine.events import AnyEvent

T = TypeVar("T")


class Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._open: set[AsyncGenerator[Any, None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="quorumbook-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and return its result. An interrupt cancels the coroutine."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yield the items of an async generator. The generator is closed when the caller stops iterating or the loop
        ends.
        """
        self._open.add(items)
        try:
            while True:
                try:
                    yield self.run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            if items in self._open:
                self._open.discard(items)
                self.run(items.aclose())

    def close_generators(self) -> None:
        """Close the generators that are still open."""
        while self._open:
            self.run(self._open.pop().aclose())

    def close(self) -> None:
        """Stop the loop and its thread."""
        self.close_generators()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


class Closing(Protocol):
    """An async client: it has connections to close."""

    async def close(self) -> None:
        """Close all connections."""


C = TypeVar("C", bound=Closing)


class Blocking(Generic[C]):
    """A blocking client over an async one: a context manager that closes its connections, and then its loop."""

    _loop: Loop
    _client: C

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._loop.close_generators()
        self._loop.run(self._client.close())
        self._loop.close()


class Client(Blocking[AsyncClient]):
    """`AsyncClient` for programs without an event loop. May be used by several threads at a time.

    >>> order = client.place("BTC-USD", "buy", size="1.5", price="110", client_oid="mine-1")
    >>> order.status, order.filled_size, order.executed_value
    ('open', Decimal('1.00000000'), Decimal('110.0000'))
    >>> client.place("BTC-USD", "buy", size="1.5", price="110", client_oid="mine-1").order_id == order.order_id
    True
    >>> client.cancel(client_oid="mine-1").status
    'done'
    """

    def __init__(
        self,
        key: str | Path | KeyFile,
        *,
        account: str = "",
        nodes: Sequence[str] = (),
        authority: str = "",
        deadline: float = 8.0,
    ) -> None:
        self._loop = Loop()
        try:
            self._client = self._loop.run(_create_client(key, account, nodes, authority, deadline))
        except BaseException:
            self._loop.close()
            raise

    def products(self) -> list[Product]:
        """See `AsyncClient.products`.

        >>> [(product.product_id, product.status) for product in client.products()]
        [('BTC-USD', 'online')]
        """
        return self._loop.run(self._client.products())

    def product(self, product_id: str) -> Product:
        """See `AsyncClient.product`.

        >>> product = client.product("BTC-USD")
        >>> product.tick, product.min_size
        (Decimal('0.0100'), Decimal('0.01000000'))
        """
        return self._loop.run(self._client.product(product_id))

    def balances(self) -> list[Balance]:
        """See `AsyncClient.balances`.

        >>> [(each.currency, each.available, each.hold) for each in client.balances() if each.available]
        [('USD', Decimal('950.0000'), Decimal('50.0000'))]
        """
        return self._loop.run(self._client.balances())

    def book(self, product_id: str, level: int = 2) -> Book:
        """See `AsyncClient.book`.

        >>> book = client.book("BTC-USD", level=1)
        >>> book.bids[0].price, book.asks[0].price
        (Decimal('100.0000'), Decimal('110.0000'))
        """
        return self._loop.run(self._client.book(product_id, level))

    def trades(self, product_id: str, limit: int = 100) -> list[Trade]:
        """See `AsyncClient.trades`.

        >>> order = client.place("BTC-USD", "buy", size="0.25", price="110")
        >>> [(each.price, each.size, each.maker_side) for each in client.trades("BTC-USD")]
        [(Decimal('110.0000'), Decimal('0.25000000'), 'sell')]
        """
        return self._loop.run(self._client.trades(product_id, limit))

    def order(self, order_id: int = 0, *, client_oid: str = "") -> Order:
        """See `AsyncClient.order`.

        >>> order = client.order(1)
        >>> order.price, order.remaining
        (Decimal('100.0000'), Decimal('0.50000000'))
        """
        return self._loop.run(self._client.order(order_id, client_oid=client_oid))

    def orders(self, product_id: str = "", *, done: bool = False) -> list[Order]:
        """See `AsyncClient.orders`.

        >>> [order.order_id for order in client.orders("BTC-USD")]
        [1]
        """
        return self._loop.run(self._client.orders(product_id, done=done))

    def place(
        self,
        product_id: str,
        side: str,
        *,
        size: Number | None = None,
        price: Number | None = None,
        funds: Number | None = None,
        time_in_force: str = "gtc",
        post_only: bool = False,
        stp: str = "dc",
        client_oid: str = "",
    ) -> Order:
        """See `AsyncClient.place`.

        >>> client.place("BTC-USD", "buy", size="0.5", price="0.123456")
        Traceback (most recent call last):
        statemachine.decimals.DecimalError: price: expected at most 4 digits after the decimal point, not '0.123456'
        """
        return self._loop.run(
            self._client.place(
                product_id,
                side,
                size=size,
                price=price,
                funds=funds,
                time_in_force=time_in_force,
                post_only=post_only,
                stp=stp,
                client_oid=client_oid,
            )
        )

    def cancel(self, order_id: int = 0, *, client_oid: str = "") -> Order:
        """See `AsyncClient.cancel`.

        >>> order = client.cancel(1)
        >>> order.status, order.done_reason
        ('done', 'cancelled')
        """
        return self._loop.run(self._client.cancel(order_id, client_oid=client_oid))

    def cancel_all(self, product_id: str = "") -> list[Order]:
        """See `AsyncClient.cancel_all`.

        >>> [order.order_id for order in client.cancel_all()]
        [1]
        """
        return self._loop.run(self._client.cancel_all(product_id))

    def events(self, product_id: str, from_sequence: int = 0) -> Iterator[AnyEvent]:
        """See `AsyncClient.events`.

        >>> event = next(client.events("BTC-USD", 1))
        >>> event.product_id, event.product_sequence
        ('BTC-USD', 1)
        """
        return self._loop.iterate(self._client.events(product_id, from_sequence))


async def _create_client(
    key: str | Path | KeyFile, account: str, nodes: Sequence[str], authority: str, deadline: float
) -> AsyncClient:
    """Create the client on its loop."""
    return AsyncClient(key, account=account, nodes=nodes, authority=authority, deadline=deadline)
