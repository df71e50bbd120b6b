"""Reading a history, newest first. Every call is one question to the database; a gateway makes them in threads.

Rows of an account are in the order of the commands that made them; see `pages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Engine, RowMapping, Select, and_, case, func, select, tuple_, union_all
from sqlalchemy.sql.selectable import CompoundSelect

from node.config.settings import NodeConfig
from node.history import tables
from node.history.candles import HOUR, MINUTE, Candle, aggregate
from node.history.database import connect
from node.history.pages import Page, TransferKind
from node.history.schema import check, is_made
from node.history.store import Gap, Progress, candle_of
from statemachine.events import OrderMatched, OrderState
from statemachine.types import DoneReason, OrderStatus, OrderType, SelfTradePrevention, Side, StopType, TimeInForce

Found = Select[Any] | CompoundSelect[Any]


class History:
    """A history, for reading only.

    Where it stands:  `progress`, `gaps`
    Of an account:    `order`, `order_by_client_oid`, `done_orders`, `fills`, `ledger`, `transfers`, `transfer`
    Of a product:     `trades`, `candles`, `minutes`, `status_changes`
    Of several:       `hours`, `traded`
    """

    def __init__(self, config: NodeConfig) -> None:
        self._engine: Engine = connect(config, read_only=True)
        self._file = None if config.history.database else config.history_path / "history.sqlite"
        self._checked = False

    @property
    def place(self) -> str:
        """The database's URL, without a password."""
        return self._engine.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def progress(self) -> Progress:
        """Up to where it goes; nowhere before it is made.

        Raises:
            HistoryError: the database has another schema than this version.
            sqlalchemy.exc.SQLAlchemyError: it cannot be read.
        """
        if not self._checked:
            if (self._file is not None and not self._file.exists()) or not is_made(self._engine):
                return Progress()
            with self._engine.connect() as connection:
                check(connection)
            self._checked = True
        rows = self._rows(select(tables.progress))
        return Progress(rows[0]["log_index"], rows[0]["sequence"], rows[0]["time"]) if rows else Progress()

    def gaps(self) -> list[Gap]:
        """What is missing, oldest first."""
        return [Gap(**row) for row in self._rows(select(tables.gaps).order_by(tables.gaps.c.first_index))]

    def order(self, account_id: str, order_id: int) -> OrderState | None:
        """One order of the account."""
        own = tables.orders.c
        return self._order(select(tables.orders).where(own.order_id == order_id, own.account_id == account_id))

    def order_by_client_oid(self, account_id: str, client_oid: str) -> OrderState | None:
        """The account's latest order under a `client_oid`."""
        own = tables.orders.c
        mine = select(tables.orders).where(own.account_id == account_id, own.client_oid == client_oid)
        return self._order(mine.order_by(own.order_id.desc()).limit(1))

    def done_orders(self, account_id: str, product_id: str, before_id: int, page: Page) -> list[OrderState]:
        """Orders that are done, by falling id; of one product unless that is empty, and below `before_id` unless that is 0. Of the page its
        limit counts, and its times: when they were placed."""
        own = tables.orders.c
        mine = select(tables.orders).where(own.account_id == account_id, own.status == OrderStatus.DONE)
        if product_id:
            mine = mine.where(own.product_id == product_id)
        if before_id:
            mine = mine.where(own.order_id < before_id)
        mine = _within(mine, own.created_at, page)
        return [order_of(row) for row in self._rows(mine.order_by(own.order_id.desc()).limit(page.limit))]

    def fills(self, account_id: str, product_id: str, order_id: int, page: Page) -> list[RowMapping]:
        """Trades of the account; of one product unless that is empty, of one order unless that is 0."""
        own = tables.trades.c
        sides = []
        for account, order in ((own.maker_account_id, own.maker_order_id), (own.taker_account_id, own.taker_order_id)):
            wanted = [account == account_id]
            if product_id:
                wanted.append(own.product_id == product_id)
            if order_id:
                wanted.append(order == order_id)
            side = _paged(select(tables.trades).where(*wanted), own.sequence, own.trade_id, own.time, page)
            sides.append(select(side.subquery()))
        both = union_all(*sides).subquery()
        return self._rows(select(both).order_by(both.c.sequence.desc(), both.c.trade_id.desc()).limit(page.limit))

    def ledger(self, account_id: str, currency: str, kind: int | None, page: Page) -> list[RowMapping]:
        """Entries of an account's balance of one currency, or of one kind."""
        own = tables.ledger.c
        mine = select(tables.ledger).where(own.account_id == account_id, own.currency == currency)
        if kind is not None:
            mine = mine.where(own.kind == kind)
        return self._rows(_paged(mine, own.sequence, own.position, own.time, page))

    def transfers(self, account_id: str, currency: str, kind: TransferKind | None, page: Page) -> list[RowMapping]:
        """What came and went otherwise than by trades, or one kind of it; of one currency unless that is empty."""
        own = tables.transfers.c
        mine = select(tables.transfers).where(own.account_id == account_id)
        if currency:
            mine = mine.where(own.currency == currency)
        if kind is not None:
            mine = mine.where(own.amount > 0 if kind.incoming else own.amount < 0)
            mine = mine.where(own.other_account_id != "" if kind.internal else own.other_account_id == "")
        return self._rows(_paged(mine, own.sequence, own.sequence, own.time, page))

    def transfer(self, account_id: str, transfer_id: str) -> RowMapping | None:
        """The account's transfer under this id: its own before one that another account gave the same id, then the latest."""
        own = tables.transfers.c
        mine = select(tables.transfers).where(own.account_id == account_id, own.transfer_id == transfer_id)
        received = and_(own.other_account_id != "", own.amount > 0)
        rows = self._rows(mine.order_by(case((received, 1), else_=0), own.sequence.desc()).limit(1))
        return rows[0] if rows else None

    def status_changes(self, product_id: str, limit: int, below: int, above: int) -> list[RowMapping]:
        """Changes of a product's status, newest first; with product sequences below `below` unless that is 0, and above `above`."""
        own = tables.status_changes.c
        found = select(tables.status_changes).where(own.product_id == product_id, own.product_sequence > above)
        if below:
            found = found.where(own.product_sequence < below)
        return self._rows(found.order_by(own.product_sequence.desc()).limit(limit))

    def trades(self, product_id: str, limit: int, before_id: int) -> list[OrderMatched]:
        """A product's trades, newest first; below trade `before_id` unless that is 0."""
        own = tables.trades.c
        found = select(tables.trades).where(own.product_id == product_id)
        if before_id:
            found = found.where(own.trade_id < before_id)
        rows = self._rows(found.order_by(own.trade_id.desc()).limit(limit))
        return [OrderMatched(**{name: row[name] for name in OrderMatched.__struct_fields__}) for row in rows]

    def candles(self, product_id: str, granularity: int, start: int, end: int) -> list[Candle]:
        """Candles of buckets that begin from `start` to `end` (seconds since the epoch), oldest first."""
        stored = HOUR if granularity % HOUR == 0 else MINUTE
        own = tables.candles.c
        first, behind = start - start % -granularity, end - end % granularity + granularity
        wanted = (own.product_id == product_id, own.granularity == stored, own.start >= first, own.start < behind)
        rows = self._rows(select(tables.candles).where(*wanted).order_by(own.start))
        return aggregate(map(candle_of, rows), granularity)

    def hours(self, product_ids: Sequence[str], start: int) -> dict[str, list[Candle]]:
        """Each product's candles of an hour from `start` on (seconds since the epoch), oldest first; one without any is left out."""
        own = tables.candles.c
        wanted = (own.product_id.in_(product_ids), own.granularity == HOUR, own.start >= start)
        found: dict[str, list[Candle]] = {}
        for row in self._rows(select(tables.candles).where(*wanted).order_by(own.product_id, own.start)):
            found.setdefault(row["product_id"], []).append(candle_of(row))
        return found

    def traded(self, account_id: str, start: int) -> dict[str, tuple[int, int]]:
        """What the account has traded of each product in the hours from `start` on (seconds since the epoch): base units, and quote units."""
        own = tables.volumes.c
        found: dict[str, tuple[int, int]] = {}
        for row in self._rows(select(tables.volumes).where(own.account_id == account_id, own.start >= start)):
            volume, value = found.get(row["product_id"], (0, 0))
            found[row["product_id"]] = volume + row["volume"], value + row["value"]
        return found

    def minutes(self, product_id: str, start: int) -> tuple[list[Candle], OrderMatched | None]:
        """Candles of a minute from `start` on (seconds since the epoch), oldest first, and the last trade that is in them."""
        own, traded = tables.candles.c, tables.trades.c
        # One statement: both are of the same moment.
        last_id = select(func.max(traded.trade_id)).where(traded.product_id == product_id).scalar_subquery().label("last_id")
        wanted = (own.product_id == product_id, own.granularity == MINUTE, own.start >= start)
        rows = self._rows(select(tables.candles, last_id).where(*wanted).order_by(own.start))
        last = self.trades(product_id, 1, rows[-1]["last_id"] + 1) if rows else []
        return [candle_of(row) for row in rows], last[0] if last else None

    def _order(self, found: Select[Any]) -> OrderState | None:
        rows = self._rows(found)
        return order_of(rows[0]) if rows else None

    def _rows(self, found: Found) -> list[RowMapping]:
        with self._engine.connect() as connection:
            return list(connection.execute(found).mappings())


def _paged(
    found: Select[Any], sequence: ColumnElement[int], number: ColumnElement[int], time: ColumnElement[int], page: Page
) -> Select[Any]:
    """The page's rows, newest first."""
    place = tuple_(sequence, number)
    if page.after is not None:
        found = found.where(place < page.after)
    if page.before is not None:
        found = found.where(place > page.before)
    return _within(found, time, page).order_by(sequence.desc(), number.desc()).limit(page.limit)


def _within(found: Select[Any], time: ColumnElement[int], page: Page) -> Select[Any]:
    """The rows of the page's times."""
    if page.start is not None:
        found = found.where(time >= page.start)
    if page.end is not None:
        found = found.where(time < page.end)
    return found


def order_of(row: RowMapping) -> OrderState:
    """An order out of its row. What it holds is not stored: 0."""
    values = {name: row[name] for name in OrderState.__struct_fields__ if name != "hold"}
    words = {
        "side": Side(row["side"]),
        "order_type": OrderType(row["order_type"]),
        "time_in_force": TimeInForce(row["time_in_force"]),
        "stp": SelfTradePrevention(row["stp"]),
        "status": OrderStatus(row["status"]),
        "done_reason": DoneReason(row["done_reason"]),
        "stop": StopType(row["stop"]),
    }
    return OrderState(**(values | words), hold=0)
