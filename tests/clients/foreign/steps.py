"""The parts that the Python scripts share: their settings, calls with their results, and trading through the death of a
leader.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

given: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
"""urls, ws (both in the order to try), key, secret, passphrase, product, orders (how many to place through the kill)."""


def say(**fields: object) -> None:
    """Print a line for the test."""
    print(json.dumps(fields), flush=True)


def step(call: str, run: Callable[[], object]) -> Any:
    """Make a call and report its result. Returns its value, or None if it failed."""
    try:
        value = run()
    except Exception as error:  # noqa: BLE001  # whatever the library raises is the result
        report_failure(call, error)
        return None
    say(call=call, result="works")
    return value


def report_failure(call: str, error: Exception) -> None:
    """Print that a call failed."""
    say(call=call, result=f"fails: {type(error).__name__}: {error}"[:300])


def check(condition: object, text: object = "") -> None:
    """Raise AssertionError with `text` unless `condition` holds."""
    if not condition:
        raise AssertionError(str(text))


class Failures:
    """The failed requests while a leader died, and the time of the slowest order with all its attempts."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.texts: list[str] = []
        self.longest = 0.0

    def took(self, begun: float) -> None:
        """Record that an order that was begun at that moment is answered."""
        self.longest = max(self.longest, time.monotonic() - begun)

    def add(self, error: Exception) -> None:
        """Record that a request failed."""
        self.times.append(time.monotonic())
        self.texts.append(f"{type(error).__name__}: {error}"[:200])

    def say(self, placed: dict[str, str]) -> None:
        """Report to the test: the number of failures, their duration, the last text, and the orders by their client
        ids.
        """
        span = self.times[-1] - self.times[0] if self.times else 0.0
        say(failures=len(self.times), span=span, longest=self.longest, texts=sorted(set(self.texts)), placed=placed)


def trade_through_a_kill(place: Callable[[str], str], turn: Callable[[], None]) -> None:
    """Place orders one after the other, and repeat each with the same client id until it is answered. `place` sends an
    order with a client id and returns its id. `turn` chooses the client's next URL after a failure.
    """
    failures, placed = Failures(), {}
    say(ready=True)
    for number in range(int(given["orders"])):
        client_oid = f"{given['key']}-kill-{number}"
        begun = time.monotonic()
        while client_oid not in placed:
            try:
                placed[client_oid] = place(client_oid)
            except Exception as error:  # whatever the library raises while the leader is gone
                failures.add(error)
                if time.monotonic() > begun + 30.0:
                    raise
                turn()
                time.sleep(0.05)
        failures.took(begun)
    failures.say(placed)
