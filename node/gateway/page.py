"""The web page of the exchange: serves its files, and lets the page of one member speak to the other members of its
cluster. `docs/ui.md` describes the page.

The files are ES modules and style sheets without a build step, under `ui/static/`. They are public; the page gets its
data by the calls that any client may use. A gateway reads the files once at its start and looks up the whole path of a
request in a dictionary. No path of a request reaches the file system, so a request cannot read other files.

The page continues to work after the loss of the node that served it, so a browser must allow it to read from the other
members. Two headers control this. The page's Content-Security-Policy lists the members to which it may connect, and
each member's Access-Control-Allow-Origin names the origin of the page. Both name only public URLs of members of this
cluster, so other pages have no access.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from node.gateway.calls import charge_address
from node.gateway.http.messages import Request, Response

if TYPE_CHECKING:
    from node.gateway.gateway import Gateway

ROOT = Path(__file__).parent / "ui" / "static"
INDEX = "index.html"

TOTAL_MAX = 2 * 1024 * 1024
"""Bytes of all files together. Each gateway process holds them in memory, so a build with more by mistake does not
start.
"""

COMPRESS_MIN = 1_024
"""Minimum size in bytes of a file that is also served compressed."""

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""The media types of the page's files by suffix. Other kinds of files are not accepted."""

REVALIDATE = "no-cache"
"""A browser caches the file and revalidates it before each use, so a page and its modules always have one version."""
IMMUTABLE = "public, max-age=31536000, immutable"
"""Cache-Control of files whose path contains their version."""
VERSIONED = "vendor/"


class StaticFile:
    """One file of the page. `path` is relative to the root, with slashes."""

    def __init__(self, path: str, body: bytes) -> None:
        self.path = path
        self.body = body
        self.content_type = TYPES[Path(path).suffix]
        self.etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        self.cache_control = IMMUTABLE if path.startswith(VERSIONED) else REVALIDATE

    @cached_property
    def compressed(self) -> bytes | None:
        """The body compressed by gzip, made on first use, or None if compression saves too little."""
        if len(self.body) < COMPRESS_MIN:
            return None
        packed = gzip.compress(self.body, 6, mtime=0)
        return packed if len(packed) < len(self.body) else None

    def response(self, request: Request) -> Response:
        """Return the answer to a GET or HEAD. It is 304 without a body if the browser already has this version of the file."""
        headers = {"ETag": self.etag, "Cache-Control": self.cache_control, "Vary": "Accept-Encoding"}
        if _names(request.header("if-none-match"), self.etag):
            return Response(304, b"", headers, self.content_type)
        packed = self.compressed if _accepts_gzip(request.header("accept-encoding")) else None
        if packed is not None:
            return Response(200, packed, headers | {"Content-Encoding": "gzip"}, self.content_type)
        return Response(200, self.body, headers, self.content_type)


def load(root: Path = ROOT) -> dict[str, StaticFile]:
    """Return every file under `root` by its relative path.

    Raises:
        ValueError: a file has another type than `TYPES`, or all files exceed `TOTAL_MAX` bytes.
        OSError: a file cannot be read.
    """
    found: dict[str, StaticFile] = {}
    total = 0
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(root).as_posix()
        if path.suffix not in TYPES:
            raise ValueError(f"{name} is not a file of a page: expected one of {', '.join(TYPES)}")
        body = path.read_bytes()
        total += len(body)
        if total > TOTAL_MAX:
            raise ValueError(f"the files of the page have more than {TOTAL_MAX} bytes")
        found[name] = StaticFile(name, body)
    return found


def _names(header: str | None, etag: str) -> bool:
    """Return whether an If-None-Match header names the tag. Weak tags count, because compressing proxies make tags weak."""
    if header is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return etag in tags or "*" in tags


def _accepts_gzip(header: str | None) -> bool:
    """Return whether an Accept-Encoding header allows gzip."""
    if header is None:
        return False
    for part in header.split(","):
        coding, _, weight = part.strip().partition(";")
        if coding.strip().lower() in ("gzip", "*"):
            return weight.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


PREFIX = "/ui/"
"""The path of the page."""

METHODS = "GET, POST, PUT, PATCH, DELETE"
REQUEST_HEADERS = "cb-access-key, cb-access-sign, cb-access-timestamp, cb-access-passphrase, content-type"
EXPOSED_HEADERS = "x-quorumbook-sequence, x-quorumbook-role, x-quorumbook-duplicate, cb-after, cb-before, retry-after"
PREFLIGHT_AGE = 600
"""Seconds for which a browser may cache the answer to a preflight request."""

POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "connect-src {connect}",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
)
"""The policy of the page: its own files, images that it creates, and connections to the members."""

HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)

Handler = Callable[[Request, Mapping[str, str]], Awaitable[Response]]


class Page:
    """The page of a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._files = load()

    def routes(self) -> list[tuple[str, Handler]]:
        """Return every path of the page with its handler."""
        routes: list[tuple[str, Handler]] = [("/ui", self._redirect), (PREFIX, partial(self._file, self._files[INDEX]))]
        routes += [(PREFIX + name, partial(self._file, file)) for name, file in self._files.items()]
        return routes

    def wanted_by(self, request: Request) -> bool:
        """Return whether a request for the root comes from a browser that wants a page."""
        return "text/html" in (request.header("accept") or "")

    async def _redirect(self, request: Request, _names: Mapping[str, str]) -> Response:
        charge_address(self._gateway, request)
        return self.redirect()

    def redirect(self) -> Response:
        """Return the redirect to the page."""
        return Response(302, b"", {"Location": PREFIX, "Cache-Control": "no-cache", "Vary": "Accept"})

    async def _file(self, file: StaticFile, request: Request, _names: Mapping[str, str]) -> Response:
        """Answer a static file, with the security headers."""
        charge_address(self._gateway, request)
        response = file.response(request)
        policy = content_policy(self._members())
        response.headers = {**response.headers, **HEADERS, "Content-Security-Policy": policy}
        return response

    def _members(self) -> tuple[str, ...]:
        """Return the origins of the members' public URLs, as far as the node knows them."""
        status = self._gateway.monitor.status
        if status is None:
            return origins(tuple(node.http for node in self._gateway.config.nodes))
        return origins(tuple(member.http for member in status.members))

    # ------------------------------------------------------------------ other members' pages

    def preflight(self, request: Request) -> Response | None:
        """Return the answer to a preflight request from the page of another member, or None for any other request.

        Raises ApiError 429.
        """
        if request.method != "OPTIONS" or request.header("access-control-request-method") is None or not self._trusts(request):
            return None
        charge_address(self._gateway, request)
        allowed = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": REQUEST_HEADERS,
            "Access-Control-Max-Age": str(PREFLIGHT_AGE),
        }
        return Response(200, b"", allowed)

    def share(self, request: Request, response: Response) -> Response:
        """Return the response, with the headers that let the page of another member read it if it sent the request."""
        if not self._trusts(request):
            return response
        shared = copy.copy(response)  # requests may share a response
        vary = response.headers.get("Vary")
        shared.headers = {
            **response.headers,
            "Access-Control-Allow-Origin": str(request.header("origin")),
            "Access-Control-Expose-Headers": EXPOSED_HEADERS,
            "Vary": f"{vary}, Origin" if vary else "Origin",
        }
        return shared

    def _trusts(self, request: Request) -> bool:
        """Return whether the request comes from the page of a member."""
        origin = request.header("origin")
        return origin is not None and origin in self._members()


@lru_cache(maxsize=64)
def origins(urls: tuple[str, ...]) -> tuple[str, ...]:
    """Return the origins of HTTP URLs in the form of browsers. Other URLs are left out."""
    found = []
    for url in urls:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            continue
        host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else (parts.hostname or "")
        usual = {"http": 80, "https": 443}.get(parts.scheme)
        origin = f"{parts.scheme}://{host}" + (f":{port}" if port is not None and port != usual else "")
        if _ORIGIN.fullmatch(origin):
            found.append(origin)
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=64)
def content_policy(members: tuple[str, ...]) -> str:
    """Return the Content-Security-Policy of a page that may connect to its own origin and to `members` by HTTP and
    WebSocket.
    """
    sources = ["'self'", *members, *("ws" + origin.removeprefix("http") for origin in members)]
    return "; ".join(POLICY).format(connect=" ".join(sources))
