"""Reads and changes a node's TOML file.

`load` makes a frozen struct of the text and checks it (`checks.py`). Errors name a key as TOML writes it:
`raft.heartbeat`, `nodes[1].native`. `change_settings` changes keys in the text and leaves everything else in it as it
is, comments included."""

from __future__ import annotations

import difflib
import inspect
import json
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from node.config import checks
from node.config.settings import RENAMED, NodeConfig
from node.errors import ConfigError


def load(path: Path, *, dates: bool = True) -> NodeConfig:
    """Read a node's configuration and check all of it, including the files of `[tls]`. Without `dates`, certificates
    need not be valid now.

    Raises:
        ConfigError: something is invalid; the text names the file, the key and what was expected.
    """
    config = config_of(str(path), read_toml(path))
    config = msgspec.structs.replace(config, directory=str(path.resolve().parent))
    checks.check(config, str(path), dates=dates)
    return config


NOT_IN_FILE = frozenset({"directory"})
"""Fields of `NodeConfig` that are not keys of the file."""

_TYPE_NAMES = {
    "str": "text in quotes",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "a table",
    "array": "an array of tables",
    "datetime": "a date",
}
_MISMATCH = re.compile(r"^Expected `([^`]+)`, got `([^`]+)`(?: - at `\$\.?(.*)`)?$")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8 or not TOML; the message names the line.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(str(path), "", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "", f"expected UTF-8 text; byte {error.start} is not") from error
    if text.startswith("\ufeff"):
        raise ConfigError(str(path), "", "expected UTF-8 text without a byte order mark, which stands at its beginning")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), "", f"not TOML: {error}") from error


def config_of(file: str, table: dict[str, Any]) -> NodeConfig:
    """Convert a TOML table to a configuration. `file` is its name for errors. Values are not checked.

    Raises:
        ConfigError: an unknown or missing key, or a value of another type.
    """
    for key, text in _key_faults("", table, NodeConfig, NOT_IN_FILE):
        raise ConfigError(file, key, f"is called {RENAMED[key]} now" if key in RENAMED else text)
    try:
        return msgspec.convert(table, NodeConfig, strict=True)
    except msgspec.ValidationError as error:
        key, text = _readable(str(error))
        raise ConfigError(file, key, text) from error


def _key_faults(
    prefix: str, table: dict[str, Any], shape: type[msgspec.Struct], hidden: frozenset[str]
) -> Iterator[tuple[str, str]]:
    """Yield unknown and missing keys in the order of the file."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(shape) if field.name not in hidden}
    for key, value in table.items():
        if key not in fields:
            yield prefix + key, _unknown(key, list(fields))
            continue
        inner, repeated = _inner_shape(fields[key].type)
        if inner is None:
            continue
        if repeated and isinstance(value, list):
            for position, item in enumerate(value):
                if isinstance(item, dict):
                    yield from _key_faults(f"{prefix}{key}[{position}].", item, inner, frozenset())
        elif isinstance(value, dict):
            yield from _key_faults(f"{prefix}{key}.", value, inner, frozenset())
    for name, field in fields.items():
        if field.required and name not in table:
            yield prefix + name, f"is missing; expected {_expected(field.type)}"


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
    return f"unknown key; {hint}"


def _inner_shape(kind: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """Return the struct in a field's type, and whether the field is a list of them."""
    if inspect.isclass(kind) and issubclass(kind, msgspec.Struct):
        return kind, False
    if typing.get_origin(kind) is list:
        return _inner_shape(typing.get_args(kind)[0])[0], True
    return None, False


def _expected(kind: Any) -> str:
    inner, repeated = _inner_shape(kind)
    if inner is not None:
        return _TYPE_NAMES["array" if repeated else "object"]
    return _TYPE_NAMES.get(getattr(kind, "__name__", ""), str(kind))


def _readable(message: str) -> tuple[str, str]:
    """Split msgspec's message into key and text."""
    found = _MISMATCH.match(message)
    if found is None:
        return "", message
    expected, got, key = found.groups()
    return key or "", f"expected {_TYPE_NAMES.get(expected, expected)}, not {_TYPE_NAMES.get(got, got)}"


Setting = bool | int | float | str | tuple[str, ...]


def change_settings(path: Path, settings: Mapping[str, Setting]) -> None:
    """Set keys of a node's TOML file, by dotted names such as "snapshot.every_commands"."""
    path.write_text(changed(path.read_text(encoding="utf-8"), settings), encoding="utf-8")


def changed(text: str, settings: Mapping[str, Setting]) -> str:
    """Return the text with changed keys, by dotted name."""
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        text = _changed(text, section, key, _toml(value))
    return text


def _toml(value: Setting) -> str:
    """Return a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # A string of JSON is one of TOML, except for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)


def _changed(text: str, section: str, key: str, value: str) -> str:
    """Return `text` with `key = value` in `[section]`. The line replaces the key's line, or follows the section's
    heading.
    """
    heading = re.compile(rf"^\[{re.escape(section)}\].*$", re.MULTILINE)
    found = heading.search(text)
    if section and found is None:
        return f"{text.rstrip()}\n\n[{section}]\n{key} = {value}\n"
    begin = found.end() if found and section else 0
    following = re.compile(r"^\[", re.MULTILINE).search(text, begin)
    end = following.start() if following else len(text)
    line = re.compile(rf"^{re.escape(key)}[ \t]*=[^\n#]*", re.MULTILINE)
    body, count = line.subn(lambda _found: f"{key} = {value}  ", text[begin:end], count=1)
    if not count:
        body = f"\n{key} = {value}" + text[begin:end] if section else f"{key} = {value}\n" + text[begin:end]
    return text[:begin] + body + text[end:]
