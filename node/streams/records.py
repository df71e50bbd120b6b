"""Converts commands, outcomes and events to records. The conversion is pure, so every node makes the same records.

| topic | key | a record is | sequence |
|---|---|---|---|
| `events` | product | an event of the product's feed: orders, trades, status | the product's sequence, without gaps |
| `commands` | account | a command with its outcome, also a rejected one | the command's number; increases, with gaps for other accounts |
| `accounts` | account | the balances of an account after a command that changed it | the command's number |

A value is an object. `type` names its struct in `docs/native.md`, `time_ns` is the exchange's time, and the other
fields are those of the struct. Amounts are whole numbers of smallest units. In JSON every integer is a string, because
many readers lose digits above 2**53. Enumerated values are lower-case words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

import msgspec

from node.history.projection import HistoryStep
from node.streams.broker import Record
from statemachine.commands import PutApiKey
from statemachine.engine import Engine
from statemachine.events import AnyEvent, OrderMatched, OrderReported, StreamNoted, TradeCorrected
from statemachine.limits import OPERATOR

EVENTS, COMMANDS, ACCOUNTS = "events", "commands", "accounts"
TOPICS = (EVENTS, COMMANDS, ACCOUNTS)
FORMATS = ("json", "msgpack")

SCHEMA = 1
"""Version of the records' format. It increases when a field changes its meaning or is removed."""

CUT = "cut_back"
"""Type and key of the record that says that a rollback undid records before it."""

HIDDEN: Mapping[type, frozenset[str]] = {PutApiKey: frozenset({"secret", "passphrase"})}
"""Fields that are never published. They are secrets, which the log encrypts."""

UNPUBLISHED = frozenset({OrderReported, StreamNoted})
"""Events of report streams. They repeat other events for the sessions of one account."""

RECORD_MAX = 900_000
"""Bytes of a value. Kafka accepts a message of 1 MB and NATS one of 1 MiB by default, with key and headers. A record that
the broker never accepts would end the stream, and a customer can cause one: the outcome of `CancelAll` has up to 3,000
orders, and a rejected command has texts of any length.
"""

CUTS: tuple[tuple[int, int], ...] = ((4_096, 1_000), (256, 100), (64, 10))
"""Characters of a text and members of a list that are left in a command which is too large: the first pair that
suffices. With the last one every command is small.
"""

KEY_MAX = 200
"""Characters of a key. The name of a sender is shorter; only a rejected command has a longer one."""

_pack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode


class RecordWriter:
    """Makes the records of the stream from the steps of an engine.

    Args:
        prefix: the prefix of the topics' names.
        form: "json" or "msgpack".
    """

    def __init__(self, prefix: str, form: str) -> None:
        self._names = {topic: f"{prefix}.{topic}" for topic in TOPICS}
        self._text = form == "json"
        self._encode: Callable[[object], bytes] = _json if self._text else _pack

    @property
    def topics(self) -> list[str]:
        """Return the names of the topics."""
        return list(self._names.values())

    def records(self, engine: Engine, steps: Iterable[HistoryStep], index: int = 0) -> list[Record]:
        """Return the records of one log entry's steps, in order. `engine` is in the state after them; `index` is the
        log index.
        """
        made = self._records_of(engine, steps)
        return [msgspec.structs.replace(record, index=index, ordinal=ordinal) for ordinal, record in enumerate(made)]

    def cuts(self, engine: Engine, index: int) -> list[Record]:
        """Return one record for each topic, which says that all log entries after `index` were undone. `engine` is in
        the state after entry `index`.
        """
        products = {row.product_id: self._number(row.product_sequence) for row in engine.products()}
        body = {
            "schema": SCHEMA,
            "type": CUT,
            "log_index": self._number(index),
            "sequence": self._number(engine.sequence),
            "time_ns": self._number(engine.time),
            "products": products,
        }
        value = self._encode(body)
        return [Record(topic, CUT, value, engine.sequence, CUT, index) for topic in self.topics]

    def _records_of(self, engine: Engine, steps: Iterable[HistoryStep]) -> list[Record]:
        """Return the records of an entry: events, commands, balances."""
        made: list[Record] = []
        touched: dict[str, HistoryStep] = {}
        for step in steps:
            made += [self._event(event) for event in step.events if type(event) not in UNPUBLISHED]
            if step.command is not None:
                made.append(self._command(step))
            touched.update(dict.fromkeys(_accounts(step), step))
        return made + [self._account(engine, account_id, step) for account_id, step in sorted(touched.items())]

    def _event(self, event: AnyEvent) -> Record:
        kind = kind_of(type(event))
        body = {"schema": SCHEMA, "type": kind, **_fields(event, self._text)}
        body["time_ns"] = body.pop("time")
        return Record(self._names[EVENTS], event.product_id, self._encode(body), event.product_sequence, kind)

    def _command(self, step: HistoryStep) -> Record:
        """Return the record of a command with its outcome. If it is too large for a broker, its texts and lists are cut,
        and it says so.
        """
        command, outcome = step.command, step.outcome
        assert command is not None
        kind = kind_of(type(command))
        body: dict[str, Any] = {
            "schema": SCHEMA,
            "type": kind,
            "sequence": self._number(step.sequence),
            "time_ns": self._number(step.time),
            "command": _fields(command, self._text),
            "outcome": None if outcome is None else {"type": kind_of(type(outcome)), **_fields(outcome, self._text)},
        }
        value = self._encode(body)
        for limits in CUTS:
            if len(value) <= RECORD_MAX:
                break
            value = self._encode({name: _cut(part, *limits) for name, part in body.items()} | {"cut": True})
        return Record(self._names[COMMANDS], command.account_id[:KEY_MAX], value, step.sequence, kind)

    def _account(self, engine: Engine, account_id: str, step: HistoryStep) -> Record:
        """Return the record of the balances of an account."""
        balances = [
            {"currency": row.currency, "available": self._number(row.available), "hold": self._number(row.hold)}
            for row in engine.balances(account_id)
        ]
        body = {
            "schema": SCHEMA,
            "type": "balances",
            "account_id": account_id,
            "sequence": self._number(step.sequence),
            "time_ns": self._number(step.time),
            "balances": balances,
        }
        return Record(self._names[ACCOUNTS], account_id, self._encode(body), step.sequence, "balances")

    def _number(self, value: int) -> object:
        return str(value) if self._text else value


def kind_of(kind: type) -> str:
    """Return the name of a type in records: OrderMatched becomes order_matched."""
    name = kind.__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _fields(struct: msgspec.Struct, text: bool) -> dict[str, Any]:
    hidden = HIDDEN.get(type(struct), frozenset())
    return {name: _plain(getattr(struct, name), text) for name in struct.__struct_fields__ if name not in hidden}


def _plain(value: object, text: bool) -> object:
    """Return a value as JSON."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return str(value) if text else value
    if isinstance(value, msgspec.Struct):
        return _fields(value, text)
    if isinstance(value, bytes):
        return value.hex() if text else value
    if isinstance(value, list | tuple):
        return [_plain(each, text) for each in value]
    if isinstance(value, dict):
        return {str(name): _plain(each, text) for name, each in value.items()}
    return value


def _cut(value: object, characters: int, members: int) -> object:
    """Return a plain value with texts and lists of at most these lengths."""
    if isinstance(value, str | bytes):
        return value[:characters]
    if isinstance(value, list):
        return [_cut(each, characters, members) for each in value[:members]]
    if isinstance(value, dict):
        return {name: _cut(each, characters, members) for name, each in value.items()}
    return value


def _accounts(step: HistoryStep) -> set[str]:
    """Return the accounts whose balances a step may have changed."""
    accounts: set[str] = set()
    for event in step.events:
        if isinstance(event, OrderMatched):
            accounts |= {event.maker_account_id, event.taker_account_id}
        elif isinstance(event, TradeCorrected):
            accounts |= {event.buyer_account_id, event.seller_account_id}
        elif account_id := getattr(event, "account_id", ""):
            accounts.add(account_id)
    command, outcome = step.applied, step.outcome
    if command is not None and outcome is not None and type(outcome).__name__ != "Rejected":
        accounts |= {command.account_id, getattr(command, "to_account_id", "")}
    return {account_id for account_id in accounts if account_id and account_id.partition("/")[0] != OPERATOR}
