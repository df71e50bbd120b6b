"""Streams: an optional process of a node that publishes every event of the exchange to a broker once, and reads orders
from a topic.

It follows the log on disk, as the history does, so it costs the engine nothing. Only the broker stores how much was
published: the stream continues after the last log entry that the broker acknowledged. `docs/streams.md` describes
topics, records and guarantees.
"""
