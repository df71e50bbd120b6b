"""Every route of the HTTP API, in one list, and the application that serves them."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import msgspec
from aiohttp import web

from node.budget import Cost
from node.config.calendars import CalendarText
from node.errors import RequestFailed
from node.gateway import access, accounts, admin, amending, controls, health, history, market, orders, sockets
from node.gateway.calls import Call, Route, answer, charge_address, failure_response, finish, peer_address
from node.gateway.direct import DirectOrders, Respond, Work
from node.gateway.errors import ApiError, NotLeaderError, UnavailableError
from node.gateway.gateway import Gateway
from node.gateway.http.limits import REFUSAL_PAUSE
from node.gateway.http.messages import JSON, Request, Response, Router, json_response
from node.gateway.http.server import HttpServer
from node.gateway.openapi import document
from node.gateway.page import Page
from node.system import software
from statemachine.types import Permission

log = logging.getLogger(__name__)
_quiet = logging.getLogger(f"{__name__}.aiohttp")
_quiet.setLevel(logging.CRITICAL)  # input of unknown clients is counted and not logged

SOCKET_PATHS = ("/", "/ws")
PAGE = ("limit", "after", "before")
PROFILE = ("profile_id", "market_type")
WAYS = ("", "/payment-method", "/coinbase-account", "/crypto")
"""The means of deposit and withdrawal in the paths of Coinbase Exchange. The custody system handles them, so all are
equivalent here.
"""

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
    Route("GET", "/accounts/", accounts.account_list, Permission.VIEW),  # the Python client cbpro adds the slash
    Route("GET", "/accounts/{id}", accounts.account, Permission.VIEW),
    Route("GET", "/profiles", accounts.profile_list, Permission.VIEW, ("active",)),
    Route("GET", "/profiles/{id}", accounts.profile, Permission.VIEW, ("active",)),
    Route("POST", "/profiles/transfer", accounts.transfer_between, Permission.TRANSFER, body=accounts.ProfileTransferRequest),
    Route("GET", "/users/self/verify", accounts.verify, Permission.VIEW),
    Route("GET", "/fees", accounts.fees, Permission.VIEW, ("product_id",)),
    *(Route("POST", f"/deposits{way}", accounts.deposit, Permission.DEPOSIT, body=accounts.TransferRequest) for way in WAYS[:-1]),
    *(Route("POST", f"/withdrawals{way}", accounts.withdraw, Permission.TRANSFER, body=accounts.TransferRequest) for way in WAYS),
    Route("GET", "/withdrawals/fee-estimate", accounts.fee_estimate, Permission.VIEW, ("currency",)),
    Route("GET", "/payment-methods", accounts.no_wallets, Permission.VIEW),
    Route("GET", "/coinbase-accounts", accounts.no_wallets, Permission.VIEW),
    Route(
        "POST",
        "/coinbase-accounts/{id}/addresses",
        accounts.no_address,
        Permission.TRANSFER,
        body=accounts.AddressRequest,
        body_required=False,
    ),
    Route("GET", "/users/{id}/exchange-limits", accounts.exchange_limits, Permission.VIEW),
    Route("POST", "/orders", orders.place, Permission.TRADE, body=orders.OrderRequest),
    Route("POST", "/orders/batch", orders.place_batch, Permission.TRADE, body=orders.BatchRequest),
    Route("POST", "/orders/batch_cancel", orders.cancel_batch, Permission.TRADE, body=orders.BatchCancelRequest),
    Route(
        "GET",
        "/orders",
        orders.order_list,
        Permission.VIEW,
        ("status", "product_id", *PROFILE, "sortedBy", "sorting", "start_date", "end_date", *PAGE),
        repeats=("status",),
    ),
    Route(
        "DELETE",
        "/orders",
        orders.cancel_all,
        Permission.TRADE,
        ("product_id", "side", "price_min", "price_max", "session", *PROFILE),
        orders.CancelRequest,
        False,
    ),
    Route("PUT", "/orders/{id}", amending.amend, Permission.TRADE, body=amending.AmendRequest),
    Route("PATCH", "/orders/{id}", amending.amend, Permission.TRADE, body=amending.AmendRequest),
    Route("POST", "/orders/{id}/replace", amending.replace, Permission.TRADE, body=orders.OrderRequest),
    Route("POST", "/orders/pair", amending.pair, Permission.TRADE, body=amending.PairRequest),
    Route("POST", "/orders/cancel-all-after", amending.cancel_all_after, Permission.TRADE, body=amending.TimerRequest),
    Route("POST", "/orders/batch_amend", amending.amend_batch, Permission.TRADE, body=amending.BatchAmendRequest),
    Route("GET", "/orders/{id}", orders.order, Permission.VIEW, ("market_type",)),
    Route("DELETE", "/orders/{id}", orders.cancel, Permission.TRADE, ("product_id", *PROFILE), orders.CancelRequest, False),
    Route("PUT", "/admin/currencies/{id}", admin.put_currency, Permission.MARKET, body=admin.CurrencyRequest),
    Route("PUT", "/admin/products/{id}", admin.put_product, Permission.MARKET, body=admin.ProductRequest),
    Route("PATCH", "/admin/products/{id}", admin.patch_product, Permission.MARKET, body=admin.ProductPatch),
    Route("PATCH", "/admin/products", admin.patch_products, Permission.MARKET, body=admin.StatusRequest),
    Route("PUT", "/admin/accounts/{id}", admin.put_account, Permission.ACCOUNTS, body=admin.AccountRequest, body_required=False),
    Route("GET", "/admin/keys", admin.key_list, Permission.ACCESS, ("limit", "after")),
    Route("POST", "/admin/keys", admin.create_key, Permission.ACCESS, body=admin.NewKeyRequest),
    Route("PUT", "/admin/keys/{id}", admin.put_key, Permission.ACCESS, body=admin.KeyRequest),
    Route("DELETE", "/admin/keys/{id}", admin.revoke_key, Permission.ACCESS),
    Route("POST", "/admin/accounts/{id}/deposits", admin.deposit, Permission.DEPOSIT, body=accounts.TransferRequest),
    Route(
        "POST",
        "/admin/leadership",
        admin.hand_over,
        Permission.CLUSTER,
        body=admin.LeadershipRequest,
        body_required=False,
    ),
    Route("GET", "/admin/controls", controls.controls, Permission.VIEW),
    Route("PUT", "/admin/switches", controls.put_venue_switches, Permission.SWITCH, body=controls.SwitchesRequest),
    Route("PUT", "/admin/switches/{scope}/{id}", controls.put_switches, Permission.SWITCH, body=controls.SwitchesRequest),
    Route("PUT", "/admin/products/{id}/limits", controls.put_limits, Permission.LIMIT, body=controls.LimitsRequest),
    Route("PUT", "/admin/products/{id}/group", controls.put_group, Permission.MARKET, body=controls.GroupRequest),
    Route("POST", "/admin/products/{id}/resume", controls.resume, Permission.MARKET),
    Route(
        "POST",
        "/admin/products/{id}/trades/{trade}/correction",
        controls.correct,
        Permission.CORRECT,
        body=controls.CorrectionRequest,
    ),
    Route("PUT", "/admin/fees/{scope}/{id}", controls.put_fee_tiers, Permission.MARKET, body=controls.TiersRequest),
    Route("PUT", "/admin/accounts/{id}/fees", controls.put_fee_override, Permission.MARKET, body=controls.OverrideRequest),
    Route("PUT", "/admin/risk/{scope}/{id}", controls.put_risk, Permission.LIMIT, body=controls.RiskRequest),
    Route("PUT", "/admin/firms/{id}", controls.put_firm, Permission.ACCOUNTS),
    Route("PUT", "/admin/accounts/{id}/firm", controls.put_member, Permission.ACCOUNTS, body=controls.MemberRequest),
    Route("PUT", "/admin/calendars/{id}", controls.put_calendar, Permission.MARKET, body=CalendarText),
    Route("PUT", "/admin/follows", controls.follow_of_venue, Permission.MARKET, body=controls.FollowsRequest),
    Route("PUT", "/admin/follows/{scope}/{id}", controls.follow, Permission.MARKET, body=controls.FollowsRequest),
    Route("GET", "/admin/users", access.user_list, Permission.VIEW),
    Route("PUT", "/admin/users/{id}", access.put_user, Permission.ACCESS, body=access.UserRequest),
    Route("GET", "/admin/access", access.settings, Permission.VIEW),
    Route("PUT", "/admin/access", access.put_settings, Permission.ACCESS, body=access.AccessRequest),
    Route("GET", "/admin/proposals", access.proposal_list, Permission.VIEW),
    Route("POST", "/admin/proposals/{id}/{decision}", access.decide, Permission.VIEW),
    *history.ROUTES,
)


def _route(method: str, path: str) -> Route:
    """Return a route of the list."""
    return next(route for route in ROUTES if (route.method, route.path) == (method, path))


@dataclass(frozen=True)
class _Served:
    """A method of a path. `name` is the path as routes write it, for the metrics."""

    name: str
    answer: Callable[[Request, Mapping[str, str]], Awaitable[Response]]


class Application:
    """The HTTP API of a gateway on a server. It starts and closes the gateway together with the server.

    Every call is served by `node.gateway.http`. WebSocket connections are handed to an application of aiohttp.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.router: Router[_Served] = Router()
        self.server: HttpServer | None = None
        self._sockets: web.AppRunner | None = None
        for route in ROUTES:
            self.router.add(route.method, route.path, _Served(route.path, partial(answer, gateway, route)))
        for call in health.CALLS:
            for method in ("GET", "HEAD"):
                self.router.add(method, call.path, _Served(call.path, partial(_of_machine, gateway, call)))
        described = Response(200, msgspec.json.encode(document(ROUTES, health.CALLS, software.version())))
        for method in ("GET", "HEAD"):
            self.router.add(method, "/openapi.json", _Served("/openapi.json", partial(_constant, gateway, described)))
        self.page = Page(gateway)
        for path, served in self.page.routes():
            for method in ("GET", "HEAD"):
                self.router.add(method, path, _Served("/ui", served))
        for path in SOCKET_PATHS:
            self.router.add("GET", path, _Served(path, partial(_speaks_websocket, gateway, self.page)))

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Start serving. Raises OSError if the address cannot be opened."""
        gateway = self.gateway
        await gateway.start()
        self._sockets = web.AppRunner(_socket_app(gateway), access_log=None, logger=_quiet)
        await self._sockets.setup()
        sockets = self._sockets.server
        assert sockets is not None, "the runner is set up"
        self.server = HttpServer(
            self.handle,
            direct=DirectOrders(gateway, _route("POST", "/orders"), _route("DELETE", "/orders/{id}"), self._finish).begin,
            socket_paths=SOCKET_PATHS,
            socket_protocol=sockets,
            refused=self._refused,
            exempt=gateway.trusts,
        )
        await self.server.start(host, port, tls)

    async def stop(self, timeout: float) -> None:
        """Close the WebSockets at once. Pending requests have `timeout` seconds, and can use the engine until then."""
        await self.gateway.feeds.close()
        if self.server is not None:
            await self.server.stop(timeout)
        if self._sockets is not None:
            await self._sockets.cleanup()
        await self.gateway.close()

    async def handle(self, request: Request) -> Response:
        """Answer a request. Every failure becomes a JSON answer, and every answer is counted."""
        begun = time.perf_counter()
        methods, names = self.router.find(request.path)
        served = methods.get(request.method)
        answering = served.answer(request, names) if served is not None else self._unserved(request, methods)
        response = await _caught(request, answering)
        method, name = (request.method, served.name) if served is not None else ("OTHER", "none")
        self.gateway.metrics.request(method, name, response.status, time.perf_counter() - begun)
        return self.page.share(request, response)

    async def _unserved(self, request: Request, methods: Mapping[str, _Served]) -> Response:
        """Answer a request for which there is no route. `methods` are those of its path. Raises ApiError 429."""
        preflight = self.page.preflight(request)
        if preflight is not None:
            return preflight
        charge_address(self.gateway, request)
        if methods:
            return json_response({"message": "Method Not Allowed"}, 405, {"Allow": ",".join(sorted(methods))})
        return json_response({"message": "NotFound"}, 404)

    def _finish(self, call: Call, work: Work, begun: float, respond: Respond) -> None:
        """Finish a request by its remaining coroutine. The request arrived at `begun`."""
        assert self.server is not None, "the request came through the server"
        self.server.begin(self._finished(call, work, begun, respond))

    async def _finished(self, call: Call, work: Work, begun: float, respond: Respond) -> None:
        """Finish a call whose work has begun, count it, and answer."""
        response = await _caught(call.request, finish(call, work))
        self.gateway.metrics.request(call.route.method, call.route.path, response.status, time.perf_counter() - begun)
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            await asyncio.sleep(REFUSAL_PAUSE)
        respond(response)

    def _refused(self, kind: str, peer: str) -> None:
        """Count a connection or request that was refused before it reached a handler. The sender of an unreadable
        request is charged for it.
        """
        self.gateway.metrics.refused(kind)
        if kind == "malformed":
            self.gateway.limits.addresses.spend(peer_address(peer), Cost.MALFORMED)


async def _caught(request: Request, answering: Awaitable[Response]) -> Response:
    """Return the response, or the response for a failure."""
    try:
        return await answering
    except (ApiError, NotLeaderError, UnavailableError, RequestFailed) as error:
        return failure_response(request, error)
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("fault while answering %s %s", request.method, request.path[:200])
        return json_response({"message": "Internal error"}, 500)


async def _of_machine(gateway: Gateway, call: health.MachineCall, request: Request, _names: Mapping[str, str]) -> Response:
    return await call.handler(gateway, request)


async def _constant(gateway: Gateway, response: Response, request: Request, _names: Mapping[str, str]) -> Response:
    charge_address(gateway, request)
    return response


async def _speaks_websocket(gateway: Gateway, page: Page, request: Request, _names: Mapping[str, str]) -> Response:
    charge_address(gateway, request)
    if page.wanted_by(request):
        return page.redirect()
    raise ApiError(426, "This path speaks WebSocket", headers={"Upgrade": "websocket"})


def _socket_app(gateway: Gateway) -> web.Application:
    """Return the aiohttp application that serves WebSocket connections. It answers one request per connection."""
    app = web.Application(middlewares=[_one_request])
    app[sockets.GATEWAY] = gateway
    for path in SOCKET_PATHS:
        app.router.add_get(path, sockets.serve)
    return app


@web.middleware
async def _one_request(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Close a connection that does not become a WebSocket. No further bytes of it are parsed."""
    gateway, begun = request.app[sockets.GATEWAY], time.perf_counter()
    try:
        response = await handler(request)
    except ApiError as error:
        response = web.Response(
            body=msgspec.json.encode(error.body()), status=error.status, headers=error.headers, content_type=JSON
        )
    response.force_close()
    gateway.metrics.request("GET", request.path, response.status, time.perf_counter() - begun)
    return response
