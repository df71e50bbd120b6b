"""The calls of machines: /healthz, /readyz, /status, /metrics."""

from __future__ import annotations

import msgspec
from aiohttp import web

from node import software
from node.gateway.errors import ApiError
from node.gateway.gateway import Gateway
from node.gateway.web import GATEWAY, json_response
from node.native.protocol import NodeStatus
from node.system.processes import ENGINE_PID_FILE, locked_note
from snapshots.abi import ABI


async def healthz(_request: web.Request) -> web.Response:
    """GET /healthz: this process is up."""
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """GET /readyz: 200 when the node can serve, else 503 with the reasons; the node's status in both."""
    gateway: Gateway = request.app[GATEWAY]
    await gateway.monitor.poll()
    reasons, status = gateway.monitor.unready(), gateway.monitor.status
    body: dict[str, object] = {"ready": not reasons, "reasons": reasons}
    if reasons:
        body["message"] = "; ".join(reasons)
    return json_response(body | _shown(status), 503 if reasons else 200)


async def status(request: web.Request) -> web.Response:
    """GET /status: 200, whatever the node is doing: its mode ("" where no engine runs), software and ABI, and all that the engine says of itself."""
    gateway: Gateway = request.app[GATEWAY]
    await gateway.monitor.poll()
    found = gateway.monitor.status
    mode = found.mode if found is not None else locked_note(gateway.config.data_path / ENGINE_PID_FILE)
    body: dict[str, object] = {"node_id": gateway.config.node_id, "mode": mode, "software": software.version(), "abi": ABI}
    if gateway.history is not None:
        body["history"] = await _history(gateway)
    return json_response(body | _shown(found))


def _shown(status: NodeStatus | None) -> dict[str, object]:
    if status is None:
        return {}
    return {
        "node": {name: getattr(status, name) for name in status.__struct_fields__ if name not in ("members", "leader")},
        "members": [msgspec.structs.asdict(member) for member in status.members],
        "leader": status.leader.http if status.leader is not None else None,
    }


async def _history(gateway: Gateway) -> dict[str, int]:
    """Where the node's history is; empty where there is none, or it cannot be read. `behind` counts commands."""
    if gateway.history is None:
        return {}
    try:
        progress, gaps = await gateway.history.standing()
    except ApiError:
        return {}
    found = {"log_index": progress.log_index, "sequence": progress.sequence, "gaps": len(gaps)}
    if gateway.monitor.status is not None:
        found["behind"] = max(0, gateway.monitor.status.sequence - progress.sequence)
    return found


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics."""
    gateway: Gateway = request.app[GATEWAY]
    gateway.metrics.history(await _history(gateway))
    return web.Response(body=gateway.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
