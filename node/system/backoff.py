"""The pauses between attempts of something that may succeed soon, such as a connection to a node that restarts."""

from __future__ import annotations

import asyncio


class Backoff:
    """Pauses of growing length: the first lasts `first_s` seconds, each further one twice as long as the one before, and
    none longer than `most_s`.

    >>> backoff = Backoff(0.1, 0.3)
    >>> backoff.next_s(), backoff.next_s(), backoff.next_s()
    (0.1, 0.2, 0.3)
    >>> backoff.reset()
    >>> backoff.next_s()
    0.1
    """

    def __init__(self, first_s: float, most_s: float) -> None:
        assert 0 < first_s <= most_s
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def next_s(self) -> float:
        """Return the length of the next pause in seconds. The caller waits."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, self._most_s)
        return pause_s

    def reset(self) -> None:
        """Begin with the shortest pause again, after a success."""
        self._next_s = self._first_s

    async def wait(self) -> None:
        """Wait for the next pause."""
        await asyncio.sleep(self.next_s())
