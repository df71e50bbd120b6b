"""The OpenAPI document. It is generated from the routes, and from the types that handlers accept and return.

Paths, permissions, parameters and bodies come from `calls.Route`, answers from the handler's annotation, and texts from
its docstring. This module adds only the meanings of the parameters.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from node.gateway.calls import ROLE_HEADER, SEQUENCE_HEADER, SIGNED_HEADERS, Handler, Route
from node.gateway.errors import ErrorJson, ProposedJson
from node.gateway.health import MachineCall
from node.gateway.orders import SORTED_BY, STATUSES
from node.gateway.values import SIDES
from node.history.candles import GRANULARITIES

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
MOMENT: Schema = {
    "description": "ISO 8601 (UTC if it has no zone), or seconds since the epoch",
    "anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}, {"type": "number", "minimum": 0}],
}
QUERIES: dict[str, tuple[str, Schema]] = {
    "type": (
        "for transfers: deposit, withdraw, internal_deposit or internal_withdraw; for ledger entries: transfer, match or fee; otherwise not used",
        TEXT,
    ),
    "active": ("true (the default) selects active profiles, false other profiles", {"type": "string", "enum": ["true", "false"]}),
    "market_type": ("accepted and not used", TEXT),
    "sortedBy": (
        "the sort key of live orders; other orders are sorted by created_at",
        {"type": "string", "enum": list(SORTED_BY)},
    ),
    "sorting": ("desc by default; asc only for live orders", {"type": "string", "enum": ["desc", "asc"]}),
    "currency": ("only items of this currency", TEXT),
    "level": ("1: best prices; 2: 50 price levels of each side; 3: every order", {"type": "integer", "enum": [1, 2, 3]}),
    "limit": (
        "the maximum number of items, 100 by default; larger values than 1,000 count as 1,000",
        {"type": "integer", "minimum": 1},
    ),
    "after": ("only items older than this cursor, which the header cb-after of the previous page gives", TEXT),
    "before": ("only items newer than this cursor, which the header cb-before of the previous page gives", TEXT),
    "product_id": ("only items of this product", TEXT),
    "session": ("only orders with this tag", TEXT),
    "side": ("only orders of this side", {"type": "string", "enum": list(SIDES)}),
    "price_min": ("only orders at this price or above; needs a product_id", TEXT),
    "price_max": ("only orders at this price or below; needs a product_id", TEXT),
    "order_id": ("only items of this order", TEXT),
    "granularity": ("the length of a bucket in seconds", {"type": "integer", "enum": list(GRANULARITIES)}),
    "start": ("the start of the first bucket", MOMENT),
    "end": ("the start of the last bucket", MOMENT),
    "profile_id": ("the account of the key; other values are refused", TEXT),
    "status": (
        "the statuses of the orders; open and active ones by default",
        {"type": "array", "items": {"type": "string", "enum": sorted(STATUSES)}},
    ),
    "start_date": ("only items at or after this time", MOMENT),
    "end_date": ("only items at or before this time", MOMENT),
    "sender": ("only commands of this user, or of key/ and a key without a user", {"type": "string"}),
    "consistency": (
        "local: from this node's state; linearizable: after a barrier at the leader",
        {"type": "string", "enum": ["local", "linearizable"]},
    ),
}
"""The meaning and the schema of every query parameter of the API."""

FAILURES: dict[int, str] = {
    400: "the request is invalid, or the exchange's rules reject it",
    404: "no such order, product, account or path",
    408: "the body arrived too slowly",
    413: "the body is too large",
    414: "the request target is too long",
    415: "the body is compressed",
    431: "the headers are too many or too long",
    429: "too many requests: wait for as many seconds as Retry-After says",
    503: "no leader could be reached, the engine does not answer, or this node lacks the cluster key of the API key; nothing was done",
}
PRIVATE: dict[int, str] = {401: "the signature is missing or invalid", 403: "the key lacks a permission"}
ELSEWHERE: dict[int, str] = {307: "only the leader can answer: repeat the request at Location"}
COMMANDS: dict[int, str] = {
    409: "the object has changed in the meantime: read it again",
    504: "no answer before the deadline: the outcome is unknown, send the same request again",
}

HEADERS: dict[str, Schema] = {
    name: {"description": meaning, "schema": {"type": kind}}
    for name, meaning, kind in (
        (SEQUENCE_HEADER, "the sequence of the command; for a read, the sequence up to which the answer is complete", "integer"),
        (ROLE_HEADER, "the role of the node: leader, follower or candidate", "string"),
        ("cb-after", "the cursor of older items (the next page) for `after`; absent if the page is empty", "string"),
        ("cb-before", "the cursor of newer items for `before`; absent if the page is empty", "string"),
        ("Retry-After", "seconds to wait", "integer"),
        ("Location", "the same path and query at the leader", "string"),
    )
}
FRESHNESS = (SEQUENCE_HEADER, ROLE_HEADER)
CURSORS = ("cb-after", "cb-before")
FAILURE_HEADERS = {307: ("Location",), 429: ("Retry-After",), 503: ("Retry-After",), 504: ("Retry-After",)}
"""Headers of answers, and the headers of each kind of failure."""

SIGNED = tuple(name.upper() for name in SIGNED_HEADERS)
_SAYS = re.compile(r"^(GET|POST|PUT|PATCH|DELETE) /\S*( and /\S*)?[:.] ?")
_REF = "#/components/schemas/{name}"


def document(routes: Sequence[Route], machines: Sequence[MachineCall], version: str) -> Schema:
    """Return the document of these calls as a JSON object."""
    answers = {route: answer_type(route.handler) for route in routes}
    bodies = [route.body for route in routes if route.body is not None]
    types = [*dict.fromkeys([ErrorJson, ProposedJson, *bodies]), *answers.values()]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    found = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, Schema] = {}
    for route in routes:
        operation = _operation(route, found[repr(answers[route])], found[repr(ProposedJson)])
        if route.body is not None:
            content = {"application/json": {"schema": found[repr(route.body)]}}
            operation["requestBody"] = {"required": route.body_required, "content": content}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    paths |= {call.path: {"get": _machine(call)} for call in machines}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Quorumbook",
            "version": version,
            "description": "In the shapes of Coinbase Exchange. Decimals are strings.",
        },
        "paths": paths,
        "components": {
            "schemas": {name: _closed(name, schema) for name, schema in components.items()},
            "responses": _failure_responses(found[repr(ErrorJson)]),
            "securitySchemes": _security_schemes(),
        },
    }


def answer_type(handler: Handler) -> Any:
    """Return the type in a handler's annotation `Answer[...]`."""
    returned = typing.get_type_hints(handler)["return"]
    (body,) = typing.get_args(returned)
    return body


def _operation(route: Route, answer: Schema, proposed: Schema) -> Schema:
    """Return the description of a route."""
    operation: Schema = {
        "operationId": f"{route.method.lower()}{re.sub('[^a-zA-Z0-9]+', '_', route.path).rstrip('_')}{'_' * route.path.endswith('/')}",
        "summary": _summary(route.handler.__doc__),
        "parameters": list(_parameters(route)),
        "responses": {"200": _answer(route, answer)},
    }
    failures = FAILURES | ELSEWHERE
    if route.permission is not None:
        failures |= PRIVATE
        operation["security"] = [{name: [] for name in SIGNED}]
        operation["description"] = f"The key needs the permission {route.permission.name.lower()}."
    if route.method != "GET":
        failures |= COMMANDS
    if route.method != "GET" and route.path.startswith("/admin/"):
        operation["responses"]["202"] = {
            "description": "nothing is done yet: the command waits for the consent of another user",
            "content": {"application/json": {"schema": proposed}},
        }
    operation["responses"] |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(failures)}
    return operation


def _answer(route: Route, schema: Schema) -> Schema:
    names = FRESHNESS + (CURSORS if {"after", "before"} <= set(route.query) else ())
    headers = {name: HEADERS[name] for name in names}
    return {"description": "done", "headers": headers, "content": {"application/json": {"schema": schema}}}


def _machine(call: MachineCall) -> Schema:
    """Return the description of a call for machines, such as a health check."""
    return {
        "operationId": f"get_{call.path.removeprefix('/')}",
        "summary": _summary(call.handler.__doc__),
        "responses": {
            str(status): {"description": meaning, "content": {media: {"schema": schema}}}
            for status, (meaning, media, schema) in call.answers.items()
        },
    }


def _summary(text: str | None) -> str:
    """Return the first paragraph of a docstring on one line, without the call with which it begins."""
    paragraph, _, _ = inspect.cleandoc(text or "").partition("\n\n")
    return _SAYS.sub("", " ".join(paragraph.split())).strip()


def _failure_responses(error: Schema) -> Schema:
    """Return the answers that a failure may have, by status."""
    return {
        str(status): {
            "description": meaning,
            "headers": {name: HEADERS[name] for name in FAILURE_HEADERS.get(status, ())},
            "content": {"application/json": {"schema": error}},
        }
        for status, meaning in sorted((FAILURES | PRIVATE | ELSEWHERE | COMMANDS).items())
    }


def _closed(name: str, schema: Schema) -> Schema:
    """Return the schema of an answer, which has no other fields than these."""
    return schema | {"additionalProperties": False} if name.endswith("Json") else schema


def _parameters(route: Route) -> Iterable[Schema]:
    """Yield the parameters of a path and of its query."""
    for name in re.findall(r"{(\w+)}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    names = (*route.query, "consistency") if route.method == "GET" else route.query
    for name in names:
        meaning, schema = QUERIES[name]
        yield {"name": name, "in": "query", "description": meaning, "schema": schema}


def _security_schemes() -> Schema:
    """Return the headers that sign a request."""
    meanings = ("the key's id", "the signature, see docs/api.md", "Unix time in seconds", "the key's passphrase")
    return {
        name: {"type": "apiKey", "in": "header", "name": name, "description": meaning}
        for name, meaning in zip(SIGNED, meanings, strict=True)
    }
