"""A deposit, a withdrawal and a transfer happen once, whatever commands the account and others send."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from snapshots.levels.level import OWN, V0_2_0
from snapshots.levels.raising import raised
from snapshots.levels.states import empty
from statemachine.commands import (
    AnyCommand,
    Batch,
    CancelAll,
    CancelOrder,
    Deposit,
    OpenAccount,
    PlaceOrder,
    PutCurrency,
    PutProduct,
    Transfer,
    Withdraw,
)
from statemachine.engine import Engine
from statemachine.events import Rejected, Transferred
from statemachine.limits import OPERATOR, OUTCOMES_PER_ACCOUNT, REJECTS_CACHED, TRANSFER_LIFETIME
from statemachine.types import OrderType, Reason, Side, TimeInForce
from tests.unit.statemachine.market import PRODUCT, limit, market, send

TRANSFERS: list[AnyCommand] = [
    Deposit("ann", "wire-17", "USD", 100),
    Withdraw("ann", "wire-17", "USD", 100),
    Transfer("ann", "wire-17", "bob", "USD", 100),
]


def apply_all(engine: Engine, commands: list[AnyCommand]) -> None:
    for first in range(0, len(commands), 1_000):
        engine.apply(Batch(engine.time + 1, commands[first : first + 1_000]))


def orders(count: int) -> Iterator[AnyCommand]:
    for n in range(count):
        yield PlaceOrder("ann", f"o{n}", PRODUCT, Side.BUY, OrderType.LIMIT, 1, 1, 0, TimeInForce.IOC)


@pytest.mark.parametrize("command", TRANSFERS, ids=lambda command: type(command).__name__)
def test_no_traders_commands_evict_a_transfer_from_the_reply_cache(command: AnyCommand) -> None:
    engine = market()
    assert isinstance(send(engine, command), Transferred)
    before = engine.balances("ann")
    apply_all(engine, [CancelOrder("ann", f"nothing-{n}", 10**6) for n in range(OUTCOMES_PER_ACCOUNT + 1)])
    apply_all(engine, list(orders(OUTCOMES_PER_ACCOUNT + 1)))
    for state in (engine, Engine.restore({name: list(reversed(rows)) for name, rows in engine.tables()})):
        again = send(state, command)
        assert isinstance(again, Transferred)
        assert again.duplicate
        assert state.balances("ann") == before
        state.check()


def test_each_kind_of_transfer_has_a_space_of_ids_apart_from_orders() -> None:
    engine = market()
    for command in (*TRANSFERS, limit("ann", "wire-17", Side.BUY, 1, 1)):
        outcome = send(engine, command)
        assert not isinstance(outcome, Rejected)
        assert not outcome.duplicate
    other = send(engine, Deposit("ann", "wire-17", "USD", 101))
    assert isinstance(other, Rejected)
    assert other.reason is Reason.COMMAND_ID_REUSED
    assert engine.has_outcome("ann", "wire-17")


def refused() -> list[AnyCommand]:
    """Return commands that change nothing: they are rejected, or find nothing to do."""
    return [
        Withdraw("ann", "w", "USD", 150),
        Transfer("ann", "w", "bob", "USD", 150),
        limit("ann", "dear", Side.BUY, 100, 100),
        CancelOrder("ann", "nothing", 1),
        CancelAll("ann", "none"),
    ]


def test_a_late_copy_of_a_refused_command_is_not_executed() -> None:
    engine = market(money=100)
    first = [send(engine, command) for command in refused()]
    assert sum(isinstance(outcome, Rejected) for outcome in first) == 4
    send(engine, Deposit("ann", "more", "USD", 10_000))
    for state in (engine, Engine.restore({name: list(reversed(rows)) for name, rows in engine.tables()})):
        for command, outcome in zip(refused(), first, strict=True):
            assert send(state, command) == msgspec.structs.replace(outcome, duplicate=True)
        state.check()
    assert isinstance(send(engine, Withdraw("ann", "another-id", "USD", 150)), Transferred)


def test_rejects_evict_only_rejects_from_the_reply_cache() -> None:
    engine = market(money=100)
    placed = send(engine, limit("ann", "kept", Side.BUY, 1, 1))
    send(engine, refused()[0])
    apply_all(engine, [CancelOrder("ann", f"nothing-{n}", 10**6) for n in range(REJECTS_CACHED)])
    assert engine.has_outcome("ann", "nothing-0")
    assert engine.has_outcome("ann", "w"), "rejected transfers have a cache of their own"
    send(engine, CancelOrder("ann", "one-more", 10**6))
    assert not engine.has_outcome("ann", "nothing-0")
    apply_all(engine, [CancelOrder("ann", f"more-{n}", 10**6) for n in range(OUTCOMES_PER_ACCOUNT)])
    again = send(engine, limit("ann", "kept", Side.BUY, 1, 1))
    assert again == msgspec.structs.replace(placed, duplicate=True)
    engine.check()


def test_a_full_cache_of_transfers_evicts_only_expired_transfers(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("engine", "loading"):
        monkeypatch.setattr(f"statemachine.{module}.TRANSFERS_CACHED", 3)
    engine = market()
    assert isinstance(send(engine, Deposit("ann", "third", "USD", 1)), Transferred), "the fixture made two deposits"
    engine = Engine.restore(dict(engine.tables()))
    full = send(engine, Deposit("ann", "fourth", "USD", 1))
    assert isinstance(full, Rejected)
    assert full.reason is Reason.TOO_MANY_TRANSFERS
    assert isinstance(send(engine, Withdraw("ann", "w", "USD", 1)), Transferred), "each kind has its own bound"
    later = engine.apply(Batch(engine.time + 2 * TRANSFER_LIFETIME, [Deposit("ann", "late", "USD", 1)])).outcomes[0]
    assert isinstance(later, Transferred)
    engine.check()


def test_a_transfer_that_version_0_2_0_booked_is_not_booked_again() -> None:
    former = empty(V0_2_0)
    deposit = Deposit("ann", "old", "USD", 10**9)
    setting_up: list[AnyCommand] = [
        PutCurrency(OPERATOR, "usd", "USD", 0),
        PutCurrency(OPERATOR, "xbt", "XBT", 0),
        PutProduct(OPERATOR, "product", PRODUCT, "XBT", "USD", 1, 1, 1, 100, 0, 0),
        OpenAccount(OPERATOR, "ann", "ann"),
        deposit,
    ]
    former.apply(Batch(1, setting_up))
    engine = raised(former, V0_2_0, OWN)
    apply_all(engine, list(orders(OUTCOMES_PER_ACCOUNT + 1)))
    again = send(Engine.restore(dict(engine.tables())), deposit)
    assert isinstance(again, Transferred)
    assert again.duplicate
    engine.check()
