"""Values of the tables as a person writes them in a cell of a TSV file, and back.

| type | text |
|---|---|
| amount, price, size | a decimal in whole coins: `1.5`. The row determines the currency and its digits: see `UNITS` |
| time | `2026-03-01T12:00:00.25Z`, or whole nanoseconds since the epoch; 0 is `0` |
| other whole number | digits |
| enumeration | its name in lower case: `buy` |
| permissions | names joined by `+`: `view+trade`; none is `none` |
| truth value | `true`, `false` |
| bytes | hexadecimal |
| text | itself; tab, line break and backslash as `\\t`, `\\n`, `\\r`, `\\\\` |
| no value | `\\N` |
| struct, list | JSON with the same conventions inside; with the name of the struct as `"kind"` where several are possible |

A field of one name has the same unit in every struct, so other versions of the tables are written in the same way.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import msgspec
from msgspec import inspect

from statemachine.decimals import DecimalError, to_text, to_units
from statemachine.limits import AMOUNT_MAX, SECOND_NS
from statemachine.types import Permission

INT_MIN, INT_MAX = -(2**63), 2**64 - 1
"""The range of whole numbers in msgpack."""

Plain = Any
"""A value of JSON: that of a cell, or one inside a cell's JSON."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
_KIND = "kind"
_NOTHING = r"\N"
_EMPTY = r"\e"
_ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
_ESCAPED = re.compile(r"[\\\t\n\r]")
_UNESCAPES = {text: character for character, text in _ESCAPES.items()} | {_EMPTY: "", r"\#": "#"}
_UNESCAPED = re.compile(r"\\(.?)", re.DOTALL)


class Unit(Enum):
    """The unit of a whole number."""

    OWN = "of the row's currency"
    BASE = "of the product's base currency"
    QUOTE = "of the product's quote currency"
    HOLD = "of what the order holds: quote for a buy, base for a sell; or of the row's currency"
    TIME = "nanoseconds since the epoch"
    PERMISSIONS = "a sum of permissions"


UNITS: Mapping[str, Unit] = {
    **dict.fromkeys(
        (
            "deposited",
            "withdrawn",
            "fees",
            "available",
            "amount",
            "open_max",
            "volume_max",
            "position_max",
            "volume",
            "earlier",
        ),
        Unit.OWN,
    ),
    **dict.fromkeys(
        (
            "tick",
            "price",
            "stop_price",
            "last_price",
            "trigger_low",
            "trigger_high",
            "opening_price",
            "static_price",
            "low",
            "high",
            "noted_price",
            "new_price",
            "order_notional_max",
            "funds",
            "executed_value",
            "fill_fees",
        ),
        Unit.QUOTE,
    ),
    **dict.fromkeys(
        ("lot", "min_size", "max_size", "size", "remaining", "filled_size", "opening_size", "order_size_max"), Unit.BASE
    ),
    "hold": Unit.HOLD,
    **dict.fromkeys(
        (
            "time",
            "opened_at",
            "created_at",
            "done_at",
            "expires_at",
            "fires_at",
            "until",
            "ends_at",
            "note_at",
            "imbalance_at",
            "set_at",
            "corrected_at",
            "proposed_at",
            "at",
        ),
        Unit.TIME,
    ),
    **dict.fromkeys(("permissions", "consent"), Unit.PERMISSIONS),
}
"""The unit of each field that is more than a plain number."""

PLAIN_NUMBERS = frozenset(
    {
        "proposal_id", "consent_ns", "switches", "cancelled", "dynamic_ppm", "static_ppm", "distance_ppm", "late_ppm", "halt_ns",
        "call_ns", "random_ns", "limit_ns", "limit_side", "late_ns", "extension_ns", "imbalance_ns",
        "extensions", "extensions_max", "orders_max", "rate_max", "day", "rate_second", "rate_count", "trade_id",
        "scale", "sequence", "product_sequence", "opened_sequence", "order_id", "last_order_id", "last_trade_id", "maker_fee_ppm",
        "number", "base", "taken", "opened",
        "taker_fee_ppm", "sealed_by", "version", "turnover", "queued", "last_queued", "turn", "fee_credit", "side", "price_min",
        "display_size", "trail", "take_profit",
        "stop_loss", "stop_loss_limit", "link", "visible",
        "price_max",
    }
)  # fmt: skip
"""Fields that are plain numbers. A test requires each whole number of the tables to be here or in `UNITS`.
"""

UNSCALED: Mapping[str, Unit] = {name: unit for name, unit in UNITS.items() if unit in (Unit.TIME, Unit.PERMISSIONS)}
"""The units of tables whose amounts stay whole numbers in smallest units: those of a version that may have the digits
of currencies and products in other fields.
"""


class ValueFault(Exception):  # noqa: N818 - a fault of a file, collected and reported by `tsv`
    """A text is not a value. `field` is the place inside a JSON cell, "" for the cell itself. `expected` describes a
    right value.
    """

    def __init__(self, expected: str, field: str = "") -> None:
        super().__init__(f"{field}: {expected}" if field else expected)
        self.expected = expected
        self.field = field


class Scales:
    """The digits of each currency, and the currencies of each product.

    Args:
        currencies: decimal digits by name.
        products: base and quote currency by product id.
    """

    def __init__(self, currencies: Mapping[str, int], products: Mapping[str, tuple[str, str]]) -> None:
        self._currencies = currencies
        self._products = products

    def of(self, unit: Unit, record: Mapping[str, Plain]) -> int:
        """Return the digits of a field with `unit` in `record`, whose other fields name the currency.

        Raises:
            ValueFault: they do not name it.
        """
        if "currency" in record:
            name = record["currency"]
        else:
            base, quote = self._pair(record)
            in_quote = unit is Unit.QUOTE or (unit is Unit.HOLD and record.get("side") == "buy")
            name = quote if in_quote else base
        if name not in self._currencies:
            raise ValueFault(f"its digits are those of currency {name!r}, which is in no table Currency")
        return self._currencies[name]

    def _pair(self, record: Mapping[str, Plain]) -> tuple[str, str]:
        """Return the base and quote currency of a record, by its own columns or by its product. Raises ValueFault."""
        if "base" in record and "quote" in record:
            return record["base"], record["quote"]
        product_id = record.get("product_id")
        pair = self._products.get(product_id) if isinstance(product_id, str) else None
        if pair is None:
            raise ValueFault(f"its digits are those of product {product_id!r}, which is in no table Product")
        return pair


def shown(value: Plain) -> str:
    """Return a wrong value for a message, cut if it is long."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return repr(text if len(text) <= 60 else text[:60] + "...")


# ---------------------------------------------------------------------- values as JSON has them

_Encode = Callable[[Any], Plain]
_Decode = Callable[[Plain], Any]


def _whole(value: Plain) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and INT_MIN <= value <= INT_MAX:
        return value
    raise ValueFault(f"expected a whole number from {INT_MIN} to {INT_MAX}, not {shown(value)}")


def time_text(nanoseconds: int) -> str:
    """Return a time of the tables as text, in UTC."""
    if not 0 < nanoseconds <= INT_MAX:
        return str(nanoseconds)
    seconds, rest = divmod(nanoseconds, SECOND_NS)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def time_value(text: Plain) -> int:
    """Return nanoseconds since the epoch. Raises ValueFault."""
    if isinstance(text, str):
        if _WHOLE.fullmatch(text):
            return _whole(int(text))
        match = _TIME.fullmatch(text)
        if match is not None:
            try:
                moment = datetime.fromisoformat(match[1] + "+00:00")
            except ValueError as error:
                raise ValueFault(f"expected a time that exists, not {shown(text)} ({error})") from None
            since = moment - _EPOCH
            return _whole((since.days * 86_400 + since.seconds) * SECOND_NS + int((match[2] or "").ljust(9, "0")))
    raise ValueFault(f"expected a time such as 2026-03-01T12:00:00.25Z, not {shown(text)}")


def _permissions_text(value: int) -> str:
    """Return permissions as names joined by "+", "none" for 0, or the number if it has unknown bits."""
    names = [each.name.lower() for each in Permission if value & each]
    return (
        "+".join(names)
        if value == sum(each for each in Permission if value & each) and names
        else str(value)
        if value
        else "none"
    )


def _permissions_value(text: Plain) -> int:
    """Return the permissions that a cell names. Raises ValueFault."""
    if text == "none":
        return 0
    if isinstance(text, str) and _WHOLE.fullmatch(text):
        return _whole(int(text))
    names = text.split("+") if isinstance(text, str) else []
    known = {each.name.lower(): each.value for each in Permission}
    if not names or len(set(names)) != len(names) or not set(names) <= set(known):
        raise ValueFault(f"expected none, or some of {', '.join(known)} joined by '+', not {shown(text)}")
    return sum(known[name] for name in names)


def _same(value: Any) -> Plain:
    return value


def _of_type(kind: type, expected: str) -> _Decode:
    """Return a decoder that accepts values of one type. `expected` describes the type in errors."""

    def decode(value: Plain) -> Any:
        if type(value) is kind:
            return value
        raise ValueFault(f"expected {expected}, not {shown(value)}")

    return decode


def _bytes_value(value: Plain) -> bytes:
    if isinstance(value, str) and re.fullmatch(r"(?:[0-9a-f]{2})*", value):
        return bytes.fromhex(value)
    raise ValueFault(f"expected bytes as pairs of hexadecimal digits in lower case, not {shown(value)}")


def _enum_value(cls: type[Enum]) -> _Decode:
    """Return a decoder of the lower-case names of an enumeration."""
    names = {member.name.lower(): member for member in cls}

    def decode(value: Plain) -> Any:
        if isinstance(value, str) and value in names:
            return names[value]
        raise ValueFault(f"expected one of {', '.join(names)}, not {shown(value)}")

    return decode


class CellCodec:
    """Encodes and decodes one type. `kind` says how a cell holds the plain value: "str", "int", "bool", "none", or "json"."""

    def __init__(self, encode: _Encode, decode: _Decode, kind: str) -> None:
        self.encode = encode
        self.decode = decode
        self.kind = kind


class Codecs:
    """Codecs of types and structs, with the digits of one set of tables, and the units of fields by their names."""

    def __init__(self, scales: Scales, units: Mapping[str, Unit] = UNITS) -> None:
        self._scales = scales
        self._units = units
        self._structs: dict[type, StructCodec] = {}

    def struct(self, cls: type[msgspec.Struct]) -> StructCodec:
        """Return the codec of a struct."""
        if cls not in self._structs:
            self._structs[cls] = StructCodec(cls, self, self._scales, self._units)
        return self._structs[cls]

    def of(self, info: inspect.Type) -> CellCodec:
        """Return the codec of a type. Raises TypeError for a type that no table has."""
        match info:
            case inspect.IntType():
                return CellCodec(_same, _whole, "int")
            case inspect.BoolType():
                return CellCodec(_same, _of_type(bool, "true or false"), "bool")
            case inspect.StrType():
                return CellCodec(_same, _of_type(str, "text"), "str")
            case inspect.BytesType():
                return CellCodec(bytes.hex, _bytes_value, "str")
            case inspect.NoneType():
                return CellCodec(_same, _of_type(type(None), "no value"), "none")
            case inspect.EnumType(cls=cls):
                return CellCodec(lambda value: value.name.lower(), _enum_value(cls), "str")
            case inspect.ListType(item_type=item):
                return self._list(self.of(item))
            case inspect.TupleType(item_types=items):
                return self._tuple([self.of(item) for item in items])
            case inspect.StructType(cls=cls):
                codec = self.struct(cls)
                return CellCodec(codec.encode, codec.decode, "json")
            case inspect.UnionType(types=types):
                return self._union(types)
        raise TypeError(f"a table has a field of type {info!r}, which has no text yet")

    def _list(self, item: CellCodec) -> CellCodec:
        """Return the codec of a list. Its cells are JSON."""

        def decode(value: Plain) -> list[Any]:
            if not isinstance(value, list):
                raise ValueFault(f"expected a list, not {shown(value)}")
            return [_inside(str(position), item.decode, each) for position, each in enumerate(value)]

        return CellCodec(lambda value: [item.encode(each) for each in value], decode, "json")

    def _tuple(self, items: list[CellCodec]) -> CellCodec:
        def decode(value: Plain) -> tuple[Any, ...]:
            if not isinstance(value, list) or len(value) != len(items):
                raise ValueFault(f"expected a list of {len(items)}, not {shown(value)}")
            return tuple(_inside(str(at), item.decode, each) for at, (item, each) in enumerate(zip(items, value, strict=True)))

        return CellCodec(lambda value: [item.encode(each) for item, each in zip(items, value, strict=True)], decode, "json")

    def _union(self, types: tuple[inspect.Type, ...]) -> CellCodec:
        """Return the codec of one of several structs, or of a type that may be absent."""
        rest = [each for each in types if not isinstance(each, inspect.NoneType)]
        if len(rest) == 1:
            inner = self.of(rest[0])
            return CellCodec(
                lambda value: None if value is None else inner.encode(value),
                lambda value: None if value is None else inner.decode(value),
                inner.kind,
            )
        structs = {each.cls.__name__: self.struct(each.cls) for each in rest if isinstance(each, inspect.StructType)}
        if len(structs) != len(types):
            raise TypeError(f"a table has a field of one of {types!r}, which has no text yet")

        def decode(value: Plain) -> Any:
            name = value.get(_KIND) if isinstance(value, dict) else None
            if name not in structs:
                raise ValueFault(f'expected an object with "kind" one of {", ".join(structs)}, not {shown(value)}')
            return structs[name].decode({key: each for key, each in value.items() if key != _KIND})

        return CellCodec(
            lambda value: {_KIND: type(value).__name__, **structs[type(value).__name__].encode(value)}, decode, "json"
        )


def _inside(name: str, decode: _Decode, value: Plain) -> Any:
    """Decode a part; an error in it names the part."""
    try:
        return decode(value)
    except ValueFault as fault:
        raise ValueFault(fault.expected, f"{name}.{fault.field}" if fault.field else name) from None


class StructCodec:
    """A struct as a mapping of field names to plain values.

    Attributes:
        fields: each field's codec, in the struct's order. Amounts and times are text.
        required: the fields without a default.
    """

    def __init__(self, cls: type[msgspec.Struct], codecs: Codecs, scales: Scales, units: Mapping[str, Unit]) -> None:
        self._cls = cls
        self._scales = scales
        info = inspect.type_info(cls)
        assert isinstance(info, inspect.StructType)
        self.required = [field.name for field in info.fields if field.required]
        self.fields: dict[str, CellCodec] = {}
        self._scaled: dict[str, Unit] = {}
        for field in info.fields:
            unit = units.get(field.name) if isinstance(field.type, inspect.IntType) else None
            if unit is None:
                self.fields[field.name] = codecs.of(field.type)
            elif unit is Unit.TIME:
                self.fields[field.name] = CellCodec(time_text, time_value, "str")
            elif unit is Unit.PERMISSIONS:
                self.fields[field.name] = CellCodec(_permissions_text, _permissions_value, "str")
            else:
                self._scaled[field.name] = unit
                self.fields[field.name] = CellCodec(_same, _same, "str")

    def encode(self, row: msgspec.Struct) -> dict[str, Plain]:
        """Return the fields of a struct, in order."""
        record = {name: codec.encode(getattr(row, name)) for name, codec in self.fields.items()}
        for name, unit in self._scaled.items():
            record[name] = to_text(record[name], self._scales.of(unit, record))
        return record

    def value(self, name: str, record: Mapping[str, Plain]) -> Any:
        """Return the value of one field of a record. Raises ValueFault."""
        unit = self._scaled.get(name)
        if unit is None:
            return self.fields[name].decode(record[name])
        if not isinstance(record[name], str):
            raise ValueFault(f"expected a decimal as text, not {shown(record[name])}")
        try:
            return to_units(record[name], self._scales.of(unit, record), name, 2 * AMOUNT_MAX)
        except DecimalError as error:
            raise ValueFault(error.expected) from None

    def make(self, values: Mapping[str, Any]) -> msgspec.Struct:
        """Return the struct with these values. Other fields have their defaults."""
        return self._cls(**values)

    def decode(self, record: Plain) -> msgspec.Struct:
        """Return the struct that a whole record describes. Raises ValueFault."""
        if not isinstance(record, dict) or set(record) - set(self.fields) or set(self.required) - set(record):
            raise ValueFault(f"expected an object with {', '.join(self.fields)}, not {shown(record)}")
        return self.make({name: _inside(name, functools.partial(self.value, name), record) for name in record})


# ---------------------------------------------------------------------- cells


def to_cell(value: Plain, kind: str) -> str:
    """Return the text of a cell."""
    if value is None:
        return _NOTHING
    if kind == "str":
        return _ESCAPED.sub(lambda match: _ESCAPES[match[0]], value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def from_cell(text: str, kind: str) -> Plain:
    """Return the value in a cell. Raises ValueFault."""
    if text == _NOTHING:
        return None
    if kind == "str":
        return _UNESCAPED.sub(_unescape, text) if "\\" in text else text
    if kind == "int":
        if not _WHOLE.fullmatch(text):
            raise ValueFault(f"expected a whole number, not {shown(text)}")
        return int(text)
    if kind == "bool" and text not in ("true", "false"):
        raise ValueFault(f"expected true or false, not {shown(text)}")
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueFault(f"expected JSON, not {shown(text)} ({error})") from None


def _unescape(match: re.Match[str]) -> str:
    if match[0] not in _UNESCAPES:
        raise ValueFault(f"expected \\t, \\n, \\r, \\\\, \\#, \\e or \\N where there is a backslash, not {shown(match[0])}")
    return _UNESCAPES[match[0]]


def as_first(cell: str) -> str:
    """Return a row's first cell, escaped so that the line is neither empty nor a comment."""
    if not cell:
        return _EMPTY
    return "\\" + cell if cell.startswith("#") else cell
