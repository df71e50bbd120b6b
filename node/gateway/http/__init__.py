"""The HTTP server of a gateway.

    messages    a request as handlers see it, an answer, and which handler serves a method and path
    limits      the bounds on requests, connections, times and waiting bytes
    connection  one client's connection: bytes in, requests in order, answers out
    server      listening, counting connections, the clock, and stopping

It serves every call but the WebSocket, whose connections are handed to aiohttp after their first request. Requests are
parsed by httptools (llhttp, the parser of Node.js). ADR 0033 says why the server is our own, and what it must
guarantee.
"""
