"""Identifiers at the edge: what they look like outside, and how they are read back.

- An order id is a counter inside and has the shape of a UUID outside: 26 is `00000000-0000-0000-0000-00000000001a`.
- An account here is a trader's whole account; what clients call an account is its balance of one currency: `alice:USD`.
- Product ids are `BTC-USD`; some clients write `BTC/USD`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from node.gateway.errors import BadRequestError
from statemachine.limits import NAME_MAX

NAME = re.compile(rf"[A-Za-z0-9_.:-]{{1,{NAME_MAX}}}", re.ASCII)
_ORDER_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
ORDER_ID_MAX = 2**63 - 1


def order_text(order_id: int) -> str:
    """An order id as clients see it."""
    digits = f"{order_id:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def order_number(text: str, field: str = "id") -> int:
    """The order id in `text`; 0 where it has the right shape but can be nobody's. Raises BadRequestError naming `field` for another shape."""
    number = _counter(text, field)
    return number if number <= ORDER_ID_MAX else 0


def order_span(given: Mapping[str, str]) -> tuple[int, int]:
    """What the cursors of a list of orders ask for: ids below the first number (0: all) and above the second. Raises BadRequestError."""
    below = max(1, min(_counter(given["after"], "after"), ORDER_ID_MAX)) if "after" in given else 0
    above = min(_counter(given["before"], "before"), ORDER_ID_MAX) if "before" in given else 0
    return below, above


def _counter(text: str, field: str) -> int:
    if _ORDER_ID.fullmatch(text) is None:
        raise BadRequestError("Invalid order id", field)
    return int(text.replace("-", ""), 16)


def account_text(account_id: str, currency: str) -> str:
    """The id of an account's balance of one currency."""
    return f"{account_id}:{currency}"


def product_text(text: str) -> str:
    """A product id, with the slash that some clients write made a dash."""
    return text.replace("/", "-")


def check_name(text: str, field: str) -> str:
    """`text`, if it can be a name. Raises BadRequestError."""
    if NAME.fullmatch(text) is None:
        raise BadRequestError(f"Invalid {field}", field, detail=f"1 to {NAME_MAX} characters of A-Z a-z 0-9 _ . : -")
    return text
