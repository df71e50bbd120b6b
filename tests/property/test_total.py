"""Apply is total: every command that can be decoded gets an answer, the state stays sound, and no entry does more work
than its limit.
"""

from __future__ import annotations

from random import Random
from types import UnionType
from typing import Any, get_args, get_origin

import msgspec
import pytest

from statemachine.commands import AnyCommand, Batch, Grant, PutApiKey, PutUser, SetAccess, decode_batch, encode_batch
from statemachine.engine import Engine
from statemachine.events import Rejected
from statemachine.limits import AMOUNT_MAX, EVENTS_PER_ENTRY, LOG_TIME_MAX, MAKERS_PER_ORDER, OPERATOR, WORK_PER_ENTRY
from statemachine.types import Permission, Role, Scope
from tests.property.operators import operators, venue_flow
from tests.property.worlds import ACCOUNTS, CURRENCIES, PRODUCTS, SECOND, foundations

KINDS: tuple[type[Any], ...] = AnyCommand.__args__
NUMBERS = [0, 1, 2, 4, 25, 36, 40, 100, 10**9, 2**31, 2**62, AMOUNT_MAX, AMOUNT_MAX + 1, 2**64 - 1, -1, -(2**63)]
TEXTS = [
    "",
    "a",
    "\0",
    "x" * 65,
    "x" * 10_000,
    "ä/ö",
    "operator",
    "USD",
    "::ffff:1.2.3.0/120",
    "0.0.0.0/0,::/0",
    "c2VjcmV0",
    "oid-1",
]
SENDERS = ["operator/rita", "operator/vera", "operator/key/k-bare", "operator/", "operator/key/"]
NAMES = {
    "account_id": [*ACCOUNTS, *ACCOUNTS, OPERATOR, *SENDERS],
    "to_account_id": ACCOUNTS,
    "owner_id": [*ACCOUNTS, OPERATOR],
    "user_id": ["rita", "vera", ""],
    "proposal_id": range(1, 200),
    "key_id": ["k-rita", "k-vera", "k-bare", "k"],
    "product_id": [*PRODUCTS, *PRODUCTS, ""],
    "currency": CURRENCIES,
    "base": CURRENCIES,
    "quote": CURRENCIES,
}


def value(random: Random, field: msgspec.structs.FieldInfo, number: int) -> object:
    """Draw a value: mostly a sensible one, sometimes any value of the type."""
    if field.name == "command_id":
        return random.choice([f"c{number}", f"c{number}", f"c{random.randrange(50)}", random.choice(TEXTS)])
    if field.name in NAMES and random.random() < 0.9:
        return random.choice(NAMES[field.name])
    return _of_type(random, field.type, number)


def _of_type(random: Random, kind: Any, number: int) -> object:
    if isinstance(kind, UnionType):
        return _of_type(random, get_args(kind)[0], number) if random.random() < 0.5 else None
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind(**{field.name: value(random, field, number) for field in msgspec.structs.fields(kind)})
    if isinstance(kind, UnionType):
        return _of_type(random, get_args(kind)[0], number) if random.random() < 0.3 else None
    if get_origin(kind) is list:
        return [_of_type(random, get_args(kind)[0], number) for _ in range(random.choice([0, 1, 2, 7, 7]))]
    if get_origin(kind) is tuple:
        return tuple(_of_type(random, inner, number) for inner in get_args(kind))
    if kind is str:
        return random.choice(TEXTS)
    if kind is bool:
        return random.random() < 0.3
    if kind is int:
        if random.random() < 0.7:
            return random.choice([0, 36, 40, 44, 25, 50, 100, 10**9, 3 * 10**9])
        return random.choice(NUMBERS)
    return random.choice(list(kind))  # an enumeration


def any_command(random: Random, number: int) -> AnyCommand:
    """Draw a command of any kind with any contents."""
    kind = random.choice([*KINDS, *[each for each in KINDS if each.__name__ in ("PlaceOrder", "CancelOrder")] * 6])
    fields = msgspec.structs.fields(kind)
    given = {
        field.name: value(random, field, number)
        for field in fields
        if field.default is msgspec.NODEFAULT or random.random() < 0.35
    }
    command: AnyCommand = kind(**given)
    return command


@pytest.mark.parametrize("seed", range(12))
def test_every_batch_that_decodes_is_answered(seed: int) -> None:
    random = Random(seed)
    engine = Engine()
    engine.apply(Batch(1, foundations((1_000, 3_000), 50_000)))
    if seed % 2:
        _need_consent(engine)
    time, number = engine.time, 0
    for _ in range(60):
        commands = []
        for _ in range(random.randrange(8)):
            number += 1
            commands.append(any_command(random, number))
        time = random.choice([time, time + 1, time + 10**9, time + 5 * 10**9, 0])
        batch = decode_batch(encode_batch(Batch(time, commands)))
        applied = engine.apply(batch)
        time = engine.time
        assert len(applied.outcomes) == len(commands)
        assert len(applied.events) <= EVENTS_PER_ENTRY
        assert engine._state.work <= WORK_PER_ENTRY + MAKERS_PER_ORDER + len(commands)
        engine.check()
    assert Engine.restore(dict(engine.tables())).full_hash() == engine.full_hash()


def _need_consent(engine: Engine) -> None:
    """Make two users who may do everything, and let the commands of some permissions wait for consent."""
    grants = [Grant(Role.MARKET_OPERATOR, Scope.VENUE), Grant(Role.ADMINISTRATOR, Scope.VENUE)]
    commands: list[AnyCommand] = [PutUser(OPERATOR, f"user-{name}", name, grants) for name in ("rita", "vera")]
    commands += [
        PutApiKey(OPERATOR, f"key-{name}", f"k-{name}", OPERATOR, "c2VjcmV0", "", Permission.ADMIN, user_id=name)
        for name in ("rita", "vera")
    ]
    commands.append(SetAccess(OPERATOR, "access", True, Permission.SWITCH + Permission.LIMIT + Permission.ACCOUNTS, 60 * 10**9))
    assert not any(isinstance(outcome, Rejected) for outcome in engine.apply(Batch(2, commands)).outcomes)


@pytest.mark.parametrize("begins", [0, LOG_TIME_MAX - 3_600 * SECOND, 2**63, 2**64 - 1], ids=str)
def test_the_venue_runs_at_the_first_and_the_latest_times(begins: int) -> None:
    """Calendars, halts, timers and proposals compute times ahead of the log's time, which stops at its largest one."""
    random, engine, told, now = Random(2), Engine(), list[object](), begins
    engine.apply(Batch(0, [*foundations((1_000, 3_000), 50_000), *operators()]))
    for command, _ in venue_flow(random, 80, told):
        now = min(now + (command if isinstance(command, int) else 1) * SECOND, 2**64 - 1)
        applied = engine.apply(Batch(now, [] if isinstance(command, int) else [command]))
        told += [*applied.outcomes, *applied.events]
        assert engine.time == min(now, LOG_TIME_MAX)
    engine.check()
    assert Engine.restore(dict(engine.tables())).full_hash() == engine.full_hash()
