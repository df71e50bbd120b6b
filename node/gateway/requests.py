"""Decodes the JSON bodies and query parameters of requests, with errors that name the field. Pages have their cursors
from here, too.

msgspec decodes bodies into these structs. An unknown field, a missing field or a field of another type raises a
`BadRequestError` that names it. Decimals stay raw here (`msgspec.Raw` is the field's own text) until the product's
scale is known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import msgspec

from node.gateway.errors import BadRequestError
from node.gateway.values import signed_units, text_of, to_units

PAGE_MAX = 1_000
"""Items of one page."""

TIME_MAX = 2**63 - 1

ABSENT = msgspec.Raw(b"")
DecimalText = Annotated[
    msgspec.Raw,
    msgspec.Meta(
        description="a plain decimal, as a string or as a number that is read as the text it is",
        extra_json_schema={
            "anyOf": [{"type": "string", "pattern": r"^[0-9]{1,18}(\.[0-9]{1,12})?$"}, {"type": "number", "minimum": 0}]
        },
    ),
]
Request = TypeVar("Request", bound=msgspec.Struct)
Value = TypeVar("Value")

_PATH = re.compile(r"^(?P<what>.*) - at `(?P<path>[^`]*)`$", re.DOTALL)
_NAMED = re.compile(
    r"^Object (?P<what>contains unknown|missing required) field `(?P<name>.*?)`(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL
)

_KEY = re.compile(rb'"([^"]*)"\s*:')

_SECONDS = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?", re.ASCII)


def absent() -> msgspec.Raw:
    return ABSENT


def parse(body: bytes, shape: type[Request], what: str = "the body") -> Request:
    """Decode `body` as `shape`. Raises BadRequestError that names the invalid field and what was expected."""
    try:
        request = msgspec.json.decode(body, type=shape)
        if _may_repeat(body):
            json.loads(body, object_pairs_hook=_once, parse_int=str, parse_float=str)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), what) from None
    except (msgspec.DecodeError, UnicodeDecodeError, json.JSONDecodeError):
        raise BadRequestError(f"{what} must be a JSON object") from None
    except RecursionError:
        raise BadRequestError(f"{what} is nested too deeply") from None
    return request


def _may_repeat(body: bytes) -> bool:
    """Return whether an object in valid JSON may have a key twice. The check is cheap, and False is always right.

    Without escapes `_KEY` matches each key, and perhaps other text that looks like a key.
    """
    if b"\\" in body:
        return True
    keys = _KEY.findall(body)
    return len(set(keys)) != len(keys)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build an object, and refuse equal keys. Some decoders take the last of equal keys and others the first, so the
    meaning would be ambiguous.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BadRequestError(f"{name[:64]} is given twice", name[:64])
    return found


def _refusal(text: str, what: str) -> BadRequestError:
    """Convert msgspec's message to an error that names the field and what was expected."""
    named = _NAMED.match(text)
    if named is not None:
        field = _field(named["path"], named["name"])
        verb = "is not a field of this call" if named["what"].startswith("contains") else "is required"
        return BadRequestError(f"{field} {verb}", field)
    located = _PATH.match(text)
    if located is None:
        return BadRequestError(f"{what} must be a JSON object")
    field = _field(located["path"], "")
    wanted = located["what"].replace("`", "")
    return BadRequestError(f"{field}: {wanted[:1].lower()}{wanted[1:]}", field)


def _field(path: str | None, name: str) -> str:
    """Return the dotted name of a field in msgspec's form `$.a[0].b`."""
    parts = [part for part in ((path or "").removeprefix("$").removeprefix("."), name[:64]) if part]
    return ".".join(parts)


def given(raw: msgspec.Raw) -> bool:
    """Return whether the client gave the field. null counts as absent."""
    return bytes(raw) not in (b"", b"null")


def raw_text(raw: msgspec.Raw, field: str) -> str:
    """Return the text of a decimal. Raises BadRequestError if it is absent, or neither a string nor a number."""
    if not given(raw):
        raise BadRequestError(f"{field} is required", field)
    return text_of(raw, field)


def decimal_units(raw: msgspec.Raw, scale: int, field: str, default: int | None = None, *, signed: bool = False) -> int:
    """Return a decimal in units of 10**-scale, or `default` if the client did not give the field.

    Raises:
        BadRequestError: see `raw_text` and `values.to_units`. Only a `signed` decimal may have a minus sign.
    """
    if default is not None and not given(raw):
        return default
    return (signed_units if signed else to_units)(raw_text(raw, field), scale, field)


def amount_above_zero(raw: msgspec.Raw, scale: int, field: str) -> int:
    """Return a decimal in units of 10**-scale, or 0 if the client did not give the field. In a command 0 means that
    there is no such limit or option, so a client that means zero must not get the opposite.

    Raises:
        BadRequestError: see `decimal_units`; also for zero.
    """
    units = decimal_units(raw, scale, field, 0)
    if not units and given(raw):
        raise BadRequestError(f"{field} too small", field, detail="expected more than 0, or no such field")
    return units


def parameters(query: Mapping[str, Sequence[str]], *names: str, strict: bool = False) -> dict[str, str]:
    """Return the query parameters that the call knows, each at most once. Unknown ones are ignored, because clients add
    some. Raises BadRequestError.

    Args:
        strict: also raise for unknown ones, because a misspelt one would change the effect of the call.
    """
    found = {}
    for name, texts in query.items():
        if name not in names:
            if strict:
                raise BadRequestError(f"{name[:64]} is not a parameter of this call", name[:64])
            continue
        if len(texts) > 1:
            raise BadRequestError(f"{name} may be given once", name)
        found[name] = texts[0]
    return found


def page_limit(parameters: Mapping[str, str]) -> int:
    """Return the number of items of a page: `limit`, but at most `PAGE_MAX`, or 100 without `limit`. Raises
    BadRequestError.
    """
    text = parameters.get("limit", "100")
    if not (text.isascii() and text.isdigit() and text.strip("0")):
        raise BadRequestError("limit must be a whole number from 1 on", "limit", detail=f"at most {PAGE_MAX} are answered")
    digits = text.lstrip("0")
    return PAGE_MAX if len(digits) > len(str(PAGE_MAX)) else min(int(digits), PAGE_MAX)


def cursors(page: Sequence[Value], text: Callable[[Value], str]) -> dict[str, str]:
    """Return the headers with the cursors of newer and of older items. The page has its items newest first, and `text`
    makes the cursor of an item.
    """
    return {"cb-before": text(page[0]), "cb-after": text(page[-1])} if page else {}


def whole_number(text: str | None, field: str, default: int, low: int, high: int) -> int:
    """Return a whole number between `low` and `high`. Raises BadRequestError."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise BadRequestError(f"{field} must be a whole number from {low} to {high}", field)
    return int(text)


def choice(text: str, choices: Mapping[str, Value], field: str) -> Value:
    """Return the value of a word. Raises BadRequestError naming all words."""
    if text not in choices:
        raise BadRequestError(f"{field} must be one of {', '.join(choices)}", field)
    return choices[text]


def moment(text: str, field: str) -> int:
    """Return a time in nanoseconds since the epoch. The text is ISO 8601 (UTC if it names no zone) or seconds since the
    epoch. Raises BadRequestError.
    """
    if _SECONDS.fullmatch(text) is not None:
        whole, _, fraction = text.partition(".")
        return int(whole) * 1_000_000_000 + int(fraction.ljust(9, "0"))
    try:
        time = datetime.fromisoformat(text)
        zoned = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        return int(zoned.replace(microsecond=0).timestamp()) * 1_000_000_000 + zoned.microsecond * 1_000
    except (ValueError, OverflowError):
        raise BadRequestError(f"{field} must be an ISO 8601 time or seconds since the epoch", field) from None


def period(parameters: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the period of `start_date` and `end_date` in nanoseconds since the epoch, excluding the end. Raises
    BadRequestError.

    `end_date` has microseconds, as all times in answers, and includes the whole microsecond.
    """
    start = moment(parameters["start_date"], "start_date") if "start_date" in parameters else None
    end = moment(parameters["end_date"], "end_date") + 1_000 if "end_date" in parameters else None
    return _stored(start), _stored(end)


def _stored(time: int | None) -> int | None:
    """Limit a time to 64 bits, so that a database can compare it. The years 1 to 9999 exceed 64 bits of nanoseconds."""
    return None if time is None else max(-TIME_MAX, min(time, TIME_MAX))


def within(time: int, start: int | None, end: int | None) -> bool:
    """Return whether a time lies in a `period`."""
    return (start is None or time >= start) and (end is None or time < end)
