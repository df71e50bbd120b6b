"""What an exchange did, as the lines of text that scripts compare."""

from __future__ import annotations

from decimal import Decimal

from statemachine.events import (
    Amended,
    AnyEvent,
    AnyOutcome,
    Armed,
    AuctionIndicated,
    Cancelled,
    Done,
    OrderActivated,
    OrderChanged,
    OrderDone,
    OrderMatched,
    OrderOpened,
    OrderReceived,
    OrderState,
    Paired,
    Placed,
    Proposed,
    Rejected,
    Replaced,
    StatusChanged,
    Switched,
    TradeCorrected,
    TradingSwitched,
    Transferred,
)
from statemachine.types import ChangeReason, CorrectionKind, DoneReason, OrderStatus, OrderType, Side, StatusCause, Switch

SECOND = 10**9


class Traces:
    """Events, outcomes and orders of one exchange as text, with amounts in its currencies' decimals."""

    def __init__(self) -> None:
        self.scales: dict[str, int] = {}
        self.pairs: dict[str, tuple[str, str]] = {}
        self.seconds = 0
        self.proposed = 0

    def text(self, units: int, currency: str) -> str:
        return f"{Decimal(units).scaleb(-self.scales.get(currency, 0)).normalize():f}"

    def event(self, event: AnyEvent) -> str:
        base, quote = self.pairs[event.product_id]
        head = f"{event.product_id} {event.product_sequence}"
        match event:
            case OrderReceived():
                oid = f" oid={event.client_oid}" if event.client_oid else ""
                size = f" {self.text(event.size, base)}" if event.size else ""
                price = f" @ {self.text(event.price, quote)}" if event.order_type is OrderType.LIMIT else " market"
                funds = f" for {self.text(event.funds, quote)} {quote}" if event.funds else ""
                return f"{head} received #{event.order_id} {event.account_id} {event.side.name.lower()}{size}{price}{funds}{oid}"
            case OrderOpened():
                return f"{head} open #{event.order_id} {self.text(event.remaining, base)} @ {self.text(event.price, quote)}"
            case OrderMatched():
                fees = f"{self.text(event.maker_fee, quote)} maker, {self.text(event.taker_fee, quote)} taker"
                who = f"#{event.maker_order_id} {event.maker_account_id} by #{event.taker_order_id} {event.taker_account_id}"
                size, price = self.text(event.size, base), self.text(event.price, quote)
                trade = "auction trade" if event.auction else "trade"
                return f"{head} {trade} {event.trade_id}: {size} @ {price}, {who}, fees {fees}"
            case OrderChanged():
                return f"{head} {self.order_change(event, base, quote)}"
            case OrderDone():
                left = f", {self.text(event.remaining, base)} left" if event.remaining else ""
                book = ", off the book" if event.resting else ""
                return f"{head} done #{event.order_id} {event.reason.name.lower()}{left}{book}"
            case OrderActivated():
                size = f" {self.text(event.size, base)}" if event.size else ""
                stop = f"{event.stop.name.lower()} at {self.text(event.stop_price, quote)}"
                return f"{head} active #{event.order_id} {event.account_id} {event.side.name.lower()}{size}, {stop}"
            case StatusChanged():
                opened = (
                    f", opened {self.text(event.open_size, base)} @ {self.text(event.open_price, quote)}"
                    if event.open_size
                    else ""
                )
                cause = (
                    f", by the {event.cause.name.lower().replace('_', ' ')}" if event.cause is not StatusCause.OPERATOR else ""
                )
                until = f", at least until {Decimal(event.until) / SECOND:f}" if event.until else ""
                return f"{head} {event.status.name.lower()}{opened}{cause}{until}"
            case TradingSwitched():
                names = [switch.name.lower() for switch in Switch if event.switches & switch]
                note = f": {event.note}" if event.note else ""
                return f"{head} switches of the {event.scope.name.lower()}: {', '.join(names) or 'all on'}{note}"
            case AuctionIndicated():
                what = f"{self.text(event.size, base)} @ {self.text(event.price, quote)}" if event.size else "nothing"
                surplus = f", {self.text(abs(event.surplus), base)} more to {'buy' if event.surplus > 0 else 'sell'}"
                described = f"{head} the auction would trade {what}{surplus if event.surplus else ''}"
                return f"{described}{', extended' if event.extended else ''}, at least until {Decimal(event.until) / SECOND:f}"
            case TradeCorrected():
                fees = f"fees {self.text(event.buyer_fee, quote)} buyer, {self.text(event.seller_fee, quote)} seller"
                what = f"{self.text(event.size, base)} @ {self.text(event.old_price, quote)}"
                to = f" -> {self.text(event.new_price, quote)}" if event.kind is CorrectionKind.PRICE else ""
                who = f"{event.buyer_account_id} from {event.seller_account_id}"
                return f"{head} {event.kind.name.lower()} of trade {event.trade_id}: {what}{to}, {who}, {fees}"
        raise AssertionError(f"scripts have no report streams: {event}")

    def order_change(self, event: OrderChanged, base: str, quote: str) -> str:
        unit = quote if event.by_funds else base
        if event.reason is ChangeReason.TRAILED:
            return f"trailed #{event.order_id}, stop at {self.text(event.new_stop_price, quote)}"
        if event.reason is ChangeReason.REPRICED:
            prices = f"{self.text(event.price, quote)} -> {self.text(event.new_price, quote)}"
            return f"repriced #{event.order_id}, {self.text(event.new, base)} @ {prices}"
        change = {ChangeReason.AUCTION: "auction change", ChangeReason.AMENDED: "amended"}.get(event.reason, "change")
        text = f"{change} #{event.order_id} {self.text(event.old, unit)} -> {self.text(event.new, unit)} {unit}"
        if event.reason is ChangeReason.AMENDED:
            stop = f", stop at {self.text(event.new_stop_price, quote)}" if event.new_stop_price else ""
            text += f" @ {self.text(event.price, quote)} -> {self.text(event.new_price, quote)}{stop}"
            text += f", {'requeued' if event.requeued else 'in its place'}{', off the book' if event.resting and event.requeued else ''}"
        return text

    def outcome(self, outcome: AnyOutcome) -> str:
        again = f"again, as command {outcome.sequence}: " if outcome.duplicate else ""
        match outcome:
            case Rejected():
                field = f" {outcome.field}" if outcome.field else ""
                return f"{again}rejected {outcome.reason.name}{field}: {outcome.detail}"
            case Done():
                return f"{again}{'ok' if outcome.changed else 'ok, nothing changed'}"
            case Switched():
                done = "ok" if outcome.changed else "ok, nothing changed"
                done += f", {outcome.cancelled} cancelled" if outcome.cancelled else ""
                return f"{again}{done}{', more to come' if outcome.pending else ''}"
            case Proposed():
                self.proposed = outcome.proposal_id
                return f"{again}proposal {outcome.proposal_id}, waits for consent until {outcome.expires_at // SECOND}"
            case Transferred():
                available, hold = self.text(outcome.available, outcome.currency), self.text(outcome.hold, outcome.currency)
                return f"{again}{available} {outcome.currency} available, {hold} on hold"
            case Placed():
                return f"{again}{self.order(outcome.order)}"
            case Amended():
                return f"{again}amended {self.order(outcome.order)}"
            case Armed():
                left = outcome.fires_at // SECOND - self.seconds
                return f"{again}cancels all in {left} seconds" if outcome.fires_at else f"{again}no timer"
            case Paired():
                return f"{again}pair: {self.order(outcome.limit)} | {self.order(outcome.stop)}"
            case Replaced():
                return f"{again}replaced #{outcome.cancelled.order_id} by {self.order(outcome.placed)}"
            case Cancelled():
                shown = [
                    f"#{order.order_id} with {self.text(order.remaining, self.pairs[order.product_id][0])}"
                    for order in outcome.orders
                ]
                return f"{again}cancelled {', '.join(shown) or 'nothing'}"
        raise AssertionError(f"scripts have no report streams: {outcome}")

    def order(self, order: OrderState) -> str:
        base, quote = self.pairs[order.product_id]
        status = order.done_reason.name if order.status is OrderStatus.DONE else order.status.name
        parts = [f"#{order.order_id} {status.lower()}"]
        if order.filled_size:
            filled, value, fees = (
                self.text(order.filled_size, base),
                self.text(order.executed_value, quote),
                self.text(order.fill_fees, quote),
            )
            parts.append(f"{filled} filled for {value} {quote}, fees {fees}")
        if order.remaining:
            parts.append(f"{self.text(order.remaining, base)} left")
        if order.hold or order.done_reason is DoneReason.NONE:
            pays = quote if order.side is Side.BUY else base
            parts.append(f"holds {self.text(order.hold, pays)} {pays}")
        return "; ".join(parts)
