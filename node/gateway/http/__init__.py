"""The HTTP server of a gateway.

    messages    requests, answers, and the router from method and path to a handler
    limits      the bounds on requests, connections, times and waiting bytes
    connection  one client's connection: parses requests, and serves them in order
    server      listens, counts connections, runs the timer of all connections, and stops

It serves all calls except the WebSocket, whose connections are handed to aiohttp after their first request. Requests
are parsed by httptools (llhttp, the parser of Node.js). ADR 0033 says why the project has its own server, and what it
must guarantee.
"""

from node.compiled import choose

choose(__name__, __path__)
