"""A gateway over a real engine in this process whose node keeps a history, in a real database."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from node.config.settings import HistoryConfig
from node.history.database import connect, prepare
from node.history.projection import Projection, apply
from node.history.store import HistoryProgress, HistoryStore
from statemachine.commands import AnyCommand, Batch, encode_batch
from statemachine.engine import Engine
from statemachine.events import AnyOutcome
from tests.unit.node.gateway.harness import Exchange, FakeBackend, config, running


class KeptBackend(FakeBackend):
    """An engine with a history, which is `behind` or stores each batch at once."""

    def __init__(self, store: HistoryStore) -> None:
        super().__init__()
        self.behind = False
        self._store = store
        self._other = Engine()
        self._projection = Projection(self._other, {})
        self._waiting: list[Batch] = []
        self.status = {"applied_index": 0}

    def apply(self, *commands: AnyCommand) -> list[AnyOutcome]:
        outcomes = super().apply(*commands)
        self._waiting.append(Batch(self._clock, list(commands)))
        self.status["applied_index"] += 1
        if not self.behind:
            self.store()
        return outcomes

    def store(self) -> None:
        """Store what waits."""
        for batch in self._waiting:
            rows = self._projection.rows(apply(self._other, encode_batch(batch)), self._store.known_orders)
            index = self._store.progress.log_index + 1
            self._store.write(rows, HistoryProgress(index, self._other.sequence, self._other.time))
        self._waiting = []


@contextlib.asynccontextmanager
async def running_with_history(directory: Path) -> AsyncIterator[Exchange]:
    """See `harness.running`; the database is in `directory`."""
    node = msgspec.structs.replace(config(), directory=str(directory), history=HistoryConfig(True))
    node.history_path.mkdir(parents=True)
    database = connect(node)
    prepare(database, node.cluster_id, node.node_id)
    store = HistoryStore(database, node.cluster_id, node.node_id)
    try:
        async with running(KeptBackend(store), node) as exchange:
            yield exchange
    finally:
        store.close()
