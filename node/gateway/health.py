"""The three calls of machines: /healthz, /readyz, /metrics."""

from __future__ import annotations

import msgspec
from aiohttp import web

from node.gateway.errors import ApiError
from node.gateway.gateway import Gateway
from node.gateway.web import GATEWAY, json_response


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
    if status is not None:
        body["node"] = {name: getattr(status, name) for name in status.__struct_fields__ if name not in ("members", "leader")}
        body["members"] = [msgspec.structs.asdict(member) for member in status.members]
        body["leader"] = status.leader.http if status.leader is not None else None
    if gateway.history is not None:
        body["history"] = await _history(gateway)
    return json_response(body, 503 if reasons else 200)


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
