"""States of any supported level: creating them, empty or from tables, and applying log entries, including those that
change the level.

Each reader of a log (the engine process, the history, an audit) holds an `Engine`, and replaces it by the one that
`apply` returns: the same object, unless the entry changes the level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import msgspec

from snapshots.errors import LevelError
from snapshots.levels.level import OWN, V0_2_0, Level, SetLevel, by_abi, decode_level_entry, is_earlier, is_level_entry
from snapshots.levels.lowering import lowered
from snapshots.levels.narrowing import NotAtLevelError
from snapshots.levels.raising import raised, widened
from statemachine.applied import AppliedBatch
from statemachine.commands import AnyCommand, Batch, encode_batch
from statemachine.engine import Engine

if TYPE_CHECKING:
    from snapshots.levels.returning import PreparedReturn
    from snapshots.levels.shadow import Shadow
    from snapshots.levels.v0_2_0 import FormerEngine


@cache
def _v0_2_0() -> Any:
    """Return the module of version 0.2.0. It is imported on first use, because reading its core from the archive takes time."""
    from snapshots.levels import v0_2_0

    return v0_2_0


def level_of(engine: Engine) -> Level:
    """Return the level of a state."""
    return OWN if type(engine) is Engine else V0_2_0


def level_with(abi: str) -> Level:
    """Return the supported level with this ABI.

    Raises:
        LevelError: there is none.
    """
    level = by_abi(abi)
    if level is None:
        raise LevelError(f"this software cannot run at the level with ABI {abi}")
    return level


def empty(level: Level = OWN) -> Engine:
    """Return an empty state."""
    engine: Engine = _v0_2_0().FormerEngine() if level.abi == V0_2_0.abi else Engine()
    return engine


def restored(abi: str, tables: Mapping[str, Iterable[tuple[bytes, bytes]]], *, verified: bool = False) -> Engine:
    """Return the state in the tables of a snapshot with this ABI. See `Engine.restore`.

    Raises:
        LevelError: its level is not supported here.
        StateError: see `Engine.restore`.
    """
    kind: type[Engine] = _v0_2_0().FormerEngine if level_with(abi).abi == V0_2_0.abi else Engine
    return kind.restore(tables, verified=verified)


def encoded(abi: str, time: int, commands: Sequence[AnyCommand]) -> bytes:
    """Return the log entry of commands at the level with this ABI.

    Raises:
        NotAtLevelError: a command needs a later level.
        LevelError: the level is not supported here.
    """
    if abi == OWN.abi:
        return encode_batch(Batch(time, list(commands)))
    level_with(abi)
    entry: bytes = _v0_2_0().encode_batch(time, commands)
    return entry


def encoded_migrated(time: int, commands: Sequence[AnyCommand]) -> bytes:
    """Return the log entry of commands of an earlier version, converted to `level.BROUGHT_TO`.

    Raises:
        NotAtLevelError: a command needs a later level.
    """
    entry: bytes = _v0_2_0().encode_batch(time, commands, migrated=True)
    return entry


def check_commands(abi: str, commands: Sequence[AnyCommand]) -> None:
    """Check that commands exist at the level with this ABI.

    Raises:
        NotAtLevelError: a command does not; the text names it by its position.
    """
    if abi != OWN.abi:
        narrow_commands(abi, commands)


def narrow_commands(abi: str, commands: Sequence[AnyCommand]) -> list[Any]:
    """Return the commands as the earlier level with this ABI writes them. Raises NotAtLevelError as `check_commands`."""
    assert abi == V0_2_0.abi
    narrow = _v0_2_0().NARROWING.command
    made = []
    for place, command in enumerate(commands):
        try:
            made.append(narrow(command))
        except NotAtLevelError as error:
            raise NotAtLevelError(f"commands[{place}].{error}") from error
    return made


def commands_of(abi: str, payload: bytes) -> Batch:
    """Return the batch in a log entry of the level with this ABI, as the present structs.

    Raises:
        msgspec.DecodeError: the bytes are not a batch.
    """
    if abi == OWN.abi:
        return msgspec.msgpack.decode(payload, type=Batch)
    time, commands, *_ = msgspec.msgpack.decode(payload, type=tuple[int, list[AnyCommand], bool])
    return Batch(time, commands)


def is_migrated(payload: bytes) -> bool:
    """Return whether a log entry with commands is of an earlier version, and was converted to `level.BROUGHT_TO`.

    Raises:
        msgspec.DecodeError: the payload is not an entry with commands.
    """
    _, _, *further = msgspec.msgpack.decode(payload, type=list[Any])
    return bool(further and further[0] is True)


def follow(engine: Engine) -> Shadow:
    """Begin to keep the state of the next level beside this one. See `shadow`.

    Raises:
        LevelError: the state is of the last level that this software knows.
    """
    from snapshots.levels.shadow import Shadow

    if level_of(engine) is OWN:
        raise LevelError(f"{OWN} is the last level that this software knows")
    return Shadow(cast("FormerEngine", engine))


def prepare_return(engine: Engine, to: Level) -> PreparedReturn:
    """Begin to keep the state of the level before ready for a return. See `returning`."""
    from snapshots.levels.returning import PreparedReturn

    return PreparedReturn(engine, to)


def present_tables(engine: Engine) -> dict[str, list[tuple[bytes, bytes]]]:
    """Return the tables of a state in this software's schema."""
    rows = {name: list(found) for name, found in engine.tables()}
    return rows if level_of(engine) is OWN else widened(rows)


def converted(engine: Engine, old: Level, to: Level) -> Engine:
    """Return the state converted to the next level or to the one before. `engine` is not changed.

    Raises:
        MigrationError, StateError: it cannot be converted.
        LossError: something would be lost at the level before.
    """
    return lowered(engine, to) if is_earlier(to, level_of(engine)) else raised(engine, old, to)


Convert = Callable[[Engine, Level, Level], Engine]


def apply(engine: Engine, payload: bytes, convert: Convert = converted) -> tuple[Engine, AppliedBatch | None]:
    """Apply a log entry. Returns the state after it, which is another object if the level changed, and the result of
    its commands, or None if it has none.

    Args:
        convert: makes the state of the other level.

    Raises:
        LevelError: from this entry on the log is of a level that this software does not support. Nothing was applied.
        MigrationError, StateError, LossError: the state cannot be converted.
    """
    if not is_level_entry(payload):
        return engine, engine.apply_entry(payload)
    change = decode_level_entry(payload)
    if not isinstance(change, SetLevel) or not takes_effect(engine, change):
        return engine, None
    return convert(engine, change.old, change.to), None


def takes_effect(engine: Engine, change: SetLevel) -> bool:
    """Return whether an entry changes the level of this state.

    Raises:
        LevelError: it does, and this software does not support the new one.
    """
    if change.old.abi != level_of(engine).abi or change.to.abi == change.old.abi:
        return False
    known = by_abi(change.to.abi)
    if known is None or known.rules != change.to.rules:
        raise LevelError(
            f"from here on the cluster runs at level {change.to}, which this software ({OWN.version}) does not know. Install version "
            f"{change.to.version} or a later one on this node, and start it: it continues with its data"
        )
    return True
