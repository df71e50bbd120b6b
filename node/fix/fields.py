"""Reads the fields of a client's message. An error names the wrong field and the reason.

The dictionaries, `FIXT11.xml` and `FIX50SP2.xml`, are given to clients and enforced here. A field that a message does
not have is refused and not ignored: an order must not trade without something that its client asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TypeVar
from xml.etree.ElementTree import Element, fromstring

from node.errors import QuorumbookError
from node.fix.tags import MSG_TYPE, RAW_DATA
from node.fix.wire import FixFrame

Value = TypeVar("Value")

DICTIONARIES = Path(__file__).parent / "dictionary"
FILES = ("FIXT11.xml", "FIX50SP2.xml")

INVALID_TAG, MISSING, NOT_OF_TYPE, NO_VALUE, INCORRECT, FORMAT = 0, 1, 2, 4, 5, 6
COMP_ID, SENDING_TIME_PROBLEM, INVALID_TYPE, REPEATED, OUT_OF_ORDER, GROUP_COUNT, OTHER = 9, 10, 11, 13, 14, 16, 99
"""Values of SessionRejectReason."""

SEQ_NUM_MAX = 2**62
TAG_MAX = 10**9
"""The largest tag number. The standard's user-defined tags end below it."""
_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)
_TIME = re.compile(r"([0-9]{8}-[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{3,9}))?", re.ASCII)
_REPEATABLE = frozenset({55, 269})
"""Fields of repeating groups that a client may send."""


class FieldError(QuorumbookError):
    """A field is invalid. `reason` is a value of SessionRejectReason."""

    def __init__(self, tag: int, reason: int, text: str) -> None:
        super().__init__(text)
        self.tag = tag
        self.reason = reason


@cache
def fields_by_type() -> dict[str, frozenset[int]]:
    """Return the fields that each type of message may have, header and trailer included."""
    roots = [fromstring((DICTIONARIES / name).read_text(encoding="utf-8")) for name in FILES]
    numbers = {field.attrib["name"]: int(field.attrib["number"]) for root in roots for field in root.iterfind("fields/field")}

    def of(part: Element | None) -> frozenset[int]:
        found = part.iter() if part is not None else ()
        return frozenset(numbers[each.attrib["name"]] for each in found if each.tag in ("field", "group"))

    always = of(roots[0].find("header")) | of(roots[0].find("trailer"))
    return {each.attrib["msgtype"]: of(each) | always for root in roots for each in root.iterfind("messages/message")}


@cache
def header() -> frozenset[int]:
    """Return the fields of the header."""
    root = fromstring((DICTIONARIES / FILES[0]).read_text(encoding="utf-8"))
    numbers = {field.attrib["name"]: int(field.attrib["number"]) for field in root.iterfind("fields/field")}
    return frozenset(numbers[field.attrib["name"]] for field in root.iterfind("header/field"))


@cache
def known() -> frozenset[int]:
    """Return every field of any message."""
    return frozenset[int]().union(*fields_by_type().values())


class FixMessage:
    """The fields of a frame, by tag number. Text is ASCII."""

    def __init__(self, frame: FixFrame) -> None:
        self._frame = frame
        self._values: dict[int, bytes] = {}
        self._pairs = frame.pairs
        for tag, value in frame.pairs:
            self._values.setdefault(tag, value)

    @property
    def type(self) -> str:
        """The message's MsgType."""
        return self._values.get(MSG_TYPE, b"").decode("ascii", "replace")

    def check(self) -> None:
        """Raise FieldError if a field is unknown, does not belong to the message type, is empty or repeated, is not
        printable ASCII, or is a header field after a body field. So no later step finds a value that it cannot read or
        repeat in an answer.
        """
        if self._frame.fault:
            raise FieldError(0, INVALID_TAG, f"the fields cannot be read ({self._frame.fault[:64]})")
        seen: set[int] = set()
        in_header = True
        allowed = fields_by_type().get(self.type)
        for tag, value in self._pairs:
            if not 0 < tag <= TAG_MAX:
                raise FieldError(0, INVALID_TAG, f"a tag is a number from 1 to {TAG_MAX}")
            if allowed is not None and tag not in allowed:
                reason = NOT_OF_TYPE if tag in known() else INVALID_TAG
                raise FieldError(tag, reason, f"a message of type {self.type} has no field {tag} here")
            if tag not in header():
                in_header = False
            elif not in_header:
                raise FieldError(tag, OUT_OF_ORDER, f"field {tag} belongs to the header, before all other fields")
            if not value:
                raise FieldError(tag, NO_VALUE, f"field {tag} has no value")
            if tag in seen and tag not in _REPEATABLE:
                raise FieldError(tag, REPEATED, f"field {tag} comes twice")
            if tag != RAW_DATA:
                _ascii(tag, value)
            seen.add(tag)

    def has(self, tag: int) -> bool:
        """Return whether the message has the field."""
        return tag in self._values

    def text(self, tag: int) -> str:
        """Return the value of a required field. Raises FieldError."""
        found = self.optional(tag)
        if found is None:
            raise FieldError(tag, MISSING, f"field {tag} is required")
        return found

    def optional(self, tag: int) -> str | None:
        """Return the value of a field, or None. Raises FieldError if it is not printable ASCII."""
        value = self._values.get(tag)
        return None if value is None else _ascii(tag, value)

    def texts(self, tag: int) -> list[str]:
        """Return all values of a field in a repeating group. Raises FieldError."""
        return [_ascii(tag, value) for each, value in self._pairs if each == tag]

    def number(self, tag: int, most: int = SEQ_NUM_MAX) -> int:
        """Return a required whole number of at most `most`. Raises FieldError."""
        text = self.text(tag)
        if _WHOLE.fullmatch(text) is None:
            raise FieldError(tag, FORMAT, f"field {tag} must be a whole number")
        if int(text) > most:
            raise FieldError(tag, INCORRECT, f"field {tag} must be at most {most}")
        return int(text)

    def flag(self, tag: int) -> bool:
        """Return whether the field is Y. An absent field counts as N. Raises FieldError."""
        return self.choice(tag, {"Y": True, "N": False}, default=False)

    def choice(self, tag: int, choices: Mapping[str, Value], *, default: Value | None = None) -> Value:
        """Return the meaning of an enumerated value. Without a default the field is required. Raises FieldError."""
        if default is not None and not self.has(tag):
            return default
        text = self.text(tag)
        if text not in choices:
            raise FieldError(tag, INCORRECT, f"field {tag} must be one of {', '.join(choices)}")
        return choices[text]

    def time(self, tag: int) -> int:
        """Return a required UTCTimestamp in nanoseconds since the epoch. Raises FieldError."""
        match = _TIME.fullmatch(self.text(tag))
        try:
            if match is None:
                raise ValueError
            second = datetime.strptime(match.group(1), "%Y%m%d-%H:%M:%S").replace(tzinfo=UTC)
            whole = int(second.timestamp())
        except ValueError:
            raise FieldError(tag, FORMAT, f"field {tag} must be a time such as 20260301-12:00:00.250") from None
        return whole * 1_000_000_000 + int((match.group(2) or "0").ljust(9, "0"))


def _ascii(tag: int, value: bytes) -> str:
    """Return the text of a field. Raises FieldError if it is not ASCII."""
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        text = "\x00"
    if not text.isprintable():
        raise FieldError(tag, FORMAT, f"field {tag} must be printable ASCII")
    return text
