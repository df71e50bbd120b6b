"""Auctions, price collars and limit states."""

from __future__ import annotations

from statemachine.types import CollarAction, DoneReason, GoodFor, ProductStatus, Side, StopType, TimeInForce
from tests.property.second_model.orders import Interruption, Kind, Order, Place, Product
from tests.property.second_model.trading import Trading


class Halting(Trading):
    """What interrupts continuous trading."""

    # -- auctions

    def taking_part(self, product: Product, side: Side) -> list[Order]:
        """Return the orders of one side of an auction: by price, those of the book before those that it collected, by time."""
        places = (Place.BOOK, Place.COLLECTED)
        rows = [order for order in self.open if order.product is product and order.place in places and order.terms.side is side]
        return sorted(rows, key=lambda order: (order.rank[0], order.place is Place.COLLECTED, order.arrival))

    def indication(self, product: Product) -> tuple[int, int, int]:
        """Return price, size and surplus of an opening at this moment; zeros if nothing would trade."""
        buys, sells = self.taking_part(product, Side.BUY), self.taking_part(product, Side.SELL)
        if not buys or not sells:
            return 0, 0, 0
        found = []
        for price in range(min(sells[0].price, buys[-1].price), max(buys[0].price, sells[-1].price) + 1, product.tick):
            bought = sum(order.left for order in buys if order.price >= price)
            sold = sum(order.left for order in sells if order.price <= price)
            found.append((price, min(bought, sold), bought - sold))
        most = max(size for _, size, _ in found)
        if not most:
            return 0, 0, 0
        found = [row for row in found if row[1] == most]
        least = min(abs(surplus) for _, _, surplus in found)
        found = [row for row in found if abs(row[2]) == least]
        if all(surplus > 0 for _, _, surplus in found):
            return found[-1]
        if all(surplus < 0 for _, _, surplus in found) or not product.last_price:
            return found[0]
        return min(found, key=lambda row: abs(row[0] - product.last_price))

    def open_auction(self, product: Product, status: ProductStatus) -> None:
        """Let all orders that can trade do so at one price. The caller lets the trades trigger stop orders."""
        price, *_ = self.indication(product)
        while price:
            buy, sell = self.taking_part(product, Side.BUY)[:1], self.taking_part(product, Side.SELL)[:1]
            if not buy or not sell or buy[0].price < price or sell[0].price > price:
                break
            maker, taker = sorted((buy[0], sell[0]), key=lambda order: (order.place is Place.COLLECTED, order.arrival))
            self.trade(maker, taker, price, min(maker.left, taker.left), auction=True)
            for order in (maker, taker):
                order.shown = min(order.shown, order.left)
                if not order.left:
                    self.leave(order, DoneReason.FILLED)
        if price and product.limits is not None:
            product.static_price = price
        product.status = status
        collected = [order for order in self.open if order.product is product and order.place is Place.COLLECTED]
        for order in sorted(collected, key=lambda order: order.arrival):
            options = order.terms.options
            if options is not None and options.good_for is GoodFor.AUCTION:
                self.leave(order, DoneReason.AUCTION_OVER)
            else:
                self.arrive(order, Place.BOOK)

    # -- collars

    def at_collar(self, order: Order) -> int:
        """Return the best price of its side inside the collar."""
        (low, high), tick = order.collar, order.product.tick
        return high // tick * tick if order.buys else -(-low // tick) * tick

    def is_outside(self, order: Order) -> bool:
        """Return whether an order would rest outside the collar of a product that has limit states."""
        limits = order.product.limits
        if limits is None or not limits.limit_ns or not order.can_rest:
            return False
        return order.price > self.at_collar(order) if order.buys else order.price < self.at_collar(order)

    def stop_at_collar(self, order: Order) -> DoneReason:
        """Handle an order whose next trade, or whose price, is outside the collar."""
        product, limits = order.product, order.product.limits
        assert limits is not None
        if limits.action is CollarAction.REJECT or order.terms.time_in_force is TimeInForce.FOK:
            return DoneReason.COLLARED
        makers, (low, high) = self.makers(order), order.collar
        behind = bool(makers) and (makers[0].price < low if order.buys else makers[0].price > high)
        if limits.limit_ns and not behind:
            if not order.can_rest or order.partner is not None:
                return DoneReason.COLLARED
            order.price = self.at_collar(order)
            self.arrive(order, Place.BOOK)
            state = product.interruption
            if state is None or state.side is not order.terms.side:
                ends = self.now + limits.limit_ns
                side = order.terms.side
                product.interruption = Interruption(Kind.LIMIT_STATE, ends, product.status, side, order.collar)
            return DoneReason.NONE
        collected = order.can_rest and not self.would_cross_own(order)
        self.interrupt(product)
        if not collected:
            return DoneReason.COLLARED
        order.stop, order.stop_price = StopType.NONE, 0
        self.arrive(order, Place.COLLECTED)
        return DoneReason.NONE

    def interrupt(self, product: Product) -> None:
        """Begin the halt, or the call of the auction."""
        limits = product.limits
        assert limits is not None
        if limits.action is CollarAction.HALT:
            product.interruption = Interruption(Kind.HALT, self.now + limits.halt_ns, product.status)
            product.status = ProductStatus.CANCEL_ONLY
        else:
            self.call(product, product.status)

    def call(self, product: Product, resume: ProductStatus) -> None:
        assert product.limits is not None
        product.interruption = Interruption(Kind.CALL, self.now + product.limits.call_ns, resume)
        product.status = ProductStatus.AUCTION

    def go_on(self, product: Product) -> None:
        """Handle the end of a limit state, a halt or a call."""
        now, limits = product.interruption, product.limits
        assert now is not None
        if now.kind is Kind.LIMIT_STATE:
            self.leave_limit_states()
            if product.interruption is not None:
                self.interrupt(product)
        elif now.kind is Kind.HALT and limits is not None and limits.call_ns:
            self.call(product, now.resume)
        else:
            price, size, _ = self.indication(product)
            if limits is not None and now.kind is Kind.CALL and size and now.extensions < limits.extensions_max:
                low, high = self.band(product, 2)
                if not low <= price <= high:
                    now.ends, now.extensions = self.now + limits.call_ns, now.extensions + 1
                    return
            product.interruption = None
            self.open_auction(product, now.resume)

    def leave_limit_states(self) -> None:
        """End the limit states in which no order rests at the collar any more."""
        for product in self.products.values():
            state = product.interruption
            if state is None or state.kind is not Kind.LIMIT_STATE:
                continue
            best, (low, high) = self.book(product, state.side)[:1], state.collar
            limit = high // product.tick * product.tick if state.side is Side.BUY else -(-low // product.tick) * product.tick
            inside = not best or (best[0].price < limit if state.side is Side.BUY else best[0].price > limit)
            if inside or product.limits is None or not product.limits.limit_ns:
                product.interruption = None
