"""REST and WebSocket: a process that speaks HTTP to clients and the native protocol to its node's engine.

One file a noun. A JSON object is one `msgspec.Struct`, with its constructor from the engine's row; the OpenAPI document
is made of it.

    app              every route, and the application that serves them
    calls            a request on its way to a handler and back: signature, limits, failures
    orders           placing, cancelling and listing orders; amending has what changes or joins them, direct the short way
    market           time, products, books, tickers, trades
    accounts         balances, fees, deposits and withdrawals
    history          fills, ledgers, transfers, candles: what the history answers (history_source asks it)
    admin            currencies, products, accounts and API keys, for the operator
    health           /healthz, /readyz, /status, /metrics; metrics counts
    auth             keys, signatures, requests that came before
    limits           what a client may have and ask for
    feeds            the products that are followed: book, trades, events
    channels         what the messages of the WebSocket look like
    sessions         one connection's subscriptions and its queue; balances looks at accounts for them
    sockets          the WebSocket endpoint; socket_orders places, amends and cancels over it
    book             the copy of a product's book, and its texts
    catalogue        the copy of products and currencies
    values           decimals, identifiers, words and times in JSON; requests reads bodies and parameters with them
    errors           what a request can fail with, as its client reads it
    backend          the engine, over the native protocol
    openapi          the OpenAPI document
    gateway, process the parts put together; the process
    http/            the HTTP server

May import the rest of `node` and `statemachine`; nothing imports it.
"""
