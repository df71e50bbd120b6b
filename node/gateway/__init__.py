"""REST and WebSocket: a process that speaks HTTP to clients and the native protocol to its node's engine.

Each file covers one subject. A JSON object is one `msgspec.Struct` with a constructor from the engine's row. The
OpenAPI document is generated from these structs.

- app: every route, and the application that serves them
- calls: a request on its way to a handler and back: signature, limits, failures
- orders: placing, cancelling and listing orders; amending changes and pairs them, direct is the fast path, and
  plain_order reads and writes its numbers
- market: time, products, books, tickers, trades
- accounts: balances, fees, deposits, withdrawals and transfers of a trader
- history: fills, ledgers, transfers, candles: calls that the history answers (history_source queries it)
- admin: currencies, products, accounts and API keys, for the operator; controls has switches, limits, fees, firms and
  calendars, access has users, roles and proposals
- health: /healthz, /readyz, /status, /metrics; metrics counts
- auth: keys, signatures, replayed requests
- limits: limits of connections and requests
- feeds: the products that are followed: book, trades, events
- channels: the messages of the WebSocket
- sessions: one connection's subscriptions and its queue; balances polls accounts for them
- sockets: the WebSocket endpoint; socket_orders places, amends and cancels over it, also when a connection ends
- book: the copy of a product's book, and its JSON texts
- catalogue: the copy of products and currencies
- values: decimals, identifiers, words and times in JSON; requests reads bodies and parameters with them
- errors: the failures of a request, as its client reads them
- backend: the engine, over the native protocol
- openapi: the OpenAPI document
- gateway, process: the parts, their wiring and the poller of the status; the process
- page: the web page, whose files are under ui/static/
- http/: the HTTP server

`node/fix` uses its backend, catalogue and feeds. The command line and the load test use the texts of ids and words.
`CODE` says whether direct, plain_order, http.connection, http.messages and their part of `node.native` run compiled or
plain (`node.compiled`).
"""

from node.compiled import choose

CODE = choose(__name__, __path__)
