"""Conversion of this software's commands to an earlier version's schema.

The schema is append-only: the fields that a later version added are at the end of a struct and have defaults. So a
command whose new fields have their defaults equals the earlier version's command without them. A command with other
values does not exist at that level, and is rejected before it is proposed. Earlier versions have no users, so the
converted command of an operator does not contain its sender.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from statemachine.access import is_sender
from statemachine.commands import AnyCommand
from statemachine.limits import OPERATOR

_ACCOUNT = 1
"""The position of a command's account, after its tag."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class NotAtLevelError(ValueError):
    """A command needs a later level than the one in force; the text names the field."""


class Narrowing:
    """Converts commands of this software to those of one earlier version.

    Args:
        version: the version of the level, for messages.
        structs: the earlier version's commands.
        decode: the earlier version's decoder of one command.
    """

    def __init__(self, version: str, structs: Sequence[type[msgspec.Struct]], decode: Callable[[bytes], Any]) -> None:
        self._version = version
        self._lengths = {struct.__struct_config__.tag: len(struct.__struct_fields__) for struct in structs}
        self._decode_former = decode
        self._added: dict[type, list[tuple[str, Any]]] = {}

    def command(self, command: AnyCommand) -> Any:
        """Return the earlier version's command.

        Raises:
            NotAtLevelError: it has a value that the earlier version does not have.
        """
        kind = type(command)
        added = self._added.get(kind)
        if added is None:
            added = self._added[kind] = self._find_added(kind)
        raw = _decode(_encode(command))
        if is_sender(raw[_ACCOUNT]):
            raw[_ACCOUNT] = OPERATOR
        if added:
            first = len(raw) - len(added)
            for position, (name, default) in enumerate(added, first):
                if raw[position] != default:
                    raise NotAtLevelError(
                        f"{name}: expected {default!r}, not {raw[position]!r}: the cluster runs at level {self._version}, whose "
                        f"{kind.__name__} does not have it"
                    )
            del raw[first:]
        try:
            return self._decode_former(_encode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NotAtLevelError(f"{kind.__name__}: not known at level {self._version}: {error}") from error

    def _find_added(self, kind: type[msgspec.Struct]) -> list[tuple[str, Any]]:
        """Return the fields that the earlier version does not have, with their defaults as they are encoded."""
        length = self._lengths.get(kind.__struct_config__.tag)
        if length is None:
            raise NotAtLevelError(f"{kind.__name__}: the cluster runs at level {self._version}, which does not have this command")
        fields = msgspec.structs.fields(kind)[length:]
        return [(field.name, _decode(_encode(_default(field)))) for field in fields]


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    assert field.default is not msgspec.NODEFAULT, f"{field.name} was appended without a default"
    return field.default
