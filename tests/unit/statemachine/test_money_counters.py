"""Deposits and withdrawals may go on for ever. The networks of a key have one text under every version of Python."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from statemachine.commands import Deposit, Withdraw
from statemachine.engine import Engine
from statemachine.events import Rejected, Transferred
from statemachine.limits import AMOUNT_MAX
from statemachine.types import Reason
from statemachine.validation import networks
from tests.unit.statemachine.market import market, send


def test_the_limit_of_deposits_counts_deposits_minus_withdrawals() -> None:
    engine = market(money=1)
    for number in range(20):
        assert isinstance(send(engine, Deposit("ann", f"d{number}", "USD", 2**62)), Transferred)
        assert isinstance(send(engine, Withdraw("ann", f"w{number}", "USD", 2**62)), Transferred)
        engine.check()
        assert Engine.restore(dict(engine.tables())).full_hash() == engine.full_hash()
    row = engine.currency("USD")
    assert row is not None
    assert row.deposited - row.withdrawn == 2
    assert row.turnover > 0
    assert isinstance(send(engine, Deposit("ann", "most", "USD", AMOUNT_MAX - 2)), Transferred)
    more = send(engine, Deposit("ann", "more", "USD", 1))
    assert isinstance(more, Rejected)
    assert more.reason is Reason.AMOUNT_TOO_LARGE
    assert isinstance(send(engine, Withdraw("ann", "all", "USD", AMOUNT_MAX - 1)), Transferred)
    engine.check()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("::ffff:1.2.3.0/120", "::ffff:102:300/120"),
        ("::", "::/128"),
        ("::/0", "::/0"),
        ("1::", "1::/128"),
        ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1/128"),
        ("1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7/128"),
        ("0:0:1::/48", "0:0:1::/48"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.7", "192.0.2.7/32"),
    ],
)
def test_a_network_has_one_canonical_text(text: str, expected: str) -> None:
    assert networks(text) == expected
    assert ip_network(expected) == ip_network(text)
