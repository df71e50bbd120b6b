"""Simulated clients of a simulated exchange: they look for a leader, send again after a timeout, give up in the end,
and record the answers that they got.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from loadtest.linearizability import Operation, Read, Write
from node.native.protocol import (
    Answer,
    AnyQuery,
    BalancesQuery,
    BookQuery,
    FailCode,
    Failed,
    OrderQuery,
    OrdersQuery,
    ProductsQuery,
    Query,
    Results,
    Submit,
)
from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    CancelAll,
    CancelAllAfter,
    CancelOrder,
    Deposit,
    NewOrder,
    OpenAccount,
    OrderOptions,
    PlaceOrder,
    PlacePair,
    PutCurrency,
    PutFeeOverride,
    PutFeeTiers,
    PutProduct,
    PutProductLimits,
    PutRiskLimits,
    ReplaceOrder,
    SetSwitches,
    Transfer,
    Withdraw,
)
from statemachine.events import AnyOutcome
from statemachine.limits import OPERATOR
from statemachine.types import (
    CollarAction,
    GoodFor,
    OrderType,
    ProductStatus,
    Scope,
    SelfTradePrevention,
    Side,
    StopType,
    TimeInForce,
)

PRODUCTS = ("BTC-USD", "ETH-USD")
CURRENCIES = ("USD", "BTC", "ETH")
ACCOUNTS = ("ann", "bob", "cat", "dan")
MONEY = 10_000
"""The deposit of each account in each currency: so little that lack of funds sometimes decides."""

STATUSES = (*[ProductStatus.AUCTION] * 3, *[ProductStatus.ONLINE] * 5, ProductStatus.CANCEL_ONLY, ProductStatus.LIMIT_ONLY)
"""The statuses that operators give to products: mostly those that begin and end an auction."""

NOTHING_DONE = frozenset({FailCode.NOT_LEADER, FailCode.NO_LEADER, FailCode.OVERLOADED, FailCode.STOPPING})

Reply = Callable[[Results | Answer | Failed, int], None]
"""Gets an answer, and the sequence of the node's state at that moment."""


class Surroundings(Protocol):
    """The parts of the world that a client needs."""

    rng: random.Random
    now: float
    ids: list[str]

    def members(self) -> list[str]:
        """Return the members of the cluster."""

    def request(self, node: str, message: Submit | Query, reply: Reply) -> None:
        """Send a message. The answer may never arrive."""

    def on_outcome(self, command: AnyCommand, outcome: AnyOutcome, number: int) -> None:
        """Record that a client got an outcome of the command with that number."""


def setup() -> list[AnyCommand]:
    """Return the commands that create the market and deposit money in every account."""
    commands: list[AnyCommand] = [PutCurrency(OPERATOR, f"currency-{name}", name, 0) for name in CURRENCIES]
    commands += [put_product(name, f"product-{name}", ProductStatus.ONLINE) for name in PRODUCTS]
    commands += [OpenAccount(OPERATOR, f"open-{name}", name) for name in ACCOUNTS]
    commands += [
        Deposit(account, f"first-{currency}", currency, MONEY)
        for account in ACCOUNTS
        for currency in CURRENCIES
        if (account, currency) != ("dan", "USD")
    ]
    return commands


def put_product(name: str, command_id: str, status: ProductStatus) -> PutProduct:
    """Return the command that adds a product or changes its status."""
    return PutProduct(OPERATOR, command_id, name, name[:3], "USD", 1, 1, 1, 10**6, 10_000, 20_000, status)


@dataclass
class Attempt:
    """One attempt to send a request. `refused`: the answer was that nothing was done."""

    asked: float
    node: str
    answered: float | None = None
    refused: bool = False
    outcomes: list[AnyOutcome] | None = None


@dataclass
class Call:
    """A client's request: commands or a query. `patience` is the number of attempts."""

    number: int
    commands: list[AnyCommand]
    query: AnyQuery | None = None
    linearizable: bool = True
    patience: int = 10
    attempts: list[Attempt] = field(default_factory=list)
    deadline: float = 0.0
    over: bool = False


class Client:
    """A client. It acts for two accounts, which other clients share, and has a few calls in flight at a time.

    Attributes:
        history: its requests and answers, for `loadtest.linearizability`.
    """

    def __init__(self, world: Surroundings, name: str, accounts: tuple[str, ...]) -> None:
        self._world = world
        self._name = name
        self._accounts = accounts
        self._leader = world.ids[0]
        self._calls: list[Call] = []
        self._sent: list[AnyCommand] = []
        self._orders = 0
        self.everything = False
        """Whether it sends all kinds of orders, and the operator's controls and fees."""
        self._writes: list[tuple[AnyCommand, int, Attempt]] = []
        self._reads: list[Read] = []

    @property
    def history(self) -> list[Operation]:
        """The whole history until now."""
        writes: list[Operation] = []
        for command, place, attempt in self._writes:
            outcome = attempt.outcomes[place] if attempt.outcomes is not None else None
            answered = attempt.answered if attempt.refused or outcome is not None else None
            writes.append(Write(command, attempt.asked, answered, outcome))
        return [*writes, *self._reads]

    @property
    def idle(self) -> bool:
        """Whether no call is in flight."""
        return not self._calls

    def begin(self, commands: list[AnyCommand], number: int, *, patience: int) -> Call:
        """Send commands until they are answered, or until no attempt is left."""
        call = Call(number, commands, patience=patience)
        self._sent.extend(commands)
        self._start(call)
        return call

    def step(self, next_number: Callable[[], int], *, load: bool) -> None:
        """Repeat requests whose answers are late, and sometimes begin a new call."""
        rng = self._world.rng
        for call in self._calls:
            if self._world.now >= call.deadline:
                self._again(call)
        self._calls = [call for call in self._calls if not call.over]
        if load and len(self._calls) < 4 and rng.random() < 0.25:
            if rng.random() < 0.4:
                self._read()
            else:
                patience = rng.choice((1, 3, 20))
                self.begin([self._command() for _ in range(rng.choice((1, 1, 1, 3)))], next_number(), patience=patience)

    # ------------------------------------------------------------------ requests

    def _start(self, call: Call) -> None:
        self._calls.append(call)
        self._send(call)

    def _again(self, call: Call) -> None:
        if len(call.attempts) >= call.patience:
            call.over = True
            return
        if self._world.rng.random() < 0.5:
            self._leader = self._world.rng.choice(self._world.members())
        self._send(call)

    def _send(self, call: Call) -> None:
        world, rng = self._world, self._world.rng
        anywhere = not call.linearizable or (call.query is not None and rng.random() < 0.4)
        attempt = Attempt(world.now, rng.choice(world.ids) if anywhere else self._leader)
        call.attempts.append(attempt)
        call.deadline = world.now + rng.uniform(0.2, 1.0)
        if call.query is None:
            self._writes.extend((command, place, attempt) for place, command in enumerate(call.commands))
            message: Submit | Query = Submit(len(call.attempts), call.commands)
        else:
            message = Query(len(call.attempts), call.query, call.linearizable)
        world.request(attempt.node, message, lambda answer, sequence: self._answered(call, attempt, answer, sequence))

    def _answered(self, call: Call, attempt: Attempt, answer: Results | Answer | Failed, sequence: int) -> None:
        attempt.answered = self._world.now
        if isinstance(answer, Results):
            attempt.outcomes = answer.outcomes
            for command, outcome in zip(call.commands, answer.outcomes, strict=True):
                self._world.on_outcome(command, outcome, call.number)
        elif isinstance(answer, Answer) or answer.code is FailCode.NOT_FOUND:
            self._seen(call, attempt, bytes(answer.body) if isinstance(answer, Answer) else None, sequence)
        else:
            self._failed(call, attempt, answer)
            return
        call.over = True
        if self._world.rng.random() < 0.05 and call.query is None:
            again = Call(call.number, call.commands, patience=2)
            self._start(again)

    def _seen(self, call: Call, attempt: Attempt, body: bytes | None, sequence: int) -> None:
        assert call.query is not None
        assert attempt.answered is not None
        self._reads.append(
            Read(
                call.query,
                attempt.asked,
                attempt.answered,
                body,
                linearizable=call.linearizable,
                sequence=-1 if call.linearizable else sequence,
            )
        )

    def _failed(self, call: Call, attempt: Attempt, answer: Failed) -> None:
        """Continue soon at the node that is named as the leader. Sometimes send a read to another node: a node that led
        before may not know what happened since.
        """
        assert answer.code in NOTHING_DONE or answer.code is FailCode.OUTCOME_UNKNOWN, answer
        attempt.refused = answer.code in NOTHING_DONE
        if answer.leader is not None:
            self._leader = answer.leader.node_id
        elif attempt.node == self._leader:
            self._leader = self._world.rng.choice(self._world.members())
        call.deadline = min(call.deadline, self._world.now + 0.03)

    # ------------------------------------------------------------------ what they want

    def _read(self) -> None:
        rng = self._world.rng
        account = rng.choice(self._accounts)
        queries: list[AnyQuery] = [
            BalancesQuery(account),
            BookQuery(rng.choice(PRODUCTS), rng.choice((1, 2, 3))),
            OrdersQuery(account, done=rng.random() < 0.3, limit=20),
            OrderQuery(account, 0, self._some_order()),
            ProductsQuery(),
        ]
        query = rng.choice(queries)
        self._start(Call(0, [], query, linearizable=rng.random() < 0.8, patience=4))

    def _some_order(self) -> str:
        return f"{self._name}-{self._world.rng.randint(max(1, self._orders - 8), max(1, self._orders))}"

    def _command(self) -> AnyCommand:
        rng = self._world.rng
        account, chance = rng.choice(self._accounts), rng.random()
        self._orders += 1
        name = f"{self._name}-{self._orders}"
        if self.everything and rng.random() < 0.3:
            return self._special(account, name)
        if chance < 0.05 and self._sent:
            return rng.choice(self._sent[-10:])
        if chance < 0.07 and self._sent:
            return Deposit(account, self._sent[-1].command_id, "USD", 7)
        if chance < 0.09:
            return put_product(rng.choice(PRODUCTS), f"status-{name}", rng.choice(STATUSES))
        if chance < 0.12:
            return Transfer(account, name, rng.choice(ACCOUNTS), rng.choice(CURRENCIES), rng.randint(1, MONEY // 4))
        if chance < 0.18:
            kind = Deposit if rng.random() < 0.5 else Withdraw
            return kind(account, name, rng.choice(CURRENCIES), rng.randint(1, MONEY // 4))
        if chance < 0.35:
            return CancelOrder(account, name, 0, self._some_order())
        if chance < 0.37:
            return CancelAll(account, name, rng.choice(("", *PRODUCTS)))
        return self._order(account, name)

    def _special(self, account: str, name: str) -> AnyCommand:
        """Return a command that changes or links orders, gives them options, or sets controls or fees."""
        rng = self._world.rng
        product, side, known = rng.choice(PRODUCTS), rng.choice(list(Side)), self._some_order()
        price, kind = 100 + rng.randint(-4, 4), rng.random()
        if kind < 0.2:
            return AmendOrder(account, name, 0, known, "", rng.choice((0, rng.randint(1, 30))), rng.choice((0, price)))
        if kind < 0.3:
            new = self._order(account, name)
            fields = {field: getattr(new, field) for field in NewOrder.__struct_fields__}
            return ReplaceOrder(account, name, 0, known, "", NewOrder(**fields))
        if kind < 0.4:
            away = rng.randint(1, 4) if side is Side.SELL else -rng.randint(1, 4)
            return PlacePair(account, name, product, side, rng.randint(1, 20), 100 + away, 100 - away, 100 - 2 * away)
        if kind < 0.7:
            return self._with_options(self._order(account, name))
        if kind < 0.75:
            return CancelAllAfter(account, name, rng.choice((0, 1, 2)) * 10**9, rng.choice(("", "s")))
        return rng.choice(
            (
                PutFeeTiers(OPERATOR, name, "USD", "", [(0, -5_000, 20_000), (rng.randint(1, 20_000), -9_000, 10_000)]),
                PutFeeOverride(OPERATOR, name, account, rng.choice(("", product)), 0, 10_000, rng.random() < 0.5),
                self._limits(name, product),
                PutRiskLimits(OPERATOR, name, Scope.ACCOUNT, account, "", rng.choice((0, 10)), rng.choice((0, 5))),
                SetSwitches(OPERATOR, name, Scope.ACCOUNT, account, rng.choice((0, 0, 0, 1, 2, 4))),
                SetSwitches(OPERATOR, name, Scope.ACCOUNT, account, 0),
            )
        )

    def _limits(self, name: str, product: str) -> PutProductLimits:
        """Return a collar with short times, with or without a limit state, or none."""
        rng = self._world.rng
        action, ppm = rng.choice(list(CollarAction)), rng.choice((0, 20_000))
        limit = rng.choice((0, 10**8)) if action is not CollarAction.REJECT else 0
        return PutProductLimits(OPERATOR, name, product, ppm, 0, action, 10**8, 10**8, 10**8, 1, limit_ns=limit)

    def _with_options(self, order: PlaceOrder) -> PlaceOrder:
        rng, buys = self._world.rng, order.side is Side.BUY
        if order.order_type is OrderType.LIMIT and not order.stop and rng.random() < 0.6:
            away = (4, -4) if buys else (-4, 4)
            exits = (order.price + away[0], order.price + away[1], order.price + away[1])
            return msgspec.structs.replace(order, options=OrderOptions("s", rng.choice((0, 0, 1, 3)), 0, GoodFor.ANY, 0, *exits))
        stop = StopType.ENTRY if buys else StopType.LOSS
        options = OrderOptions("s", trail=rng.randint(1, 3))
        return msgspec.structs.replace(order, stop=stop, stop_price=100, post_only=False, options=options)

    def _order(self, account: str, name: str) -> PlaceOrder:
        rng = self._world.rng
        side, product = rng.choice(list(Side)), rng.choice(PRODUCTS)
        size, stp = rng.randint(1, 30), rng.choice(list(SelfTradePrevention))
        if rng.random() < 0.15:
            return PlaceOrder(
                account, f"c:{name}", product, side, OrderType.MARKET, 0, size, 0, TimeInForce.IOC, stp=stp, client_oid=name
            )
        tif = rng.choice((*[TimeInForce.GTC] * 5, TimeInForce.GTT, TimeInForce.IOC, TimeInForce.FOK))
        lasts = rng.randint(1, 4) * 10**9 if tif is TimeInForce.GTT else 0
        price, stop, limit = 100 + rng.randint(-4, 4), StopType.NONE, OrderType.LIMIT
        post_only = lasts == 0 and tif is TimeInForce.GTC and rng.random() < 0.1
        if not post_only and rng.random() < 0.15:
            stop = rng.choice((StopType.LOSS, StopType.ENTRY))
        at = 100 + rng.randint(-3, 3) if stop else 0
        return PlaceOrder(account, f"c:{name}", product, side, limit, price, size, 0, tif, post_only, stp, name, stop, at, lasts)


answer_decoder: msgspec.msgpack.Decoder[Results | Answer | Failed] = msgspec.msgpack.Decoder(Results | Answer | Failed)
