"""The history, a market database beside the engine: every order, trade, ledger entry and candle, exactly once, on nodes
told to keep it.

`process` runs it. `keeper` follows the node's log on disk, applies the committed entries to an engine of its own
(`state`), makes rows of what comes out (`projection`, `candles`) and stores them with the place in the log in one
transaction (`store`). `queries` reads for the gateways, `partitions` moves old days to Parquet files. `tables` is the
schema; `schema` and `migrations` bring a database to it.
"""
