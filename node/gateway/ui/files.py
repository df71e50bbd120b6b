"""The files of the page, which a gateway reads once at its start and keeps in memory.

A request is looked up in a dictionary by its whole path. No path of a request reaches the file system, so a request
cannot read other files.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cached_property
from pathlib import Path

from node.gateway.http.messages import Request, Response

ROOT = Path(__file__).parent / "static"
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
            raise ValueError(f"{name} is no file of a page: expected one of {', '.join(TYPES)}")
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
