"""Bounds of the HTTP server, each with its reason. Sizes are bytes, times seconds."""

from __future__ import annotations

TARGET_MAX = 8_190
"""A request target. The longest honest one, a list with filters and cursors, has a few hundred bytes."""
HEADERS_MAX = 64
"""Headers of one request. Browsers behind proxies send about 30."""
HEAD_MAX = 32 * 1024
"""Request line and headers together."""
BODY_MAX = 64 * 1024
"""A body. A batch of 100 orders has about 20 kB."""
CHUNKED_MAX = 4 * BODY_MAX
"""A chunked body as it travels: chunk sizes and extensions count, so that one-byte chunks are bounded, too."""
SLICE = 16 * 1024
"""Bytes given to the parser at once: so many requests, of about 60 bytes at least, may be parsed before the pipeline's
bound is looked at.
"""
PIPELINED_MAX = 16
"""Requests of a connection that wait for the one before. With more of them nothing is read from the connection."""

HEAD_TIMEOUT = 10.0
"""From the first byte of a request, or from the connection's beginning, to the end of its headers."""
BODY_TIMEOUT = 10.0
"""From the end of the headers to the end of the body."""
IDLE_TIMEOUT = 75.0
"""Between an answer and the next request."""
WRITE_TIMEOUT = 10.0
"""For which a client that has an answer waiting may take nothing of it."""
LINGER = 0.5
"""For which a connection is still read after a refusal, so that the client gets to read the answer before it sees the
connection end.
"""
REFUSAL_PAUSE = 0.25
"""For which an answer 429 is held back. A refusal costs a gateway nearly what an answer costs: without the pause, who
ignores refusals would get as many of them as fill the process, and everybody would wait behind them. With it a
connection gets four a second."""
HANDSHAKE_TIMEOUT = 5.0
"""For a TLS handshake."""
TICK = 0.5
"""Between two looks at all connections' clocks."""

STOP_LOOK = 0.01
"""Between two looks at the requests that are under way when the server stops."""

BACKLOG = 1_024
"""Connections that the system has made and the gateway has not accepted yet. A flood fills them; an honest client that
finds no room tries again a second later."""
CONNECTIONS_MAX = 4_096
"""Connections of one gateway process: half of the descriptors that a process has at least."""
CONNECTIONS_EACH = 512
"""Connections of one address, or of one IPv6 /64. Trusted proxies are exempt: everybody comes from there."""
REFUSED_MAX = 256
"""Connections above `CONNECTIONS_MAX` that are told why they are refused at the same time. Further ones are cut without
a word.
"""
TROUBLE_RATE = 20.0
TROUBLE_BURST = 200.0
"""Refused connections and requests of an address a second, and at once. The connections of one with more are cut before
anything is read: a request that cannot be read costs a gateway as much as one that can."""
WAITING_MAX = 64 * 1024 * 1024
"""Bytes of answers that wait for their clients, all connections together. Beyond it the ones with the most waiting are
cut.
"""
WAITING_HIGH = 64 * 1024
"""Bytes that may wait on a connection before its next request has to wait, too."""
