"""REST and WebSocket: a process that speaks HTTP to clients and the native protocol to its node's engine.

`app` names every route; a request goes middleware (`web`) -> signature (`auth`) -> typed request (`requests`) -> commands or
queries (`backend`) -> JSON (`responses`, `reasons`). The feed goes engine -> `feeds` (one source a product) -> `book` and `channels`
(what the messages look like) -> `sessions` (who gets them). Decimals become integers in `decimals` and nowhere else.

May import the rest of `node` and `statemachine`; nothing imports it.
"""
