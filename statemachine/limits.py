"""Every bound of the exchange, each with its reason. Part of the rules: a change of one is a change of version."""

from __future__ import annotations

OPERATOR = "operator"
"""The account id that commands of the operator carry. It holds no money and cannot be opened."""

SCALE_MAX = 12
"""Decimal digits of a currency. Twelve lets prices of 10**-12 exist while amounts stay within AMOUNT_MAX."""

AMOUNT_MAX = 10**24
"""Largest balance, sum of deposits, price, size, funds or notional, in smallest units. Python integers have no end;
this one keeps a row's size bounded and refuses numbers that can only be mistakes."""

NAME_MAX = 64
"""Characters of an account, currency, product or key name."""

COMMAND_ID_MAX = 96
"""Characters of a command id: a UUID, a prefix, and room for clients with longer ideas."""

SECRET_MAX = 256
"""Characters of an API key's secret or passphrase."""

FEE_PPM_MAX = 100_000
"""Ten per cent. Fees are never negative: rebates need a rule of their own for who pays them."""

OUTCOMES_PER_ACCOUNT = 10_000
"""How many of an account's latest commands are remembered for retries. A bound per account, so that nobody can push
out the ids of somebody else."""

DONE_ORDERS_PER_ACCOUNT = 1_000
"""How many of an account's latest finished orders can still be looked up in the engine."""

OPEN_ORDERS_PER_ACCOUNT = 100_000
"""Bounds what one account can make every node carry."""

assert 10**SCALE_MAX < AMOUNT_MAX
