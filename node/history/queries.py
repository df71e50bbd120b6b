"""Reads a history, newest rows first: from the database, and from the files of older days. Gateways read in threads.

Rows of an account are in the order of the commands that made them; see `pages.PageRequest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, RowMapping, Select, Table, select

from node.config.settings import NodeConfig
from node.history import tables
from node.history.candles import HOUR, MINUTE, Candle, aggregate
from node.history.database import check, connect, is_made
from node.history.pages import PageRequest, Place, TransferKind
from node.history.partitions import ID_MAX, Row, RowRequest, Times, Where, latest, newest
from node.history.projection import NOT_STORED, terms_of
from node.history.store import HistoryProgress, LogGap, progress_of
from statemachine.events import OrderMatched, OrderState
from statemachine.types import DoneReason, OrderStatus, OrderType, SelfTradePrevention, Side, StopType, TimeInForce

ORDERS = ("order_id",)
PLACE_MAX = 10_000
"""Trades of an account with the same place: at most one of each product."""
CANDLE = [tables.candles.c[name] for name in Candle.__struct_fields__]


class HistoryReader:
    """A history, for reading only.

    progress:       `progress`, `gaps`
    of an account:  `order`, `order_by_client_oid`, `done_orders`, `fills`, `ledger`, `transfers`, `transfer`
    of a product:   `trades`, `candles`, `minutes`, `status_changes`
    of several:     `hours`, `traded`, `operations`
    """

    def __init__(self, config: NodeConfig) -> None:
        self._engine: Engine = connect(config, read_only=True)
        self._home = config.history_path
        self._checked = False

    @property
    def place(self) -> str:
        """The database's URL without a password."""
        return self._engine.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def progress(self) -> HistoryProgress:
        """Return the position up to which the history goes, or the beginning if the database does not exist yet.

        Raises:
            HistoryError: the database has another schema than this version.
            sqlalchemy.exc.SQLAlchemyError: it cannot be read.
        """
        if not self._checked:
            if not is_made(self._engine):
                return HistoryProgress()
            with self._engine.connect() as connection:
                check(connection)
            self._checked = True
        rows = self._rows(select(tables.progress))
        return progress_of(rows[0]) if rows else HistoryProgress()

    def confirmed_by(self) -> str:
        """Return the start of the engine whose log was last confirmed to be this history's; "" if there is none yet."""
        rows = self._rows(select(tables.progress.c.confirmed_by)) if self._checked else []
        return str(rows[0]["confirmed_by"]) if rows else ""

    def begin_again(self) -> None:
        """Close the connections and forget the checks: the database may have been replaced."""
        self._engine.dispose()
        self._checked = False

    def gaps(self) -> list[LogGap]:
        """Return the gaps, oldest first."""
        return [LogGap(**row) for row in self._rows(select(tables.gaps).order_by(tables.gaps.c.first_index))]

    def order(self, account_id: str, order_id: int) -> OrderState | None:
        """Return one order of the account."""
        request = RowRequest(
            lambda own: (own.order_id == order_id) & (own.account_id == account_id), ORDERS, 1, order_id, order_id
        )
        return self._order(request)

    def order_by_client_oid(self, account_id: str, client_oid: str) -> OrderState | None:
        """Return the account's latest order under a `client_oid`."""
        return self._order(RowRequest(lambda own: (own.account_id == account_id) & (own.client_oid == client_oid), ORDERS, 1))

    def done_orders(self, account_id: str, product_id: str, before_id: int, page: PageRequest) -> list[OrderState]:
        """Return done orders, the highest id first. `product_id` "" means all products, `before_id` 0 means from the
        newest. The page's limit and times apply; the times are those at which the orders were placed.
        """

        def condition_of(own: Any) -> Any:
            condition = (own.account_id == account_id) & (own.status == int(OrderStatus.DONE))
            if product_id:
                condition &= own.product_id == product_id
            if before_id:
                condition &= own.order_id < before_id
            return condition

        last = before_id - 1 if before_id else ID_MAX
        request = RowRequest(condition_of, ORDERS, page.limit, last=last, times=_times("created_at", page))
        return [order_of(row) for row in self._newest(tables.orders, request)]

    def fills(self, account_id: str, product_id: str, order_id: int, page: PageRequest) -> list[Row]:
        """Return trades of the account. `product_id` "" means all products, `order_id` 0 all orders.

        A trade that no command causes has the sequence of the command before it. So trades of several products may have
        the same place, when auctions open at the same time. A page has all trades of its last place, even above its
        limit: the next page begins behind that place.
        """

        def request_of(side: str) -> RowRequest:
            def condition_of(own: Any) -> Any:
                # Not both conditions: of two indexes the database would choose the account's, which has more to read.
                name, value = ("order_id", order_id) if order_id else ("account_id", account_id)
                condition = getattr(own, f"{side}_{name}") == value
                return condition & (own.product_id == product_id) if product_id else condition

            return _paged(condition_of, ("sequence", "trade_id"), page)

        maker, taker = request_of("maker"), request_of("taker")
        # One transaction: a fill of one side must not be newer than the page of the other side.
        with self._engine.connect() as connection:
            makers, takers = (newest(connection, self._home, tables.trades, side) for side in (maker, taker))
            own = latest(_own_trades(makers, takers, account_id), maker.order, page.limit)
            if product_id or order_id or len(own) < page.limit:
                return own
            last = own[-1]["sequence"], own[-1]["trade_id"]
            makers, takers = (newest(connection, self._home, tables.trades, _at(side, last)) for side in (maker, taker))
            more = _own_trades(makers, takers, account_id)
        return own + [row for row in more if row not in own]

    def ledger(self, account_id: str, currency: str, kind: int | None, page: PageRequest) -> list[Row]:
        """Return the entries of an account's balance in one currency, or of one kind."""

        def condition_of(own: Any) -> Any:
            condition = (own.account_id == account_id) & (own.currency == currency)
            return condition if kind is None else condition & (own.kind == kind)

        return self._newest(tables.ledger, _paged(condition_of, ("sequence", "position"), page))

    def transfers(self, account_id: str, currency: str, kind: TransferKind | None, page: PageRequest) -> list[Row]:
        """Return deposits, withdrawals and transfers, or one kind of them. `currency` "" means all currencies."""

        def condition_of(own: Any) -> Any:
            condition = own.account_id == account_id
            if currency:
                condition &= own.currency == currency
            if kind is not None:
                condition &= (own.amount > 0) if kind.incoming else (own.amount < 0)
                condition &= (own.other_account_id != "") if kind.internal else (own.other_account_id == "")
            return condition

        return self._newest(tables.transfers, _paged(condition_of, ("sequence", "sequence"), page))

    def transfer(self, account_id: str, transfer_id: str) -> Row | None:
        """Return the account's transfer under this id: its own before one that another account gave the same id, then
        the latest.
        """

        def condition_of(own: Any) -> Any:
            return (own.account_id == account_id) & (own.transfer_id == transfer_id)

        def initiated(own: Any) -> Any:
            return condition_of(own) & ((own.other_account_id == "") | (own.amount < 0))

        for where in (initiated, condition_of):
            rows = self._newest(tables.transfers, RowRequest(where, ("sequence",), 1))
            if rows:
                return rows[0]
        return None

    def status_changes(self, product_id: str, limit: int, below: int, above: int) -> list[RowMapping]:
        """Return changes of a product's status, newest first, with product sequences above `above` and, unless it is 0,
        below `below`.
        """
        own = tables.status_changes.c
        found = select(tables.status_changes).where(own.product_id == product_id, own.product_sequence > above)
        if below:
            found = found.where(own.product_sequence < below)
        return self._rows(found.order_by(own.product_sequence.desc()).limit(limit))

    def operations(self, sender: str, limit: int, below: int, above: int) -> list[RowMapping]:
        """Return the commands of the operator, newest first, with sequences above `above` and, unless it is 0, below
        `below`. `sender` "" means all.
        """
        own = tables.operations.c
        found = select(tables.operations).where(own.sequence > above)
        if sender:
            found = found.where(own.sender == sender)
        if below:
            found = found.where(own.sequence < below)
        return self._rows(found.order_by(own.sequence.desc()).limit(limit))

    def trades(self, product_id: str, limit: int, before_id: int) -> list[OrderMatched]:
        """Return a product's trades, newest first, below trade `before_id` unless that is 0."""

        def condition_of(own: Any) -> Any:
            condition = own.product_id == product_id
            return condition & (own.trade_id < before_id) if before_id else condition

        return [_trade(row) for row in self._newest(tables.trades, RowRequest(condition_of, ("trade_id",), limit))]

    def candles(self, product_id: str, granularity: int, start: int, end: int) -> list[Candle]:
        """Return candles of buckets that begin from `start` to `end` (seconds since the epoch), oldest first."""
        stored = HOUR if granularity % HOUR == 0 else MINUTE
        own = tables.candles.c
        first, behind = start - start % -granularity, end - end % granularity + granularity
        conditions = (own.product_id == product_id, own.granularity == stored, own.start >= first, own.start < behind)
        with self._engine.connect() as connection:
            found = connection.execute(select(*CANDLE).where(*conditions).order_by(own.start))
            return aggregate((Candle(*row) for row in found), granularity)

    def hours(self, product_ids: Sequence[str], start: int) -> dict[str, list[Candle]]:
        """Return each product's candles of an hour from `start` on (seconds since the epoch), oldest first. Products
        without candles are left out.
        """
        own = tables.candles.c
        conditions = (own.product_id.in_(product_ids), own.granularity == HOUR, own.start >= start)
        found: dict[str, list[Candle]] = {}
        with self._engine.connect() as connection:
            rows = connection.execute(select(own.product_id, *CANDLE).where(*conditions).order_by(own.product_id, own.start))
            for product_id, *row in rows:
                found.setdefault(product_id, []).append(Candle(*row))
        return found

    def traded(self, account_id: str, start: int) -> dict[str, tuple[int, int]]:
        """Return what the account has traded of each product in the hours from `start` on (seconds since the epoch):
        base units, and quote units.
        """
        own = tables.volumes.c
        found: dict[str, tuple[int, int]] = {}
        for row in self._rows(select(tables.volumes).where(own.account_id == account_id, own.start >= start)):
            volume, value = found.get(row["product_id"], (0, 0))
            found[row["product_id"]] = volume + row["volume"], value + row["value"]
        return found

    def minutes(self, product_id: str, start: int) -> tuple[list[Candle], OrderMatched | None]:
        """Return candles of a minute from `start` on (seconds since the epoch), oldest first, and the last trade in
        them.
        """
        own = tables.candles.c
        conditions = (own.product_id == product_id, own.granularity == MINUTE, own.start >= start)
        last = RowRequest(lambda own: own.product_id == product_id, ("trade_id",), 1)
        # One transaction: both reads see the same moment.
        with self._engine.connect() as connection:
            candles = [Candle(*row) for row in connection.execute(select(*CANDLE).where(*conditions).order_by(own.start))]
            trades = newest(connection, self._home, tables.trades, last) if candles else []
        return candles, _trade(trades[0]) if trades else None

    def _order(self, request: RowRequest) -> OrderState | None:
        rows = self._newest(tables.orders, request)
        return order_of(rows[0]) if rows else None

    def _newest(self, table: Table, request: RowRequest) -> list[Row]:
        """Return the rows from the database and from files."""
        with self._engine.connect() as connection:
            return newest(connection, self._home, table, request)

    def _rows(self, found: Select[Any]) -> list[RowMapping]:
        with self._engine.connect() as connection:
            return list(connection.execute(found).mappings())


def _paged(where: Where, order: tuple[str, str], page: PageRequest) -> RowRequest:
    """Return the page's rows, newest first. `order` is a sequence and a number under it."""
    after, before = page.after, page.before

    def within(own: Any) -> Any:
        sequence, number, condition = getattr(own, order[0]), getattr(own, order[1]), where(own)
        if after is not None:
            condition &= (sequence <= after[0]) & ((sequence < after[0]) | (number < after[1]))
        if before is not None:
            condition &= (sequence >= before[0]) & ((sequence > before[0]) | (number > before[1]))
        return condition

    first, last = 0 if before is None else before[0], ID_MAX if after is None else after[0]
    return RowRequest(within, order, page.limit, first, last, _times("time", page))


def _own_trades(makers: Sequence[Row], takers: Sequence[Row], account_id: str) -> list[Row]:
    """Return the account's trades of those found by maker and by taker."""
    own = [row for row in makers if row["maker_account_id"] == account_id]
    return own + [row for row in takers if row["taker_account_id"] == account_id]


def _at(request: RowRequest, place: Place) -> RowRequest:
    """Return the request for all rows of the same kind at a place."""
    sequence, number = place

    def there(own: Any) -> Any:
        return request.where(own) & (own.sequence == sequence) & (own.trade_id == number)

    return request._replace(where=there, limit=PLACE_MAX, first=sequence, last=sequence)


def _times(column: str, page: PageRequest) -> Times | None:
    """Return the page's times, if it has any."""
    return Times(column, page.start, page.end) if page.start is not None or page.end is not None else None


def _trade(row: Row) -> OrderMatched:
    return OrderMatched(**{name: row[name] for name in OrderMatched.__struct_fields__})


def order_of(row: Row) -> OrderState:
    """Return the order of a row. Its hold and other fields that only the engine needs are not stored; they are 0."""
    values = {name: row[name] for name in OrderState.__struct_fields__ if name not in NOT_STORED}
    words = {
        "side": Side(row["side"]),
        "order_type": OrderType(row["order_type"]),
        "time_in_force": TimeInForce(row["time_in_force"]),
        "stp": SelfTradePrevention(row["stp"]),
        "status": OrderStatus(row["status"]),
        "done_reason": DoneReason(row["done_reason"]),
        "stop": StopType(row["stop"]),
        "terms": terms_of(row["terms"]),
    }
    return OrderState(**(values | words), hold=0)
