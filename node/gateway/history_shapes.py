"""The JSON objects that the history answers with; see `shapes`."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from node.gateway.words import LedgerWord, LiquidityWord, ProductStatusWord, SideWord, TransferWord


class FillJson(TypedDict):
    """A trade as one side sees it; `side` is its own."""

    trade_id: int
    product_id: str
    order_id: str
    user_id: str
    profile_id: str
    liquidity: LiquidityWord
    price: str
    size: str
    fee: str
    side: SideWord
    settled: bool
    created_at: str


TransferEndsJson = TypedDict("TransferEndsJson", {"from": NotRequired[str], "to": NotRequired[str]})
"""The accounts of a transfer between two; empty for a deposit or withdrawal."""


class LedgerDetailsJson(TransferEndsJson):
    """What a balance changed for: a trade, or a transfer."""

    order_id: NotRequired[str]
    trade_id: NotRequired[str]
    product_id: NotRequired[str]
    transfer_id: NotRequired[str]
    transfer_type: NotRequired[str]


class LedgerEntryJson(TypedDict):
    """A change of a balance, and the balance after it."""

    id: str
    amount: str
    balance: str
    created_at: str
    type: LedgerWord
    details: LedgerDetailsJson


class HoldJson(TypedDict):
    """What an open order holds."""

    id: str
    created_at: str
    updated_at: str
    type: str
    ref: str
    amount: str


class BookedTransferJson(TypedDict):
    """A deposit, withdrawal or transfer of the past."""

    id: str
    type: TransferWord
    created_at: str
    completed_at: str
    processed_at: str
    canceled_at: None
    account_id: str
    user_id: str
    amount: str
    currency: str
    details: TransferEndsJson


class TrailingVolumeJson(TypedDict):
    """What the account, and everybody, traded of a product in 30 days, in base coins."""

    product_id: str
    exchange_volume: str
    volume: str
    recorded_at: str


class StatusChangeJson(TypedDict):
    """From its sequence in the product's feed on a product had this status. Where an auction opened and traded, at what price and how much."""

    product_id: str
    sequence: int
    time: str
    status: ProductStatusWord
    open_price: NotRequired[str]
    open_size: NotRequired[str]
