"""The native protocol: length-prefixed msgpack frames, over a Unix socket or over TCP with TLS.

A frame is a 4-byte big-endian length and that many bytes of msgpack: one message of this module, an array whose first
element is its tag. A client begins with `Hello` and waits for `Welcome`. Then it may send any number of requests
without waiting. Each request carries the client's `request_id`, any whole number, which the answer repeats. Answers may
come in another order. After `Subscribe` the node sends `Events` without further requests.

Authentication: a connection over the node's Unix socket, or one over TLS that shows a node's certificate, is a
*gateway* and acts for every account. Any other connection signs its `Hello` with an API key and acts for that key's
account, within its permissions. `signature` is base64(HMAC-SHA256(base64-decoded secret, timestamp + "HELLO" +
"/native")), `timestamp` is Unix seconds as text.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from node.config.settings import COMMANDS_PER_SUBMIT_MAX
from node.statistics import Figures
from node.system.durations import DurationCounts
from statemachine.commands import AnyCommand
from statemachine.events import AnyEvent, AnyOutcome, OrderState
from statemachine.tables import (
    AccessRow,
    ApiKeyRow,
    BalanceRow,
    CalendarRow,
    CorrectionRow,
    CurrencyRow,
    FeeOverrideRow,
    FeeTiersRow,
    FeeVolumeRow,
    FirmMemberRow,
    FirmRow,
    FollowsRow,
    GroupRow,
    InterruptionRow,
    PhaseRow,
    ProductLimitsRow,
    ProductRow,
    ProposalRow,
    RiskRow,
    StreamRow,
    SwitchRow,
    UserRow,
)
from statemachine.types import Scope, Side

PROTOCOL_VERSION = 1
COMMANDS_MAX = COMMANDS_PER_SUBMIT_MAX
"""Commands in one `Submit`. The decoder enforces this limit, so a longer list is refused before its first command is
decoded.
"""

LENGTH_BYTES = 4
"""Bytes in front of each frame: the length of its body, big-endian."""

FRAME_MAX = 512 * 1024
"""Bytes of one frame of a client: as much as a log entry holds, so `COMMANDS_MAX` commands of 500 bytes each fit. The
longest `PlaceOrder` that the rules admit has 443 bytes, an ordinary one about 60. The connection of a peer that
announces more is closed.
"""


class FailCode(IntEnum):
    """Why a request was not answered with a result. Numbers are part of the protocol."""

    BAD_REQUEST = 1
    UNAUTHORIZED = 2
    FORBIDDEN = 3
    NOT_FOUND = 4
    NOT_LEADER = 10
    """Nothing was done: send the request to `leader`."""
    NO_LEADER = 11
    """Nothing was done: no leader is known at the moment."""
    OUTCOME_UNKNOWN = 12
    """Leadership was lost before the commands were committed. Send the same commands, with the same ids, to the next
    leader.
    """
    OVERLOADED = 13
    """Nothing was done: the queue is full."""
    TOO_OLD = 14
    """This node no longer keeps events from that sequence: read the book at level 3 and continue from its sequence."""
    STOPPING = 15
    CONFLICT = 16
    """Nothing was done: the present state of the cluster does not allow it. The message gives the reason."""
    BUSY = 17
    """Nothing was done: another change of the membership is pending, or the leader was just elected. Send the request
    again soon.
    """
    RATE_LIMITED = 18
    """Nothing was done: the key or the account has asked for more than its share. The message says in how many seconds
    to send it again.
    """


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """The first message of a client. Gateways leave the four last fields empty."""

    version: int
    client: str
    key_id: str = ""
    passphrase: str = ""
    timestamp: str = ""
    signature: str = ""


class Submit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """Apply commands in this order. Each command is accepted or rejected separately. At most 1,000 commands. Answer:
    `Results`.
    """

    request_id: int
    commands: Annotated[list[AnyCommand], msgspec.Meta(max_length=COMMANDS_MAX)]


class StatusQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """Answer: `NodeStatus`."""


class ProductsQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """Answer: list of `ProductRow`, by id."""


class CurrenciesQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """Answer: list of `CurrencyRow`, by name."""


class BalancesQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=4):
    """Answer: list of `BalanceRow` of the account, by currency; `NOT_FOUND` for an unknown account."""

    account_id: str


class OrderQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=5):
    """Read an order of the account by `order_id` or, when that is 0, by `client_oid`. Answer: `OrderState` or `NOT_FOUND`."""

    account_id: str
    order_id: int
    client_oid: str = ""


class OrdersQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=6):
    """List orders of the account, newest first, at most 1,000. Answer: list of `OrderState`. `before_id` pages: only
    ids below it (0: all).

    The other fields restrict the list if they are not 0 or empty: to ids above `above_id`; to `statuses`, a sum of
    2**status; to orders made at `created_from` or later and before `created_to`; to orders that hold some of the
    currency `holds`.
    """

    account_id: str
    product_id: str = ""
    open: bool = True
    done: bool = False
    limit: int = 100
    before_id: int = 0
    above_id: int = 0
    statuses: int = 0
    created_from: int = 0
    created_to: int = 0
    holds: str = ""


class BookQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=7):
    """Read the book at `level` 1 (best), 2 (50 price levels a side) or 3 (every order). Answer: `BookView` or `NOT_FOUND`."""

    product_id: str
    level: int


class ApiKeyQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=8):
    """Read an API key with its secret. Gateways only. Answer: `ApiKeyRow` or `NOT_FOUND`."""

    key_id: str


class TradesQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=9):
    """List the latest trades kept in memory, newest first. Answer: list of `OrderMatched`. Their accounts are empty and
    their fees 0, unless the client is the operator, or may correct trades of the product.
    """

    product_id: str
    limit: int = 100


class AuctionQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=13):
    """Read the indicative price and size of the product's auction. Answer: `AuctionView`, which may be slightly old, or
    none if the product is not in an auction; `NOT_FOUND`.
    """

    product_id: str


class ApiKeysQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=10):
    """List API keys in the order of their ids, after the id `after`. Answer: list of `ApiKeyRow`, with neither secret
    nor passphrase.

    `sender` is for gateways: only the keys that this sender of the operator's commands may see; "" for all. A key that
    asks gets those that it may see, and needs the permission ACCESS.
    """

    after: str = ""
    limit: int = 1_000
    sender: str = ""


class BookPageQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=14):
    """List resting orders of one side in the order in which they trade: up to `limit` (at most 500) after the order
    with this price, opened sequence and id, the last one of the page before; all 0 for the first page. Answer:
    `BookPage` or `NOT_FOUND`.

    A client can thus copy a book of any size without stopping the engine. Pages show different moments. To make one
    book of them, the client applies the events from the first page's sequence on, each to the orders whose page is
    older.
    """

    product_id: str
    side: Side
    after_price: int = 0
    after_opened: int = 0
    after_order_id: int = 0
    limit: int = 500


class MarketQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=15):
    """Read the latest trades, and the figures of 24 hours and 30 days. Answer: `MarketView` or `NOT_FOUND`."""

    product_id: str


class StreamQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=20):
    """Read a report stream. Gateways only. `Subscribe` with its name gives its events. Answer: `StreamRow` or `NOT_FOUND`."""

    stream_id: str


class LogQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=12):
    """Read a chunk of the log segment that holds entry `index`, from byte `offset` of the file on. The histories of
    other nodes use it.

    Nodes only, because the log of version 0.1.0 contains unencrypted secrets. The node reads one chunk at a time and
    answers OVERLOADED meanwhile. Answer: `LogChunk`; `NOT_FOUND` if the log and its archive no longer hold the entry.
    """

    index: int
    offset: int = 0


class ControlsQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=30):
    """List the operator's controls, and their effects: the rows of one of the tables that `ControlsView` names, by key,
    up to `limit` (at most 1,000) after the first `after` ones. Answer: `ControlsView`; `NOT_FOUND` for another table.

    `sender` is for gateways: only the rows that this sender of the operator's commands may see; "" for all. A key that
    asks gets those that it may see. It needs one of the operator's permissions, or a user.
    """

    table: str
    after: int = 0
    limit: int = 1_000
    sender: str = ""


class RightsQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=32):
    """Read the permissions of a sender of the operator's commands for a scope. Gateways only. Answer: their sum."""

    sender: str
    scope: Scope
    name: str = ""


class FeesQuery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=31):
    """Read the fee rates of an account's next order: those of a product, or ("") the highest of all products. Answer:
    `FeesView`; `NOT_FOUND` for an unknown account or product.
    """

    account_id: str
    product_id: str = ""


AnyQuery = (
    StatusQuery
    | ProductsQuery
    | CurrenciesQuery
    | BalancesQuery
    | OrderQuery
    | OrdersQuery
    | BookQuery
    | ApiKeyQuery
    | TradesQuery
    | AuctionQuery
    | ApiKeysQuery
    | LogQuery
    | BookPageQuery
    | MarketQuery
    | StreamQuery
    | ControlsQuery
    | FeesQuery
    | RightsQuery
)


class Query(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """Read. With `linearizable`, the answer reflects every command acknowledged anywhere before the request was sent (a
    barrier goes through the log first; only the leader answers). Otherwise it reflects this node's state, which may
    lag. Answer: `Answer`.
    """

    request_id: int
    query: AnyQuery
    linearizable: bool = False


class Subscribe(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=4):
    """Send the events of a product from `from_sequence` on (0: from now on), on this connection. Answer: `Subscribed`.

    Any node serves any sequence that it still keeps, so a reader may continue at another node. The answer and the
    events are in order: first `Subscribed`, then the kept events from `from_sequence`, then live ones, without gap or
    repetition.
    """

    request_id: int
    product_id: str
    from_sequence: int = 0


class Unsubscribe(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=5):
    """Stop the events of a product. Answer: `Subscribed` with next_sequence 0."""

    request_id: int
    product_id: str


class ControlAction(IntEnum):
    """Operations that an operator may request of a node."""

    TRANSFER_LEADERSHIP = 1
    SNAPSHOT = 2
    RESEAL = 3
    """At the leader: encrypt every API key under the newest cluster key. Answered when that is done."""


class Control(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=6):
    """Gateways and keys with ADMIN only. Answer: `Answer` with true, when it has begun.

    `node_id`: with TRANSFER_LEADERSHIP the node that shall lead; empty: the most up-to-date member.
    """

    request_id: int
    action: ControlAction
    node_id: str = ""


class AddMember(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=7):
    """Make a node a member, at the leader. It joins as a learner, which becomes a voter automatically when it has
    caught up, or as read-only. An id can be used only once.

    Gateways and keys with ADMIN only. Answer: `Answer` with the index of the log entry that made it one, when that is
    committed.
    """

    request_id: int
    node_id: str
    raft: str
    native: str
    http: str
    read_only: bool = False


class RemoveMember(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=8):
    """Remove a node from the cluster permanently, at the leader. `force`: also if the cluster then survives fewer
    failures than now, or none.

    Gateways and keys with ADMIN only. Answer: `Answer` with the index of the log entry that removed it, when that is
    committed.
    """

    request_id: int
    node_id: str
    force: bool = False


class FollowKeys(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=9):
    """Send changes of API keys on this connection from now on. Gateways only. Answer: `Answer` with true, then
    `KeysChanged` unasked.
    """

    request_id: int


class ChangeLevel(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=20):
    """Change the cluster's level to that of `version`, at the leader; with `check` only report the obstacles. Answer:
    `Answer` with a `LevelReport`.

    `earlier`: whether it must be an earlier level than the one in force, or a later one; null allows both.

    Gateways and keys with ADMIN only. CONFLICT: the level cannot change now. The message names each member and the
    remedy, and nothing was changed. BAD_REQUEST: the leader does not know the level, or `earlier` does not hold.
    """

    request_id: int
    version: str
    check: bool = False
    earlier: bool | None = None


class PrepareLevel(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=21):
    """Prepare this node's state at the level with this ABI beside its normal work, so that the entry that changes the
    level is applied quickly. Nodes only. Answer: `Answer` with true, when it is ready.
    """

    request_id: int
    abi: str


AnyRequest = (
    Hello
    | Submit
    | Query
    | Subscribe
    | Unsubscribe
    | Control
    | AddMember
    | RemoveMember
    | FollowKeys
    | ChangeLevel
    | PrepareLevel
)


class LeaderHint(msgspec.Struct, frozen=True, array_like=True):
    """The leader: its node id, native address "host:port" and public HTTP URL."""

    node_id: str
    native: str
    http: str


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The node's greeting. `abi` is that of its software, `levels` are the ABIs of the levels that it can run; version
    0.2.0 does not send `levels`.
    """

    version: int
    node_id: str
    cluster_id: str
    software: str
    abi: str
    levels: list[str] = []


class Results(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The outcomes of a `Submit`, in the order of its commands: durable on a quorum and applied."""

    request_id: int
    outcomes: list[AnyOutcome]


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The request failed, with the reason. `request_id` is 0 if the request could not be read."""

    request_id: int
    code: FailCode
    message: str
    leader: LeaderHint | None = None


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The answer to a `Query` or `Control`; `body` is msgpack of the type that the query names."""

    request_id: int
    body: msgspec.Raw


class Subscribed(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The next event of the product that will be sent has `next_sequence`."""

    request_id: int
    product_id: str
    next_sequence: int


class Events(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Events of one product, in order, contiguous in `product_sequence`.

    Only gateways, operators and report streams get whole events. All other clients get those of the public: accounts
    and `client_oid` are empty, fees are 0, and a waiting stop order has only its id and side. An account reads its fees
    in its orders (`OrderQuery`).
    """

    product_id: str
    events: list[AnyEvent]


class KeysChanged(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """API keys that were just put, replaced or revoked on this node. An empty list means that any key may have changed.
    Earlier answers may be out of date.
    """

    key_ids: list[str]


AnyResponse = Welcome | Results | Failed | Answer | Subscribed | Events | KeysChanged


class MemberStatus(msgspec.Struct, frozen=True, array_like=True):
    """A member from the view of a node.

    `role` is "voter", "learner" (catching up, becomes a voter automatically) or "read_only". Only the leader knows
    `match_index`, the last log index that the member is known to have, and the acknowledged and total bytes of a
    snapshot that is being installed there; other nodes report 0. A node counts as connected with itself. `clock_skew`
    is the number of seconds by which the member's clock is ahead of the node's, negative if behind. It is None for the
    node itself and for members that exchange no clocks with it: the leader knows all clocks, a follower only the
    leader's.
    """

    node_id: str
    connected: bool
    match_index: int
    role: str = "voter"
    raft: str = ""
    native: str = ""
    http: str = ""
    snapshot_sent: int = 0
    snapshot_size: int = 0
    clock_skew: float | None = None


class NodeStatus(msgspec.Struct, frozen=True, array_like=True):
    """The status of a node at one moment.

    `role` is "leader", "follower" or "candidate". `state_hash` (hex) is the running hash after `sequence` commands, so
    two nodes with equal `applied_index` must agree on it. `voter` is False while a node that lost its disk has not
    caught up, and for a learner and a read-only member. `ready`: applied up to a known leader's commit, or at most a
    second behind it after it was caught up. `members`: all members of the cluster by this node's log, including this
    node. `members_index`: the log entry that defines them (0: the configuration). `change_under_way`: that entry is not
    committed yet. `cluster_keys_missing`: numbers of cluster keys under which API keys are encrypted and which this
    node lacks. `counters` are totals since the node's start: "native_refused_<kind>" and "raft_refused_<kind>" for
    refused connections on its two ports, and the numbers of processed commands and entries. `mode`: see `modes.Mode`.
    `engine_start` is random at each start of the engine process. `warnings`: faults that an operator should correct,
    such as contradictory addresses. `certificate_expires`: the time when the node's current certificate expires, in
    seconds since the epoch. `durations`: histograms of the engine process since its start, by name: see
    `node.system.durations`. `abi` is that of the software. `level`, `level_abi` and `level_rules`: version, ABI and
    rules number of the level of the node's state. `levels`: the versions whose levels it can run. Version 0.2.0 sends
    none of these.
    """

    node_id: str
    cluster_id: str
    role: str
    leader_id: str
    term: int
    commit_index: int
    applied_index: int
    last_log_index: int
    first_log_index: int
    snapshot_index: int
    sequence: int
    state_hash: str
    voter: bool
    ready: bool
    quorum: bool
    uptime: float
    software: str
    abi: str
    members: list[MemberStatus]
    leader: LeaderHint | None = None
    counters: dict[str, int] = {}
    mode: str = ""
    members_index: int = 0
    change_under_way: bool = False
    cluster_keys_missing: list[int] = []
    engine_start: str = ""
    certificate_expires: int = 0
    warnings: list[str] = []
    durations: dict[str, DurationCounts] = {}
    level: str = ""
    level_abi: str = ""
    level_rules: int = 0
    levels: list[str] = []

    @property
    def others(self) -> list[MemberStatus]:
        """All members but this node."""
        return [member for member in self.members if member.node_id != self.node_id]

    @property
    def member(self) -> MemberStatus | None:
        """This node as a member, or None if its log does not list it."""
        return next((member for member in self.members if member.node_id == self.node_id), None)


class LevelMember(msgspec.Struct, frozen=True, array_like=True):
    """A member's levels: its software's version, its present level, and the levels that it can run. `problem`: the
    obstacle to a change and its remedy, or "".
    """

    node_id: str
    software: str
    level: str
    levels: list[str]
    problem: str = ""


class LevelReport(msgspec.Struct, frozen=True, array_like=True):
    """A change of the level, or the check of one: the old and the new version, the report of each member, and all
    obstacles. `index`: the log entry that changed the level, or 0 if nothing was changed.
    """

    old: str
    to: str
    members: list[LevelMember]
    problems: list[str]
    index: int


class BookLevel(msgspec.Struct, frozen=True, array_like=True):
    """A price level: price, sum of remaining sizes, number of orders."""

    price: int
    size: int
    orders: int


class BookOrder(msgspec.Struct, frozen=True, array_like=True):
    """A resting order at level 3, in time priority within its price."""

    price: int
    size: int
    order_id: int


class AuctionView(msgspec.Struct, frozen=True, array_like=True):
    """The indicative result of an auction if it opened after the recent product event `product_sequence`: `open_size`
    would trade at `open_price`. Both are zero if nothing would trade.

    Best prices and their sizes include all participating orders, on the book and in the auction book. They are zero for
    an empty side. `time` is the exchange's clock. `surplus` is the size that would buy more at that price than would
    sell, and negative if more would sell.
    """

    product_sequence: int
    open_price: int
    open_size: int
    best_bid: int
    best_bid_size: int
    best_ask: int
    best_ask_size: int
    time: int
    surplus: int = 0


class BookView(msgspec.Struct, frozen=True, array_like=True):
    """A book at a product sequence: the state after the event with that number. Best prices first.

    At levels 1 and 2 `bids` and `asks` are filled, at level 3 `bid_orders` and `ask_orders`. `in_auction`: the product
    is in an auction.
    """

    product_id: str
    product_sequence: int
    bids: list[BookLevel]
    asks: list[BookLevel]
    bid_orders: list[BookOrder]
    ask_orders: list[BookOrder]
    in_auction: bool = False


class PagedOrder(msgspec.Struct, frozen=True, array_like=True):
    """An order of a `BookPage`. `opened_sequence` is the product sequence of its `OrderOpened`; see `OrderState`."""

    price: int
    remaining: int
    order_id: int
    opened_sequence: int


class BookPage(msgspec.Struct, frozen=True, array_like=True):
    """Part of a book after the event with this product sequence. A page without orders is the last one."""

    product_sequence: int
    orders: list[PagedOrder]


class MarketView(msgspec.Struct, frozen=True, array_like=True):
    """The trades up to the event with this product sequence.

    `last_trade_id` and `last_price` are 0 before the first trade. `trades` are the latest 1,000 that the node has,
    newest first. A state of version 0.2.0 and an imported state have none.
    """

    product_sequence: int
    in_auction: bool
    last_trade_id: int
    last_price: int
    trades: list[AnyEvent]
    figures: Figures


class LogChunk(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of a log segment in the format on disk (`docs/raft.md`). `applied_index` is the index that the node had
    applied before it read the bytes. Entries after it may still be replaced.

    `first_index` is the index of the segment's first entry, and `size` the file's size in bytes. Empty `data` marks the
    end. All fields except `applied_index` are empty if the node has not applied the entry.
    """

    applied_index: int
    first_index: int = 0
    size: int = 0
    data: bytes = b""


request_decoder = msgspec.msgpack.Decoder(AnyRequest)
response_decoder = msgspec.msgpack.Decoder(AnyResponse)
encode = msgspec.msgpack.Encoder().encode
TRUE = msgspec.Raw(encode(True))
"""The body of an answer that confirms success."""


class ControlsView(msgspec.Struct, frozen=True, array_like=True):
    """The operator's controls: rows of one table. All numbers are in smallest units."""

    firm: list[FirmRow] = []
    firm_member: list[FirmMemberRow] = []
    switch: list[SwitchRow] = []
    product_limits: list[ProductLimitsRow] = []
    interruption: list[InterruptionRow] = []
    risk: list[RiskRow] = []
    calendar: list[CalendarRow] = []
    follows: list[FollowsRow] = []
    group: list[GroupRow] = []
    phase: list[PhaseRow] = []
    correction: list[CorrectionRow] = []
    fee_tiers: list[FeeTiersRow] = []
    fee_override: list[FeeOverrideRow] = []
    fee_volume: list[FeeVolumeRow] = []
    user: list[UserRow] = []
    access: list[AccessRow] = []
    proposal: list[ProposalRow] = []


class FeesView(msgspec.Struct, frozen=True, array_like=True):
    """The fee rates of an account, in parts per million (a negative one is a rebate), and its 30-day volume in units of
    each currency in which it is counted.
    """

    maker_fee_ppm: int
    taker_fee_ppm: int
    volumes: list[tuple[str, int]]


ANSWER_TYPES: dict[type[msgspec.Struct], object] = {
    StatusQuery: NodeStatus,
    ProductsQuery: list[ProductRow],
    CurrenciesQuery: list[CurrencyRow],
    BalancesQuery: list[BalanceRow],
    OrderQuery: OrderState,
    OrdersQuery: list[OrderState],
    BookQuery: BookView,
    ApiKeyQuery: ApiKeyRow,
    TradesQuery: list[AnyEvent],
    AuctionQuery: AuctionView | None,
    ApiKeysQuery: list[ApiKeyRow],
    LogQuery: LogChunk,
    BookPageQuery: BookPage,
    MarketQuery: MarketView,
    StreamQuery: StreamRow,
    ControlsQuery: ControlsView,
    FeesQuery: FeesView,
    RightsQuery: int,
}
"""What `Answer.body` decodes to, by query."""


def frame(message: msgspec.Struct | msgspec.Raw) -> bytes:
    """Return the frame of a client's message.

    Raises:
        ValueError: the message is longer than `FRAME_MAX`.
    """
    body = encode(message)
    if len(body) > FRAME_MAX:
        raise ValueError(f"a frame of {len(body)} bytes passes the limit of {FRAME_MAX}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body
