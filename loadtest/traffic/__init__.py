"""The load test that Locust runs, without Locust: what its users do, and what is reported of it.

| | |
|---|---|
| `arrival` | when a user sends: after the last answer, or at times that no answer delays |
| `sessions`, `socket` | how a user sends: HTTP, WebSocket, the native protocol |
| `users` | what a user does: trade, replay a recording, follow a feed |
| `ledger` | what was acknowledged, in a file, for the verdict |
| `timeline`, `report` | rates and latencies over time; the page with plots and the tables |
| `stub` | an exchange that answers at once, to measure the limit of the load generator itself |
| `__main__` | `make loadtest`: a cluster, its load, a killed leader, the verdict |

All of it runs on one asyncio event loop a process. `loadtest.locustfile` makes it known to Locust.
"""
