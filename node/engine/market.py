"""The market data that a snapshot keeps beside the state: each product's latest trades, its figures, and the tail of
its feed.

All of it is a function of the events, so every node has the same data after the same command. It is not part of the
state: no decision of the exchange depends on it, and a snapshot without it, or with data that does not match, is
equally valid. It is stored in its own file in the snapshot's directory. The file has a checksum and is sent to other
nodes with the rest of the snapshot. The log after the snapshot then continues the data.

`LatestTrades` keeps the latest trades of a product in encoded form. Any client may request a thousand of them at any
time. The public form of each trade is therefore made once, at the first request, and an answer is joined from bytes.
That takes some 50 us; decoding, redacting and encoding a thousand trades took two milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import cast, overload

import msgspec

from node.native.framing import array_head
from node.statistics import Figures
from statemachine.applied import Pieces
from statemachine.events import AnyEvent, OrderMatched

FILE = "MARKET"
FORMAT = 1

TAIL_KEPT = 20_000
"""Events of a product that a snapshot keeps: together with the events of the log after it, enough for readers that
reconnect after a restart. Some 2 MB.
"""

TAILS_KEPT = 400_000
"""Events of all products together, some 40 MB; each product has the same share."""


@dataclass(frozen=True)
class SavedProduct:
    """A product's market after the event `sequence`. `trades` and `tail` are encoded events, oldest first; `tail` ends
    with that event.
    """

    product_id: str
    sequence: int
    trades: Sequence[bytes]
    figures: Figures
    tail: Sequence[bytes]


Market = Mapping[str, SavedProduct]
"""What a snapshot keeps, by product."""


class _Product(msgspec.Struct, frozen=True, array_like=True):
    """A `SavedProduct` in the file; the events as arrays."""

    product_id: str
    sequence: int
    trades: msgspec.Raw
    figures: Figures
    tail: msgspec.Raw


class _Market(msgspec.Struct, frozen=True, array_like=True):
    """The file's contents. `index` is the log index of the snapshot that it belongs to."""

    format: int
    index: int
    products: list[msgspec.Raw]


_encode = msgspec.msgpack.Encoder().encode
_markets = msgspec.msgpack.Decoder(_Market)
_products = msgspec.msgpack.Decoder(_Product)
_arrays = msgspec.msgpack.Decoder(list[msgspec.Raw])
_events = msgspec.msgpack.Decoder(AnyEvent)

_ARRAY_MAX = 2**32
_TRADE = cast(int, OrderMatched.__struct_config__.tag)


def array(events: Sequence[bytes]) -> msgspec.Raw:
    """Return encoded events as one msgpack array."""
    assert len(events) < _ARRAY_MAX
    return msgspec.Raw(b"\xdd" + len(events).to_bytes(4, "big") + _joined(events))


def _joined(events: Sequence[bytes]) -> bytes:
    if isinstance(events, Pieces):
        return events.joined
    return b"".join(map(_joined, events.parts) if isinstance(events, Tail) else events)


class Tail(Sequence[bytes]):
    """The events of several sequences, one after the other. They are not copied."""

    def __init__(self, parts: Sequence[Sequence[bytes]]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[bytes]:
        return chain.from_iterable(self.parts)

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> list[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | list[bytes]:
        return list(self)[place]


def trades_of(events: Sequence[bytes]) -> list[bytes]:
    """Return the `OrderMatched` among encoded events: their tag is the first element of an array of less than 16
    elements, or of more.
    """
    if isinstance(events, Pieces):
        return events.with_tag(_TRADE)
    return [event for event in events if event[1 if event[0] < 0xDC else 3] == _TRADE]


def encode(index: int, products: Sequence[SavedProduct]) -> bytes:
    """Return the file of the snapshot at a log index."""
    rows = [_encode(_Product(row.product_id, row.sequence, array(row.trades), row.figures, array(row.tail))) for row in products]
    return _encode(_Market(FORMAT, index, [msgspec.Raw(row) for row in rows]))


def decode(data: bytes | None, index: int) -> Market:
    """Return the products in a file, by id. The result is empty if the file does not exist, has another format or
    belongs to another snapshot.

    The snapshot's checksum covers the file, so its bytes are as written. A file that does not decode is therefore one
    of another version.
    """
    if data is None:
        return {}
    try:
        market = _markets.decode(data)
        if market.format != FORMAT or market.index != index:
            return {}
        found = [_product(raw) for raw in market.products]
    except msgspec.MsgspecError:
        return {}
    return {product.product_id: product for product in found}


def _product(raw: msgspec.Raw) -> SavedProduct:
    """Decode a product. Also raises msgspec.ValidationError if the tail does not have the expected sequences."""
    row = _products.decode(raw)
    trades, tail = ([bytes(event) for event in _arrays.decode(each)] for each in (row.trades, row.tail))
    if tail:
        first, last = _events.decode(tail[0]), _events.decode(tail[-1])
        if last.product_sequence != row.sequence or first.product_sequence != row.sequence - len(tail) + 1:
            raise msgspec.ValidationError("the tail has a gap")
    return SavedProduct(row.product_id, row.sequence, trades, row.figures, tail)


class LatestTrades:
    """Keeps at most `kept` trades, newest last. `redacted` makes the public form of an encoded trade."""

    def __init__(self, kept: int, redacted: Callable[[bytes], bytes], trades: Iterable[bytes] = ()) -> None:
        self._redacted = redacted
        self._trades: deque[bytes] = deque(trades, kept)
        self._public: deque[bytes] = deque(maxlen=kept)
        self._unready = len(self._trades)
        """Number of the newest trades that `_public` does not hold yet."""

    def extend(self, trades: Sequence[bytes]) -> None:
        """Append trades, oldest first."""
        self._trades.extend(trades)
        self._unready = min(self._unready + len(trades), len(self._trades))

    def all(self) -> list[bytes]:
        """Return all trades, oldest first."""
        return list(self._trades)

    def newest(self, limit: int, *, public: bool) -> list[bytes]:
        """Return up to `limit` trades, newest first."""
        if public:
            self._make_ready()
        return list(islice(reversed(self._public if public else self._trades), limit))

    def encoded(self, limit: int, *, public: bool) -> bytes:
        """Return the msgpack array of `newest`."""
        found = self.newest(limit, public=public)
        return array_head(len(found)) + b"".join(found)

    def _make_ready(self) -> None:
        unready, self._unready = self._unready, 0
        self._public.extend(map(self._redacted, islice(self._trades, len(self._trades) - unready, None)))
