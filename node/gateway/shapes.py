"""The JSON objects of answers, as types: what handlers must return, and what the OpenAPI document says.

Decimals are strings; `NotRequired` fields are absent where they do not apply.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from node.gateway.words import DoneReasonWord, OrderStatusWord, OrderTypeWord, SideWord, StopWord, StpWord, TimeInForceWord


class ErrorJson(TypedDict):
    """Every answer of 400 and above, and 307. `leader` and `leader_id` are those of a 307."""

    message: str
    field: NotRequired[str]
    reason: NotRequired[str]
    detail: NotRequired[str]
    leader: NotRequired[str]
    leader_id: NotRequired[str]


class TimeJson(TypedDict):
    """The node's clock."""

    iso: str
    epoch: float


class ProductJson(TypedDict):
    """A product."""

    id: str
    display_name: str
    base_currency: str
    quote_currency: str
    base_increment: str
    quote_increment: str
    base_min_size: str
    base_max_size: str
    min_market_funds: str
    maker_fee_rate: str
    taker_fee_rate: str
    status: str
    status_message: str
    trading_disabled: bool
    cancel_only: bool
    post_only: bool
    limit_only: bool
    auction_mode: bool
    margin_enabled: bool


class CurrencyDetailsJson(TypedDict):
    """What else Coinbase's clients read of a currency."""

    type: str
    symbol: str
    sort_order: int
    push_payment_methods: list[str]
    group_types: list[str]


class CurrencyJson(TypedDict):
    """A currency; `max_precision` is its smallest unit."""

    id: str
    name: str
    status: str
    message: str
    max_precision: str
    min_size: str
    convertible_to: list[str]
    details: CurrencyDetailsJson
    default_network: str
    supported_networks: list[str]


class AuctionJson(TypedDict):
    """What an auction would do if it opened now; `can_open`: yes or no, whether anything would trade."""

    auction_state: str
    open_price: str
    open_size: str
    best_bid_price: str
    best_bid_size: str
    best_ask_price: str
    best_ask_size: str
    can_open: str
    timestamp: str


class BookJson(TypedDict):
    """The book after message `sequence`: rows of price, size, and number of orders or, at level 3, the order's id."""

    sequence: int
    bids: list[list[str | int]]
    asks: list[list[str | int]]
    auction_mode: bool
    auction: AuctionJson | None


class TickerJson(TypedDict):
    """The last trade, the best prices, and the volume of 24 hours."""

    trade_id: int
    price: str
    size: str
    time: str
    bid: str
    ask: str
    volume: str


class StatsJson(TypedDict):
    """24 hours in prices and volume, and the volume of 30 days."""

    open: str
    high: str
    low: str
    last: str
    volume: str
    volume_30day: str


class VolumeSummaryJson(TypedDict):
    """What was traded of a product in 24 hours and in 30 days. There are no other markets than the book: their volumes are zero."""

    id: str
    base_currency: str
    quote_currency: str
    display_name: str
    market_types: list[str]
    spot_volume_24hour: str
    spot_volume_30day: str
    rfq_volume_24hour: str
    rfq_volume_30day: str
    conversion_volume_24hour: str
    conversion_volume_30day: str


class TradeJson(TypedDict):
    """A trade; `side` is the maker's."""

    trade_id: int
    side: SideWord
    size: str
    price: str
    time: str


class AccountJson(TypedDict):
    """A balance of one currency."""

    id: str
    currency: str
    balance: str
    available: str
    hold: str
    profile_id: str
    trading_enabled: bool


class ProfileJson(TypedDict):
    """An account's one profile."""

    id: str
    user_id: str
    name: str
    active: bool
    is_default: bool
    has_margin: bool


class UserJson(TypedDict):
    """Whose key it is."""

    id: str


class FeesJson(TypedDict):
    """Fee rates; they do not depend on volume."""

    maker_fee_rate: str
    taker_fee_rate: str
    usd_volume: str | None


class WalletJson(TypedDict):
    """A payment method, or a wallet elsewhere: the exchange has neither, so lists of them are empty."""

    id: str


class FeeEstimateJson(TypedDict):
    """What the exchange takes for a withdrawal."""

    fee: str


class ExchangeLimitsJson(TypedDict):
    """How much may be moved: the exchange sets no limit, so `transfer_limits` is empty."""

    limit_currency: str
    transfer_limits: dict[str, dict[str, str]]


class TransferJson(TypedDict):
    """A booked deposit or withdrawal, with the balance after it."""

    id: str
    amount: str
    currency: str
    available: str
    hold: str
    created_at: str
    duplicate: bool


_Between = TypedDict("_Between", {"from": str, "to": str})


class ProfileTransferJson(TransferJson, _Between):
    """A transfer between accounts; `available` and `hold` are the sender's after it."""


class OrderJson(TypedDict):
    """An order."""

    id: str
    product_id: str
    side: SideWord
    type: OrderTypeWord
    stp: StpWord
    time_in_force: TimeInForceWord
    post_only: bool
    created_at: str
    fill_fees: str
    filled_size: str
    executed_value: str
    status: OrderStatusWord
    settled: bool
    profile_id: str
    price: NotRequired[str]
    size: NotRequired[str]
    funds: NotRequired[str]
    specified_funds: NotRequired[str]
    client_oid: NotRequired[str]
    stop: NotRequired[StopWord]
    stop_price: NotRequired[str]
    expire_time: NotRequired[str]
    done_reason: NotRequired[DoneReasonWord]
    done_at: NotRequired[str]


class PutJson(TypedDict):
    """What a PUT of the operator did; not `changed`: it was there already, the same."""

    id: str
    changed: bool
    sequence: int


class KeyJson(TypedDict):
    """An API key without its secret. `addresses`: the networks it may be used from, none: any. `encrypted`: its secret is, under a cluster key."""

    id: str
    account_id: str
    permissions: list[str]
    addresses: list[str]
    encrypted: bool


class NewKeyJson(TypedDict):
    """An API key that was just made: the only time that its secret and passphrase are told."""

    id: str
    secret: str
    passphrase: str
    sequence: int


class PlaceResultJson(TypedDict):
    """What became of one order of a batch: `order`, or `error`."""

    success: bool
    order: NotRequired[OrderJson]
    error: NotRequired[ErrorJson]
    client_oid: NotRequired[str]


class BatchJson(TypedDict):
    """Results in the order of the request."""

    results: list[PlaceResultJson]


class CancelResultJson(TypedDict):
    """What became of one cancel of a batch."""

    success: bool
    order_id: NotRequired[str]
    client_oid: NotRequired[str]
    error: NotRequired[ErrorJson]


class BatchCancelJson(TypedDict):
    """Results in the order of the request."""

    results: list[CancelResultJson]
