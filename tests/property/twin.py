"""The slow, obvious twin of the engine: plain lists and dicts, scans, loops that count up one lot at a time, exact fractions.

Written from the rules and not from the engine, of which it shares nothing but the messages. It keeps no indexes, no levels and no
cached holds: resting orders are one list in the order of arrival, the best maker is found by looking at all of them, what an account has
on hold is summed up from its orders, and what it has is summed up from a list of postings.
"""

from __future__ import annotations

from dataclasses import dataclass

from statemachine.commands import (
    AnyCommand,
    CancelAll,
    CancelOrder,
    Deposit,
    OpenAccount,
    PlaceOrder,
    PutCurrency,
    PutProduct,
    Transfer,
    Withdraw,
)
from statemachine.types import (
    DoneReason,
    OrderType,
    ProductStatus,
    Reason,
    Side,
    StopType,
    TimeInForce,
)
from tests.property.twin_trading import TRADING, TwinOrder, TwinTrading


@dataclass
class Twin(TwinTrading):
    """The whole exchange again."""

    # -- what it answers ---------------------------------------------------------------------------------------------------------

    def tick(self, now: int) -> None:
        """The time is now `now`: what comes until the next tick comes at this time."""
        self.facts = []
        self.now = now
        going = [order for order in self.known() if 0 < order.expires <= now]
        for order in sorted(going, key=lambda order: (order.expires, order.order_id)):
            self.leave(order, DoneReason.EXPIRED)

    def apply(self, command: AnyCommand) -> object:
        """A `Reason`, or "ok", or the order placed, or the list of orders cancelled; and in a pair with "again" when it came before."""
        apart = type(command).__name__ if isinstance(command, Deposit | Withdraw | Transfer) else ""
        key = (command.account_id, command.command_id, apart)
        if command.account_id not in [*self.accounts, "operator"]:
            return Reason.UNKNOWN_ACCOUNT
        if key in self.seen:
            first, answer = self.seen[key]
            return ("again", answer) if first == command else Reason.COMMAND_ID_REUSED
        answer = self.decide(command)
        self.seen[key] = (command, answer)
        return answer

    def decide(self, command: AnyCommand) -> object:
        if isinstance(command, PutCurrency):
            self.currencies.setdefault(command.currency, command.scale)
            return "ok"
        if isinstance(command, PutProduct):
            return self.put_product(command)
        if isinstance(command, OpenAccount):
            self.accounts.append(command.new_account_id)
            return "ok"
        if isinstance(command, Deposit):
            if command.amount <= 0:
                return Reason.INVALID_AMOUNT
            self.post(command.account_id, command.currency, command.amount)
            return "ok"
        if isinstance(command, Withdraw):
            if command.amount <= 0:
                return Reason.INVALID_AMOUNT
            if command.amount > self.free(command.account_id, command.currency):
                return Reason.INSUFFICIENT_FUNDS
            self.post(command.account_id, command.currency, -command.amount)
            return "ok"
        if isinstance(command, Transfer):
            return self.transfer(command)
        if isinstance(command, CancelOrder):
            return self.cancel(command)
        if isinstance(command, CancelAll):
            return self.cancel_all(command)
        assert isinstance(command, PlaceOrder)
        return self.place(command)

    def put_product(self, command: PutProduct) -> object:
        name = command.product_id
        before = self.products.get(name)
        self.products[name] = command
        self.sequences.setdefault(name, 0)
        self.trades.setdefault(name, 0)
        if before is None or before.status is not command.status:
            opened = self.open_auction(name) if command.status in TRADING else (0, 0)
            self.sequences[name] += 1
            self.facts.append(("StatusChanged", name, self.sequences[name], command.status, *opened))
            self.trigger(name)
        return "ok"

    def transfer(self, command: Transfer) -> object:
        if command.amount <= 0:
            return Reason.INVALID_AMOUNT
        if command.to_account_id not in self.accounts:
            return Reason.UNKNOWN_ACCOUNT
        if command.to_account_id == command.account_id:
            return Reason.INVALID_ID
        if command.amount > self.free(command.account_id, command.currency):
            return Reason.INSUFFICIENT_FUNDS
        self.post(command.account_id, command.currency, -command.amount)
        self.post(command.to_account_id, command.currency, command.amount)
        return "ok"

    # -- leaving -----------------------------------------------------------------------------------------------------------------

    def cancel(self, command: CancelOrder) -> object:
        mine = [order for order in self.orders if order.owner == command.account_id]
        if command.order_id:
            found = [order for order in mine if order.order_id == command.order_id]
        else:
            found = [order for order in mine if order.command.client_oid == command.client_oid != ""][-1:]
        if not found or (command.product_id and found[0].product.product_id != command.product_id):
            return Reason.UNKNOWN_ORDER
        if not found[0].open:
            return Reason.ORDER_ALREADY_DONE
        if self.products[found[0].product.product_id].status is ProductStatus.OFFLINE:
            return Reason.PRODUCT_NOT_TRADING
        self.leave(found[0], DoneReason.CANCELLED)
        return found

    def cancel_all(self, command: CancelAll) -> object:
        if command.product_id and command.product_id not in self.products:
            return Reason.UNKNOWN_PRODUCT
        if command.product_id and self.products[command.product_id].status is ProductStatus.OFFLINE:
            return Reason.PRODUCT_NOT_TRADING
        going = [
            order
            for order in self.known()
            if order.owner == command.account_id
            and command.product_id in ("", order.product.product_id)
            and self.products[order.product.product_id].status is not ProductStatus.OFFLINE
        ]
        for order in going:
            self.leave(order, DoneReason.CANCELLED)
        return going

    # -- entering ----------------------------------------------------------------------------------------------------------------

    def refuse(self, c: PlaceOrder) -> Reason | None:
        product = self.products.get(c.product_id)
        if product is None:
            return Reason.UNKNOWN_PRODUCT
        limit = c.order_type is OrderType.LIMIT
        if product.status is ProductStatus.OFFLINE:
            return Reason.PRODUCT_NOT_TRADING
        if product.status is ProductStatus.CANCEL_ONLY:
            return Reason.PRODUCT_CANCEL_ONLY
        if product.status is ProductStatus.POST_ONLY and not c.post_only:
            return Reason.PRODUCT_POST_ONLY
        if product.status is ProductStatus.LIMIT_ONLY and not limit:
            return Reason.PRODUCT_LIMIT_ONLY
        lasts = c.time_in_force in (TimeInForce.GTC, TimeInForce.GTT)
        if product.status is ProductStatus.AUCTION and not c.stop and not (limit and lasts and not c.post_only):
            return Reason.PRODUCT_IN_AUCTION
        contradictions = [
            limit and c.funds != 0,
            limit and c.post_only and c.time_in_force not in (TimeInForce.GTC, TimeInForce.GTT),
            not limit and c.price != 0,
            not limit and c.post_only,
            not limit and c.time_in_force in (TimeInForce.FOK, TimeInForce.GTT),
            not limit and c.side is Side.SELL and c.size != 0 and c.funds != 0,
        ]
        if any(contradictions):
            return Reason.INVALID_ORDER
        if limit and c.price <= 0:
            return Reason.INVALID_PRICE
        if limit and c.price % product.tick:
            return Reason.PRICE_OFF_TICK
        if not limit and (c.funds < 0 or c.funds == c.size == 0):
            return Reason.INVALID_FUNDS
        if limit or c.size != 0:
            if c.size <= 0:
                return Reason.INVALID_SIZE
            if c.size < product.min_size:
                return Reason.SIZE_TOO_SMALL
            if c.size > product.max_size:
                return Reason.SIZE_TOO_LARGE
            if c.size % product.lot:
                return Reason.SIZE_OFF_LOT
        if c.stop is StopType.NONE and c.stop_price != 0:
            return Reason.INVALID_STOP
        if c.stop is not StopType.NONE:
            if c.stop_price <= 0:
                return Reason.INVALID_STOP
            if c.stop_price % product.tick:
                return Reason.PRICE_OFF_TICK
            if c.post_only or (not limit and (c.funds if c.side is Side.BUY else c.size) == 0):
                return Reason.INVALID_STOP
        lasting = c.time_in_force is TimeInForce.GTT
        if lasting != (c.cancel_after != 0) or (lasting and not 10**9 <= c.cancel_after <= 366 * 24 * 3600 * 10**9):
            return Reason.INVALID_CANCEL_AFTER
        if c.client_oid and any(o.owner == c.account_id and o.command.client_oid == c.client_oid for o in self.known()):
            return Reason.COMMAND_ID_REUSED
        if self.needs(c, product) > self.free(c.account_id, product.quote if c.side is Side.BUY else product.base):
            return Reason.INSUFFICIENT_FUNDS
        if c.post_only and self.makers(TwinOrder(0, c, product, c.size)):
            return Reason.POST_ONLY_WOULD_TAKE
        if product.status is ProductStatus.AUCTION and not c.stop and self.meets_own(c):
            return Reason.OWN_ORDERS_CROSS
        return None

    def meets_own(self, c: PlaceOrder) -> bool:
        """Would it trade with an order of its own account in the auction?"""
        others = [order for order in self.taking_part(c.product_id) if order.owner == c.account_id]
        if c.side is Side.BUY:
            return any(not order.buys and order.command.price <= c.price for order in others)
        return any(order.buys and order.command.price >= c.price for order in others)

    def needs(self, c: PlaceOrder, product: PutProduct) -> int:
        if c.order_type is OrderType.LIMIT:
            return self.hold(TwinOrder(0, c, product, c.size))
        if c.side is Side.BUY:
            return c.funds if c.funds else 1
        return c.size if c.size else product.lot

    def place(self, c: PlaceOrder) -> object:
        refusal = self.refuse(c)
        if refusal is not None:
            return refusal
        product = self.products[c.product_id]
        order = TwinOrder(len(self.orders) + 1, c, product, c.size)
        order.expires = self.now + c.cancel_after if c.cancel_after else 0
        if c.order_type is OrderType.MARKET:
            order.money = c.funds
            order.coins = self.free(c.account_id, product.base)
            if order.buys and not c.funds:
                order.money = self.free(c.account_id, product.quote)
        self.orders.append(order)
        if c.stop is StopType.NONE:
            self.enter(order)
            self.trigger(product.product_id)
        else:
            self.waiting.append(order)
            what = (c.client_oid, c.side, c.order_type, c.stop, c.stop_price, c.price, c.size, c.funds)
            self.tell("OrderActivated", order, order.order_id, order.owner, *what)
        return order
