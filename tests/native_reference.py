"""The reference part of `docs/native.md`, made from the structs of the protocol. `python -m tests.native_reference`
writes it.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from node.native import protocol
from node.native.framing import pack
from node.native.protocol import AnyQuery, AnyRequest, AnyResponse, Submit, Subscribe
from snapshots.abi.inspection import schema_of
from snapshots.abi.schema import Schema, StructType
from statemachine import commands, events, tables, types
from statemachine.commands import AnyCommand, PlaceOrder
from statemachine.events import AnyEvent, AnyOutcome
from statemachine.types import OrderType, Side, StopType

PAGE = Path(__file__).parents[1] / "docs" / "native.md"
BEGIN, END = "<!-- reference: begin, written by python -m tests.native_reference -->", "<!-- reference: end -->"
GROUPS: dict[str, tuple[str, Any]] = {
    "Requests": ("The messages that a client sends.", AnyRequest),
    "Answers": ("The messages that a node sends.", AnyResponse),
    "Queries": ("A `Query` contains one of these (`AnyQuery`). The text of each gives the contents of its `Answer`.", AnyQuery),
    "Commands": ("A `Submit` contains a list of these (`AnyCommand`). The log consists of the same commands.", AnyCommand),
    "Outcomes": ("A `Results` contains one of these for each command (`AnyOutcome`).", AnyOutcome),
    "Events": ("An `Events` contains a list of these (`AnyEvent`).", AnyEvent),
}
VIEWS = (
    protocol.NodeStatus,
    protocol.BookView,
    protocol.LogChunk,
    protocol.FeesView,
    tables.ProductRow,
    tables.CurrencyRow,
    tables.BalanceRow,
    tables.ApiKeyRow,
)
SUMMED = (types.Permission, types.Switch)
"""Enumerations whose sums are sent. They are the type of no field."""
UNIONS = {"AnyCommand": AnyCommand, "AnyOutcome": AnyOutcome, "AnyEvent": AnyEvent, "AnyQuery": AnyQuery}
MODULES = (protocol, commands, events, tables, types)


def reference() -> str:
    """Return the Markdown between the marks."""
    schema = schema_of({}, {name: union for name, (_, union) in GROUPS.items()} | {view.__name__: view for view in VIEWS})
    found = {name: kind for module in MODULES for name, kind in vars(module).items() if isinstance(kind, type)}
    grouped = {name: [kind.__name__ for kind in typing.get_args(union)] for name, (_, union) in GROUPS.items()}
    rest = sorted(set(schema.structs) - {name for names in grouped.values() for name in names})
    parts = [*_examples()]
    for title, names in (*grouped.items(), ("Other structs", rest)):
        parts += [
            f"## {title}",
            "",
            GROUPS[title][0] if title in GROUPS else "Structs inside the messages above. They have no tag.",
            "",
        ]
        for name in names:
            parts += [_struct(name, schema.structs[name], found[name]), ""]
    return "\n".join([*parts, *_enumerations(schema, found)])


def _struct(name: str, struct: StructType, kind: type) -> str:
    fields = [f"{field.name}: {_type(field.type)}{_default(field.default)}" for field in struct.fields]
    tag = [] if struct.tag is None else [str(struct.tag)]
    return f"**{name}** `[{', '.join([*tag, *fields])}]`\n{_text(kind)}"


def _type(text: str) -> str:
    """Return a type as text, with the names of unions in place of their members."""
    for name, union in UNIONS.items():
        text = text.replace(" | ".join(kind.__name__ for kind in typing.get_args(union)), name)
    return text


def _default(value: Any) -> str:
    if value is msgspec.UNSET:
        return ""
    return f" = {value if isinstance(value, str) and value.isupper() else msgspec.json.encode(value).decode()}"


def _text(kind: type) -> str:
    """Return a docstring as one paragraph."""
    return " ".join(inspect.cleandoc(kind.__doc__ or "").split())


def _enumerations(schema: Schema, found: dict[str, type]) -> Iterable[str]:
    yield "## Enumerations"
    yield ""
    yield "An enumeration is sent as its number."
    yield ""
    yield "| name | numbers |"
    yield "|---|---|"
    summed = {kind.__name__: {member.name: member.value for member in kind} for kind in SUMMED}
    for name, members in sorted((schema.enums | summed).items()):
        numbers = ", ".join(f"{number} {member}" for member, number in members.items())
        yield f"| {name}: {_text(found[name])} | {numbers} |"


def _examples() -> Iterable[str]:
    order = PlaceOrder(
        *("alice", "c:my-2", "BTC-USD", Side.SELL, OrderType.LIMIT, 27_500_000_000, 50_000_000),
        client_oid="my-2",
        stop=StopType.LOSS,
        stop_price=28_000_000_000,
    )
    yield "## Two frames, byte by byte"
    yield ""
    for message in (Subscribe(7, "BTC-USD", 4712), Submit(8, [order])):
        yield f"A `{type(message).__name__}`:"
        yield ""
        yield "| bytes | meaning |"
        yield "|---|---|"
        frame = pack(message)
        yield f"| `{frame[:4].hex(' ')}` | {int.from_bytes(frame[:4], 'big')} bytes follow |"
        for data, meaning in _dump(message):
            yield f"| `{data.hex(' ')}` | {meaning} |"
        yield ""


def _dump(message: msgspec.Struct, inside: str = "") -> Iterable[tuple[bytes, str]]:
    """Return a message's elements: their bytes and their meanings."""
    elements: Sequence[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    names = ["tag", *message.__struct_fields__]
    yield _head(len(elements)), f"an array of {len(elements)}: `{type(message).__name__}`{inside}"
    for name, element in zip(names, elements, strict=True):
        value = getattr(message, name) if name != "tag" else element
        if isinstance(value, list):
            yield _head(len(value)), f"`{name}`: an array of {len(value)}"
            for item in value:
                yield from _dump(item, f", in `{name}`")
        else:
            shown = f"{element}, {value.name}" if isinstance(value, Enum) else msgspec.json.encode(element).decode()
            yield msgspec.msgpack.encode(element), f"`{name}` {shown}"


def _head(length: int) -> bytes:
    """Return the first bytes of an array of that length, which is below 65,536."""
    return bytes([0x90 | length]) if length < 16 else b"\xdc" + length.to_bytes(2, "big")


def written(page: str) -> str:
    """Return the page with the present reference."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"the page has no {BEGIN} and {END}"
    return f"{before}{BEGIN}\n\n{reference()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
