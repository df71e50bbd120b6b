"""The dictionaries, `FIXT11.xml` and `FIX50SP2.xml`: what clients are given is also what is enforced. A field that a
message does not have is refused and not ignored: an order must not trade without something that its client
asked for."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from xml.etree.ElementTree import Element, fromstring

FILES = ("FIXT11.xml", "FIX50SP2.xml")


@cache
def fields_by_type() -> dict[str, frozenset[int]]:
    """Return the fields that each type of message may have, header and trailer included."""
    roots = [fromstring(files(__package__).joinpath(name).read_text(encoding="utf-8")) for name in FILES]
    numbers = {field.attrib["name"]: int(field.attrib["number"]) for root in roots for field in root.iterfind("fields/field")}

    def of(part: Element | None) -> frozenset[int]:
        found = part.iter() if part is not None else ()
        return frozenset(numbers[each.attrib["name"]] for each in found if each.tag in ("field", "group"))

    always = of(roots[0].find("header")) | of(roots[0].find("trailer"))
    return {each.attrib["msgtype"]: of(each) | always for root in roots for each in root.iterfind("messages/message")}


@cache
def header() -> frozenset[int]:
    """Return the fields of the header."""
    root = fromstring(files(__package__).joinpath(FILES[0]).read_text(encoding="utf-8"))
    numbers = {field.attrib["name"]: int(field.attrib["number"]) for field in root.iterfind("fields/field")}
    return frozenset(numbers[field.attrib["name"]] for field in root.iterfind("header/field"))


@cache
def known() -> frozenset[int]:
    """Return every field of any message."""
    return frozenset[int]().union(*fields_by_type().values())
