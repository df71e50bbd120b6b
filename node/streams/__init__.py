"""Streams out: every event of the exchange to a broker, each once, and orders in from a topic. An optional process of a
node.

It follows the log on disk as the history does, so the engine does nothing for it. What it has published is known to the
broker alone: it goes on behind the last log entry that the broker has acknowledged. `docs/streams.md` describes topics,
records and promises.
"""
