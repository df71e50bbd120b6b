"""Which handler serves a method and a path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar
from urllib.parse import unquote

Served = TypeVar("Served")


class Router(Generic[Served]):
    """Routes by method and path. A path's parts are constant or one `{name}`; a constant part is preferred to a name.

    A path is matched with its percent escapes undone, part by part, so an escaped slash belongs to the part that it stands in.
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
