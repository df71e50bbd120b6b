"""A request as handlers see it, an answer as it goes out, and which handler serves a method and path."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Generic, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from node.gateway.errors import BadRequestError

PARAMETERS_MAX = 100
"""Query parameters of one request."""
JSON = "application/json"
ANSWERED_KEPT = 64
"""Requests of a connection that are remembered as answered: more than a client sends in the two seconds for which it
matters, one after the other.
"""
_PASSED_ON = frozenset({"x-forwarded-for", "forwarded", "via", "x-real-ip"})
"""Headers of proxies."""

_encode = msgspec.json.Encoder().encode
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_NO_HEADERS: Mapping[str, str] = {}


class Origin:
    """The connection that a request came on, as far as it tells two equal requests of one client from one that was sent
    again.

    Attributes:
        direct: nobody between the client and this process could have written into the connection: it is encrypted up to
            here, or of this machine.
        shared: it carries requests for several clients: of another key, or passed on by a proxy.
        answered: the ids of signed requests whose outcome was answered on it, the latest of them.
    """

    __slots__ = ("_key_id", "answered", "direct", "shared")

    def __init__(self, *, direct: bool = False) -> None:
        self.direct = direct
        self.shared = False
        self.answered: deque[str] = deque(maxlen=ANSWERED_KEPT)
        self._key_id = ""

    def note(self, request: Request, key_id: str) -> None:
        """A request of this key came, and its signature was good."""
        if not self.shared:
            self.shared = (self._key_id not in ("", key_id)) or request.has_any(_PASSED_ON)
            self._key_id = key_id


class Request:
    """One request.

    Attributes:
        method: as sent; methods are upper case.
        target: the request target exactly as sent: what a client signs.
        path: the target's path, percent escapes as sent.
        peer: the address of the other end of the connection, as text; "" where it is not known.
        body: all of it.
        origin: the connection.
        early: it began to come before the request before it was answered.
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
        self.path = target.partition("?")[0] if target[:1] == "/" else urlsplit(target).path or "/"
        self._headers = headers
        self._query: dict[str, list[str]] | None = None

    def header(self, name: str) -> str | None:
        """The value of the header, whose name is given in lower case; None where it is absent or comes more than once."""
        value = self._headers.get(name)
        return value if isinstance(value, str) else None

    def headers(self, name: str) -> list[str]:
        """All values of the header."""
        value = self._headers.get(name, [])
        return [value] if isinstance(value, str) else value

    def has_any(self, names: frozenset[str]) -> bool:
        """Whether one of the headers, whose names are given in lower case, is there."""
        return not names.isdisjoint(self._headers)

    @property
    def query(self) -> dict[str, list[str]]:
        """The query parameters, in the order in which they were sent. Raises BadRequestError for more than
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


class Response:
    """An answer: a status, a body and headers of its own. Date, content length and connection are the server's
    business.
    """

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str] = _NO_HEADERS, content_type: str = JSON) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.content_type = content_type

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body)

    def encode(self, *, keep_alive: bool, with_body: bool = True) -> bytes:
        """The bytes that go out."""
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
    """A long text in text, which many answers may share."""

    @property
    def size(self) -> int: ...
    def chunks(self) -> Iterator[bytes]: ...


class LongResponse(Response):
    """A 200 whose JSON text is sent piece by piece, as the client takes it."""

    __slots__ = ("text",)

    def __init__(self, text: LongText, headers: Mapping[str, str] = _NO_HEADERS) -> None:
        super().__init__(200, b"", headers)
        self.text = text

    @property
    def size(self) -> int:
        return self.text.size


def json_response(body: object, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS) -> Response:
    """A JSON answer."""
    return Response(status, _encode(body), headers)


def failure(status: int, message: str) -> Response:
    """The answer to what is not a request that any handler could take."""
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
    """The Date header, made once a second."""
    global _dated
    now = int(time.time())
    if now != _dated[0]:
        _dated = (now, time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(now)))
    return _dated[1]


Served = TypeVar("Served")


class Router(Generic[Served]):
    """Routes by method and path. A path's parts are constant or one `{name}`; a constant part is preferred to a name.

    A path is matched with its percent escapes undone, part by part, so an escaped slash belongs to the part that it
    stands in.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._constant: dict[str, dict[str, Served]] = {}
        self._named: dict[int, list[tuple[tuple[str, ...], dict[str, Served]]]] = {}

    def add(self, method: str, path: str, served: Served) -> None:
        """Serve a method of a path. Raises ValueError where that is served already."""
        methods = self._methods(path)
        if method in methods:
            raise ValueError(f"{method} {path} is served already")
        methods[method] = served

    def find(self, path: str) -> tuple[Mapping[str, Served], dict[str, str]]:
        """What serves the path, by method, and the values of its names. Nothing for a path that is not served."""
        methods = self._constant.get(path)
        if methods is not None:
            return methods, {}
        parts = path.split("/")
        if "%" in path:
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
    names = {}
    for expected, part in zip(pattern, parts, strict=True):
        if expected[:1] == "{":
            if not part:
                return None
            names[expected[1:-1]] = part
        elif expected != part:
            return None
    return names
