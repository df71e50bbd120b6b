"""Changing keys in the text of a node's configuration, leaving everything else in it, comments above all, as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

Setting = bool | int | float | str | tuple[str, ...]


def change_settings(path: Path, settings: Mapping[str, Setting]) -> None:
    """Set keys of a node's TOML file, given by dotted name such as "snapshot.every_commands"."""
    path.write_text(changed(path.read_text(encoding="utf-8"), settings), encoding="utf-8")


def changed(text: str, settings: Mapping[str, Setting]) -> str:
    """The text with these keys, given by dotted name."""
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        text = _changed(text, section, key, _toml(value))
    return text


def _toml(value: Setting) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _changed(text: str, section: str, key: str, value: str) -> str:
    """`text` with `key = value` in `[section]`: in the place of the key if it is there, else right behind the section's
    heading.
    """
    heading = re.compile(rf"^\[{re.escape(section)}\].*$", re.MULTILINE)
    found = heading.search(text)
    if section and found is None:
        return f"{text.rstrip()}\n\n[{section}]\n{key} = {value}\n"
    begin = found.end() if found and section else 0
    following = re.compile(r"^\[", re.MULTILINE).search(text, begin)
    end = following.start() if following else len(text)
    body, count = re.subn(rf"^{re.escape(key)}[ \t]*=[^\n#]*", f"{key} = {value}  ", text[begin:end], count=1, flags=re.MULTILINE)
    if not count:
        body = f"\n{key} = {value}" + text[begin:end] if section else f"{key} = {value}\n" + text[begin:end]
    return text[:begin] + body + text[end:]
