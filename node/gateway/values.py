"""How values are written in JSON and read back: decimals, identifiers, words, times, rates.

- A decimal arrives as a JSON string or as a JSON number. The raw text of a number is read, so no float is involved.
  JavaScript and Python write small numbers with an exponent (`1e-7`); it is expanded before the number is read. The
  result is exact, because an exponent only moves the point.
- An order id is a counter in the engine and a UUID in JSON: 26 is `00000000-0000-0000-0000-00000000001a`.
- An account in the engine is a trader's whole account. In the API an account is its balance of one currency:
  `alice:USD`.
- Product ids are `BTC-USD`; some clients write `BTC/USD`.
- Words represent enumerations. One table per enumeration serves reading, writing and the OpenAPI document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from typing import Annotated, TypeVar

import msgspec

from node.gateway.errors import BadRequestError
from statemachine import decimals
from statemachine.decimals import DecimalError, DecimalFault
from statemachine.limits import CANCEL_AFTER_MAX, NAME_MAX, PPM_DIGITS, SECOND_NS
from statemachine.types import (
    DoneReason,
    GoodFor,
    OrderStatus,
    OrderType,
    ProductStatus,
    SelfTradePrevention,
    Side,
    StopType,
    TimeInForce,
)

Member = TypeVar("Member", bound=IntEnum)

EXPONENT_MAX = 40
"""Limit of the exponent, and so of the expanded text. No valid amount has so many digits."""
_EXPONENT = re.compile(r"(?P<sign>-?)(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]+))?[eE](?P<exponent>[+-]?[0-9]{1,3})", re.ASCII)

AMOUNTS_KEPT = 16_384
"""Amounts that are cached in both forms, some 3 MB. Prices and sizes repeat, and a lookup costs a tenth of the
conversion.
"""

_TEXTS = {
    DecimalFault.NOT_PLAIN: "{field} must be a plain decimal number in a string",
    DecimalFault.NEGATIVE: "{field} too small",
    DecimalFault.TOO_PRECISE: "{field} too precise",
    DecimalFault.TOO_LARGE: "{field} is too large",
}


def text_of(raw: msgspec.Raw, field: str) -> str:
    """Return the text of a JSON string or number. Raises BadRequestError for other values."""
    try:
        data = bytes(raw)
        text = msgspec.json.decode(data, type=str) if data[:1] == b'"' else data.decode("ascii")
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequestError(_TEXTS[DecimalFault.NOT_PLAIN].format(field=field), field) from None
    return plain(text) if "e" in text or "E" in text else text


def plain(text: str) -> str:
    """Expand a decimal with an exponent: "1.5e-7" becomes "0.00000015". Other text, and an exponent beyond
    `EXPONENT_MAX`, is returned unchanged.
    """
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


@lru_cache(AMOUNTS_KEPT)
def units(text: str, scale: int) -> int:
    """Convert `text` to units of 10**-scale. Raises DecimalError, which is not cached."""
    return decimals.to_units(text, scale, "")


@lru_cache(AMOUNTS_KEPT)
def amount_text(units: int, scale: int) -> str:
    """Return an amount in units of 10**-scale as text."""
    return decimals.to_text(units, scale)


def to_units(text: str, scale: int, field: str) -> int:
    """Convert `text` exactly to units of 10**-scale. Zero is allowed.

    Raises:
        BadRequestError: not a plain decimal (NaN, spaces), negative, more digits than the scale has, or beyond
            `limits.AMOUNT_MAX`.
    """
    try:
        return units(text, scale)
    except DecimalError:
        pass
    try:
        return decimals.to_units(text, scale, field)
    except DecimalError as error:
        detail = str(error).removeprefix(f"{field}: ")
        raise BadRequestError(_TEXTS[error.fault].format(field=field), field, detail=detail) from None


def signed_units(text: str, scale: int, field: str) -> int:
    """Convert a number that may have a minus sign; otherwise like `to_units`."""
    return -to_units(text[1:], scale, field) if text.startswith("-") else to_units(text, scale, field)


NAME = re.compile(rf"[A-Za-z0-9_.:-]{{1,{NAME_MAX}}}", re.ASCII)
_ORDER_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
ORDER_ID_MAX = 2**63 - 1


def order_text(order_id: int) -> str:
    """Return an order id in the form of the API, a UUID."""
    digits = f"{order_id:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def order_number(text: str, field: str = "id") -> int:
    """Return the order id in `text`, or 0 if it has the right form but no order can have it. Raises BadRequestError
    naming `field` for another form.
    """
    number = _counter(text, field)
    return number if number <= ORDER_ID_MAX else 0


def order_span(parameters: Mapping[str, str]) -> tuple[int, int]:
    """Return the range of ids in the cursors of a list of orders: below the first number (0: all) and above the second.
    Raises BadRequestError.
    """
    below = max(1, min(_counter(parameters["after"], "after"), ORDER_ID_MAX)) if "after" in parameters else 0
    above = min(_counter(parameters["before"], "before"), ORDER_ID_MAX) if "before" in parameters else 0
    return below, above


def _counter(text: str, field: str) -> int:
    if _ORDER_ID.fullmatch(text) is None:
        raise BadRequestError("Invalid order id", field)
    return int(text.replace("-", ""), 16)


def account_text(account_id: str, currency: str) -> str:
    """Return the id of an account's balance of one currency."""
    return f"{account_id}:{currency}"


def product_text(text: str) -> str:
    """Return a product id. The slash that some clients write becomes a dash."""
    return text.replace("/", "-")


def check_name(text: str, field: str) -> str:
    """Return `text` if it is a valid name. Raises BadRequestError."""
    if NAME.fullmatch(text) is None:
        raise BadRequestError(f"Invalid {field}", field, detail=f"1 to {NAME_MAX} characters of A-Z a-z 0-9 _ . : -")
    return text


def optional_name(text: str | None, field: str) -> str:
    """Return `text` if it is a valid name, or "" if the client did not give it. Raises BadRequestError."""
    return "" if text is None else check_name(text, field)


SIDES = {"buy": Side.BUY, "sell": Side.SELL}
ORDER_TYPES = {"limit": OrderType.LIMIT, "market": OrderType.MARKET}
REQUESTED_TYPES = {**ORDER_TYPES, "stop": OrderType.MARKET}
TIMES_IN_FORCE = {time.name: time for time in TimeInForce}
REQUESTED_TIMES = {**TIMES_IN_FORCE, "PO": TimeInForce.GTC}
STPS = {stp.name.lower(): stp for stp in SelfTradePrevention}
STOPS = {"loss": StopType.LOSS, "entry": StopType.ENTRY}
GOOD_FOR = {"day": GoodFor.DAY, "auction": GoodFor.AUCTION}
ORDER_STATUSES = {"open": OrderStatus.OPEN, "active": OrderStatus.ACTIVE, "done": OrderStatus.DONE}
PRODUCT_STATUSES = {status.name.lower(): status for status in ProductStatus}
"""Words of requests and answers, and the values that they stand for."""

DONE_WORDS = dict.fromkeys(DoneReason, "canceled") | {DoneReason.FILLED: "filled", DoneReason.NONE: ""}
"""The reasons for which an order is done, in the words of Coinbase Exchange."""


def words_of(values: Mapping[str, Member]) -> dict[Member, str]:
    """Return the words by their values."""
    return {value: word for word, value in values.items()}


def one_of(words: Iterable[str]) -> msgspec.Meta:
    """Return the annotation that lists the words in the OpenAPI document."""
    return msgspec.Meta(extra_json_schema={"enum": list(dict.fromkeys(words))})


SIDE_WORDS = words_of(SIDES)
ORDER_TYPE_WORDS = words_of(ORDER_TYPES)
TIME_IN_FORCE_WORDS = words_of(TIMES_IN_FORCE)
STP_WORDS = words_of(STPS)
STOP_WORDS = words_of(STOPS)
GOOD_FOR_WORDS = words_of(GOOD_FOR)
ORDER_STATUS_WORDS = words_of(ORDER_STATUSES)

CorrectionWord = Annotated[str, one_of(("bust", "price"))]
SideWord = Annotated[str, one_of(SIDES)]
OrderTypeWord = Annotated[str, one_of(ORDER_TYPES)]
RequestedTypeWord = Annotated[str, one_of(REQUESTED_TYPES)]
TimeInForceWord = Annotated[str, one_of(TIMES_IN_FORCE)]
RequestedTimeWord = Annotated[str, one_of(REQUESTED_TIMES)]
StpWord = Annotated[str, one_of(STPS)]
StopWord = Annotated[str, one_of(STOPS)]
GoodForWord = Annotated[str, one_of(GOOD_FOR)]
OrderStatusWord = Annotated[str, one_of(ORDER_STATUSES)]
ProductStatusWord = Annotated[str, one_of(PRODUCT_STATUSES)]
DoneReasonWord = Annotated[str, one_of(DONE_WORDS.values())]


def iso(time_ns: int) -> str:
    """Return nanoseconds since the epoch as ISO 8601 with microseconds."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1_000:06d}Z"


@lru_cache(maxsize=1_024)
def _second(seconds: int) -> str:
    """Return a whole second as ISO 8601. The results are cached, because present answers share few seconds."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def rate(ppm: int) -> str:
    """Return a fee rate in parts per million as a decimal: 2500 becomes 0.0025."""
    return decimals.to_text(ppm, PPM_DIGITS)


PERIODS = {"min": 60, "hour": 3_600, "day": 86_400}
"""Seconds of the named periods."""
SECONDS_MAX = CANCEL_AFTER_MAX // SECOND_NS
PERIOD_EXPECTED = f"one of {', '.join(PERIODS)}, or a number of seconds from 1 to {SECONDS_MAX}"
_USUAL_STOPS = {Side.BUY: StopType.ENTRY, Side.SELL: StopType.LOSS}


def stop_type(name: str | None, side: Side) -> StopType:
    """Return the named kind of stop. Without a name it is the usual one: buy when the price has risen to the stop
    price, sell when it has fallen to it.

    Raises:
        KeyError: the name is unknown.
    """
    return STOPS[name] if name is not None else _USUAL_STOPS[side]


def lifetime(text: str) -> int:
    """Return the nanoseconds of a `cancel_after`, which is the name of a period or a number of seconds.

    Raises:
        ValueError: it is neither. The message names what is expected.
    """
    seconds = PERIODS.get(text, 0)
    if not seconds and text.isascii() and text.isdigit() and len(text) <= len(str(SECONDS_MAX)):
        seconds = int(text)
    if not 1 <= seconds <= SECONDS_MAX:
        raise ValueError(f"must be {PERIOD_EXPECTED}")
    return seconds * SECOND_NS
