"""Decimals in requests: `statemachine.decimals`, with every refusal a 400 in the words that foreign clients map.

A decimal arrives as a JSON string or as a JSON number; of a number its raw text is read, so that no float ever exists.
"""

from __future__ import annotations

import msgspec

from node.gateway.errors import BadRequestError
from statemachine import decimals
from statemachine.decimals import DecimalError, DecimalFault

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
        return msgspec.json.decode(data, type=str) if data[:1] == b'"' else data.decode("ascii")
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequestError(_TEXTS[DecimalFault.NOT_PLAIN].format(field=field), field) from None


def to_units(text: str, scale: int, field: str) -> int:
    """`text` in units of 10**-scale, exactly. Zero is allowed.

    Raises:
        BadRequestError: not a plain decimal (exponents, NaN, spaces), negative, more digits than the scale has, or beyond
            `limits.AMOUNT_MAX`.
    """
    try:
        return decimals.to_units(text, scale, field)
    except DecimalError as error:
        detail = str(error).removeprefix(f"{field}: ")
        raise BadRequestError(_TEXTS[error.fault].format(field=field), field, detail=detail) from None
