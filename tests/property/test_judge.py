"""A judge who knows the exchange from outside only: the messages that it sends, as a client reads them.

From the messages of the channel `full` the judge rebuilds each book with dicts and decimals, and holds the exchange to what
every client expects: no gap in the sequence, trades with the best price and the oldest order first and never beyond the
taker's limit, books that never cross, one price for each opening, no trade while the product does not trade. From the
messages of the channel `user`, from transfers and from corrections the judge keeps double-entry accounts. They must be
those of the exchange after each command.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from node.gateway.catalogue import Product
from node.gateway.channels import encode, event_json, for_books, own_json, parties
from node.gateway.values import order_text
from statemachine.commands import AnyCommand, Batch, Deposit, Transfer, Withdraw
from statemachine.engine import Engine
from statemachine.events import AnyEvent, Transferred
from statemachine.types import ProductStatus, Side
from tests.property.operators import operators, venue_flow
from tests.property.worlds import ACCOUNTS, CURRENCIES, PRODUCTS, SECOND, auction_command, busy_command, foundations, product

Message = dict[str, Any]
Account = tuple[str, str]
"""An owner and a currency."""
TRADING = ("online", "limit_only", "post_only")


class BookJudge:
    """The book of one product. Each side has its prices, and each price its orders, the oldest first."""

    def __init__(self, status: str) -> None:
        self.sequence = 0
        self.trade_id = 0
        self.status = status
        self.sides: dict[str, dict[Decimal, dict[str, Decimal]]] = {"buy": {}, "sell": {}}
        self.places: dict[str, tuple[str, Decimal]] = {}
        self.limits: dict[str, Decimal | None] = {}
        """The limit price of every order that was received and is not done; None: a market order."""
        self.opening: list[Message] = []
        """The trades of an opening that is not complete."""
        self.unexplained = False
        """Did orders trade while the product did not, without a change of the status yet?"""

    def read(self, message: Message) -> None:
        """Apply the next message. Raises AssertionError if it contradicts the messages before."""
        assert message["sequence"] == self.sequence + 1, "a gap"
        self.sequence += 1
        getattr(self, f"_{message['type']}", self._nothing)(message)

    def end_of_command(self) -> None:
        """Check what holds between two commands."""
        assert not self.opening, "an opening without a status"
        assert not self.unexplained, "a trade while the product does not trade"
        bids, asks = self.sides["buy"], self.sides["sell"]
        assert not bids or not asks or max(bids) < min(asks), "the book is crossed"

    def rows(self, side: str) -> list[tuple[Decimal, Decimal, str]]:
        """Return the rows of a book at level 3."""
        prices = sorted(self.sides[side], reverse=side == "buy")
        return [(price, size, order_id) for price in prices for order_id, size in self.sides[side][price].items()]

    def _nothing(self, message: Message) -> None:
        """Ignore a message that changes no book."""

    def _received(self, message: Message) -> None:
        self.limits[message["order_id"]] = Decimal(message["price"]) if message["order_type"] == "limit" else None

    def _open(self, message: Message) -> None:
        order_id, price, size = message["order_id"], Decimal(message["price"]), Decimal(message["remaining_size"])
        assert order_id in self.limits, "an order that was never received"
        assert size > 0
        if order_id in self.places:
            assert self._size(order_id) == 0, "the next slice before the last was traded"
            self._remove(order_id)
        self.places[order_id] = message["side"], price
        self.sides[message["side"]].setdefault(price, {})[order_id] = size

    def _match(self, message: Message) -> None:
        maker, price, size = message["maker_order_id"], Decimal(message["price"]), Decimal(message["size"])
        side, at = self.places[maker]
        best = (max if side == "buy" else min)(self.sides[side])
        assert at == price == best, "not at the best price"
        assert next(iter(self.sides[side][best])) == maker, "not the oldest order"
        assert message["side"] == side, "the maker's side"
        self._count(message, side)
        self._resize(maker, self._size(maker) - size)
        self.unexplained |= self.status not in TRADING

    def _auction_match(self, message: Message) -> None:
        self._count(message, message["side"])
        self.opening.append(message)
        assert message["price"] == self.opening[0]["price"], "two prices in one opening"

    def _count(self, message: Message, maker_side: str) -> None:
        """Check that a trade has the next number, and that neither side trades more than it may."""
        assert message["trade_id"] == self.trade_id + 1
        self.trade_id += 1
        price, buys = Decimal(message["price"]), maker_side == "buy"
        for order_id, buyer in ((message["maker_order_id"], buys), (message["taker_order_id"], not buys)):
            limit = self.limits[order_id]
            assert limit is None or (price <= limit if buyer else price >= limit), "beyond the limit"
        assert message["taker_order_id"] not in self.places or message["type"] == "auction_match", "the taker rests"

    def _change(self, message: Message) -> None:
        order_id = message["order_id"]
        if "new_price" in message and order_id in self.limits and Decimal(message["new_price"]):
            self.limits[order_id] = Decimal(message["new_price"])
        if order_id not in self.places:
            return
        assert Decimal(message["old_size"]) == self._size(order_id)
        if message.get("requeued"):
            self._remove(order_id)
        else:
            self._resize(order_id, Decimal(message["new_size"]))

    def _done(self, message: Message) -> None:
        order_id = message["order_id"]
        if order_id in self.places:
            assert Decimal(message["remaining_size"]) == self._size(order_id), "another size than on the book"
            self._remove(order_id)
        else:
            assert "remaining_size" not in message, "an order that is on no book"
        self.limits.pop(order_id, None)

    def _status_change(self, message: Message) -> None:
        if self.opening:
            assert Decimal(message["open_price"]) == Decimal(self.opening[0]["price"])
            assert Decimal(message["open_size"]) == sum(Decimal(trade["size"]) for trade in self.opening)
        else:
            assert "open_price" not in message
        if self.status == "auction":
            self.unexplained = False  # what an opening left of orders traded as it entered
        self.status, self.opening = message["status"], []

    def _size(self, order_id: str) -> Decimal:
        side, price = self.places[order_id]
        return self.sides[side][price][order_id]

    def _resize(self, order_id: str, size: Decimal) -> None:
        assert size >= 0, "more than the order has"
        side, price = self.places[order_id]
        self.sides[side][price][order_id] = size

    def _remove(self, order_id: str) -> None:
        side, price = self.places.pop(order_id)
        del self.sides[side][price][order_id]
        if not self.sides[side][price]:
            del self.sides[side][price]


class Books:
    """Accounts by double entry: each movement takes from one account what it gives to another. Their sum is always
    zero.
    """

    def __init__(self) -> None:
        self.accounts: dict[Account, Decimal] = defaultdict(Decimal)
        self.trades: dict[tuple[str, int], Message] = {}

    def move(self, source: str, to: str, currency: str, amount: Decimal) -> None:
        self.accounts[source, currency] -= amount
        self.accounts[to, currency] += amount

    def transfer(self, command: AnyCommand, scale: int) -> None:
        """Apply a transfer that the exchange has confirmed."""
        match command:
            case Deposit():
                self.move("outside", command.account_id, command.currency, Decimal(command.amount).scaleb(-scale))
            case Withdraw():
                self.move(command.account_id, "outside", command.currency, Decimal(command.amount).scaleb(-scale))
            case Transfer():
                amount = Decimal(command.amount).scaleb(-scale)
                self.move(command.account_id, command.to_account_id, command.currency, amount)

    def read(self, message: Message) -> None:
        """Apply a message of the channel `user` that both parties may see."""
        base, quote = message["product_id"].split("-")
        number = message["product_id"], message.get("trade_id", 0)
        match message["type"]:
            case "match":
                self.trades[number] = message
                self._settle(message, base, quote, Decimal(1))
            case "trade_bust":
                self._settle(self.trades[number], base, quote, Decimal(-1))
            case "trade_correction":
                buyer, seller = self._sides(self.trades[number])
                more = Decimal(message["new_price"]) - Decimal(message["price"])
                self.move(buyer, seller, quote, more * Decimal(message["size"]))

    def _settle(self, trade: Message, base: str, quote: str, sign: Decimal) -> None:
        buyer, seller = self._sides(trade)
        size = sign * Decimal(trade["size"])
        self.move(seller, buyer, base, size)
        self.move(buyer, seller, quote, size * Decimal(trade["price"]))
        for party in ("maker", "taker"):
            self.move(trade[f"{party}_user_id"], "the exchange", quote, sign * Decimal(trade[f"{party}_fee"]))

    def _sides(self, trade: Message) -> tuple[str, str]:
        maker, taker = trade["maker_user_id"], trade["taker_user_id"]
        return (maker, taker) if trade["side"] == "buy" else (taker, maker)


class Court:
    """The exchange, and its messages as a client gets them."""

    def __init__(self, ground: list[AnyCommand]) -> None:
        self.engine = Engine()
        self.books, self.judges = Books(), dict[str, BookJudge]()
        self.results: list[object] = []
        self.scales: dict[str, int] = {}
        self.products: dict[str, Product] = {}
        for command in ground:
            self.apply(1, command)

    def apply(self, now: int, command: AnyCommand | None) -> None:
        applied = self.engine.apply(Batch(now, [command] if command is not None else []))
        self.results += [*applied.events, *applied.outcomes]
        self.scales = {row.currency: row.scale for row in self.engine.currencies()}
        for row in self.engine.products():
            self.products[row.product_id] = Product(row, self.scales[row.base], self.scales[row.quote])
        for outcome in applied.outcomes:
            if isinstance(outcome, Transferred) and command is not None and not outcome.duplicate:
                self.books.transfer(command, self.scales[outcome.currency])
        for event in applied.events:
            of = self.products[event.product_id]
            judge = self.judges.setdefault(event.product_id, BookJudge("offline"))
            judge.read(self.public(event, of))
            self.books.read(json.loads(encode(own_json(event, of, parties(event) or ("nobody",)))))
        for judge in self.judges.values():
            judge.end_of_command()

    def public(self, event: AnyEvent, of: Product) -> Message:
        found: Message = json.loads(encode(for_books(event, event_json(event, of))))
        return found

    def compare(self) -> None:
        """Check that the judge's books and accounts are those of the exchange."""
        for name, judge in self.judges.items():
            of = self.products[name]
            for side, word in ((Side.BUY, "buy"), (Side.SELL, "sell")):
                rows = [
                    (Decimal(of.price(price)), Decimal(of.size(size)), order_text(order_id))
                    for price, size, order_id in self.engine.book_orders(name, side)
                ]
                assert judge.rows(word) == rows
            row = self.engine.product(name)
            assert row is not None
            assert (judge.status, judge.trade_id) == (ProductStatus(row.status).name.lower(), row.last_trade_id)
        for account in ACCOUNTS:
            held: dict[str, int] = defaultdict(int)
            for order in self.engine.orders(account, limit=1_000):
                base, quote = order.product_id.split("-")
                held[quote if order.side is Side.BUY else base] += order.hold
            for balance in self.engine.balances(account):
                own = self.books.accounts[account, balance.currency].scaleb(self.scales[balance.currency])
                assert own == balance.available + balance.hold, (account, balance.currency)
                assert balance.hold == held[balance.currency], (account, balance.currency)
        for currency in self.engine.currencies():
            assert self.books.accounts["the exchange", currency.currency].scaleb(currency.scale) == currency.fees
        for name in CURRENCIES:
            assert sum(amount for (_, of_currency), amount in self.books.accounts.items() if of_currency == name) == 0


def flow_of(kind: str, random: Random, results: list[object]) -> Iterator[AnyCommand | int]:
    if kind == "venue":
        for command, _ in venue_flow(random, 250, results):
            yield command
        return
    make = busy_command if kind == "busy" else auction_command
    for number in range(250):
        yield make(random, number) if random.random() < 0.95 else random.randrange(30)
        if number % 25 == 24:  # an auction opens where there is one, so that something trades
            yield product(random.choice(PRODUCTS), 0, 0, ProductStatus.ONLINE, f"online-{number}")


@pytest.mark.parametrize("kind", ["venue", "busy", "auctions"])
@pytest.mark.parametrize("seed", range(12))
def test_a_judge_from_outside_finds_nothing(kind: str, seed: int) -> None:
    random = Random(seed)
    court = Court([*foundations(random.choice([(0, 0), (1_000, 3_000), (-1_000, 3_000)]), 5_000), *operators()])
    now = 1
    for command in flow_of(kind, random, court.results):
        now += SECOND * (command if isinstance(command, int) else 1)
        court.apply(now, None if isinstance(command, int) else command)
        court.compare()
    assert kind == "venue" or sum(judge.trade_id for judge in court.judges.values()) > 3


def test_the_judge_finds_every_fault() -> None:
    """Each message of a flow that changes a book is left out, repeated, or sent with a larger size. The judge reports
    each of these faults.
    """
    random = Random(3)
    court, messages = Court(foundations((1_000, 3_000), 5_000)), list[Message]()
    for number in range(120):
        court.apply(number * SECOND + 2, busy_command(random, number))
    judged, name = court.judges[PRODUCTS[1]], PRODUCTS[1]
    for event in court.results:
        if isinstance(event, AnyEvent) and event.product_id == name:
            messages.append(court.public(event, court.products[name]))

    def ends_as(changed: list[Message]) -> bool:
        judge = BookJudge("offline")
        try:
            for number, message in enumerate(changed, 1):
                judge.read(message | {"sequence": number})
        except (AssertionError, KeyError):
            return False
        same = judge.trade_id == judged.trade_id and judge.status == judged.status
        return same and all(judge.rows(side) == judged.rows(side) for side in ("buy", "sell"))

    before = next(number for number, message in enumerate(messages) if message["type"] == "received")
    assert ends_as(messages)
    for place, message in enumerate(messages):
        if place < before or message["type"] not in ("open", "match", "auction_match"):
            continue
        field = "remaining_size" if message["type"] == "open" else "size"
        larger = message | {field: str(Decimal(message[field]) + 1)}
        for changed in ([], [message, message], [larger]):
            assert not ends_as([*messages[:place], *changed, *messages[place + 1 :]]), (place, message, changed)
