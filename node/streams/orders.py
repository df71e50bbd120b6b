"""Orders from a topic: each record becomes a command, which is carried out once.

A record's command id is derived from its topic, partition and offset, and the exchange answers a repeated id with the
first outcome. The offset is committed after the outcome. A record that is read again after a failure of this process or
of the leader therefore places no second order.

A record is a JSON object: `account_id`, and either an order as POST /orders takes it (`product_id`, `side`, `type`,
`price`, `size` ...) or `{"type": "cancel", "order_id" | "client_oid"}`. An invalid record is logged and skipped. A
rejected command appears in the topic `commands` with its reason. Write access to the topic allows trading for every
account: protect it like the operator's key.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from node.client.shapes import Product, product
from node.config.settings import NodeConfig
from node.errors import QuorumbookError, StreamError
from node.keys.credentials import Credentials
from node.native.client import ClusterClient
from node.native.protocol import CurrenciesQuery, ProductsQuery
from node.streams.broker import BrokerError
from node.tls import pki
from snapshots.abi import ABI
from statemachine.commands import AnyCommand, CancelOrder, PlaceOrder
from statemachine.decimals import DecimalError
from statemachine.entry import is_name
from statemachine.events import Rejected
from statemachine.limits import NAME_MAX, OPERATOR
from statemachine.types import OrderType, Reason, SelfTradePrevention, Side, TimeInForce

if TYPE_CHECKING:
    from node.streams.kafka import OrdersTopic

log = logging.getLogger(__name__)

BATCH = 200
"""Records carried out in one request."""

POLL_S = 0.2
PAUSE_S = 0.5
BROKER_PAUSE_S = 2.0


class OrderRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record of the topic of orders. Amounts are decimals as text."""

    account_id: str
    type: str = "limit"
    product_id: str = ""
    side: str = ""
    price: str = ""
    size: str = ""
    funds: str = ""
    time_in_force: str = "GTC"
    post_only: bool = False
    stp: str = "dc"
    client_oid: str = ""
    order_id: str = ""


class BadRecordError(QuorumbookError):
    """A record is invalid. The text names the field and what was expected."""


def command_of(data: bytes, command_id: str, products: dict[str, Product]) -> AnyCommand:
    """Return the command of a record.

    Raises:
        BadRecordError: the record is invalid.
    """
    try:
        record = msgspec.json.decode(data, type=OrderRecord)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRecordError(f"expected a JSON object with account_id, type, product_id ...: {error}") from error
    _check_names(record)
    if record.type == "cancel":
        if not record.order_id and not record.client_oid:
            raise BadRecordError("order_id: expected it or client_oid")
        return CancelOrder(record.account_id, command_id, _order_id(record.order_id), record.client_oid)
    product = products.get(record.product_id)
    if product is None:
        raise BadRecordError(f"product_id: expected one of {', '.join(products)}, not {record.product_id[:40]!r}")
    try:
        return PlaceOrder(
            record.account_id,
            command_id,
            record.product_id,
            _word(Side, record.side, "side"),
            _word(OrderType, record.type, "type"),
            product.price_units(record.price) if record.price else 0,
            product.size_units(record.size) if record.size else 0,
            _funds(record, product),
            _word(TimeInForce, record.time_in_force, "time_in_force"),
            record.post_only,
            _word(SelfTradePrevention, record.stp, "stp"),
            record.client_oid,
        )
    except DecimalError as error:
        raise BadRecordError(str(error)) from error


def _funds(record: OrderRecord, product: Product) -> int:
    """Return the funds, 0 if there are none. Raises BadRecordError for funds of 0, which would be no ceiling; DecimalError."""
    units = product.price_units(record.funds, "funds") if record.funds else 0
    if record.funds and not units:
        raise BadRecordError("funds: expected more than 0")
    return units


def _check_names(record: OrderRecord) -> None:
    """Raise BadRecordError unless the names are such that the exchange answers the command. A node refuses a request
    with a command of a user of the operator, or a frame that is too long: the stream would send it again for ever.
    """
    if not is_name(record.account_id) or record.account_id == OPERATOR:
        raise BadRecordError(f"account_id: expected the name of an account, not {record.account_id[:40]!r}")
    if record.client_oid and not is_name(record.client_oid):
        raise BadRecordError(f"client_oid: expected 1 to {NAME_MAX} characters of A-Z a-z 0-9 _ . : -")


def _order_id(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < 2**63):
        raise BadRecordError(f"order_id: expected a number, not {text[:40]!r}")
    return int(text or "0")


def _word(kind: Any, text: str, field: str) -> Any:
    words = {each.name.lower(): each for each in kind}
    if text.lower() not in words:
        raise BadRecordError(f"{field}: expected one of {', '.join(words)}, not {text[:40]!r}")
    return words[text.lower()]


async def run_orders(config: NodeConfig, stop: asyncio.Event) -> None:
    """Place the orders of the topic until `stop` is set. Several nodes share the topic's partitions.

    Raises:
        StreamError: orders come from Kafka only, or its library is not installed.
    """
    if not config.streams.url.startswith("kafka://"):
        raise StreamError("streams.orders: orders are taken from Kafka only")
    try:
        from node.streams import kafka
    except ImportError as error:
        raise StreamError("confluent_kafka is not installed: pip install 'quorumbook[kafka]'") from error
    admin = config.admin
    client = ClusterClient(
        {node.node_id: node.native for node in config.nodes},
        tls=pki.client_context(config, with_cert=False),
        credentials=Credentials(admin.key_id, admin.secret, admin.passphrase),
        client="orders",
        abi=ABI,
    )
    topic: OrdersTopic | None = None
    try:
        topic = await _opened(kafka.OrdersTopic, config, stop)
        while topic is not None and not stop.is_set():
            found = await asyncio.to_thread(topic.read, BATCH, POLL_S)
            if found:
                await _carried_out(client, found, stop)
                if not stop.is_set():
                    await asyncio.to_thread(topic.done, found)
    finally:
        await client.close()
        if topic is not None:
            await asyncio.to_thread(topic.close)


async def _opened(open_topic: type[OrdersTopic], config: NodeConfig, stop: asyncio.Event) -> OrdersTopic | None:
    """Open the topic of orders as soon as the broker answers. Returns None if `stop` was set before that."""
    streams = config.streams
    options = dict(option.partition("=")[::2] for option in streams.options)
    while not stop.is_set():
        try:
            return await asyncio.to_thread(
                open_topic,
                streams.url.partition("://")[2],
                streams.orders,
                f"quorumbook-orders-{config.cluster_id}",
                options,
                partitions=streams.partitions,
                replication=streams.replication,
            )
        except BrokerError as error:
            log.warning("orders cannot be read yet: %s", error)
            await asyncio.sleep(BROKER_PAUSE_S)
    return None


async def _carried_out(client: ClusterClient, found: list[tuple[str, int, int, bytes]], stop: asyncio.Event) -> None:
    """Carry records out. While no leader answers, they are sent again with the same ids, without a time limit."""
    while not stop.is_set():
        try:
            scales = {row.currency: row.scale for row in await client.query(CurrenciesQuery())}
            products = {row.product_id: product(row, scales) for row in await client.query(ProductsQuery())}
            commands: list[AnyCommand] = []
            for topic, partition, offset, data in found:
                command_id = f"k:{topic}:{partition}:{offset}"
                try:
                    commands.append(command_of(data, command_id, products))
                except BadRecordError as error:
                    log.warning("%s is skipped: %s", command_id, error)
            outcomes = await client.submit(commands) if commands else []
        except QuorumbookError as error:
            log.warning("orders wait: %s", error)
            await asyncio.sleep(PAUSE_S)
            continue
        for command, outcome in zip(commands, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                log.log(*_refusal(command.command_id, outcome))
        return


def _refusal(command_id: str, outcome: Rejected) -> tuple[int, str]:
    """Return the level and the text of the log line about a rejected record. An id that stands for another command is a
    fault of the topic, not of the record: the exchange executes none of its records whose ids it knows.
    """
    if outcome.reason is Reason.COMMAND_ID_REUSED and outcome.field == "command_id":
        text = "the exchange carried out another command under this id. A topic that was deleted and created again repeats"
        return logging.ERROR, f"{command_id} is refused: {text} its offsets: set streams.orders to a topic with a new name"
    return logging.INFO, f"{command_id} is refused: {outcome.reason.name.lower()} {outcome.field}"
