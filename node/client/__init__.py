"""The client library: trade on a cluster and follow it, from any Python program.

| | native protocol (TLS, fast) | REST and WebSocket |
|---|---|---|
| `async` | `AsyncClient` | `AsyncRestClient` |
| blocking | `Client` | `RestClient` |

Amounts are `Decimal`s. A call follows the leader: a failover only delays it, and a command is applied once however
often it is sent. Streams resume at another node with the next event.

    from node.client import Client

    with Client("admin.json", account="alice") as client:
        order = client.place("BTC-USD", "buy", size="0.5", price="30000")
        for event in client.events("BTC-USD", order.opened_sequence):
            print(event)

Importing this package imports neither RocksDB nor the load generator. Only the REST clients need aiohttp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from node.client.blocking import Client
from node.client.native import AsyncClient, OrderRejected
from node.client.shapes import Balance, Book, Level, Order, Product, Trade
from node.errors import ConnectionLost, QuorumbookError, RequestFailed

if TYPE_CHECKING:
    from node.client.rest import AsyncRestClient, RestClient, RestError

__all__ = [
    "AsyncClient",
    "AsyncRestClient",
    "Balance",
    "Book",
    "Client",
    "ConnectionLost",
    "Level",
    "Order",
    "OrderRejected",
    "Product",
    "QuorumbookError",
    "RequestFailed",
    "RestClient",
    "RestError",
    "Trade",
]


def __getattr__(name: str) -> Any:
    """Import the REST clients on first use, because importing aiohttp is slow."""
    if name in ("AsyncRestClient", "RestClient", "RestError"):
        from node.client import rest

        return getattr(rest, name)
    raise AttributeError(name)
