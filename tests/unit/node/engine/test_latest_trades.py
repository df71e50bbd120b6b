"""The latest trades are the same bytes as if they were decoded, redacted and encoded each time, and each trade is
redacted once.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.engine.market import LatestTrades


@given(
    kept=st.integers(1, 20),
    steps=st.lists(st.one_of(st.just("trade"), st.integers(1, 30)), max_size=80),
    begun=st.integers(0, 30),
)
def test_trades_come_newest_first_whatever_was_requested_before(kept: int, steps: list[str | int], begun: int) -> None:
    redactions: list[bytes] = []

    def redacted(trade: bytes) -> bytes:
        redactions.append(trade)
        return b"public " + trade

    plain = [b"%d" % number for number in range(begun)]
    trades = LatestTrades(kept, redacted, plain)
    for step in steps:
        if step == "trade":
            plain.append(b"%d" % len(plain))
            trades.extend(plain[-1:])
            continue
        assert isinstance(step, int)
        expected = list(reversed(plain[-kept:]))[:step]
        assert trades.newest(step, public=False) == expected
        assert trades.newest(step, public=True) == [b"public " + trade for trade in expected]
    assert len(redactions) == len(set(redactions))
    assert trades.all() == plain[-kept:]
