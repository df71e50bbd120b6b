"""What a WebSocket message asks for, worked out and bounded before anything is done for it.

Every list of a message has a bound, and so has the number of (channel, product) pairs that they make together: the work that a message causes is
known from its size, and is charged to its address (`socket_limits`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from node.gateway.channels import ALIASES, CHANNELS
from node.gateway.errors import BadRequestError
from node.gateway.ids import product_text
from node.gateway.requests import ChannelRequest, FeedRequest

ENTRIES_MAX = 32
"""Entries of `channels` in one message: twice the number of channels there are, for clients that name one several times."""

NAMES_MAX = 1_000
"""Products named in one message, all lists together."""

PAIRS_MAX = 4_000
"""(channel, product) pairs of one message."""

ACCOUNTS_MAX = 100
"""Accounts named in one message."""

WITHOUT_PRODUCTS = frozenset({"status", "balance"})
"""Channels that have no products."""


@dataclass
class Wanted:
    """The channels of a message with their products, each once and in the order given.

    `unknown` are names that are no channels: each is refused by itself, and hinders no other. `account_ids` are those of the channel `balance`.
    """

    channels: dict[str, dict[str, None]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    account_ids: list[str] = field(default_factory=list)

    @property
    def pairs(self) -> int:
        """How many (channel, product) pairs it names: what the work for it grows with."""
        return sum(max(1, len(products)) for products in self.channels.values())


def expand(request: FeedRequest, *, subscribes: bool) -> Wanted:
    """What a message names. Without `channels` it means `full`, or to unsubscribe every channel.

    Raises:
        BadRequestError: a list is longer than its bound, no channel is left to choose from, or one that is subscribed to has no products.
    """
    if request.channels is not None:
        entries = [entry if isinstance(entry, ChannelRequest) else ChannelRequest(entry) for entry in request.channels]
    else:
        entries = [ChannelRequest(name) for name in (["full"] if subscribes else CHANNELS)]
    _check_lengths(request, entries)
    common = _names(request.product_ids)
    wanted = Wanted()
    for entry in entries:
        name = ALIASES.get(entry.name, entry.name)
        if name not in CHANNELS:
            wanted.unknown.append(name)
            continue
        products = wanted.channels.setdefault(name, {})
        if name not in WITHOUT_PRODUCTS:
            products |= common
            products |= _names(entry.product_ids)
            if subscribes and not products:
                raise BadRequestError(f"product_ids is required for the channel {name}", "product_ids")
        if name == "balance":
            wanted.account_ids += [*(request.account_ids or []), *(entry.account_ids or [])]
        if wanted.pairs > PAIRS_MAX:
            raise BadRequestError(f"at most {PAIRS_MAX} pairs of a channel and a product in one message", "channels")
    if not wanted.channels and not wanted.unknown:
        raise BadRequestError("channels must name at least one channel", "channels")
    return wanted


def _check_lengths(request: FeedRequest, entries: list[ChannelRequest]) -> None:
    """Raise BadRequestError for a list that is too long."""
    if len(entries) > ENTRIES_MAX:
        raise BadRequestError(f"channels: at most {ENTRIES_MAX} entries in one message, got {len(entries)}", "channels")
    first = request.from_sequence
    named = [request.product_ids, request.resume, first if isinstance(first, dict) else None]
    names = sum(len(each or ()) for each in (*named, *(entry.product_ids for entry in entries)))
    if names > NAMES_MAX:
        raise BadRequestError(f"product_ids: at most {NAMES_MAX} in one message, got {names}", "product_ids")
    accounts = sum(len(each or ()) for each in (request.account_ids, *(entry.account_ids for entry in entries)))
    if accounts > ACCOUNTS_MAX:
        raise BadRequestError(f"account_ids: at most {ACCOUNTS_MAX} in one message, got {accounts}", "account_ids")


def _names(product_ids: list[str] | None) -> dict[str, None]:
    return dict.fromkeys(product_text(text) for text in product_ids or ())
