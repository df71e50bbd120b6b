"""`AsyncClient`: the native protocol with decimals and names."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, Self

from node.client import shapes
from node.client.shapes import Balance, Book, Number, Order, Product, Trade
from node.cluster_directory import Access, ClusterDirectory, KeyFile, read_key
from node.errors import DirectoryError, QuorumbookError
from node.native.client import ClusterClient
from node.native.protocol import (
    BalancesQuery,
    BookQuery,
    CurrenciesQuery,
    OrderQuery,
    OrdersQuery,
    ProductsQuery,
    TradesQuery,
)
from snapshots.abi import ABI
from statemachine.commands import AnyCommand, CancelAll, CancelOrder, PlaceOrder
from statemachine.events import AnyEvent, AnyOutcome, Cancelled, OrderState, Placed, Rejected
from statemachine.types import OrderType, SelfTradePrevention, Side, TimeInForce

ORDERS_PAGE = 1_000
"""Orders of one query: the most that a node answers."""


class OrderRejected(QuorumbookError):  # noqa: N818 - the word of the API
    """The exchange rejected a command. `reason` is the API's reject reason. `field` is the field at fault, or "" if
    there is none.
    """

    def __init__(self, outcome: Rejected) -> None:
        self.reason = outcome.reason.name.lower()
        self.field = outcome.field
        self.detail = outcome.detail
        super().__init__(": ".join(filter(None, (self.reason.replace("_", " "), self.field, self.detail))))


def reach(key: str | Path | KeyFile, nodes: Sequence[str] = (), authority: str = "") -> Access:
    """Find the addresses, key and certificate authority of a cluster.

    Args:
        key: a key file such as `admin.json`, its contents, or the directory that `quorumbook init` made (as its
            operator).
        nodes: native addresses "host:port" instead of those that the key file names.
        authority: the text of the cluster's `ca.pem`, if the key file does not contain it.

    Raises:
        DirectoryError: the file cannot be read, or lacks the addresses of the nodes or the certificate authority.
    """
    if not isinstance(key, KeyFile):
        path = Path(key)
        if path.is_dir():
            return ClusterDirectory(path).access()
        key = read_key(path)
    addresses = {address: address for address in nodes} or key.nodes
    if not addresses:
        raise DirectoryError("the key file has no addresses of nodes; name them in `nodes` as host:port")
    if not (authority or key.ca):
        raise DirectoryError("the key file has no certificate authority to trust; give the text of ca.pem as `authority`")
    return Access(addresses, authority or key.ca, key.credentials())


class AsyncClient:
    """Trades and reads over the native protocol. Use it as `async with`, in one event loop.

    Args:
        key, nodes, authority: see `reach`.
        account: the account to act for. The default is the key file's.
        deadline: seconds after which a call fails.

    Raises:
        DirectoryError: as `reach`; or neither the argument nor the key file names an account.
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
        file = key if isinstance(key, KeyFile) else read_key(Path(key)) if Path(key).is_file() else None
        access = reach(key, nodes, authority)
        self.account = account or (file.account_id if file is not None else "")
        self.cluster = ClusterClient(
            access.addresses, tls=access.tls(), credentials=access.credentials, deadline=deadline, client="node.client", abi=ABI
        )
        """The underlying client, for queries and commands that this class does not offer."""
        self._products: dict[str, Product] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self.cluster.close()

    # ------------------------------------------------------------------ reads

    async def products(self) -> list[Product]:
        """Return all products in their present state."""
        scales = {row.currency: row.scale for row in await self.cluster.query(CurrenciesQuery())}
        self._products = {row.product_id: shapes.product(row, scales) for row in await self.cluster.query(ProductsQuery())}
        return list(self._products.values())

    async def product(self, product_id: str) -> Product:
        """Return a product. Its variable fields may be as old as the latest call of `products`.

        Raises:
            DirectoryError: the product does not exist.
        """
        if product_id not in self._products:
            await self.products()
        if product_id not in self._products:
            raise DirectoryError(f"no product {product_id!r}; there are: {', '.join(self._products) or 'none'}")
        return self._products[product_id]

    async def balances(self) -> list[Balance]:
        """Return the account's balances."""
        scales = {row.currency: row.scale for row in await self.cluster.query(CurrenciesQuery())}
        return [
            Balance(
                row.currency, shapes.scaled(row.available, scales[row.currency]), shapes.scaled(row.hold, scales[row.currency])
            )
            for row in await self.cluster.query(BalancesQuery(self._acting()))
        ]

    async def book(self, product_id: str, level: int = 2) -> Book:
        """Return the book at level 1 (best prices) or 2 (50 price levels a side)."""
        if level not in (1, 2):
            raise ValueError(f"level: expected 1 or 2, not {level}")
        of = await self.product(product_id)
        return shapes.book(await self.cluster.query(BookQuery(product_id, level)), of)

    async def trades(self, product_id: str, limit: int = 100) -> list[Trade]:
        """Return the latest trades, newest first."""
        of = await self.product(product_id)
        return [shapes.trade(event, of) for event in await self.cluster.query(TradesQuery(product_id, limit))]

    async def order(self, order_id: int = 0, *, client_oid: str = "") -> Order:
        """Return one of the account's orders. Raises RequestFailed (NOT_FOUND)."""
        return await self._order(await self.cluster.query(OrderQuery(self._acting(), order_id, client_oid)))

    async def orders(self, product_id: str = "", *, done: bool = False) -> list[Order]:
        """Return the account's open orders, newest first, and with `done` also its done orders."""
        found: list[OrderState] = []
        while True:
            before_id = found[-1].order_id if found else 0
            query = OrdersQuery(self._acting(), product_id, done=done, limit=ORDERS_PAGE, before_id=before_id)
            page: list[OrderState] = await self.cluster.query(query)
            found += page
            if len(page) < ORDERS_PAGE:
                return [await self._order(state) for state in found]

    # ------------------------------------------------------------------ commands

    async def place(
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
        """Place a limit order (with `price`) or a market order. Returns the order's state when it is durable on a
        majority and applied.

        A call with a used `client_oid` returns the first order, so a call may be repeated after a lost connection.
        Without `client_oid` the client makes one.

        Raises:
            OrderRejected: the exchange rejects the order.
            DecimalError: a text is not a decimal, or has too many digits; the message names the field.
            ValueError: `side`, `time_in_force` or `stp` is not a word of the API, or `funds` is 0.
            RequestFailed: NO_LEADER (not applied) or OUTCOME_UNKNOWN (place it again with the same `client_oid`) after
                the deadline.
        """
        of = await self.product(product_id)
        most = 0 if funds is None else of.price_units(funds, "funds")
        if funds is not None and not most:  # 0 would be no ceiling
            raise ValueError("funds: expected more than 0")
        client_oid = client_oid or str(uuid.uuid4())
        command = PlaceOrder(
            self._acting(),
            f"c:{client_oid}",
            product_id,
            _word(Side, side, "side"),
            OrderType.MARKET if price is None else OrderType.LIMIT,
            0 if price is None else of.price_units(price),
            0 if size is None else of.size_units(size),
            most,
            _word(TimeInForce, time_in_force, "time_in_force"),
            post_only,
            _word(SelfTradePrevention, stp, "stp"),
            client_oid,
        )
        outcome = await self._submit(command)
        assert isinstance(outcome, Placed)
        return shapes.order(outcome.order, of)

    async def cancel(self, order_id: int = 0, *, client_oid: str = "") -> Order:
        """Cancel an open order, and return its state after that. Raises OrderRejected, RequestFailed."""
        outcome = await self._submit(CancelOrder(self._acting(), f"x:{uuid.uuid4()}", order_id, client_oid))
        assert isinstance(outcome, Cancelled)
        return await self._order(outcome.orders[0])

    async def cancel_all(self, product_id: str = "") -> list[Order]:
        """Cancel all open orders of the account. Returns the orders that were cancelled at once."""
        outcome = await self._submit(CancelAll(self._acting(), f"x:{uuid.uuid4()}", product_id))
        assert isinstance(outcome, Cancelled)
        return [await self._order(state) for state in outcome.orders]

    # ------------------------------------------------------------------ streams

    async def events(self, product_id: str, from_sequence: int = 0) -> AsyncGenerator[AnyEvent, None]:
        """Yield a product's events from a sequence on (0: from now), each once and in order, even across failures of
        nodes. Amounts are in smallest units; `Product.size` and `Product.price` convert them to decimals. Raises
        RequestFailed (TOO_OLD, NOT_FOUND).
        """
        async for events in self.cluster.events(product_id, from_sequence):
            for event in events:
                yield event

    # ------------------------------------------------------------------ inside

    def _acting(self) -> str:
        """Return the account for which the client acts. Raises DirectoryError."""
        if not self.account:
            raise DirectoryError("the key file names no account; name the acting account: account=...")
        return self.account

    async def _submit(self, command: AnyCommand) -> AnyOutcome:
        outcome = (await self.cluster.submit([command]))[0]
        if isinstance(outcome, Rejected):
            raise OrderRejected(outcome)
        return outcome

    async def _order(self, state: OrderState) -> Order:
        return shapes.order(state, await self.product(state.product_id))


def _word(kind: Any, text: str, field: str) -> Any:
    """Return the enumeration value of a word of the API. Raises ValueError."""
    words = {each.name.lower(): each for each in kind}
    if text.lower() not in words:
        raise ValueError(f"{field}: expected one of {', '.join(words)}, not {text!r}")
    return words[text.lower()]
