"""The indexes that find an order: every known order by its id, and an account's orders by their `client_oid`.

This is the plain form: dictionaries. The compiled core has `order_index.pyx` in its place, whose tables refer to orders
directly. Both have only those methods of a dictionary that the rest of the state machine uses.
"""

from __future__ import annotations

from statemachine.entities import Account, Order, Product


class OrdersById(dict[int, Order]):
    """Every known order, open or recently done, by its id."""

    def find(self, order_id: int) -> Order | None:
        """Return the order with an id, or None. O(1)."""
        return self.get(order_id)

    def put(self, order: Order) -> None:
        """Add an order. O(1)."""
        self[order.order_id] = order

    def drop(self, order: Order) -> None:
        """Remove an order that the index has. O(1)."""
        del self[order.order_id]


class OrdersByOid(dict[str, Order]):
    """The latest known order of an account under each `client_oid`. Orders without one are not here."""

    def find(self, client_oid: str) -> Order | None:
        """Return the order with a `client_oid`, or None. O(1)."""
        return self.get(client_oid)

    def put(self, order: Order) -> None:
        """Add an order, in place of an earlier one with its `client_oid`. O(1)."""
        self[order.client_oid] = order

    def put_new(self, order: Order) -> bool:
        """Add an order unless there is one with its `client_oid`. Returns whether there was none. O(1)."""
        return self.setdefault(order.client_oid, order) is order

    def drop(self, order: Order) -> None:
        """Remove an order, unless a later one is in its place. O(1)."""
        if self.get(order.client_oid) is order:
            del self[order.client_oid]


def new_order(order_id: int, account: Account, product: Product) -> Order:
    """Return an order with the default values of all fields. The caller sets `client_oid`."""
    return Order(order_id, account, product)
