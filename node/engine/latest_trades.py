"""The latest trades of a product, encoded, in the forms in which they are asked for.

Everybody may ask for a thousand of them at any time. So each trade is made ready for the public once, when it is first asked for, and an answer is
put together from bytes: some 50 microseconds, where decoding, redacting and encoding a thousand trades took two milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

from node.native.framing import array_head


class LatestTrades:
    """At most `kept` trades, newest last. `redacted` makes the public form of an encoded trade."""

    def __init__(self, kept: int, redacted: Callable[[bytes], bytes], trades: Iterable[bytes] = ()) -> None:
        self._redacted = redacted
        self._trades: deque[bytes] = deque(trades, kept)
        self._public: deque[bytes] = deque(maxlen=kept)
        self._unready = len(self._trades)
        """How many of the newest are not in `_public` yet."""

    def append(self, trade: bytes) -> None:
        """Add the newest."""
        self._trades.append(trade)
        self._unready = min(self._unready + 1, len(self._trades))

    def all(self) -> list[bytes]:
        """All of them, oldest first."""
        return list(self._trades)

    def newest(self, limit: int, *, public: bool) -> list[bytes]:
        """Up to `limit` trades, newest first."""
        if public:
            self._make_ready()
        return list(islice(reversed(self._public if public else self._trades), limit))

    def encoded(self, limit: int, *, public: bool) -> bytes:
        """The msgpack array of `newest`."""
        found = self.newest(limit, public=public)
        return array_head(len(found)) + b"".join(found)

    def _make_ready(self) -> None:
        unready, self._unready = self._unready, 0
        self._public.extend(map(self._redacted, islice(self._trades, len(self._trades) - unready, None)))
