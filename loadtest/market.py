"""The market of load tests: currencies, products, and an account with money and a key for each client.

The ids of its commands depend only on their contents, so creating the market twice changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Protocol

import msgspec

from loadtest.errors import SetupRefusedError
from statemachine.commands import AnyCommand, Deposit, OpenAccount, PutApiKey, PutCurrency, PutProduct
from statemachine.events import AnyOutcome, Rejected
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.types import Permission

SUBMIT_MAX = 500
"""Commands in one request of the set-up."""


class ProductSpec(msgspec.Struct, frozen=True):
    """A product, and its first price in ticks."""

    product_id: str
    base: str
    quote: str
    tick: int
    lot: int
    min_size: int
    max_size: int
    maker_fee_ppm: int
    taker_fee_ppm: int
    opening_ticks: int
    typical_lots: int
    """The size of a usual order, in lots."""


CURRENCIES: dict[str, int] = {"USD": 8, "BTC": 8, "ETH": 8, "AAPL": 0}
"""Scale of each currency. Dollars have eight digits so that a lot of 10**-6 BTC at a tick of a cent is a whole number
of units; AAPL, counted in whole shares, is for recordings of a stock."""

PRODUCTS: tuple[ProductSpec, ...] = (
    ProductSpec("BTC-USD", "BTC", "USD", 10**6, 100, 100, 10**12, 1_000, 2_000, 6_000_000, 10_000),
    ProductSpec("ETH-USD", "ETH", "USD", 10**6, 100, 100, 10**13, 1_000, 2_000, 300_000, 200_000),
    ProductSpec("ETH-BTC", "ETH", "BTC", 10**3, 10**5, 10**5, 10**13, 500, 1_500, 5_000, 200),
)

RECORDED = ProductSpec("AAPL-USD", "AAPL", "USD", 10**6, 1, 1, 10**9, 0, 0, 58_000, 100)
"""The product on which a recording of a stock trades: ticks of a cent, whole shares, no fees."""

DEPOSITS: dict[str, int] = {"USD": 10**9 * 10**8, "BTC": 10_000 * 10**8, "ETH": 100_000 * 10**8, "AAPL": 10**6}
"""The deposits of each account, in smallest units: enough that funds seldom decide."""


class Trader(msgspec.Struct, frozen=True):
    """An account and the API key it trades with."""

    account_id: str
    key_id: str
    secret: str
    passphrase: str


class Submitter(Protocol):
    """Applies commands and returns their outcomes: `node.native.client.ClusterClient`, or an engine in a test."""

    async def submit(self, commands: Sequence[AnyCommand], deadline: float | None = None) -> list[AnyOutcome]:
        """Return the outcomes, in the order of the commands."""


def traders(count: int, seed: int, prefix: str = "trader") -> list[Trader]:
    """Return `count` traders. Their keys are derived from `seed`, so that another process can derive them too. Use them
    in tests only.
    """
    found = []
    for number in range(count):
        account_id = f"{prefix}-{number:03d}"
        digest = hashlib.sha256(f"{seed}:{account_id}".encode()).digest()
        secret = base64.b64encode(digest).decode()
        found.append(Trader(account_id, f"key-{account_id}", secret, digest[:8].hex()))
    return found


def setup_commands(people: Sequence[Trader]) -> list[AnyCommand]:
    """Return the commands that create the market, in an order in which each finds what it refers to."""
    commands: list[AnyCommand] = [
        PutCurrency(OPERATOR, f"setup:currency:{name}", name, scale) for name, scale in CURRENCIES.items()
    ]
    commands += [_put_product(spec) for spec in (*PRODUCTS, RECORDED)]
    commands += [OpenAccount(OPERATOR, f"setup:account:{person.account_id}", person.account_id) for person in people]
    for person in people:
        commands.append(_put_key(person))
        commands += [Deposit(person.account_id, f"setup:deposit:{name}", name, amount) for name, amount in DEPOSITS.items()]
    return commands


def unit_market(
    product_id: str, deposits: Sequence[tuple[str, str]], amount: int, *, maker_fee_ppm: int = 0, taker_fee_ppm: int = 0
) -> list[AnyCommand]:
    """Return the commands that create one product in whole units of BASE and QUOTE, and accounts with money.

    Args:
        deposits: an account and a currency for each deposit of `amount` units.
    """
    commands: list[AnyCommand] = [PutCurrency(OPERATOR, f"put-{name}", name, 0) for name in ("BASE", "QUOTE")]
    fees = (maker_fee_ppm, taker_fee_ppm)
    commands.append(PutProduct(OPERATOR, f"put-{product_id}", product_id, "BASE", "QUOTE", 1, 1, 1, AMOUNT_MAX, *fees))
    commands += [OpenAccount(OPERATOR, f"open-{name}", name) for name in dict.fromkeys(name for name, _ in deposits)]
    commands += [Deposit(name, f"in-{currency}", currency, amount) for name, currency in deposits]
    return commands


def _put_product(spec: ProductSpec) -> PutProduct:
    return PutProduct(
        OPERATOR,
        f"setup:product:{spec.product_id}",
        spec.product_id,
        spec.base,
        spec.quote,
        spec.tick,
        spec.lot,
        spec.min_size,
        spec.max_size,
        spec.maker_fee_ppm,
        spec.taker_fee_ppm,
    )


def _put_key(person: Trader) -> PutApiKey:
    """Return the command that puts a trader's key. Its id depends on the secret, because a new secret is another
    command.
    """
    permissions = Permission.VIEW | Permission.TRADE | Permission.TRANSFER
    mark = hashlib.sha256(person.secret.encode()).hexdigest()[:12]
    return PutApiKey(
        OPERATOR,
        f"setup:key:{person.key_id}:{mark}",
        person.key_id,
        person.account_id,
        person.secret,
        person.passphrase,
        permissions,
    )


async def set_up(client: Submitter, people: Sequence[Trader]) -> list[tuple[AnyCommand, AnyOutcome]]:
    """Create the market with `client`, which acts for the operator. Returns the commands with their outcomes.

    Raises:
        SetupRefusedError: a command was rejected.
    """
    done: list[tuple[AnyCommand, AnyOutcome]] = []
    commands = setup_commands(people)
    for start in range(0, len(commands), SUBMIT_MAX):
        part = commands[start : start + SUBMIT_MAX]
        outcomes = await client.submit(part)
        for command, outcome in zip(part, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                raise SetupRefusedError(
                    f"{type(command).__name__} {command.command_id}: {outcome.reason.name} {outcome.field} {outcome.detail}"
                )
            done.append((command, outcome))
    return done
