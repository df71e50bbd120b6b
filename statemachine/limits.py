"""Every bound of the exchange, each with its reason. Part of the rules: a change of one is a change of version."""

from __future__ import annotations

OPERATOR = "operator"
"""The account id that commands of the operator carry. It holds no money and cannot be opened."""

SCALE_MAX = 12
"""Decimal digits of a currency. Twelve lets prices of 10**-12 exist while amounts stay within AMOUNT_MAX."""

AMOUNT_MAX = 2**63 - 1
"""Largest price, size, funds, notional, balance, and sum of all deposits of a currency, in smallest units. The log and the
snapshots are msgpack, whose integers end at 64 bits. Since the deposits of a currency together stay within it, so does every
balance and every sum of fees."""

EXECUTED_MAX = 2 * AMOUNT_MAX
"""Up to that the notionals of an order are summed up; it still fits an unsigned 64-bit field. An order may reach AMOUNT_MAX when it enters, and
again at its own price. More comes together only for a sell that trades above its price in one auction after the other, for money that comes back to
the buyers in between."""

NAME_MAX = 64
"""Characters of an account, currency, product or key name."""

COMMAND_ID_MAX = 96
"""Characters of a command id: a UUID, a prefix, and room for clients with longer ideas."""

SECRET_MAX = 256
"""Characters of an API key's secret or passphrase."""

FEE_PPM_MAX = 100_000
"""Ten per cent. Fees are never negative: rebates need a rule of their own for who pays them."""

ADDRESSES_MAX = 32
"""Networks an API key may be limited to. Each request by the key is compared with all of them."""

OUTCOMES_PER_ACCOUNT = 10_000
"""How many of an account's latest commands are remembered for retries. A bound per account, so that nobody can push
out the ids of somebody else."""

DONE_ORDERS_PER_ACCOUNT = 1_000
"""How many of an account's latest finished orders can still be looked up in the engine."""

OPEN_ORDERS_PER_ACCOUNT = 10_000
"""Bounds what one account can make every node carry, and the answer to `CancelAll`: that many order states, each under 400 bytes,
stay within one frame of the native protocol (4 MiB)."""

CANCEL_AFTER_MIN = 10**9
"""Nanoseconds that a good-till-time order lives at least: a second. It leaves when the leader notices that its time is over, a moment later."""

CANCEL_AFTER_MAX = 366 * 86_400 * 10**9
"""Nanoseconds that it lives at most: a year."""

TIME_MAX = 2**63 - 1
"""Largest time at which an order may leave, in nanoseconds since the epoch: in the year 2262."""

PPM = 1_000_000
"""Parts per million in one: what fee rates are counted in."""

assert 10**SCALE_MAX < AMOUNT_MAX
assert EXECUTED_MAX < 2**64
assert OPEN_ORDERS_PER_ACCOUNT * 400 < 4 * 1024 * 1024
