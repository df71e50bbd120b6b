"""Every route of the HTTP API, in one list."""

from __future__ import annotations

from aiohttp import web

from node.gateway import accounts, admin, health, market, orders, sockets
from node.gateway.gateway import Gateway
from node.gateway.requests import BODY_MAX
from node.gateway.web import GATEWAY, Route, add_routes, answer_failures
from statemachine.types import Permission

ROUTES = (
    Route("GET", "/time", market.server_time),
    Route("GET", "/products", market.products),
    Route("GET", "/products/{id}", market.product),
    Route("GET", "/products/{id}/book", market.book),
    Route("GET", "/products/{id}/ticker", market.ticker),
    Route("GET", "/products/{id}/stats", market.stats),
    Route("GET", "/products/{id}/trades", market.trades),
    Route("GET", "/currencies", market.currencies),
    Route("GET", "/currencies/{id}", market.currency),
    Route("GET", "/accounts", accounts.account_list, Permission.VIEW),
    Route("GET", "/accounts/", accounts.account_list, Permission.VIEW),  # the Python client cbpro asks with a slash
    Route("GET", "/accounts/{id}", accounts.account, Permission.VIEW),
    Route("GET", "/profiles", accounts.profile_list, Permission.VIEW),
    Route("GET", "/profiles/{id}", accounts.profile, Permission.VIEW),
    Route("GET", "/users/self/verify", accounts.verify, Permission.VIEW),
    Route("GET", "/fees", accounts.fees, Permission.VIEW),
    Route("POST", "/deposits", accounts.deposit, Permission.TRANSFER),
    Route("POST", "/withdrawals", accounts.withdraw, Permission.TRANSFER),
    Route("POST", "/withdrawals/crypto", accounts.withdraw, Permission.TRANSFER),
    Route("POST", "/orders", orders.place, Permission.TRADE),
    Route("GET", "/orders", orders.order_list, Permission.VIEW),
    Route("DELETE", "/orders", orders.cancel_all, Permission.TRADE),
    Route("GET", "/orders/{id}", orders.order, Permission.VIEW),
    Route("DELETE", "/orders/{id}", orders.cancel, Permission.TRADE),
    Route("PUT", "/admin/currencies/{id}", admin.put_currency, Permission.ADMIN),
    Route("PUT", "/admin/products/{id}", admin.put_product, Permission.ADMIN),
    Route("PUT", "/admin/accounts/{id}", admin.put_account, Permission.ADMIN),
    Route("PUT", "/admin/keys/{id}", admin.put_key, Permission.ADMIN),
    Route("POST", "/admin/accounts/{id}/deposits", admin.deposit, Permission.ADMIN),
)


def build_app(gateway: Gateway) -> web.Application:
    """The aiohttp application of a gateway; it starts and closes the gateway with itself."""
    app = web.Application(middlewares=[answer_failures], client_max_size=BODY_MAX)
    app[GATEWAY] = gateway
    add_routes(app, gateway, ROUTES)
    app.router.add_get("/", sockets.serve)
    app.router.add_get("/ws", sockets.serve)
    app.router.add_get("/healthz", health.healthz)
    app.router.add_get("/readyz", health.readyz)
    app.router.add_get("/status", health.status)
    app.router.add_get("/metrics", health.metrics)
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
