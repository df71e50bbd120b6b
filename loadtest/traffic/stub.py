"""An exchange that answers at once, to measure the limit of the load generator.

It listens where the first node of a cluster directory will listen, and speaks REST, WebSocket and the native protocol
as far as the load test does. It has no book: it accepts every order, and knows of no order to cancel.

    python -m loadtest.traffic.stub DIR
"""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop
from aiohttp import WSMsgType, web

from node.cluster_directory import ABI, ClusterDirectory
from node.config.settings import NodeConfig
from node.gateway.values import order_text
from node.native.framing import FrameSplitter, decode_request, pack
from node.native.protocol import (
    PROTOCOL_VERSION,
    Answer,
    Hello,
    LeaderHint,
    NodeStatus,
    OrderQuery,
    Query,
    Results,
    StatusQuery,
    Submit,
    Welcome,
)
from node.system.sockets import host_and_port
from node.tls import pki
from statemachine.commands import AnyCommand, CancelAll, CancelOrder, Deposit, PlaceOrder
from statemachine.events import AnyOutcome, Cancelled, Done, OrderState, Placed, Rejected, Transferred
from statemachine.types import OrderStatus, OrderType, Reason, Side, TimeInForce

READY = "ready"
"""The text that the process prints when it listens."""


def order_number_of(client_oid: str) -> int:
    """Return the id that the stub gives to an order: the same each time."""
    return zlib.crc32(client_oid.encode()) + 1


def outcome(command: AnyCommand) -> AnyOutcome:
    """Return the answer to a command of the load test."""
    match command:
        case PlaceOrder():
            return Placed(1, 1, False, _accepted(command))
        case CancelOrder():
            return Rejected(1, 1, False, Reason.UNKNOWN_ORDER, "order_id", "")
        case CancelAll():
            return Cancelled(1, 1, False, [])
        case Deposit():
            return Transferred(1, 1, False, command.currency, command.amount, command.amount, 0)
    return Done(1, 1, False, True)


def _accepted(command: PlaceOrder) -> OrderState:
    """Return an order as if the exchange had accepted it."""
    rests = command.order_type is OrderType.LIMIT and command.time_in_force in (TimeInForce.GTC, TimeInForce.GTT)
    status = OrderStatus.ACTIVE if command.stop else OrderStatus.OPEN if rests else OrderStatus.DONE
    return OrderState(
        order_number_of(command.client_oid),
        command.account_id,
        command.client_oid,
        command.product_id,
        command.side,
        command.order_type,
        command.price,
        command.size,
        command.funds,
        command.time_in_force,
        command.post_only,
        command.stp,
        created_at=1,
        maker_fee_ppm=0,
        taker_fee_ppm=0,
        remaining=command.size,
        hold=0,
        status=status,
        stop=command.stop,
        stop_price=command.stop_price,
        expires_at=1 + command.cancel_after if command.cancel_after else 0,
    )


def order_json(body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to the body of POST /orders."""
    rests = body["type"] == "limit" and body["time_in_force"] in ("GTC", "GTT")
    status = "active" if "stop" in body else "open" if rests else "done"
    return {**body, "id": order_text(order_number_of(body["client_oid"])), "status": status, "filled_size": "0"}


def result_json(message: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a message of the WebSocket."""
    if message["type"] == "subscribe":
        return {"type": "subscriptions", "channels": []}
    result: dict[str, Any] = {
        "type": "result",
        "request_id": message["request_id"],
        "success": True,
        "status": 200,
        "sequence": 1,
    }
    if message["type"] == "place":
        return {**result, "order": order_json(message["order"])}
    return {**result, "order_ids": [order_text(1)] if message["type"] == "cancel" else []}


class _Native(asyncio.Protocol):
    """A connection of the native protocol."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._splitter = FrameSplitter()
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's over TLS is not a subclass

    def data_received(self, data: bytes) -> None:
        for body in self._splitter.feed(data):
            message = self._answer(decode_request(body))
            if message is not None:
                self._transport.write(pack(message))

    def _answer(self, request: object) -> msgspec.Struct | None:
        """Return a plausible answer to a request, without an exchange behind it."""
        match request:
            case Hello():
                return Welcome(PROTOCOL_VERSION, self._config.node_id, self._config.cluster_id, "stub", ABI, [ABI])
            case Submit():
                return Results(request.request_id, [outcome(command) for command in request.commands])
            case Query(query=OrderQuery() as query):
                return _answered(request, found(query))
            case Query(query=StatusQuery()):
                return _answered(request, status(self._config))
            case Query():
                return _answered(request, [])
        return None


def _answered(request: Query, value: object) -> Answer:
    return Answer(request.request_id, msgspec.Raw(msgspec.msgpack.encode(value)))


def found(query: OrderQuery) -> OrderState:
    """Return the answer to a query for an order, which always exists."""
    placed = PlaceOrder(query.account_id, "", "", Side.BUY, OrderType.LIMIT, price=1, size=1, client_oid=query.client_oid)
    return _accepted(placed)


def status(config: NodeConfig) -> NodeStatus:
    """Return the status of a leader."""
    own = config.address(config.node_id)
    return NodeStatus(
        config.node_id,
        config.cluster_id,
        role="leader",
        leader_id=config.node_id,
        term=1,
        commit_index=1,
        applied_index=1,
        last_log_index=1,
        first_log_index=1,
        snapshot_index=0,
        sequence=1,
        state_hash="",
        voter=True,
        ready=True,
        quorum=True,
        uptime=1.0,
        software="stub",
        abi=ABI,
        members=[],
        leader=LeaderHint(config.node_id, own.native, own.http),
    )


async def _orders(request: web.Request) -> web.Response:
    return web.json_response(order_json(await request.json()) if request.method == "POST" else [])


async def _cancel(_: web.Request) -> web.Response:
    return web.json_response(order_text(1))


async def _socket(request: web.Request) -> web.WebSocketResponse:
    """Answer each message of a WebSocket."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for frame in socket:
        if frame.type is WSMsgType.TEXT:
            await socket.send_str(json.dumps(result_json(json.loads(frame.data))))
    return socket


async def serve(directory: Path, listening: Callable[[], None]) -> None:
    """Serve for ever. `listening` is called when the ports are open."""
    layout = ClusterDirectory(directory)
    config = layout.configs[layout.node_ids[0]]
    app = web.Application()
    app.router.add_route("*", "/orders", _orders)
    app.router.add_delete("/orders/{id}", _cancel)
    app.router.add_get("/ws", _socket)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, *host_and_port(config.http.listen)).start()
    host, port = host_and_port(config.native.listen)
    tls = pki.server_context(config, require_client_cert=False)
    server = await asyncio.get_running_loop().create_server(lambda: _Native(config), host, port, ssl=tls)
    listening()
    try:
        await server.serve_forever()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), lambda: print(READY, flush=True)))
