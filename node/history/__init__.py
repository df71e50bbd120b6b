"""The history: a market database beside the engine, with every order, trade, ledger entry and candle exactly once.

`process` runs it on nodes that are configured to keep one. `keeper` follows the node's log on disk and applies the
committed entries to an engine of its own (`state`). `projection` and `candles` make rows of the results, and `store`
writes them with the position in the log in one transaction. `queries` reads for the gateways. `partitions` moves old
days to Parquet files, and reads them there. `tables` is the schema; `database` and `migrations` bring a database to it.
"""
