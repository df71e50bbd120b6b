"""The observers of a simulated exchange: they check equal states at equal sequences, feeds without gaps, and snapshots
of the right state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

import msgspec

from cluster.ports import SnapshotMark, SnapshotSink, SnapshotSource
from loadtest.books import OrderBook, rows_of
from node.engine.feed import Audience, Feed, Subscription
from node.engine.market import Market
from node.engine.principal import gateway
from node.engine.replicated_engine import ReplicatedEngine
from node.engine.service import EngineService
from node.engine.snapshot_port import SnapshotPort
from node.errors import RequestFailed
from node.native.framing import FrameSplitter
from node.native.protocol import Answer, BookQuery, BookView, Events, FailCode, Query, Subscribe
from snapshots.store import SnapshotStore
from statemachine.engine import Engine
from statemachine.events import AnyEvent, OrderActivated, OrderDone, OrderReceived
from statemachine.types import DoneReason
from tests.simulation.parts import Machine, polls_of_a_check

EVENTS_KEPT = 300
"""Events of a product in a node's ring: so few that readers sometimes find theirs dropped."""

MARKET_EVERY = 8
"""Log entries between comparisons of the nodes' market data."""

READER = gateway("simulated readers")

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Events).decode
_decode_event: Callable[[bytes], AnyEvent] = msgspec.msgpack.Decoder(AnyEvent).decode


class Ledger:
    """The facts on which all nodes must agree, by kind and place. The first node that reports a fact defines it."""

    def __init__(self, violation: Callable[[str], Exception]) -> None:
        self.violation = violation
        self._said: dict[tuple[str, object], bytes] = {}
        self._hashes: dict[object, set[bytes]] = {}
        self._stops: dict[int, None] = {}
        self.counts: Counter[str] = Counter()

    def agree(self, node: str, what: str, key: object, value: bytes) -> None:
        """Compare a node's value. Raises a violation if another node reported a different one."""
        if self._said.setdefault((what, key), value) != value:
            raise self.violation(f"{node} has another {what} at {key} than the others had")

    def reach(self, place: object, state_hash: bytes) -> None:
        """Record that a node reached a state by an entry. A level that changes and returns gives a place more than one
        hash.
        """
        self._hashes.setdefault(place, set()).add(state_hash)

    def restore(self, node: str, place: object, state_hash: bytes) -> None:
        """Record that a node restored a state. Raises a violation if no node that reached this place by an entry had
        this hash.
        """
        if state_hash not in self._hashes.setdefault(place, {state_hash}):
            raise self.violation(f"{node} restored another state hash at {place} than the others had")

    def count(self, event: AnyEvent) -> None:
        """Count rare events that no node has reported before."""
        if isinstance(event, OrderActivated):
            self._stops[event.order_id] = None
        elif isinstance(event, OrderReceived):
            self.counts["stop orders triggered"] += event.order_id in self._stops
        elif isinstance(event, OrderDone):
            self.counts["orders expired"] += event.reason is DoneReason.EXPIRED

    def recorded(self, what: str, key: object) -> bytes | None:
        """Return what was reported."""
        return self._said.get((what, key))


class WatchedFeed(Feed):
    """A node's feed, whose events are compared with those of all others."""

    def __init__(self, ledger: Ledger, node: str) -> None:
        super().__init__(EVENTS_KEPT)
        self._ledger = ledger
        self._node = node
        self._last: dict[str, int] = {}

    def publish(self, product_ids: Sequence[str], events: Sequence[bytes]) -> None:
        for product, encoded in zip(product_ids, events, strict=True):
            event = _decode_event(encoded)
            expected = self._last.get(product, 0) + 1
            if event.product_sequence != expected:
                raise self._ledger.violation(f"{self._node} publishes {product} {event.product_sequence}, not {expected}")
            self._last[product] = expected
            if self._ledger.recorded("event", (product, expected)) is None:
                self._ledger.count(event)
            self._ledger.agree(self._node, "encoded event", (product, expected), encoded)
            self._ledger.agree(self._node, "event", (product, expected), _encode(event))
        super().publish(product_ids, events)

    def restart(self, sequences: Mapping[str, int], saved: Market | None = None) -> None:
        self._last = dict(sequences)
        super().restart(sequences, saved)


class WatchedEngine(ReplicatedEngine, Machine):
    """A node's engine, whose state is compared with that of all others after each entry and each restore."""

    def __init__(self, ledger: Ledger, node: str) -> None:
        Machine.__init__(self)
        ReplicatedEngine.__init__(self, WatchedFeed(ledger, node))
        self._ledger = ledger
        self._node = node

    @property
    def feed(self) -> Feed:
        """The receiver of its events."""
        return self._feed

    def apply(self, index: int, payload: bytes) -> object:
        outcomes = ReplicatedEngine.apply(self, index, payload)
        self.hash = self.engine.state_hash
        self.fresh.append((index, payload, self.hash))
        self._ledger.agree(self._node, "state hash", index, self.hash)
        self._ledger.reach(self.place, self.hash)
        if index % MARKET_EVERY == 0:
            self._agree_market()
        return outcomes

    def digest(self) -> bytes:
        return ReplicatedEngine.digest(self)

    def replace(self, engine: Engine, market: Market | None = None) -> None:
        ReplicatedEngine.replace(self, engine, market)
        self.hash = engine.state_hash
        self._ledger.restore(self._node, self.place, self.hash)
        self._ledger.agree(self._node, "full hash", (self.place, self.hash), engine.full_hash())
        self._agree_market()

    @property
    def place(self) -> tuple[int, int, str]:
        """Return what identifies a state in a snapshot. An entry that changes the level changes neither sequence nor
        time.
        """
        return self.engine.sequence, self.engine.time, self.level.version

    def _agree_market(self) -> None:
        """Check that all nodes report the same trades and statistics, even after restarts and installed snapshots."""
        for product in self.market():
            market_data = _encode([list(product.trades), product.figures])
            self._ledger.agree(self._node, "market", (product.product_id, product.sequence), market_data)


class Later(Future[T]):
    """A call that runs completely when it has been polled often enough, and never if its process dies before."""

    def __init__(self, work: Callable[[], T], polls: int) -> None:
        super().__init__()
        self._work = work
        self._polls = polls

    def done(self) -> bool:
        self._polls -= 1
        if self._polls < 0 and not super().done():
            try:
                self.set_result(self._work())
            except BaseException as error:  # noqa: BLE001  # a power loss is one; whoever asks for the result gets it
                self.set_exception(error)
        return super().done()


class SimExecutor(Executor):
    """Checks incoming snapshots of a simulated node in steps of virtual time, without a thread."""

    def __init__(self) -> None:
        self._submitted = 0

    def submit(self, work: Callable[..., T], /, *args: object, **kwargs: object) -> Future[T]:
        self._submitted += 1
        return Later(lambda: work(*args, **kwargs), polls_of_a_check(b"%d" % self._submitted))


class WatchedSnapshots(SnapshotPort):
    """A node's snapshots. The captured state of each is recorded, and the files of a dead process can be closed."""

    def __init__(
        self, store: SnapshotStore, machine: WatchedEngine, ledger: Ledger, node: str, now_ns: Callable[[], int]
    ) -> None:
        super().__init__(store, machine, software="simulation", now_ns=now_ns, executor=SimExecutor())
        self._ledger = ledger
        self._node = node
        self._opened: list[SnapshotSource] = []
        self._sinks: list[SnapshotSink] = []
        self.restored = 0

    def capture(self, mark: SnapshotMark) -> None:
        machine = self._machine
        assert isinstance(machine, WatchedEngine)
        self._ledger.agree(self._node, "full hash", (machine.place, machine.engine.state_hash), machine.engine.full_hash())
        super().capture(mark)

    def restore(self, mark: SnapshotMark) -> None:
        super().restore(mark)
        self.restored += 1

    @property
    def received(self) -> int:
        """The number of transfers that began."""
        return len(self._sinks)

    def open_source(self) -> SnapshotSource:
        self._opened.append(super().open_source())
        return self._opened[-1]

    def open_sink(self) -> SnapshotSink:
        self._sinks.append(super().open_sink())
        return self._sinks[-1]

    def close(self) -> None:
        """Close the files of a process that has ended."""
        for source in self._opened:
            source.close()
        for sink in self._sinks:
            sink.abort()


class Reader:
    """A reader of one product's feed that changes nodes and must see every event once, the same as all others. It
    rebuilds the book.
    """

    audience = Audience.FULL
    writable = True

    def __init__(self, ledger: Ledger, product: str) -> None:
        self._ledger = ledger
        self._product = product
        self._next = 1
        self._at: tuple[EngineService, Subscription] | None = None
        self._book = OrderBook()
        self.seen = 0
        self.skipped = 0
        self.compared = 0

    @property
    def service(self) -> EngineService | None:
        """The service that it reads from."""
        return self._at[0] if self._at is not None else None

    def send(self, frame: bytes) -> bool:
        for event in [event for body in FrameSplitter().feed(frame) for event in _decode(body).events]:
            if event.product_sequence != self._next:
                raise self._ledger.violation(f"a reader of {self._product} got {event.product_sequence}, not {self._next}")
            if self._ledger.recorded("event", (self._product, self._next)) != _encode(event):
                raise self._ledger.violation(f"a reader of {self._product} got another event {self._next} than was published")
            self._next += 1
            self.seen += 1
            self._book.apply(event)
        return True

    def compare(self) -> None:
        """Raise a violation if the node that is read from has another book at the same sequence."""
        if self._at is None:
            return
        view = self._view(self._at[0])
        if view.product_sequence == self._next - 1:
            self.compared += 1
            if rows_of(view) != self._book.rows():
                raise self._ledger.violation(f"the book of {self._product} rebuilt from events is not that at {self._next - 1}")

    def _view(self, service: EngineService) -> BookView:
        """Return the book that a node answers with."""
        answers: list[msgspec.Struct] = []
        service.query(READER, Query(1, BookQuery(self._product, 3), False), answers.append)
        (answer,) = answers
        assert isinstance(answer, Answer), answer
        return msgspec.msgpack.decode(answer.body, type=BookView)

    def _begin_anew(self, service: EngineService) -> None:
        """Continue from a node's present state, the book included."""
        view = self._view(service)
        self._next, self._book = view.product_sequence + 1, OrderBook()
        for side, rows in rows_of(view).items():
            for price, size, order in rows:
                self._book.opened(order, side, price, size)

    def feed_ended(self, subscription: Subscription, reason: str) -> None:
        self._at = None

    def move(self, service: EngineService) -> None:
        """Leave the node, and continue at another one; from its present state if the missing events are not kept there."""
        self.leave()
        try:
            subscription = service.subscribe(self, Subscribe(1, self._product, self._next))
        except RequestFailed as error:
            if error.code is FailCode.TOO_OLD:
                self.skipped += 1
                self._begin_anew(service)
            return
        self._at = (service, subscription)
        service.feed.resume(subscription)

    def leave(self) -> None:
        """Read from no node."""
        if self._at is not None:
            service, subscription = self._at
            service.feed.unsubscribe(subscription)
        self._at = None
