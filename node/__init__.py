"""One running node: configuration, processes, REST, WebSocket, native protocol, metrics, command line.

The only place that wires `statemachine`, `cluster` and `snapshots` together. May import all three; nothing but
`loadtest` may import it.
"""
