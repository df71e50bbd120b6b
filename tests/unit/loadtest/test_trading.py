"""Clients trade with an engine in this process, and some answers are lost on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from random import Random

import msgspec
import pytest

from loadtest.errors import SetupRefusedError, WrongAnswerError
from loadtest.flow import ClientFlow, recorded_flow
from loadtest.market import set_up, setup_commands, traders
from loadtest.recorder import Recorder
from loadtest.trading import Desk, Pacer
from loadtest.watch import reached
from node.errors import ConnectionLost, RequestFailed
from node.native.protocol import FailCode
from statemachine.commands import AnyCommand, Batch, PutCurrency
from statemachine.engine import Engine
from statemachine.events import AnyOutcome, OrderMatched, Rejected
from statemachine.limits import OPERATOR
from tests.data import RECORDINGS, needs_recordings

PEOPLE = traders(6, 1)


class InProcess:
    """An exchange without a network. A share of `loss` percent of its answers is lost, before or after the commands
    were applied.
    """

    def __init__(self, loss: int = 0, seed: int = 1) -> None:
        self.engine = Engine()
        self.engine.apply(Batch(1, setup_commands(PEOPLE)))
        self.events = 0
        self.trades = 0
        self.losing = loss
        self._random = Random(seed)

    async def submit(self, commands: Sequence[AnyCommand], deadline: float | None = None) -> list[AnyOutcome]:
        await asyncio.sleep(0)
        chance = self._random.randrange(100)
        if chance < self.losing // 2:
            raise ConnectionLost("lost before")
        applied = self.engine.apply(Batch(self.engine.time + 1, list(commands)))
        self.events += len(applied.events)
        self.trades += sum(isinstance(event, OrderMatched) for event in applied.events)
        if chance < self.losing:
            raise RequestFailed(FailCode.OUTCOME_UNKNOWN, "lost after")
        return applied.outcomes


async def trade(exchange: InProcess, desk: Desk, count: int, chunk: int = 4) -> None:
    flows = [islice(ClientFlow(1, person.account_id, "t"), count) for person in PEOPLE]
    await asyncio.gather(*(desk.trade(exchange, flow, chunk) for flow in flows))


async def test_generated_flow_is_answered_right_and_trades() -> None:
    exchange, desk = InProcess(), Desk(Recorder())
    await trade(exchange, desk, 800)
    exchange.engine.check()
    assert desk.faults.texts == []
    assert desk.recorder.acknowledged == 800 * len(PEOPLE)
    assert exchange.trades > 800, "the clients of one seed meet each other"


async def test_lost_answers_change_nothing() -> None:
    exchange, desk = InProcess(loss=20), Desk(Recorder())
    await trade(exchange, desk, 300)
    exchange.engine.check()
    assert desk.faults.texts == []
    assert desk.recorder.unanswered == 0
    assert desk.retried > 0


async def test_books_stay_bounded() -> None:
    exchange, desk = InProcess(), Desk(Recorder())
    await trade(exchange, desk, 3000, 50)
    resting = sum(len(exchange.engine.orders(person.account_id, limit=1000)) for person in PEOPLE)
    assert resting < 40 * len(PEOPLE)


async def test_most_of_the_flow_is_accepted() -> None:
    exchange, kinds = InProcess(), Counter[bool]()
    for person in PEOPLE:
        outcomes = await exchange.submit(list(islice(ClientFlow(1, person.account_id, "t"), 500)))
        kinds.update(isinstance(outcome, Rejected) for outcome in outcomes)
    assert kinds[True] < 0.25 * kinds.total()


class Forgetful(InProcess):
    """An exchange that applies a repeated command a second time."""

    async def submit(self, commands: Sequence[AnyCommand], deadline: float | None = None) -> list[AnyOutcome]:
        outcomes = await super().submit(commands, deadline)
        return [
            msgspec.structs.replace(outcome, sequence=self.engine.sequence) if outcome.duplicate else outcome
            for outcome in outcomes
        ]


async def test_a_command_applied_twice_is_noticed() -> None:
    with pytest.raises(WrongAnswerError, match=r"and \d+ before"):
        await trade(Forgetful(), Desk(Recorder()), 2000)


async def test_a_client_that_may_not_trade_stops() -> None:
    class Closed(InProcess):
        async def submit(self, commands: Sequence[AnyCommand], deadline: float | None = None) -> list[AnyOutcome]:
            raise RequestFailed(FailCode.FORBIDDEN, "no")

    with pytest.raises(RequestFailed, match="no"):
        await trade(Closed(), Desk(Recorder()), 1)


async def test_a_stopping_desk_drops_unanswered_orders() -> None:
    exchange, desk = InProcess(loss=100), Desk(Recorder())
    job = asyncio.create_task(trade(exchange, desk, 5))
    assert await reached(lambda: desk.recorder.unanswered > 0, 5)
    desk.stopping.set()
    async with asyncio.timeout(10):
        await job
    assert desk.recorder.acknowledged == 0
    assert desk.recorder.unanswered > 0


async def test_setting_up_twice_changes_nothing() -> None:
    exchange = InProcess()
    before = exchange.engine.sequence
    done = await set_up(exchange, PEOPLE)
    assert all(outcome.duplicate for _, outcome in done)
    assert exchange.engine.sequence == before + len(done)


async def test_a_refused_set_up_is_an_error() -> None:
    exchange = InProcess()
    exchange.engine = Engine()
    exchange.engine.apply(Batch(1, [PutCurrency(OPERATOR, "other", "USD", 2)]))
    with pytest.raises(SetupRefusedError, match="setup:currency:USD"):
        await set_up(exchange, PEOPLE)


async def test_pacer_spreads_commands() -> None:
    loop = asyncio.get_running_loop()
    pacer = Pacer(1000.0)
    begin = loop.time()
    for _ in range(10):
        await pacer.take(10)
    assert loop.time() - begin >= 0.06


@needs_recordings
async def test_a_recording_is_flow() -> None:
    exchange, desk = InProcess(), Desk(Recorder(), rate=0)
    path = RECORDINGS / "aapl_2012-06-21_ops.csv.gz"
    flow = islice(recorded_flow(path, PEOPLE[0].account_id, PEOPLE[1].account_id), 3000)
    await desk.trade(exchange, flow, 100)
    assert desk.recorder.distinct == 3000
    assert exchange.trades > 0
