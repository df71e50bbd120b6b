"""Bounds of the HTTP server, each with its reason. Sizes are bytes, times seconds."""

from __future__ import annotations

TARGET_MAX = 8_190
"""Bytes of a request target. The longest legitimate one, a list with filters and cursors, has a few hundred bytes."""
HEADERS_MAX = 64
"""Headers of one request. Browsers behind proxies send about 30."""
HEAD_MAX = 32 * 1024
"""Bytes of the request line and headers together."""
BODY_MAX = 64 * 1024
"""Bytes of a body. A batch of 100 orders has about 20 kB."""
CHUNKED_MAX = 4 * BODY_MAX
"""Bytes of a chunked body including chunk sizes and extensions."""
PIECES_MAX = 1_024
"""Chunks of a body, or parts in which it arrives. A body of 64 KiB arrives in about 50. One in chunks of one byte takes as
long as 80 requests, and is charged as one.
"""
SLICE = 16 * 1024
"""Bytes given to the parser at once. The bound on pipelined requests is checked after each slice, so one slice of
requests of at least 60 bytes may exceed it.
"""
PIPELINED_MAX = 16
"""Requests of a connection that wait for earlier ones. At this number reading from the connection pauses."""

HEAD_TIMEOUT = 10.0
"""Seconds from the first byte of a request, or from the start of the connection, to the end of its headers."""
BODY_TIMEOUT = 10.0
"""Seconds from the end of the headers to the end of the body."""
IDLE_TIMEOUT = 75.0
"""Seconds between an answer and the next request."""
WRITE_TIMEOUT = 10.0
"""Seconds for which a client may accept nothing of a waiting answer."""
LINGER = 0.5
"""Seconds for which a connection is still read after a refusal, so that the client can read the answer before the
connection ends.
"""
REFUSAL_PAUSE = 0.25
"""Seconds for which an answer 429 is delayed. A refusal costs a gateway nearly as much as an answer. Without the delay,
a client that ignores refusals could use the whole process and delay all other clients. With it a connection gets four
refusals a second.
"""
HANDSHAKE_TIMEOUT = 5.0
"""Seconds for a TLS handshake."""
HANDSHAKES_MAX = 2_048
"""TLS handshakes of one gateway process at the same time. Each takes a descriptor."""
HANDSHAKE_RATE = 200.0
HANDSHAKE_BURST = 1_000.0
"""TLS handshakes of an address a second, and at once, as on the native port. Each takes about 1 ms of a core."""
TICK = 0.5
"""Seconds between two checks of all connections' deadlines."""

STOP_LOOK = 0.01
"""Seconds between two checks of the requests under way while the server stops."""

BACKLOG = 1_024
"""Established connections that the gateway has not accepted yet. During a flood this queue is full, and the kernel of a
legitimate client retries after a second."""
CONNECTIONS_MAX = 4_096
"""Connections of one gateway process: half of the descriptors that a process has at minimum."""
CONNECTIONS_EACH = 512
"""Connections of one address or IPv6 /64. Trusted proxies are exempt, because they forward all clients."""
REFUSED_MAX = 256
"""Connections above `CONNECTIONS_MAX` that may wait for their answer 429 at the same time. Further ones are cut without
an answer.
"""
TROUBLE_RATE = 20.0
TROUBLE_BURST = 200.0
"""Refused connections and requests of an address a second, and at once. Connections of an address with more are cut
before reading, because an invalid request costs a gateway as much as a valid one.
"""
WAITING_MAX = 64 * 1024 * 1024
"""Bytes of answers that wait for their clients on all connections together. Above this, the connections with the most
waiting bytes are cut.
"""
WAITING_HIGH = 64 * 1024
"""Bytes that may wait on a connection. Above this its next request waits, too."""
