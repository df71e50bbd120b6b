"""The parts that schemathesis needs beyond the document: signatures of requests, and existing values, so that calls
also succeed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from typing import Any

import requests.auth
import schemathesis

given: dict[str, Any] = json.loads(os.environ["QUORUMBOOK_GIVEN"])
"""`admin` and `trader`, each with key, secret and passphrase; `known`: by parameter or field, values that exist."""


class Signature(requests.auth.AuthBase):
    """Signs a request before it is sent."""

    def __call__(self, request: Any) -> Any:
        """Add the four headers."""
        key = given["admin" if "/admin/" in request.path_url else "trader"]
        stamp = f"{time.time():.6f}"
        body = request.body or b""
        prehash = f"{stamp}{request.method}{request.path_url}".encode() + (body if isinstance(body, bytes) else body.encode())
        digest = hmac.digest(base64.b64decode(key["secret"]), prehash, hashlib.sha256)
        request.headers["CB-ACCESS-KEY"] = key["key"]
        request.headers["CB-ACCESS-PASSPHRASE"] = key["passphrase"]
        request.headers["CB-ACCESS-TIMESTAMP"] = stamp
        request.headers["CB-ACCESS-SIGN"] = base64.b64encode(digest).decode()
        return request


def _known(path: str, name: str, value: object) -> object:
    """Return an existing value in place of every second generated one. Which ones are replaced depends on the generated
    values alone.
    """
    values = given["known"].get(f"{path} {name}") or given["known"].get(name)
    pick = hashlib.sha256(repr(value).encode()).digest()
    return values[pick[1] % len(values)] if values and pick[0] % 2 else value


def _with_known(context: Any, values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {name: _known(context.operation.path, name, value) for name, value in values.items()}


def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Replace ids in paths."""
    return _with_known(context, path_parameters)


def map_query(context: Any, query: Any) -> Any:
    """Replace ids in queries."""
    return _with_known(context, query)


def map_body(context: Any, body: Any) -> Any:
    """Replace fields of bodies, also those of a batch's orders."""
    if isinstance(body, dict) and isinstance(body.get("orders"), list):
        return body | {"orders": [_with_known(context, order) for order in body["orders"]]}
    return _with_known(context, body)


schemathesis.auth.set_from_requests(Signature())
for function in (map_path_parameters, map_query, map_body):
    schemathesis.hook(function)
