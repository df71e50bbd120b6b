"""A second model of the exchange, written from `docs/` alone, without a look at `statemachine` or at the twin (`twin`).

The twin was written beside the engine, so both can have the same wrong idea of a rule. This model has only what the
documentation promises to clients. Where the documentation was silent or the engine did something else, one of them was
changed. It is slow and simple: it keeps lists of orders, and computes every hold and balance from the beginning.

It has continuous trading, fees with tiers, overrides and rebates, self-trade prevention, icebergs, stop orders, trailing
stops, pairs, exits, amendments, replacements, lifetimes, timers, auctions, price collars, limit states, switches,
calendars, firms, risk limits, corrections, and commands and ids that come again. It has no users, and does all work of
an entry at once.

    orders     orders and products
    trading    money, fees, the book, and trades
    following  what follows from trades: stop orders, trailing stops, pairs, exits
    halting    auctions, price collars, limit states
    sessions   calendars
    limiting   risk limits, and corrections of trades
    model      commands, and time
    crowd      random commands of few traders that meet all the time
    venue      the same with commands of a venue's operators
    judge      the comparison
"""
