"""Calls for monitoring: /healthz, /readyz, /status, /metrics.

The calls need no key, but show more of the cluster to an operator's key.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from node.engine.membership import public
from node.gateway import CODE
from node.gateway.calls import FORWARDED, SIGNED_HEADERS, client_address, identify
from node.gateway.errors import ApiError
from node.gateway.http.messages import Request, Response, json_response
from node.gateway.http.server import HttpServer
from node.keys import addresses
from node.native.protocol import MemberStatus, NodeStatus
from node.system import software
from node.system.counts import counts_file
from node.system.counts import read as read_counts
from node.system.processes import ENGINE_PID_FILE, locked_note
from snapshots.abi import ABI
from statemachine import CORE
from statemachine.types import Permission

if TYPE_CHECKING:
    from node.gateway.gateway import Gateway

Schema = dict[str, Any]

METRICS_COST = 20.0
"""Units of an answer with all metrics, which takes one to two milliseconds."""

SHOWN_APART = frozenset({"members", "leader"})
"""Fields of a node's status that the answer shows separately."""


@dataclass(frozen=True)
class MachineCall:
    """A GET without parameters. `answers` has the meaning, the media type and the JSON schema by status."""

    path: str
    handler: Callable[[Gateway, Request], Awaitable[Response]]
    answers: dict[int, tuple[str, str, Schema]]


async def healthz(_gateway: Gateway, _request: Request) -> Response:
    """GET /healthz: 200 while this process runs."""
    return json_response({"status": "ok"})


async def readyz(gateway: Gateway, request: Request) -> Response:
    """GET /readyz: 200 if the node can serve, else 503 with the reasons. Both include the node's status."""
    inside = await _inside(gateway, request)
    status = await gateway.monitor.now()
    reasons = gateway.monitor.unready()
    body: dict[str, object] = {"ready": not reasons, "reasons": reasons}
    if reasons:
        body["message"] = "; ".join(reasons)
    return json_response(body | _shown(status, inside=inside), 503 if reasons else 200)


async def status(gateway: Gateway, request: Request) -> Response:
    """GET /status: always 200, with the node's mode ("" if no engine runs), software version and ABI, and the engine's
    status.
    """
    inside = await _inside(gateway, request)
    found = await gateway.monitor.now()
    mode = found.mode if found is not None else locked_note(gateway.config.data_path / ENGINE_PID_FILE)
    body: dict[str, object] = {
        "node_id": gateway.config.node_id,
        "mode": mode,
        "software": software.version(),
        "abi": ABI,
        "core": CORE,
        "gateway": CODE,
    }
    if gateway.history is not None:
        body["history"] = await _history(gateway)
    return json_response(body | _shown(found, inside=inside))


async def _inside(gateway: Gateway, request: Request) -> bool:
    """Return whether the answer may show everything: to this machine, and to operators. A request of anybody else is
    charged to its address.

    Raises ApiError 429.
    """
    address = client_address(gateway, request.peer, request.headers(FORWARDED))
    if HttpServer.is_local(address):
        return True
    if request.header(SIGNED_HEADERS[0]) is not None:
        identity = await identify(gateway, request)
        return bool(identity.permissions & (Permission.ADMIN | Permission.CLUSTER))
    gateway.limits.addresses.take(address)
    return False


def _shown(status: NodeStatus | None, *, inside: bool) -> dict[str, object]:
    """Return the part of a status that this client may see."""
    if status is None:
        return {}
    if not inside:
        status = public(status)
    return {
        "node": {name: getattr(status, name) for name in status.__struct_fields__ if name not in SHOWN_APART},
        "members": [msgspec.structs.asdict(member) for member in status.members],
        "leader": status.leader.http if status.leader is not None else None,
    }


async def _history(gateway: Gateway) -> dict[str, int]:
    """Return the progress of the node's history. It is empty if the node has no history, or it cannot be read.

    `behind` is the number of missing commands. `lag_seconds` is the age of the latest command in the history, or 0 if
    it has all commands. `confirmed` is 1 if the history is known to match the engine's log; until then it serves no
    reads.
    """
    if gateway.history is None:
        return {}
    try:
        progress, gaps = await gateway.history.standing()
    except ApiError:
        return {}
    found = {"log_index": progress.log_index, "sequence": progress.sequence, "gaps": len(gaps)}
    if gateway.monitor.status is not None:
        behind = found["behind"] = max(0, gateway.monitor.status.sequence - progress.sequence)
        found["lag_seconds"] = max(0, time.time_ns() - progress.time) // 1_000_000_000 if behind else 0
        found["confirmed"] = int(gateway.history.confirmed_by == gateway.monitor.status.engine_start)
    return found


async def metrics(gateway: Gateway, request: Request) -> Response:
    """GET /metrics: metrics of this gateway and its node. Without `http.metrics_from` a request is charged to its
    address.

    Raises ApiError 403 for an address outside the networks in `http.metrics_from`, and 429.
    """
    networks = gateway.config.http.metrics_from
    address = client_address(gateway, request.peer, request.headers(FORWARDED))
    if not HttpServer.is_local(address) and not (networks and addresses.allowed(address, addresses.networks(networks))):
        gateway.limits.addresses.take(address, METRICS_COST)
        if networks:
            raise ApiError(403, "Forbidden", reason="forbidden", detail="this address is in no network of http.metrics_from")
    gateway.metrics.history(await _history(gateway))
    configured = {"fix": bool(gateway.config.fix.listen), "streams": gateway.config.streams.enabled}
    files = {name: counts_file(gateway.config.data_path, name) for name, enabled in configured.items() if enabled}
    gateway.metrics.processes({name: read_counts(path) for name, path in files.items()})
    return Response(200, gateway.metrics.render(), content_type="text/plain; version=0.0.4; charset=utf-8")


def _object(properties: Schema, *optional: str) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _fields(struct: type[msgspec.Struct]) -> Schema:
    """Return the JSON schemas of a struct's fields by name."""
    return {field.name: msgspec.json.schema(field.type) for field in msgspec.structs.fields(struct)}


JSON = "application/json"
_TEXT: Schema = {"type": "string"}
_SHOWN: Schema = {
    "node": _object({name: schema for name, schema in _fields(NodeStatus).items() if name not in SHOWN_APART}),
    "members": {"type": "array", "items": _object(_fields(MemberStatus))},
    "leader": {"type": ["string", "null"]},
}
_READY = _object(
    {"ready": {"type": "boolean"}, "reasons": {"type": "array", "items": _TEXT}, "message": _TEXT, **_SHOWN}, "message", *_SHOWN
)
_STATUS = _object(
    {
        **dict.fromkeys(("node_id", "mode", "software", "abi", "core", "gateway"), _TEXT),
        "history": {"type": "object", "additionalProperties": {"type": "integer"}},
        **_SHOWN,
    },
    "history",
    *_SHOWN,
)
_REFUSED = {
    status: (meaning, JSON, {"$ref": "#/components/schemas/ErrorJson"})
    for status, meaning in ((401, "a bad signature"), (429, "too many requests"))
}
CALLS = (
    MachineCall("/healthz", healthz, {200: ("this process is up", JSON, _object({"status": _TEXT}))}),
    MachineCall(
        "/readyz", readyz, {200: ("the node serves", JSON, _READY), 503: ("it does not, and why", JSON, _READY), **_REFUSED}
    ),
    MachineCall("/status", status, {200: ("what the node is doing", JSON, _STATUS), **_REFUSED}),
    MachineCall(
        "/metrics",
        metrics,
        {
            200: ("Prometheus text", "text/plain", _TEXT),
            403: ("the address is in no network of http.metrics_from", JSON, {"$ref": "#/components/schemas/ErrorJson"}),
        },
    ),
)
"""The calls of this module."""
