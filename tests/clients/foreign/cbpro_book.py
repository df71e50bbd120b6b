"""cbpro's OrderBook during a flow of orders: it asserts that every match hits the head of its queue, and notices gaps."""

from __future__ import annotations

import sys
import time
from typing import Any

import cbpro

from tests.clients.foreign.steps import given, say, step

SECONDS = 60.0


class Book(cbpro.OrderBook):  # type: ignore[misc]  # the library has no types
    """The library's book, counting what it complains of."""

    def __init__(self) -> None:
        super().__init__(product_id=given["product"])
        self.url = given["ws"][-1]
        self._client = cbpro.PublicClient(api_url=given["urls"][-1])
        self.gaps: list[tuple[int, int]] = []
        self.matches = 0

    def on_sequence_gap(self, gap_start: int, gap_end: int) -> None:
        """Called by the library."""
        self.gaps.append((gap_start, gap_end))
        super().on_sequence_gap(gap_start, gap_end)

    def on_message(self, message: Any) -> None:
        """Called by the library, in a thread of its own."""
        self.matches += message["type"] == "match"
        super().on_message(message)

    def on_open(self) -> None:
        """Called by the library, which would print."""
        self._sequence = -1

    def on_close(self) -> None:
        """Called by the library, which would print."""


def main() -> None:
    """Follow until the test says at which sequence the flow has ended, then show the book."""
    book = Book()
    book.start()
    while book._sequence < 0 and book.error is None:
        time.sleep(0.01)
    say(ready=True)
    last = int(sys.stdin.readline())
    end = time.monotonic() + SECONDS
    while book._sequence < last and book.error is None and book.thread.is_alive() and time.monotonic() < end:
        time.sleep(0.02)
    found = book.get_current_book()
    sides = {side: sorted([str(price), str(size), order] for price, size, order in found[side]) for side in ("bids", "asks")}

    def sound() -> None:
        if book.error is not None:
            raise book.error
        if not book.thread.is_alive():
            raise AssertionError("a match did not hit the head of its queue")
        if book.gaps:
            raise AssertionError(f"gaps {book.gaps}")

    step("OrderBook", sound)
    say(sequence=found["sequence"], matches=book.matches, book=sides)
    book.stop = True
    book.ws.close()


if __name__ == "__main__":
    main()
