"""Decimals in requests: `statemachine.decimals`, with every refusal a 400 in the words that foreign clients map.

A decimal arrives as a JSON string or as a JSON number; of a number its raw text is read, so that no float ever exists. An exponent, as JavaScript
and Python write small numbers (`1e-7`), is written out before it is read: exactly, for it only moves the point.
"""

from __future__ import annotations

import re

import msgspec

from node.gateway.errors import BadRequestError
from statemachine import decimals
from statemachine.decimals import DecimalError, DecimalFault

EXPONENT_MAX = 40
"""No amount has so many digits; it bounds the text that an exponent is written out to."""
_EXPONENT = re.compile(r"(?P<sign>-?)(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]+))?[eE](?P<exponent>[+-]?[0-9]{1,3})", re.ASCII)

_TEXTS = {
    DecimalFault.NOT_PLAIN: "{field} must be a plain decimal number in a string",
    DecimalFault.NEGATIVE: "{field} too small",
    DecimalFault.TOO_PRECISE: "{field} too precise",
    DecimalFault.TOO_LARGE: "{field} is too large",
}


def text_of(raw: msgspec.Raw, field: str) -> str:
    """The text of a JSON string or number. Raises BadRequestError for anything else."""
    try:
        data = bytes(raw)
        text = msgspec.json.decode(data, type=str) if data[:1] == b'"' else data.decode("ascii")
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequestError(_TEXTS[DecimalFault.NOT_PLAIN].format(field=field), field) from None
    return plain(text) if "e" in text or "E" in text else text


def plain(text: str) -> str:
    """A decimal with an exponent, such as "1.5e-7", without it: "0.00000015". Other text, and an exponent beyond `EXPONENT_MAX`, stays as it is."""
    match = _EXPONENT.fullmatch(text) if len(text) <= decimals.TEXT_MAX else None
    if match is None or abs(int(match["exponent"])) > EXPONENT_MAX:
        return text
    digits = match["whole"] + (match["fraction"] or "")
    point = len(match["whole"]) + int(match["exponent"])
    if point <= 0:
        digits, point = "0" * (1 - point) + digits, 1
    digits = digits.ljust(point, "0")
    fraction = digits[point:].rstrip("0")
    return f"{match['sign']}{digits[:point].lstrip('0') or '0'}{'.' + fraction if fraction else ''}"


def to_units(text: str, scale: int, field: str) -> int:
    """`text` in units of 10**-scale, exactly. Zero is allowed.

    Raises:
        BadRequestError: not a plain decimal (NaN, spaces), negative, more digits than the scale has, or beyond
            `limits.AMOUNT_MAX`.
    """
    try:
        return decimals.to_units(text, scale, field)
    except DecimalError as error:
        detail = str(error).removeprefix(f"{field}: ")
        raise BadRequestError(_TEXTS[error.fault].format(field=field), field, detail=detail) from None
