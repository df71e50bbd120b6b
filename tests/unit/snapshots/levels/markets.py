"""Random markets that use everything of version 0.2.0, in the schema of both versions."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from statemachine.commands import (
    AnyCommand,
    Batch,
    CancelAll,
    CancelOrder,
    Deposit,
    OpenAccount,
    PlaceOrder,
    PutApiKey,
    PutCurrency,
    PutProduct,
    Transfer,
    Withdraw,
)
from statemachine.limits import CANCEL_AFTER_MIN, OPERATOR
from statemachine.types import OrderType, ProductStatus, SelfTradePrevention, Side, StopType, TimeInForce

STEP = CANCEL_AFTER_MIN // 4
STATUSES = (
    (ProductStatus.ONLINE,) * 3
    + (ProductStatus.AUCTION,) * 2
    + (ProductStatus.POST_ONLY, ProductStatus.LIMIT_ONLY, ProductStatus.CANCEL_ONLY)
)


class Market:
    """A flow of batches. There are few prices and sizes, so that orders trade. Fees and sizes leave fractions."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._number = 0
        self._accounts = ["ann", "bob", "eve"]
        self._products = ["BTC-USD", "ETH-USD"]
        self._time = 1_000_000
        self.repeats = True
        """Whether a command id may come again."""

    def _id(self) -> str:
        """Return a command id, sometimes one that was used before."""
        self._number += 1
        again = self._number > 50 and self._random.random() < 0.03 and self.repeats
        return f"c{self._random.randrange(self._number) if again else self._number}"

    def _trader(self) -> str:
        """Return an account, usually one with money."""
        return self._random.choice(self._accounts[:3] if self._random.random() < 0.9 else self._accounts)

    def foundations(self) -> Batch:
        """Return the commands for currencies, products, and accounts with money."""
        commands: list[AnyCommand] = [PutCurrency(OPERATOR, self._id(), name, 2) for name in ("USD", "BTC", "ETH")]
        commands += [self._product(name, ProductStatus.ONLINE) for name in self._products]
        commands += [OpenAccount(OPERATOR, self._id(), name) for name in self._accounts]
        commands += [
            Deposit(name, self._id(), currency, 10_000_000) for name in self._accounts for currency in ("USD", "BTC", "ETH")
        ]
        return Batch(self._time, commands)

    def _product(self, name: str, status: ProductStatus) -> PutProduct:
        base, quote = name.split("-")
        maker, taker = self._random.choice(((0, 0), (1_000, 2_500), (333, 777)))
        return PutProduct(
            OPERATOR, self._id(), name, base, quote, 100, 1, 1, self._random.choice((500, 1_000)), maker, taker, status
        )

    def _order(self) -> PlaceOrder:
        random = self._random
        side = random.choice(list(Side))
        kind = OrderType.MARKET if random.random() < 0.1 else OrderType.LIMIT
        stop = random.choice((StopType.LOSS, StopType.ENTRY)) if random.random() < 0.15 else StopType.NONE
        force = random.choice((TimeInForce.GTC,) * 5 + (TimeInForce.IOC, TimeInForce.FOK, TimeInForce.GTT))
        force = TimeInForce.GTC if kind is OrderType.MARKET else force
        return PlaceOrder(
            self._trader(),
            self._id(),
            random.choice(self._products),
            side,
            kind,
            100 * random.randrange(96, 105) if kind is OrderType.LIMIT else 0,
            random.randrange(1, 60),
            0,
            force,
            force is TimeInForce.GTC and kind is OrderType.LIMIT and stop is StopType.NONE and random.random() < 0.1,
            random.choice(list(SelfTradePrevention)),
            f"o{random.randrange(40)}" if random.random() < 0.5 else "",
            stop,
            100 * random.randrange(96, 105) if stop is not StopType.NONE else 0,
            random.randrange(1, 8) * CANCEL_AFTER_MIN if force is TimeInForce.GTT else 0,
        )

    def _other(self) -> AnyCommand:
        random, account = self._random, self._trader()
        currency, amount = random.choice(("USD", "BTC", "ETH")), random.randrange(1, 2_000)
        kind = random.randrange(9)
        if kind == 0:
            return Deposit(account, self._id(), currency, amount)
        if kind == 1:
            return Withdraw(account, self._id(), currency, amount)
        if kind == 2:
            return Transfer(account, self._id(), random.choice(self._accounts), currency, amount)
        if kind == 3 and len(self._accounts) < 12:
            self._accounts.append(f"new{self._number}")
            return OpenAccount(OPERATOR, self._id(), self._accounts[-1])
        if kind == 4:
            return PutApiKey(OPERATOR, self._id(), f"k{random.randrange(4)}", account, "c2VjcmV0", "pass", random.randrange(1, 8))
        if kind == 5 and random.random() < 0.2 and len(self._products) < 4:
            self._products.append("ETH-BTC" if "ETH-BTC" not in self._products else "BTC-ETH")
            return self._product(self._products[-1], ProductStatus.ONLINE)
        if kind == 6 and random.random() < 0.3:
            return CancelAll(account, self._id(), random.choice(("", *self._products)))
        return self._product(random.choice(self._products), random.choice(STATUSES))

    def batches(self, count: int) -> Iterator[Batch]:
        """Yield entries of one to eight commands. Some only advance the time."""
        random = self._random
        for _ in range(count):
            self._time += random.randrange(1, STEP)
            commands: list[AnyCommand] = []
            for _ in range(random.randrange(9)):
                chance = random.random()
                if chance < 0.7:
                    commands.append(self._order())
                elif chance < 0.85:
                    commands.append(CancelOrder(self._trader(), self._id(), 0, f"o{random.randrange(40)}"))
                else:
                    commands.append(self._other())
            yield Batch(self._time, commands)
