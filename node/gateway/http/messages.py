"""Requests, answers, and the router from method and path to a handler."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Generic, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec

from node.gateway.errors import BadRequestError

PARAMETERS_MAX = 100
"""Query parameters of one request."""
PARTS_MAX = 16
"""Parts of a path with escapes. Every route has fewer."""
ESCAPED_PATH_MAX = 1_024
"""Characters of a path with escapes. A route has up to three names of 64 characters, each of which may be escaped."""
JSON = "application/json"
ANSWERED_KEPT = 64
"""Ids of answered requests that are kept for each connection. A client sends fewer, one after the other, in the two
seconds for which they matter (ADR 0034).
"""
_PASSED_ON = ("x-forwarded-for", "forwarded", "via", "x-real-ip")
"""Headers that proxies add."""

_encode = msgspec.json.Encoder().encode
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_NO_HEADERS: Mapping[str, str] = {}


class Origin:
    """Facts about a request's connection that distinguish a second equal request of a client from a replay (ADR 0034).

    Attributes:
        direct: whether no other party can write into the connection, because it is encrypted up to this process or
            local.
        shared: whether the connection carries requests of several clients: of several keys, or forwarded by a proxy.
        answered: the latest ids of signed requests whose outcome was answered on the connection.
    """

    __slots__ = ("_key_id", "answered", "direct", "shared")

    def __init__(self, *, direct: bool = False) -> None:
        self.direct = direct
        self.shared = False
        self.answered: deque[str] = deque(maxlen=ANSWERED_KEPT)
        self._key_id = ""

    def note(self, request: Request, key_id: str) -> None:
        """Record a request whose signature by this key is valid."""
        if not self.shared:
            self.shared = (self._key_id not in ("", key_id)) or request.has_any(_PASSED_ON)
            self._key_id = key_id


class Request:
    """One HTTP request.

    Attributes:
        method: as sent; methods are upper case.
        target: the request target exactly as sent, which the client signs.
        path: the target's path, with percent escapes as sent.
        peer: the address of the connection's peer as text, or "" if it is unknown.
        body: the complete body.
        origin: facts about the connection.
        early: whether its first byte arrived before the previous request was answered.
    """

    __slots__ = ("_headers", "_query", "body", "early", "keep_alive", "method", "origin", "path", "peer", "target")

    def __init__(
        self,
        method: str,
        target: str,
        headers: dict[str, str | list[str]],
        peer: str,
        keep_alive: bool,
        origin: Origin,
        early: bool,
    ) -> None:
        self.method = method
        self.target = target
        self.peer = peer
        self.origin = origin
        self.early = early
        self.keep_alive = keep_alive
        self.body = b""
        self.path = target if target[:1] == "/" and "?" not in target else in_origin_form(target).partition("?")[0]
        self._headers = headers
        self._query: dict[str, list[str]] | None = None

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None if it is absent or repeated. `name` is in lower case."""
        value = self._headers.get(name)
        return value if isinstance(value, str) else None

    def headers(self, name: str) -> list[str]:
        """Return all values of a header. `name` is in lower case."""
        value = self._headers.get(name, [])
        return [value] if isinstance(value, str) else value

    def has_any(self, names: tuple[str, ...]) -> bool:
        """Return whether the request has one of these headers. The names are in lower case."""
        for name in names:  # noqa: SIM110 - a compiled method has no generators, and this is as quick
            if name in self._headers:
                return True
        return False

    @property
    def query(self) -> dict[str, list[str]]:
        """Return the query parameters in the order in which they were sent. Raises BadRequestError for more than
        `PARAMETERS_MAX`.
        """
        if self._query is None:
            self._query = {}
            text = self.target.partition("?")[2].partition("#")[0]
            if text:
                if text.count("&") >= PARAMETERS_MAX:
                    raise BadRequestError(f"a request has at most {PARAMETERS_MAX} parameters")
                for name, value in parse_qsl(text, keep_blank_values=True):
                    self._query.setdefault(name, []).append(value)
        return self._query


def in_origin_form(target: str) -> str:
    """Return the path and query of a request target, which may be in absolute form (RFC 9112, section 3.2.2), such as
    "http://host/path?query". The host counts for nothing, so it may be wrong: `urllib.parse.urlsplit` raises ValueError
    for one such as "[::1".
    """
    if target[:1] == "/":
        return target
    rest = target.partition("://")[2]
    host = rest.partition("/")[0].partition("?")[0]
    return rest[len(host) :] if rest[len(host) :][:1] == "/" else "/" + rest[len(host) :]


class Response:
    """An answer: a status, a body and additional headers. The server adds Date, Content-Length and Connection."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str] = _NO_HEADERS, content_type: str = JSON) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.content_type = content_type

    @property
    def size(self) -> int:
        """The size of the body in bytes."""
        return len(self.body)

    def encode(self, keep_alive: bool, with_body: bool = True) -> bytes:
        """Return the answer as bytes."""
        lines = [_start(self.status), _CONTENT_TYPES.get(self.content_type) or f"Content-Type: {self.content_type}\r\n"]
        for name, value in self.headers.items():
            assert "\n" not in value, "a header is one line"
            assert "\r" not in value, "a header is one line"
            lines.append(f"{name}: {value}\r\n")
        lines.append(f"{_date()}Content-Length: {self.size}\r\n")
        lines.append("\r\n" if keep_alive else "Connection: close\r\n\r\n")
        head = "".join(lines).encode("latin-1")
        return head + self.body if with_body else head


class LongText(Protocol):
    """A long text in chunks, which several answers may share."""

    @property
    def size(self) -> int: ...
    def chunks(self) -> Iterator[bytes]: ...


class LongResponse(Response):
    """An answer 200 whose JSON text is sent in chunks, as fast as the client accepts it."""

    __slots__ = ("text",)

    def __init__(self, text: LongText, headers: Mapping[str, str] = _NO_HEADERS) -> None:
        super().__init__(200, b"", headers)
        self.text = text

    @property
    def size(self) -> int:
        return self.text.size


def json_response(body: object, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS) -> Response:
    """Return a JSON answer."""
    return Response(status, _encode(body), headers)


def failure(status: int, message: str) -> Response:
    """Return the answer to a request that reaches no handler."""
    return json_response({"message": message}, status)


_CONTENT_TYPES = {JSON: "Content-Type: application/json\r\n"}
_starts: dict[int, str] = {}
_dated: tuple[int, str] = (0, "")


def _start(status: int) -> str:
    line = _starts.get(status)
    if line is None:
        line = _starts[status] = f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n"
    return line


def _date() -> str:
    """Return the Date header, which is formatted once a second."""
    global _dated
    now = int(time.time())
    if now != _dated[0]:
        _dated = (now, time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(now)))
    return _dated[1]


Served = TypeVar("Served")


class Router(Generic[Served]):
    """Routes by method and path. Each part of a path is constant or a `{name}`. A constant part has precedence over a
    name.

    Percent escapes are decoded in each part separately, so an escaped slash does not separate parts.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._constant: dict[str, dict[str, Served]] = {}
        self._named: dict[int, list[tuple[tuple[str, ...], dict[str, Served]]]] = {}

    def add(self, method: str, path: str, served: Served) -> None:
        """Add a route. Raises ValueError if it exists already."""
        methods = self._methods(path)
        if method in methods:
            raise ValueError(f"{method} {path} is served already")
        methods[method] = served

    def find(self, path: str) -> tuple[Mapping[str, Served], dict[str, str]]:
        """Return the handlers of a path by method, and the values of its names. Both are empty for an unknown path."""
        methods = self._constant.get(path)
        if methods is not None:
            return methods, {}
        parts = path.split("/")
        if "%" in path:
            if len(parts) > PARTS_MAX or len(path) > ESCAPED_PATH_MAX:
                return {}, {}  # no route, so nothing is decoded: 2,000 parts would take 3 ms
            parts = [unquote(part) for part in parts]
            methods = self._constant.get("/".join(parts)) if not any("/" in part for part in parts) else None
            if methods is not None:
                return methods, {}
        for pattern, found in self._named.get(len(parts), ()):
            names = _match(pattern, parts)
            if names is not None:
                return found, names
        return {}, {}

    def _methods(self, path: str) -> dict[str, Served]:
        """Return the methods of a path, to which routes are added."""
        if "{" not in path:
            if path not in self._constant:
                self.paths.append(path)
            return self._constant.setdefault(path, {})
        pattern = tuple(path.split("/"))
        routes = self._named.setdefault(len(pattern), [])
        for known, methods in routes:
            if known == pattern:
                return methods
        self.paths.append(path)
        made: dict[str, Served] = {}
        routes.append((pattern, made))
        routes.sort(key=lambda route: [part.startswith("{") for part in route[0]])
        return made


def _match(pattern: tuple[str, ...], parts: list[str]) -> dict[str, str] | None:
    """Return the named parts of a path that fits a pattern, or None."""
    names = {}
    for expected, part in zip(pattern, parts, strict=True):
        if expected[:1] == "{":
            if not part:
                return None
            names[expected[1:-1]] = part
        elif expected != part:
            return None
    return names
