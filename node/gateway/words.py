"""The words of the API that stand for the engine's enumerations, as types: clients' generators read in the OpenAPI document which there are."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Annotated

import msgspec

from statemachine.types import ProductStatus, SelfTradePrevention, Side, StopType, TimeInForce


def _one_of(*words: str) -> msgspec.Meta:
    return msgspec.Meta(extra_json_schema={"enum": list(words)})


def _small(members: Iterable[IntEnum]) -> list[str]:
    return [member.name.lower() for member in members]


SideWord = Annotated[str, _one_of(*_small(Side))]
OrderTypeWord = Annotated[str, _one_of("limit", "market")]
RequestedTypeWord = Annotated[str, _one_of("limit", "market", "stop")]
TimeInForceWord = Annotated[str, _one_of(*(member.name for member in TimeInForce))]
RequestedTimeWord = Annotated[str, _one_of(*(member.name for member in TimeInForce), "PO")]
StpWord = Annotated[str, _one_of(*_small(SelfTradePrevention))]
StopWord = Annotated[str, _one_of(*_small(stop for stop in StopType if stop is not StopType.NONE))]
OrderStatusWord = Annotated[str, _one_of("open", "active", "done")]
DoneReasonWord = Annotated[str, _one_of("filled", "canceled", "")]
ProductStatusWord = Annotated[str, _one_of(*_small(ProductStatus))]
LiquidityWord = Annotated[str, _one_of("M", "T")]
LedgerWord = Annotated[str, _one_of("transfer", "match", "fee")]
TransferWord = Annotated[str, _one_of("deposit", "withdraw", "internal_deposit", "internal_withdraw")]
