"""A client's message: its fields, read with an error that says which field is wrong, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeVar

from node.errors import QuorumbookError
from node.fix.dictionary import fields_by_type, header, known
from node.fix.tags import MSG_TYPE
from node.fix.wire import Frame

Value = TypeVar("Value")

INVALID_TAG, MISSING, NOT_OF_TYPE, NO_VALUE, INCORRECT, FORMAT = 0, 1, 2, 4, 5, 6
COMP_ID, SENDING_TIME_PROBLEM, INVALID_TYPE, REPEATED, OUT_OF_ORDER, GROUP_COUNT, OTHER = 9, 10, 11, 13, 14, 16, 99
"""Values of SessionRejectReason."""

SEQ_NUM_MAX = 2**62
_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)
_TIME = re.compile(r"([0-9]{8}-[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{3,9}))?", re.ASCII)
_REPEATABLE = frozenset({55, 269})
"""Fields of repeating groups that a client may send."""


class FieldError(QuorumbookError):
    """A field that cannot be taken: `reason` as in SessionRejectReason."""

    def __init__(self, tag: int, reason: int, text: str) -> None:
        super().__init__(text)
        self.tag = tag
        self.reason = reason


class Message:
    """A frame's fields: read by their numbers. Text is ASCII."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._values: dict[int, bytes] = {}
        self._pairs = frame.pairs
        for tag, value in frame.pairs:
            self._values.setdefault(tag, value)

    @property
    def type(self) -> str:
        """MsgType."""
        return self._values.get(MSG_TYPE, b"").decode("ascii", "replace")

    def check(self) -> None:
        """Raise FieldError where a field is none or not of the message's type, is empty, comes twice, or belongs to the
        header and comes behind another.
        """
        if self._frame.fault:
            raise FieldError(0, INVALID_TAG, f"the fields cannot be read ({self._frame.fault[:64]})")
        seen: set[int] = set()
        in_header = True
        allowed = fields_by_type().get(self.type)
        for tag, value in self._pairs:
            if tag <= 0:
                raise FieldError(tag, INVALID_TAG, "a tag is a positive number")
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
            seen.add(tag)

    def has(self, tag: int) -> bool:
        """Whether the field is there."""
        return tag in self._values

    def text(self, tag: int) -> str:
        """The value of a field that must be there. Raises FieldError."""
        found = self.optional(tag)
        if found is None:
            raise FieldError(tag, MISSING, f"field {tag} is required")
        return found

    def optional(self, tag: int) -> str | None:
        """The value of a field. Raises FieldError where it is not printable ASCII."""
        value = self._values.get(tag)
        return None if value is None else _ascii(tag, value)

    def texts(self, tag: int) -> list[str]:
        """All values of a field in a repeating group. Raises FieldError."""
        return [_ascii(tag, value) for each, value in self._pairs if each == tag]

    def number(self, tag: int, most: int = SEQ_NUM_MAX) -> int:
        """A whole number that must be there. Raises FieldError."""
        text = self.text(tag)
        if _WHOLE.fullmatch(text) is None:
            raise FieldError(tag, FORMAT, f"field {tag} must be a whole number")
        if int(text) > most:
            raise FieldError(tag, INCORRECT, f"field {tag} must be at most {most}")
        return int(text)

    def flag(self, tag: int) -> bool:
        """Y or N; N where the field is not there. Raises FieldError."""
        return self.choice(tag, {"Y": True, "N": False}, default=False)

    def choice(self, tag: int, choices: Mapping[str, Value], *, default: Value | None = None) -> Value:
        """What a value stands for. Without a default the field must be there. Raises FieldError."""
        if default is not None and not self.has(tag):
            return default
        text = self.text(tag)
        if text not in choices:
            raise FieldError(tag, INCORRECT, f"field {tag} must be one of {', '.join(choices)}")
        return choices[text]

    def time(self, tag: int) -> int:
        """A UTCTimestamp that must be there, in nanoseconds since the epoch. Raises FieldError."""
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
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        text = "\x00"
    if not text.isprintable():
        raise FieldError(tag, FORMAT, f"field {tag} must be printable ASCII")
    return text
