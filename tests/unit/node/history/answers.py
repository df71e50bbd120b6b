"""All that the API may ask a history of accounts and trades."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from node.history.pages import PageRequest, TransferKind
from node.history.partitions import DAY, Row
from node.history.projection import LedgerKind
from node.history.queries import HistoryReader
from statemachine.events import OrderState
from tests.property.worlds import ACCOUNTS, CURRENCIES, PRODUCTS
from tests.unit.node.history.logs import START, NodeLog

NOON = START + 3 * DAY // 2
"""Of the second day."""


def all_pages(ask: Callable[[PageRequest], list[Row]], number: str, limit: int) -> list[Row]:
    """Return a whole list, read in pages forward and back."""
    found: list[Row] = []
    page = PageRequest(limit)
    while rows := ask(page):
        found += [dict(row) for row in rows]
        page = page._replace(after=(rows[-1]["sequence"], rows[-1][number]))
    newer = ask(PageRequest(1_000, before=(found[-1]["sequence"], found[-1][number]))) if found else []
    assert [dict(row) for row in newer] == found[:-1]
    return found


def all_orders(past: HistoryReader, account_id: str, limit: int) -> list[OrderState]:
    """Return the done orders of an account, read in pages."""
    found: list[OrderState] = []
    while orders := past.done_orders(account_id, "", found[-1].order_id if found else 0, PageRequest(limit)):
        found += orders
    return found


def of_account(past: HistoryReader, name: str) -> Iterator[tuple[str, object]]:
    """Questions of one account, with their answers."""
    yield "orders", all_orders(past, name, 20)
    yield "one by one", [past.order(name, number) for number in range(1, 200, 9)]
    yield "by client_oid", [past.order_by_client_oid(name, f"o{number}") for number in range(0, 30, 5)]
    yield "fills", all_pages(lambda page: past.fills(name, "", 0, page), "trade_id", 20)
    yield "fills of orders", [past.fills(name, "", number, PageRequest()) for number in range(1, 200, 23)]
    yield "transfers", all_pages(lambda page: past.transfers(name, "", None, page), "sequence", 4)
    yield "a transfer", past.transfer(name, "f:USD")
    for kind in (TransferKind(incoming, internal) for incoming in (True, False) for internal in (True, False)):
        yield str(kind), past.transfers(name, "", kind, PageRequest())
    for currency in CURRENCIES:
        yield f"ledger of {currency}", all_pages(lambda page, of=currency: past.ledger(name, of, None, page), "position", 40)  # type: ignore[misc]  # bound now
    yield "fees", past.ledger(name, "USD", LedgerKind.FEE, PageRequest(1_000))
    day = PageRequest(1_000, start=NOON - DAY, end=NOON)
    yield (
        "of a day",
        [past.fills(name, "ETH-USD", 0, day), past.ledger(name, "USD", None, day), past.done_orders(name, "", 0, day)],
    )
    yield (
        "since then",
        [past.fills(name, "ETH-USD", 0, PageRequest(50, start=NOON)), past.ledger(name, "USD", None, PageRequest(50, end=NOON))],
    )


def answers(node: NodeLog) -> dict[str, object]:
    """Questions and answers."""
    past = HistoryReader(node.config)
    by_question = {f"{name}: {question}": answer for name in ACCOUNTS for question, answer in of_account(past, name)}
    for product_id in PRODUCTS:
        by_question[f"trades of {product_id}"] = [past.trades(product_id, 9, before) for before in range(0, 200, 40)]
        by_question[f"minutes of {product_id}"] = past.minutes(product_id, 0)
    past.close()
    return by_question
