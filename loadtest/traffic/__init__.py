"""The load test that Locust runs, without Locust: the actions of its users, and the report.

| | |
|---|---|
| `arrival` | the times at which a user sends: after the last answer, or at times that no answer delays |
| `sessions`, `socket` | the protocols of a user: HTTP, WebSocket, the native protocol |
| `users` | the actions of a user: trade, replay a recording, follow a feed |
| `ledger` | the acknowledged orders, in a file, for the verdict |
| `timeline`, `report` | rates and latencies over time; the page with plots and the tables |
| `stub` | an exchange that answers at once, to measure the limit of the load generator itself |
| `__main__` | `make loadtest`: a cluster, its load, a killed leader, the verdict |

All of it runs on one asyncio event loop in each process. `loadtest.locustfile` connects it with Locust.
"""
