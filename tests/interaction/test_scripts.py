"""Every script of this folder gives the trace that it contains. `pytest --rewrite` writes new traces; read them before
you commit.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from statemachine.types import Reason
from tests.interaction.script import Script

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_trace_is_as_written(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text(encoding="utf-8")
    trace = Script().run(text)
    if request.config.getoption("--rewrite"):
        path.write_text(trace, encoding="utf-8")
    else:
        assert trace.splitlines() == text.splitlines()


LATER = (
    "AUCTION_OPENING",
    "TOO_MANY_TRANSFERS",
    "INVALID_STREAM",
    "TOO_MANY_STREAMS",
    "TOO_MANY_CANCELS",
    "KILL_UNDER_WAY",
    "FIRM_TOO_LARGE",
    "TOO_MANY_RULES",
    "TOO_MANY_TRAILING",
    "TOO_MANY_TIMERS",
    "TOO_MANY_USERS",
    "TOO_MANY_PROPOSALS",
)
"""Those that take thousands of commands, or are a session's: see tests/unit/statemachine/test_pending.py,
test_transfers.py, test_streams.py, test_controls.py and test_access.py."""


def test_every_reason_of_a_rejection_is_in_some_script() -> None:
    """One reason needs ten thousand orders and is not here: see tests/unit/statemachine/test_bounds.py."""
    traces = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    missing = [reason.name for reason in Reason if f"rejected {reason.name}" not in traces]
    assert [name for name in missing if name not in LATER] == ["TOO_MANY_OPEN_ORDERS"]


def test_restarts_between_cancels_change_nothing() -> None:
    """The script with restarts and the one without them differ in the restarts only."""
    here = Path(__file__).parent
    lines = (here / "old_cancel_before_replay.txt").read_text(encoding="utf-8").splitlines()[1:]
    without = (here / "old_cancel_before_replay_uninterrupted.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert "restart" in lines
    assert [line for line in lines if line not in ("restart", "  the same state")] == without


def test_a_wrong_trace_is_noticed() -> None:
    text = "currency USD 2\n  = ok\ncurrency USD 3\n  = ok\n"
    assert Script().run(text) != text
