"""Every route of the HTTP API, in one list."""

from __future__ import annotations

import msgspec
from aiohttp import web

from node import software
from node.gateway import accounts, admin, batches, health, history, keys, market, orders, sockets, volumes
from node.gateway.gateway import Gateway
from node.gateway.openapi import document
from node.gateway.requests import (
    BODY_MAX,
    AccountRequest,
    BatchCancelRequest,
    BatchRequest,
    CancelRequest,
    CurrencyRequest,
    KeyRequest,
    NewKeyRequest,
    OrderRequest,
    ProductPatch,
    ProductRequest,
    ProfileTransferRequest,
    StatusRequest,
    TransferRequest,
)
from node.gateway.web import GATEWAY, Route, add_routes, answer_failures
from statemachine.types import Permission

PAGE = ("limit", "after", "before")
PROFILE = ("profile_id", "market_type")
WAYS = ("", "/payment-method", "/coinbase-account", "/crypto")
"""How money comes and goes, in the paths of Coinbase Exchange: the custody system's business, and all the same here."""

ROUTES = (
    Route("GET", "/time", market.server_time),
    Route("GET", "/products", market.products, query=("type",)),
    Route("GET", "/products/{id}", market.product),
    Route("GET", "/products/volume-summary", market.volume_summary),
    Route("GET", "/products/{id}/book", market.book, query=("level",)),
    Route("GET", "/products/{id}/ticker", market.ticker),
    Route("GET", "/products/{id}/stats", market.stats),
    Route("GET", "/products/{id}/trades", market.trades, query=PAGE),
    Route("GET", "/currencies", market.currencies),
    Route("GET", "/currencies/{id}", market.currency),
    Route("GET", "/accounts", accounts.account_list, Permission.VIEW),
    Route("GET", "/accounts/", accounts.account_list, Permission.VIEW),  # the Python client cbpro asks with a slash
    Route("GET", "/accounts/{id}", accounts.account, Permission.VIEW),
    Route("GET", "/profiles", accounts.profile_list, Permission.VIEW, ("active",)),
    Route("GET", "/profiles/{id}", accounts.profile, Permission.VIEW, ("active",)),
    Route("POST", "/profiles/transfer", accounts.transfer_between, Permission.TRANSFER, body=ProfileTransferRequest),
    Route("GET", "/users/self/verify", accounts.verify, Permission.VIEW),
    Route("GET", "/fees", accounts.fees, Permission.VIEW, ("product_id",)),
    *(Route("POST", f"/deposits{way}", accounts.deposit, Permission.TRANSFER, body=TransferRequest) for way in WAYS[:-1]),
    *(Route("POST", f"/withdrawals{way}", accounts.withdraw, Permission.TRANSFER, body=TransferRequest) for way in WAYS),
    Route("POST", "/orders", orders.place, Permission.TRADE, body=OrderRequest),
    Route("POST", "/orders/batch", batches.place, Permission.TRADE, body=BatchRequest),
    Route("POST", "/orders/batch_cancel", batches.cancel, Permission.TRADE, body=BatchCancelRequest),
    Route(
        "GET",
        "/orders",
        orders.order_list,
        Permission.VIEW,
        ("status", "product_id", *PROFILE, "sortedBy", "sorting", "start_date", "end_date", *PAGE),
        repeats=("status",),
    ),
    Route("DELETE", "/orders", orders.cancel_all, Permission.TRADE, ("product_id", *PROFILE), CancelRequest, False),
    Route("GET", "/orders/{id}", orders.order, Permission.VIEW, ("market_type",)),
    Route("DELETE", "/orders/{id}", orders.cancel, Permission.TRADE, ("product_id", *PROFILE), CancelRequest, False),
    Route("PUT", "/admin/currencies/{id}", admin.put_currency, Permission.ADMIN, body=CurrencyRequest),
    Route("PUT", "/admin/products/{id}", admin.put_product, Permission.ADMIN, body=ProductRequest),
    Route("PATCH", "/admin/products/{id}", admin.patch_product, Permission.ADMIN, body=ProductPatch),
    Route("PATCH", "/admin/products", admin.patch_products, Permission.ADMIN, body=StatusRequest),
    Route("PUT", "/admin/accounts/{id}", admin.put_account, Permission.ADMIN, body=AccountRequest, body_required=False),
    Route("GET", "/admin/keys", keys.key_list, Permission.ADMIN, ("limit", "after")),
    Route("POST", "/admin/keys", keys.create_key, Permission.ADMIN, body=NewKeyRequest),
    Route("PUT", "/admin/keys/{id}", keys.put_key, Permission.ADMIN, body=KeyRequest),
    Route("DELETE", "/admin/keys/{id}", keys.revoke_key, Permission.ADMIN),
    Route("POST", "/admin/accounts/{id}/deposits", admin.deposit, Permission.ADMIN, body=TransferRequest),
    *history.ROUTES,
    *volumes.ROUTES,
)


def build_app(gateway: Gateway) -> web.Application:
    """The aiohttp application of a gateway; it starts and closes the gateway with itself."""
    app = web.Application(middlewares=[answer_failures], client_max_size=BODY_MAX)
    app[GATEWAY] = gateway
    add_routes(app, gateway, ROUTES)
    described = msgspec.json.encode(document(ROUTES, health.CALLS, software.version()))

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=described, content_type="application/json")

    app.router.add_get("/openapi.json", openapi)
    app.router.add_get("/", sockets.serve)
    app.router.add_get("/ws", sockets.serve)
    for call in health.CALLS:
        app.router.add_get(call.path, call.handler)
    app.on_startup.append(_start)
    app.on_shutdown.append(_say_goodbye)
    app.on_cleanup.append(_close)
    return app


async def _start(app: web.Application) -> None:
    await app[GATEWAY].start()


async def _say_goodbye(app: web.Application) -> None:
    """End the WebSockets at once; requests under way still have the engine until `_close`."""
    await app[GATEWAY].feeds.close()


async def _close(app: web.Application) -> None:
    await app[GATEWAY].close()
