"""The failures of a request, and the answers that its client gets.

    QuorumbookError
    ├── ApiError              an answer other than 2xx: status, message, field
    │   ├── BadRequestError   400: the request is invalid
    │   └── UnknownHereError  401 or 404: this node does not know a key, product or currency; another node may know it
    ├── NotLeaderError        nothing was sent, because another node leads
    └── UnavailableError      no node can accept the command at the moment, or its outcome is unknown

`rejection` maps the reject reasons of the exchange to a status and to the text that foreign client libraries recognise.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
from msgspec import UNSET, UnsetType

from node.errors import QuorumbookError
from node.native.protocol import LeaderHint
from statemachine.events import Rejected
from statemachine.types import Reason


class ErrorJson(msgspec.Struct, kw_only=True):
    """The body of every answer of 400 and above, and of 307. Only a 307 has `leader` and `leader_id`."""

    message: str
    field: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    leader: str | UnsetType = UNSET
    leader_id: str | UnsetType = UNSET


class ApiError(QuorumbookError):
    """An answer other than 2xx. `field` names the invalid field, parameter or header ("" if none), and `detail` what
    was expected.
    """

    def __init__(
        self,
        status: int,
        message: str,
        field: str = "",
        *,
        reason: str = "",
        detail: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.reason = reason
        self.detail = detail
        self.headers = headers or {}

    def body(self) -> ErrorJson:
        """Return the JSON object of the answer. It always has `message`, and the other fields if they are not empty."""
        return ErrorJson(
            message=self.message, field=self.field or UNSET, reason=self.reason or UNSET, detail=self.detail or UNSET
        )


class BadRequestError(ApiError):
    """400. The message names the field, unless foreign clients recognise the text without it."""

    def __init__(self, message: str, field: str = "", *, reason: str = "", detail: str = "") -> None:
        super().__init__(400, message, field, reason=reason, detail=detail)


class NewKeyJson(msgspec.Struct, kw_only=True):
    """A new API key. No other answer contains its secret and passphrase. A key that waits for consent has no `sequence`."""

    id: str
    secret: str
    passphrase: str
    sequence: int | UnsetType = UNSET


class ProposedJson(msgspec.Struct, kw_only=True):
    """The body of a 202: nothing is done yet, and these proposals wait for the consent of another user. `key` is the
    key that `POST /admin/keys` made: once the proposal is approved, it is stored.
    """

    message: str
    proposal_ids: list[int]
    expires_at: str
    key: NewKeyJson | UnsetType = UNSET


class ProposedError(ApiError):
    """202: the commands of a request wait for consent and were not applied."""

    def __init__(self, proposal_ids: list[int], expires_at: str) -> None:
        super().__init__(202, "Waits for the consent of another user")
        self._ids = proposal_ids
        self._expires_at = expires_at
        self.key: NewKeyJson | UnsetType = UNSET
        """The key that the proposal stores once it is approved."""

    def body(self) -> ProposedJson:  # type: ignore[override]  # of a 202
        """Return the JSON object of the answer."""
        return ProposedJson(message=self.message, proposal_ids=self._ids, expires_at=self._expires_at, key=self.key)


class UnknownHereError(ApiError):
    """This node does not know the key, product or currency. A follower may be behind, so it forwards commands to the
    leader.
    """


class NotLeaderError(QuorumbookError):
    """The command must go to `leader`. Nothing was done."""

    def __init__(self, leader: LeaderHint) -> None:
        super().__init__(f"{leader.node_id} leads")
        self.leader = leader


class UnavailableError(QuorumbookError):
    """No answer before the deadline. With `outcome_unknown`, the command may or may not be carried out."""

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


REASONS: dict[Reason, tuple[int, str]] = {
    Reason.INVALID_COMMAND_ID: (400, "Invalid client_oid or transfer_id"),
    Reason.INVALID_ID: (400, "Invalid id"),
    Reason.COMMAND_ID_REUSED: (400, "This id was used before with other contents"),
    Reason.UNKNOWN_CURRENCY: (404, "Currency not found"),
    Reason.UNKNOWN_PRODUCT: (404, "Product not found"),
    Reason.UNKNOWN_ACCOUNT: (404, "Account not found"),
    Reason.UNKNOWN_ORDER: (404, "order not found"),
    Reason.ORDER_ALREADY_DONE: (400, "Order already done"),
    Reason.CURRENCY_CHANGED: (400, "A scale, currency, tick or lot cannot change once it exists"),
    Reason.INVALID_SCALE: (400, "Invalid scale"),
    Reason.INVALID_PRODUCT: (400, "Invalid product"),
    Reason.INVALID_FEE: (400, "Invalid fee"),
    Reason.INVALID_PERMISSIONS: (400, "Invalid permissions"),
    Reason.INVALID_ADDRESSES: (400, "Invalid addresses"),
    Reason.INVALID_AMOUNT: (400, "Invalid amount"),
    Reason.INSUFFICIENT_FUNDS: (400, "Insufficient funds"),
    Reason.AMOUNT_TOO_LARGE: (400, "The amount is too large"),
    Reason.INVALID_PRICE: (400, "Invalid price"),
    Reason.INVALID_SIZE: (400, "Invalid size"),
    Reason.INVALID_FUNDS: (400, "Invalid funds"),
    Reason.PRICE_OFF_TICK: (400, "price too precise"),
    Reason.SIZE_OFF_LOT: (400, "size too precise"),
    Reason.SIZE_TOO_SMALL: (400, "size is too small"),
    Reason.SIZE_TOO_LARGE: (400, "size is too large"),
    Reason.INVALID_ORDER: (400, "Invalid order"),
    Reason.POST_ONLY_WOULD_TAKE: (400, "Post only order would take liquidity"),
    Reason.PRODUCT_NOT_TRADING: (400, "Trading pair not available"),
    Reason.PRODUCT_LIMIT_ONLY: (400, "Limit only mode"),
    Reason.PRODUCT_POST_ONLY: (400, "Post only mode"),
    Reason.PRODUCT_CANCEL_ONLY: (400, "Cancel only mode"),
    Reason.PRODUCT_IN_AUCTION: (400, "Auction mode: only limit orders that can rest are accepted"),
    Reason.TOO_MANY_OPEN_ORDERS: (400, "Too many open orders"),
    Reason.INVALID_STOP: (400, "Invalid stop order"),
    Reason.TOO_MANY_CANCELS: (400, "Too many mass cancels of this account are under way; try again in a moment"),
    Reason.TOO_MANY_TRAILING: (400, "Too many trailing stop orders"),
    Reason.TOO_MANY_TIMERS: (400, "Too many timers of this account"),
    Reason.INVALID_TIMEOUT: (400, "Invalid timeout"),
    Reason.NOT_AMENDABLE: (400, "This order cannot be amended so"),
    Reason.INVALID_CANCEL_AFTER: (400, "Invalid cancel_after"),
    Reason.CHANGED_MEANWHILE: (409, "Changed by another request meanwhile"),
    Reason.OWN_ORDERS_CROSS: (400, "The order would trade with one of your own in this auction"),
    Reason.AUCTION_OPENING: (400, "The auction is opening; try again in a moment"),
    Reason.KILL_SWITCH: (400, "The kill switch is on"),
    Reason.TRADING_OFF: (400, "Trading is switched off"),
    Reason.UNKNOWN_FIRM: (404, "Firm not found"),
    Reason.INVALID_SCOPE: (400, "Invalid scope"),
    Reason.INVALID_SWITCHES: (400, "Invalid switches"),
    Reason.KILL_UNDER_WAY: (409, "The kill switch still cancels orders; try again in a moment"),
    Reason.INVALID_LIMITS: (400, "Invalid limits"),
    Reason.PRICE_COLLAR: (400, "The price is outside the price collar"),
    Reason.ORDER_LIMIT: (400, "The order is above a limit of the product"),
    Reason.RISK_LIMIT: (400, "A risk limit would be passed"),
    Reason.INVALID_CALENDAR: (400, "Invalid calendar"),
    Reason.UNKNOWN_CALENDAR: (404, "Calendar not found"),
    Reason.UNKNOWN_TRADE: (404, "Trade not found"),
    Reason.TRADE_CORRECTED: (409, "The trade was corrected before"),
    Reason.FIRM_TOO_LARGE: (400, "The firm has too many accounts"),
    Reason.TOO_MANY_RULES: (400, "Too many switches, limits or calendars"),
    Reason.INVALID_STREAM: (400, "Invalid report stream"),
    Reason.TOO_MANY_STREAMS: (400, "Too many report streams"),
    Reason.NOT_PERMITTED: (403, "The permission is missing for this scope"),
    Reason.UNKNOWN_USER: (404, "User not found"),
    Reason.INVALID_GRANTS: (400, "Invalid roles"),
    Reason.TOO_MANY_USERS: (400, "Too many users, or keys of the user"),
    Reason.LOCKED_OUT: (409, "Too few users could administer access or consent afterwards"),
    Reason.TOO_MANY_PROPOSALS: (400, "Too many proposals wait for consent"),
    Reason.UNKNOWN_PROPOSAL: (404, "Proposal not found"),
    Reason.NEEDS_ANOTHER_USER: (403, "Another user must decide this"),
    Reason.LOOSENED: (403, "The operator of the venue has set this; it may only become tighter"),
    Reason.TOO_MANY_TRANSFERS: (400, "Too many transfers of this kind are remembered for this account"),
}
"""Status and text of every reject reason. The text "size is too small" gets the bound if the product is known."""


FIELDS = {
    "expires_at": "expire_time",
    "take_profit": "take_profit_price",
    "stop_loss": "stop_loss_price",
    "stop_loss_limit": "stop_loss_limit_price",
    "order_type": "type",
    "order_id": "id",
    "base": "base_currency",
    "quote": "quote_currency",
    "tick": "quote_increment",
    "lot": "base_increment",
    "min_size": "base_min_size",
    "max_size": "base_max_size",
    "maker_fee_ppm": "maker_fee_rate",
    "taker_fee_ppm": "taker_fee_rate",
    "owner_id": "account_id",
    "new_account_id": "account_id",
    "key_id": "id",
    "bootstrap_off": "bootstrap",
    "consent_ns": "consent_seconds",
    "to_account_id": "to",
}
"""Names in the HTTP API of command fields that are named differently."""


SIZES = frozenset({Reason.SIZE_OFF_LOT, Reason.SIZE_TOO_SMALL, Reason.SIZE_TOO_LARGE, Reason.INVALID_SIZE})
NUMBERS = SIZES | {
    Reason.COMMAND_ID_REUSED,
    Reason.CURRENCY_CHANGED,
    Reason.INVALID_AMOUNT,
    Reason.INSUFFICIENT_FUNDS,
    Reason.AMOUNT_TOO_LARGE,
    Reason.INVALID_PRICE,
    Reason.INVALID_FUNDS,
    Reason.PRICE_OFF_TICK,
}
"""Reject reasons whose detail contains numbers of the engine: amounts in smallest units (of the base currency for
`SIZES`), or an order id.
"""

_NUMBER = re.compile("[0-9]+")


def rejection(
    outcome: Rejected, message: str = "", *, number: Callable[[int], str] = str, command_id: str = "client_oid"
) -> ApiError:
    """Return the answer to a rejected command.

    `message` replaces the reason's text. `number` converts the numbers in its detail to the API's form. `command_id` is
    the name that the call gives to the command id.
    """
    status, text = REASONS.get(outcome.reason, (400, "Rejected"))
    field = command_id if outcome.field == "command_id" else FIELDS.get(outcome.field, outcome.field)
    detail = detail_with(outcome, number)
    return ApiError(status, message or text, field, reason=outcome.reason.name.lower(), detail=detail)


def detail_with(outcome: Rejected, number: Callable[[int], str]) -> str:
    """Return the detail of a rejection, with its amounts or ids converted by `number`."""
    if outcome.reason not in NUMBERS:
        return outcome.detail
    return _NUMBER.sub(lambda found: number(int(found.group())), outcome.detail)
